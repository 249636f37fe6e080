"""`forward` leaves the user's classes alone, however their modules are made, asked for their type, and called."""

import dataclasses
import inspect
import threading
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_mix
from parity_tests.library import models_nnx as models
from parity_tests.library.test_running_nnx import data, draw
from parity_tests.tolerances import assert_close


def check(model, x, block="block", layers=("input",)):
    """A model that is `head(block(stem(x)))`: mixed at its block, drawn and named, under jit too."""
    mix = draw(block)
    want = model.head(mix.blend(model.block(model.stem(x))))
    assert block in [layer.name for layer in jax_mix.list_layers(model, x)]
    assert_close(jax_mix.forward(model, x, mix), want, "another order of summation")
    drawn = draw(jnp.int32(len(layers)), layers=(*layers, block))
    assert_close(nnx.jit(jax_mix.forward)(model, x, drawn), want, "another order of summation")
    with pytest.raises(AssertionError):
        assert_close(model(x), want, "another order of summation")


def model_of(block_class, call=lambda block, x: block(x)):
    class Model(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.stem, self.block, self.head = (
                nnx.Linear(4, 4, rngs=rngs),
                block_class(4, rngs),
                nnx.Linear(4, 2, rngs=rngs),
            )

        def __call__(self, x):
            return self.head(call(self.block, self.stem(x)))

    return Model()


class Registered(models.Dense):
    """A base class that registers its subclasses and wants a keyword of each."""

    registry: ClassVar = {}

    def __init_subclass__(cls, *, kind, **kwargs):
        super().__init_subclass__(**kwargs)
        Registered.registry[kind] = cls


class RegisteredBlock(Registered, kind="block"):
    pass


class Meta(type(nnx.Module)):
    """A metaclass that lets nobody set an attribute of its classes, or make another subclass."""

    closed = False

    def __new__(mcs, *args, **kwargs):
        assert not Meta.closed, "another class was made"
        return super().__new__(mcs, *args, **kwargs)

    def __setattr__(cls, name, value):
        if Meta.closed:
            raise AttributeError("closed")
        super().__setattr__(name, value)


class OfMeta(models.Dense, metaclass=Meta):
    pass


class Guarded(models.Dense):
    """Lets nobody set an attribute once it is made."""

    def __init__(self, width, rngs):
        super().__init__(width, rngs)
        self.made = True

    def __setattr__(self, name, value):
        if vars(self).get("made"):
            raise AttributeError(f"{name} cannot be set")
        super().__setattr__(name, value)


class Inherits(models.Dense):
    pass


class CallsSuper(models.Dense):
    def __call__(self, x):
        return 2 * super().__call__(x)


def test_a_class_that_registers_its_subclasses_sees_none_of_ours():
    before = dict(Registered.registry), Registered.__subclasses__(), RegisteredBlock.__subclasses__()
    check(model_of(RegisteredBlock), data())
    assert before == (Registered.registry, Registered.__subclasses__(), RegisteredBlock.__subclasses__())


def test_a_class_with_a_metaclass_of_the_users():
    model = model_of(OfMeta)
    Meta.closed = True
    try:
        check(model, data())
    finally:
        Meta.closed = False


@pytest.mark.parametrize("block_class", [Guarded, Inherits, CallsSuper, models.RematBlock])
def test_classes_that_guard_their_attributes_inherit_or_extend_their_call(block_class):
    before = {cls: dict(vars(cls)) for cls in block_class.__mro__}
    check(model_of(block_class), data())
    assert before == {cls: dict(vars(cls)) for cls in block_class.__mro__}


def test_a_frozen_dataclass():
    @dataclasses.dataclass(frozen=True, eq=False)
    class Frozen(nnx.Module):
        linear: nnx.Linear

        def __call__(self, x):
            return jnp.tanh(self.linear(x))

    class Model(models.MLP):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.block = Frozen(nnx.Linear(8, 8, rngs=rngs))

        def __call__(self, x):
            return self.head(self.block(self.first(x)))

    model, x, mix = Model(nnx.Rngs(0)), data(), draw("block")
    want = model.head(mix.blend(model.block(model.first(x))))
    assert_close(jax_mix.forward(model, x, mix), want, "same program")


@pytest.mark.parametrize(
    "call",
    [
        lambda block, x: block(x) if type(block) is models.Dense else pytest.fail("another type"),
        lambda block, x: models.Dense.__call__(block, x),
        lambda block, x: type(block).__call__(block, x),
        lambda block, x: nnx.remat(models.Dense.__call__)(block, x),
        lambda block, x: nnx.jit(models.Dense.__call__)(block, x),
        lambda block, x: nnx.cond(True, models.Dense.__call__, lambda block, x: x, block, x),
        lambda block, x: block(x) if list(inspect.signature(block.__call__).parameters) == ["x"] else None,
    ],
    ids=["type", "unbound", "of the type", "remat", "jit", "cond", "signature"],
)
def test_a_parent_that_asks_for_the_type_or_passes_the_unbound_call(call):
    check(model_of(models.Dense, call), data())


KEPT = nnx.remat(models.Dense.__call__)


def test_a_function_of_the_call_that_was_kept_from_before_is_told():
    model = model_of(models.Dense, KEPT)
    with pytest.raises(ValueError, match=r"layer 'block' never runs .* Only its __call__ counts, .* kept from before"):
        jax_mix.forward(model, data(), draw("block"))
    mix = draw("block.linear")
    want = model.stem(data())
    want = model.head(want + jnp.tanh(mix.blend(model.block.linear(want))))
    assert_close(jax_mix.forward(model, data(), mix), want, "another order of summation")


def test_a_scan_over_the_unbound_call():
    class Model(models.Scanned):
        def __call__(self, x):
            return nnx.scan(models.Dense.__call__, in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(self.blocks, x)

    model, x, mix = Model(nnx.Rngs(0)), data(), draw("blocks.1")
    want = x
    for i, block in enumerate(models.Unrolled(model).blocks):
        want = mix.blend(block(want)) if i == 1 else block(want)
    assert_close(jax_mix.forward(model, x, mix), want, "another order of summation")


def test_a_layer_whose_class_extends_that_of_another_layer_is_mixed_at_its_own_end():
    class Both(nnx.Module):
        def __init__(self):
            self.plain, self.extended = models.Dense(4, nnx.Rngs(0)), CallsSuper(4, nnx.Rngs(1))

        def __call__(self, x):
            return self.extended(self.plain(x))

    model, x, layers = Both(), data(), ("input", "plain", "extended")
    for k in (1, 2):
        mix = draw(jnp.int32(k), layers=layers)
        plain = mix.blend(model.plain(x)) if k == 1 else model.plain(x)
        want = model.extended(plain)
        want = mix.blend(want) if k == 2 else want
        assert_close(jax_mix.forward(model, x, mix), want, "another order of summation")


def test_after_an_exception_the_classes_are_as_they_were():
    class Raises(models.MLP):
        def __call__(self, x):
            assert models.Dense.__call__ is not before
            self.block(self.first(x))
            raise RuntimeError("on purpose")

    class WithBlock(Raises):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.block = models.Dense(8, rngs)

    before = models.Dense.__call__
    with pytest.raises(RuntimeError, match="on purpose"):
        jax_mix.forward(WithBlock(nnx.Rngs(0)), data(), draw("block"))
    assert models.Dense.__call__ is before
    assert "__call__" not in vars(Inherits)


def test_other_threads_see_their_models_unmixed_and_mix_them_on_their_own():
    """One thread waits within its forward pass while another runs the same classes, plain and mixed."""
    inside, done = threading.Event(), threading.Event()

    def wait(block, x):
        y = block(x)
        if not done.is_set():
            inside.set()
            assert done.wait(60)
        return y

    waits, plain, x, mix = model_of(models.Dense, wait), model_of(models.Dense), data(), draw("block")
    want, before = plain(x), models.Dense.__call__
    mixed = plain.head(mix.blend(plain.block(plain.stem(x))))
    got = {}
    thread = threading.Thread(target=lambda: got.update(first=jax_mix.forward(waits, x, mix)))
    thread.start()
    try:
        assert inside.wait(60)
        got.update(plain=plain(x), second=jax_mix.forward(plain, x, mix))
        assert models.Dense.__call__ is not before  # the first still runs
    finally:
        done.set()
        thread.join()
    np.testing.assert_array_equal(got["plain"], want)
    np.testing.assert_array_equal(got["first"], got["second"])
    assert_close(got["second"], mixed, "same program")
    assert models.Dense.__call__ is before


def test_what_the_forward_pass_appends_sets_and_deletes_is_the_users():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.first, self.log, self.once = nnx.Linear(4, 4, rngs=rngs), nnx.List([]), 1

        def __call__(self, x):
            y = self.first(x)
            self.log.append(self.first)
            del self.once
            self.count = 3
            return y

    model = Model(nnx.Rngs(0))
    jax_mix.forward(model, data(), draw("first"))
    assert model.count == 3
    assert not hasattr(model, "once")
    assert list(model.log) == [model.first]
    assert model.log[0] is model.first
