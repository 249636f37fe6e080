"""Networks that go over time: their cells run in a loop, with the same weights each time."""

import jax
import jax.numpy as jnp
from flax import linen, nnx

from parity_tests.library.zoo._kind import floats, kind, make_linen, make_nnx, tokens

WIDTH, WORDS = 8, 11


def lstm(into, rngs, **kwargs):
    return nnx.RNN(nnx.LSTMCell(into, WIDTH, rngs=rngs), rngs=rngs, **kwargs)


class LSTM(nnx.Module):
    """`form`: "one" layer, "two", "both" directions, or "tokens", two layers on embedded ids."""

    def __init__(self, form, *, rngs):
        self.embed = nnx.Embed(WORDS, 6, rngs=rngs) if form == "tokens" else None
        if form == "both":
            self.rnns = nnx.List([nnx.Bidirectional(lstm(6, rngs), lstm(6, rngs), rngs=rngs)])
        else:
            self.rnns = nnx.List([lstm(6, rngs)] if form == "one" else [lstm(6, rngs), lstm(WIDTH, rngs)])
        self.hidden = nnx.Linear(2 * WIDTH if form == "both" else WIDTH, WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 3, rngs=rngs)

    def __call__(self, x):
        if self.embed is not None:
            x = self.embed(x)
        for rnn in self.rnns:
            x = rnn(x)
        return self.head(nnx.relu(self.hidden(x[:, -1])))


class LoopedLSTM(nnx.Module):
    """A cell in a loop that the user wrote, `jax.lax.scan` or `nnx.scan`."""

    def __init__(self, loop, *, rngs):
        self.loop = loop
        self.project = nnx.Linear(6, WIDTH, rngs=rngs)
        self.cell = nnx.LSTMCell(WIDTH, WIDTH, rngs=rngs)
        self.hidden = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 3, rngs=rngs)

    def __call__(self, x):
        steps = self.project(x).swapaxes(0, 1)
        carry = jnp.zeros((x.shape[0], WIDTH)), jnp.zeros((x.shape[0], WIDTH))
        if self.loop == "jax.lax.scan":
            carry, _ = jax.lax.scan(lambda carry, step: self.cell(carry, step), carry, steps)
        else:
            scan = nnx.scan(
                lambda carry, cell, step: cell(carry, step)[0], in_axes=(nnx.Carry, None, 0), out_axes=nnx.Carry
            )
            carry = scan(carry, self.cell, steps)
        return self.head(nnx.relu(self.hidden(carry[1])))


class LinenLSTM(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.RNN(linen.OptimizedLSTMCell(WIDTH), name="rnn_0")(x)
        x = linen.RNN(linen.OptimizedLSTMCell(WIDTH), name="rnn_1")(x)
        return linen.Dense(3, name="head")(linen.relu(linen.Dense(WIDTH, name="hidden")(x[:, -1])))


SEQUENCE = floats(5, 6)
KINDS = (
    kind("LSTM", make_nnx(LSTM, "one"), SEQUENCE, "rnns.0", "rnns.0 hidden head", "", also="hidden"),
    kind(
        "LSTM of two layers",
        make_nnx(LSTM, "two"),
        SEQUENCE,
        "rnns.0 rnns.1",
        "rnns.0 rnns.1 hidden head",
        "",
        also="hidden",
    ),
    kind(
        "LSTM on tokens",
        make_nnx(LSTM, "tokens"),
        lambda n: ((tokens(n, 5, WORDS),), {}),
        "rnns.0 rnns.1",
        "embed rnns.0 rnns.1 hidden head",
        "",
        also="embed hidden",
    ),
    kind(
        "LSTM in both directions",
        make_nnx(LSTM, "both"),
        SEQUENCE,
        "rnns.0",
        "rnns.0 hidden head",
        "rnns.0.forward_rnn rnns.0.backward_rnn",
        also="hidden",
    ),
    kind(
        "LSTM in Linen",
        make_linen(LinenLSTM(), jax.ShapeDtypeStruct((2, 5, 6), jnp.float32)),
        SEQUENCE,
        "rnn_0 rnn_1",
        "rnn_0 rnn_1 hidden head",
        "",
        also="hidden",
    ),
    *(
        kind(
            f"LSTM in {loop}",
            make_nnx(LoopedLSTM, loop),
            SEQUENCE,
            "hidden",
            "project hidden head",
            "",
        )
        for loop in ("jax.lax.scan", "nnx.scan")
    ),
)
