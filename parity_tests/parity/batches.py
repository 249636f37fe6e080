"""The batch of keras_layers.py, for its process and for the tests'."""

import numpy as np

SIZE = (4096, 24, 16)


def batch():
    """Images whose first channel is zeros and ones in turn, which tells what was done to it, and one-hot labels."""
    n = SIZE[0]
    x = np.random.default_rng(0).normal(size=(*SIZE, 3)).astype(np.float32)
    x[..., 0] = np.arange(n)[:, None, None] % 2
    return x, np.eye(10, dtype=np.float32)[np.arange(n) % 10]
