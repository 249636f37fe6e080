"""Tests of jax_mix.compare."""
