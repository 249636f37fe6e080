"""Flags at random: what a user gives ends in a run, or in one sentence, never in a traceback."""

import contextlib
import dataclasses
import functools
import io
import typing

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import train
from jax_mix import _methods
from jax_mix.compare.cells import Cells
from jax_mix.compare.settings import Comparison
from jax_mix.training import data, devices, models
from jax_mix.training.config import Config

numbers = st.one_of(st.integers(-3, 300), st.sampled_from([0, 1, 2, 8, 64, 2**31, 2**40, -(2**40)])).map(str)
floats = st.one_of(
    st.floats(width=32).map(str), st.sampled_from(["0", "0.5", "1", "-1", "1e400", "nan", "inf", "None", "1e-400"])
)
odd = ["", "digits", "../x", "a b", "none", "--", "a/b:c", "None", "ünïcode", "x" * 300, "./" + "x" * 300, "auto"]
parts = ["mixup", "cutmix", "manifold", "output", "none", "timm", "keras_cutmix", "kornia_mixup", *":::++@=,()", "0.5"]
parts += ["1e400", "nan", "box=paper", "per=sample", "side=(0.2,0.8)", "layers=stem", "p=0.5", "9" * 400, "'", " "]
mixes = st.lists(st.sampled_from(parts), max_size=6).map(lambda parts: ["".join(parts)])
words = st.one_of(st.sampled_from(odd), st.text(max_size=8))


def values(hint):
    """Strategies for what is written after a flag of a type, right, wrong and of another type."""
    parts = [hint, *typing.get_args(hint)]
    if hint is bool:
        return st.just([])
    if choices := [each for part in parts if typing.get_origin(part) is typing.Literal for each in part.__args__]:
        return st.sampled_from([*choices, choices[0][:-1]]).map(lambda value: [value])  # the last one is misspelt
    kinds = {each for part in parts for each in (part, *typing.get_args(part))}
    right = floats if float in kinds else numbers if int in kinds else words
    if any(typing.get_origin(part) is tuple for part in parts):
        return st.lists(right, max_size=3)
    return st.one_of(right, right, right, words).map(lambda value: [value])


def flags(config):
    """Strategy for a command line of up to four flags of `config`."""
    hints = typing.get_type_hints(config)
    names = [field.name for field in dataclasses.fields(config) if field.name not in config.HIDDEN]
    every = {f"--{name.replace('_', '-')}": values(hints[name]) for name in names}
    every |= {name: mixes for name in ("--mix", "--methods") if name in every}
    every["--width"] = st.sampled_from(["-1", "0", "1", "4", "wide"]).map(lambda value: [value])  # a wide one is made
    return st.lists(st.sampled_from(sorted(every)), max_size=4, unique=True).flatmap(
        lambda names: st.tuples(*(every[name].map(lambda value, name=name: [name, *value]) for name in names))
    )


class Trains(Exception):
    """Instead of training."""


real_make = models.make


@functools.cache
def made(name, **options):
    """A network whose weights are zeros: what else they start from takes long, and no flag is refused for it."""
    model = nnx.eval_shape(lambda: real_make(name, rngs=nnx.Rngs(0), **options))
    nnx.update(model, jax.tree.map(lambda a: jnp.asarray(np.zeros(a.shape, a.dtype)), nnx.state(model)))
    return model


real_find_layers, layers_found = _methods.find_layers, {}


def find_layers(call, *, tell):
    """The same network, all that is static in it, has the same layers."""
    key = nnx.graphdef(call.model), str(call.args), tell
    if key not in layers_found:
        layers_found[key] = real_find_layers(call, tell=tell)
    return layers_found[key]


def check(patch, tmp_path, digits, arguments):
    """Run train.py up to where it would train."""

    def load(name, *others, **options):
        return digits if name == "digits" else real_load(name, *others, **options)

    def trains(*_, **__):
        raise Trains

    real_load, told = data.load, io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
        patch.chdir(tmp_path)
        patch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
        patch.setattr(data, "load", load)
        patch.setattr(models, "make", lambda name, *, rngs, **options: nnx.clone(made(name, **options)))
        patch.setattr(_methods, "find_layers", find_layers)
        patch.setattr(train, "train", trains)
        patch.setattr(Cells, "read", trains)
        patch.setattr(devices, "join", lambda *_: None)
        try:
            code = train.main(arguments)
        except Trains:
            code = 0
        except SystemExit as ended:  # by the parser of flags, which says why
            code = ended.code
    event(f"ended with {code}")
    assert code in (0, 2)
    if code == 2:
        assert len(told.getvalue()) > 20
        assert "Traceback" not in told.getvalue()


healthy = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]  # on a machine that others use too
often = functools.partial(settings, deadline=None, suppress_health_check=healthy)


@often(max_examples=500)
@given(flags(Config))
def test_no_traceback_reaches_the_user(monkeypatch, tmp_path, digits, given_flags):
    with monkeypatch.context() as patch:
        check(patch, tmp_path, digits, [word for flag in given_flags for word in flag])


@often(max_examples=100)
@given(flags(Comparison), st.booleans())
def test_no_traceback_of_a_comparison_reaches_the_user(monkeypatch, tmp_path, digits, given_flags, quick):
    with monkeypatch.context() as patch:
        arguments = ["compare", *["--quick"] * quick, *(word for flag in given_flags for word in flag)]
        check(patch, tmp_path, digits, arguments)
