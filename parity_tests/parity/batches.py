"""The batches of keras_layers.py, for its process and for the tests'."""

import numpy as np

SMALL, MANY, COUNTED = (9, 17, 33), (4096, 24, 16), ("mixup", "cutmix")


def batch(n, height, width):
    """As many images, and their labels, one-hot."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, height, width, 3)).astype(np.float32), np.eye(10, dtype=np.float32)[np.arange(n) % 10]


def alternating(n, height, width):
    """Images of zeros and of ones in turn, from which a mixed one tells what was done to it."""
    x = np.broadcast_to(np.arange(n)[:, None, None, None] % 2, (n, height, width, 1)).astype(np.float32)
    return x, np.eye(2, dtype=np.float32)[np.arange(n) % 2]
