"""What was drawn, measured on images of zeros and ones: another library's and jax_mix's by the same eyes."""

import jax
import numpy as np
import torch
from scipy import stats

from parity_tests.parity.batches import batch

PAIR = np.stack([np.zeros((24, 16, 1)), np.ones((24, 16, 1))]).astype(np.float32)


def measured(mixed, lam):
    """Of images of zeros that ones were mixed into, `[n, height, width]`, and the targets' lambdas."""
    mixed, lam = np.asarray(mixed, np.float64), np.asarray(lam, np.float64)
    low, high = mixed.min((1, 2)), mixed.max((1, 2))
    box = (high == 1) & (low == 0) & (lam < 1)
    rows, columns = (mixed[box] == 1).any(2), (mixed[box] == 1).any(1)
    found = {"unmixed": (high == 0).astype(int), "cut": box.astype(int), "lambda of a blend": lam[~box & (high > 0)]}
    for name, inside in (("y", rows), ("x", columns)):
        found[f"side {name}"] = inside.sum(1)
        found[f"centre {name}"] = (2 * inside.argmax(1) + inside.sum(1)).astype(int)
    return found | {"lambda of a box": lam[box]}


def ours(method, draws=2000):
    def one(key):
        mix = method.sample(key, PAIR.shape)
        return mix.blend(PAIR)[0, ..., 0], mix.lam[0], mix.partner[0]

    mixed, lam, partner = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), draws))
    other = np.asarray(partner) == 1  # a permutation may leave a sample with itself
    return measured(np.asarray(mixed)[other], np.asarray(lam)[other])


def theirs_in_turn(transform, draws=2000):
    """The first image of as many batches of two, and what is left of its label."""
    mixed, lam = [], []
    for _ in range(draws):
        x, y = transform(torch.tensor(PAIR.transpose(0, 3, 1, 2).copy()), torch.tensor([0, 1]))
        mixed.append(x.numpy()[0, 0])
        lam.append(y.numpy()[0, 0])
    return measured(mixed, lam)


def of_one_batch(mixed, lam, partner):
    """Of a batch of zeros and ones in turn: the zeros that were mixed with ones."""
    zeros = (np.arange(len(mixed)) % 2 == 0) & (np.asarray(partner) % 2 == 1)
    return measured(mixed[zeros], lam[zeros])


def ours_of_one_batch(method):
    x, _ = batch()
    mix = method.sample(jax.random.key(0), x.shape)
    return of_one_batch(np.asarray(mix.blend(x))[..., 0], np.asarray(mix.lam), np.asarray(mix.partner))


def alike(ours, theirs):
    """The probability of so large a difference of what is drawn alike, the least of all that is measured.

    Kolmogorov and Smirnov's of lambdas; of whole numbers, which a box's sides are, chi-square's of their counts.
    """
    return min(p_value(ours[name], theirs[name]) for name in ours if len(ours[name]) or len(theirs[name]))


def p_value(ours, theirs):
    if len(ours) == 0 or len(theirs) == 0:
        return 0.0
    if ours.dtype.kind == "f":
        return stats.ks_2samp(np.round(ours, 5), np.round(theirs, 5)).pvalue  # one area is one number on both sides
    values = np.unique(np.concatenate([ours, theirs]))
    counts = np.stack([(ours[:, None] == values).sum(0), (theirs[:, None] == values).sum(0)])
    often = counts.sum(0) >= 20
    counts = np.concatenate([counts[:, often], counts[:, ~often].sum(1, keepdims=True)], axis=1)
    counts = counts[:, counts.sum(0) > 0]
    return 1.0 if counts.shape[1] == 1 else stats.chi2_contingency(counts).pvalue
