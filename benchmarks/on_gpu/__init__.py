"""The parts of `python -m benchmarks.accelerator`."""
