"""Those of the faults of `planted` that are planted outside of jax_mix, in what measures it and tells of it."""

OUTSIDE = (
    # What the benchmarks measure, and what the pages tell of it.
    ("../benchmarks/measuring.py", "            if settle:\n", "            if not settle:\n", "parity/test_benchmarks.py::test_a_call_that_is_not_timed_stands_before_each_that_is"),
    ("../benchmarks/measuring.py", "measured <= at_most", "measured >= at_most", "parity/test_benchmarks.py::test_targets_and_exponents"),
    ("../benchmarks/mixing_peers.py", "np.roll(np.arange(self.n), 1)", "np.roll(np.arange(self.n), -1)", "parity/test_benchmarks.py::test_the_same_draw_makes_the_same_and_another_output_is_seen"),
    ("../benchmarks/__main__.py", 'if not target["hit"]]', 'if target["hit"]]', "parity/test_benchmarks.py::test_the_command_lists_refuses_skips_and_tells"),
    ("../docs/speed.py", 'if not each["hit"]]', 'if each["hit"]]', "parity/test_benchmarks.py::test_a_missed_target_stands_below_its_table"),
    # What a run tells of itself.
    ("../train.py", "signal.signal(signal.SIGINT, lambda", "print(lambda", "training/test_train.py::test_ctrl_c_while_all_is_imported_ends_without_a_traceback"),
    # What is measured on a GPU, in miniature.
    ("../benchmarks/accelerator.py", "if late.is_set() else", "if not late.is_set() else", "parity/test_accelerator.py::test_a_part_that_does_not_end_well_ends_no_other"),
    ("../benchmarks/on_gpu/mixing.py", 'allowed = 1 if name == "MixUp" else 0', "allowed = 1e9", "parity/test_accelerator.py::test_outputs_that_are_not_the_same_are_not_timed"),
    ("../benchmarks/on_gpu/training.py", "3 * flops_an_image * images_a_second / most", "2 * flops_an_image * images_a_second / most", "parity/test_accelerator.py::test_utilisation"),
)  # fmt: skip
