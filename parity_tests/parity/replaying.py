"""Another library's random numbers, recorded, in the place of jax_mix's own: what a recipe makes of the same draw.

A draw that jax_mix asks for must be the one that was recorded: of the same parameters (alpha, range, probability) and
as many numbers. So a replay that goes through says as well that the two draw from the same distributions.
"""

import contextlib
from typing import Any, NamedTuple
from unittest import mock

import jax.numpy as jnp
import numpy as np
import torch

from jax_mix import _sampling
from parity_tests.tolerances import assert_close, assert_within_ulp


class Drawn(NamedTuple):
    """`value`, drawn with `parameters`; nan where it was not drawn, which no result may depend on."""

    parameters: Any
    value: Any


def _from_0(parameters, value):
    low, high = parameters
    return Drawn((np.subtract(high, low),), np.subtract(value, low))


def _from_0_to_1(parameters, value):
    low, high = parameters
    return Drawn((), np.subtract(value, low) / np.subtract(high, low))


@contextlib.contextmanager
def replayed(**given):
    """jax_mix draws what is `given`: a list of `Drawn` for each of `beta`, `integers`, `uniform`, ... in order."""
    queues = {name: list(drawn) for name, drawn in given.items()}
    # Ours are counted from 0, and of a range the part from 0 to 1: of another range, they end elsewhere.
    for name, ours in (("integers", _from_0), ("uniform", _from_0_to_1)):
        queues[name] = [ours(*drawn) for drawn in queues.get(name, ())]

    def take(name, shape, parameters, instead=0.0):
        assert queues.get(name), f"jax_mix draws {name} of {parameters}, which the other library did not"
        drawn = queues[name].pop(0)
        value = np.asarray(drawn.value, np.float64)
        assert value.shape == tuple(shape), f"{name} of shape {shape}, drawn as {value.shape}"
        there = ~np.isnan(value)
        for ours, theirs in zip(parameters, drawn.parameters, strict=True):
            ours, theirs = (np.broadcast_to(np.asarray(p, np.float64), value.shape)[there] for p in (ours, theirs))
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6, err_msg=name)
        return np.where(there, value, instead)

    def below(self, count, shape):
        return jnp.asarray(take("integers", shape, (count,)), jnp.int32)

    def uniform(self, shape):
        return jnp.asarray(take("uniform", shape, ()), jnp.float32)

    def order(self, shape):
        return jnp.asarray(take("partner", shape[1:], ()).reshape(shape), jnp.int32)

    def beta(words, alpha, shape):
        return jnp.asarray(take("beta", shape, (alpha,), 0.5), jnp.float32)

    def applies(words, probability, shape):
        always = isinstance(probability, (int, float)) and probability == 1
        return None if always else jnp.asarray(take("applies", shape, (probability,)), bool)

    def choices(words, count, shape, probabilities):
        return jnp.asarray(take("choice", shape, tuple(probabilities)), jnp.int32)

    with contextlib.ExitStack() as stack:
        for module, name, fake in (
            (_sampling.Words, "below", below),
            (_sampling.Words, "uniform", uniform),
            (_sampling.Words, "order", order),
            (_sampling, "symmetric_beta", beta),
            (_sampling, "applies", applies),
            (_sampling, "choices", choices),
        ):
            stack.enter_context(mock.patch.object(module, name, fake))
        yield
    left = {name: drawn for name, drawn in queues.items() if drawn}
    assert not left, f"the other library draws {left}, which jax_mix does not"


def images(n=8, height=17, width=33):
    return np.random.default_rng(0).normal(size=(n, height, width, 3)).astype(np.float32)


def one_hot(n=8):
    return np.eye(10, dtype=np.float32)[np.arange(n) % 10]


def nchw(x):
    return torch.tensor(x.transpose(0, 3, 1, 2).copy())


def assert_same_batch(mix, x, theirs, rows=()):
    """The images: pasted `rows` bit for bit, the others rounded once more by those who add two products."""
    ours = np.asarray(mix.blend(x))
    assert_close(ours[list(rows)], theirs[list(rows)], "cutmix batch")
    assert_within_ulp(ours, theirs, np.maximum(np.abs(x), np.abs(x[np.asarray(mix.partner)])), ulps=2)
