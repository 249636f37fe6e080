"""Tests of train.py and jax_mix.training."""
