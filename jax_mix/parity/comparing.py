"""The ladder for a user's own port: arrays, layers, outputs, losses, gradients, statistics, mixed at every layer."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from jax_mix._checks import check_number, shown, suggest
from jax_mix._layers import listing
from jax_mix._paths import glob
from jax_mix.parity import apart
from jax_mix.parity.arrays import Arrays, in_pairs
from jax_mix.parity.differences import REORDERED, ROUNDED, Difference, difference, magnitude, relative_error
from jax_mix.parity.flax_side import Port
from jax_mix.parity.names import Map, propose
from jax_mix.parity.records import Axes, Draw, Look, Loss, Step
from jax_mix.parity.report import Report, Row
from jax_mix.parity.torch_side import Original, imported

MODES = {False: "layers in evaluation", True: "layers in training"}


def compare(
    model: Any,
    original: Any,
    x: Any,
    y: Any = None,
    *,
    names: Mapping[str, str | None] | None = None,
    arrays: Mapping[str, Any] | None = None,
    weights: str | None = None,
    to_flax: Callable[[np.ndarray], Any] | None = None,
    loss: tuple[Loss, Loss] | None = None,
    layers: Sequence[str] | None = None,
    variables: Any = None,
    evaluation: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    tolerance: float = 1e-9,
    seed: int = 0,
) -> Report:
    """Compare a Flax model with the PyTorch model that it is a port of, in float64, and say where they first go apart.

    The ladder: every array has its counterpart; every layer that both have puts out the same, in evaluation and in
    training; the outputs, losses, gradients of every parameter and statistics of a step of training are the same, and
    so they are when the batch is mixed at any layer that can be mixed. Both models are copied: yours stay as they are.
    Dropout is set to 0 for training; in evaluation it has to be off by itself.

    docs/your_port.md has an example. It needs PyTorch, which is imported when this is called.

    Args:
      model: an NNX model, also one of shapes that `nnx.eval_shape` gives; or a Linen module with its `variables`.
      original: a `torch.nn.Module`.
      x: a batch for the original, `[batch, ...]`, two samples or more; or a tuple of what it is called with. Floats are
        taken as float64. What has four axes or five is given to the Flax model with its second axis last.
      y: labels: class numbers `[batch]` or targets `[batch, classes]`; drawn at random if None.
      names: regular expressions for the names of the original's modules, or whole segments of them, to names of the
        Flax model's, or to None for those that have none and are not compared. Each sees what the last one made. What
        needs none: the same names but for case, underscores and the `layers` of `nnx.Sequential`; and what can be told
        by its shapes and the order of running.
      arrays: regular expressions for the full names of the original's arrays to the Flax array's name; or to a function
        that makes it, which may only move numbers, for it gets gradients too; or to a dict of such names and functions,
        where it is several here; or to None, where it is not compared.
      weights: "original": the Flax copy gets the original's; "own": the model's own are compared with the original's;
        None: "own" if any of its arrays is the original's already, else "original".
      to_flax: makes of each of the original's arguments, a NumPy array, the Flax model's.
      loss: two functions of output and labels, for Flax and for PyTorch, that give a loss for each sample, `[batch]`.
        None: cross-entropy where the output is `[batch, classes]`, else the output weighed by random numbers.
      layers: names or globs of the Flax layers to mix at, and "input"; None for all.
      variables: a Linen model's.
      evaluation, training: keyword arguments of the Flax model's calls, such as `{"train": False}`.
      tolerance: which error is none, in units of the largest magnitude of what is compared. Sums in another order make
        1e-16 to 1e-12 of it, the smallest mistakes more than 1e-8.
      seed: of mixing, and of labels that are not given.

    Returns:
      A `Report`: print it; it is false where something differs, and `report.check()` raises then.

    Raises:
      ModuleNotFoundError: PyTorch is not there.
      TypeError: a model is of another kind.
      ValueError: an argument is not as above, or nothing of the two models can be paired.

    Source: this library's own ladder, docs/parity.md.
    """
    imported()
    linen_model = isinstance(model, linen.Module)
    if not linen_model and not isinstance(model, nnx.Module):
        raise TypeError(f"model must be a Flax NNX model, or a Linen module with variables=..., got {shown(model)}.")
    if linen_model != (variables is not None):
        raise TypeError(f"variables are a Linen model's, which needs them: model is a {type(model).__name__}.")
    if weights not in (None, "own", "original"):
        raise ValueError(f"weights must be 'own', 'original' or None, got {shown(weights)}.")
    check_number("tolerance", tolerance, 0, 1)
    given = {"names": names, "arrays": arrays, "evaluation": evaluation, "training": training}
    for argument, value in given.items():
        if not isinstance(value, Mapping | None):
            raise TypeError(f"{argument} must be a dict or None, got {shown(value)}.")
    if loss is not None and not (isinstance(loss, tuple) and len(loss) == 2 and all(map(callable, loss))):
        raise ValueError(f"loss must be two functions, (for Flax, for PyTorch), got {shown(loss)}.")
    args = _arguments(x)
    with _precision():
        port, theirs = Port(model, variables, evaluation or {}, training or {}), Original(original)
        ladder = Ladder(port, theirs, args, tuple(map(to_flax or _channels_last, args)), tolerance)
        with _told("the original ran in evaluation"):
            their_look = theirs.look(args, training=False)
        ladder.pair(list(their_look.layers), names or {}, arrays or {}, weights)
        # What differs in evaluation differs in all that follows, which would tell nothing of its own.
        if ladder.layers_equal(False, their_look) and ladder.layers_equal(True):
            ladder.steps_equal(y, loss, layers, seed)
        return ladder.report()


class Ladder:
    """The rungs, one after the other; `rows` has what they found."""

    def __init__(
        self, port: Port, theirs: Original, args: tuple[np.ndarray, ...], flax_args: tuple[Any, ...], tolerance: float
    ) -> None:
        self.port, self.theirs, self.args, self.flax_args = port, theirs, args, flax_args
        self.tolerance = tolerance
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.axes: dict[str, Axes] = {}  # of the layers by Flax name: the order of PyTorch's axes in Flax's layout
        self.looks: dict[bool, tuple[Look, Look]] = {}
        self.found: dict[bool, dict[str, Difference]] = {}

    def pair(
        self, order: list[str], names: Mapping[str, str | None], arrays: Mapping[str, Any], weights: str | None
    ) -> None:
        """Nothing left over, nothing missing; and the original's weights in the Flax copy."""
        with _told("the Flax model ran in evaluation"):
            ran = self.port.look(self.flax_args, training=False).layers  # in their order, whatever they put out
        listed, own = self.theirs.listed(order), self.port.arrays()
        flax_modules = [*ran, *getattr(self.port, "modules", ())]
        self.map: Map = propose(listed, flax_modules, own, names)
        self.arrays: Arrays = in_pairs(listed, self.map.modules, own, arrays, self.map.left_out)
        sources = self.arrays.sources
        if not sources:
            raise ValueError(
                f"no array of the two models can be paired: the original has {shown(list(self.theirs.arrays()))}, the "
                f"Flax model {shown(list(own))}: say with names={{'torch name': 'Flax name'}} which is which."
            )
        rung = "arrays"
        self.rows += [Row(rung, name, 0.0, True) for name in sources]
        for name in self.arrays.left_over:
            others = next((o for m, o in self.map.unsure.items() if name.rpartition(".")[0] == m), None)
            told = f"it may be any of {', '.join(others)}: say which with names" if others else "no counterpart here"
            self.rows.append(Row(rung, name, np.inf, False, f"an array of the original; {told}"))
        self.rows += [Row(rung, n, np.inf, False, "no counterpart in the original") for n in self.arrays.missing]
        self.rows += [Row(rung, n, np.inf, False, f"of shape {told}") for n, told in self.arrays.wrong_shapes.items()]
        if left_out := [name for name in self.map.left_out if listed[name].arrays]:
            self.notes.append(f"Left out, as asked for: {listing(sorted(left_out))}.")
        guessed = [
            f"{source.name} -> {name}" for name, source in sources.items() if source.name in self.arrays.by_shape
        ]
        guessed += [f"{name} -> {self.map.modules[name]}" for name in self.map.by_order]
        if guessed:
            pairs = listing(guessed, limit=8)
            self.notes.append(f"Paired by shapes and the order of running alone: {pairs}.")
        originals = self.theirs.arrays()
        values = {name: source.convert(originals[source.name]) for name, source in sources.items()}
        self.own, self.values = own, values
        errors = {name: relative_error(own[name], value) for name, value in values.items()}
        telling = [name for name, value in values.items() if np.ptp(value) > 0]
        if weights == "own" or (weights is None and any(errors[name] <= ROUNDED for name in telling)):
            for name, error in errors.items():
                self.rows.append(Row("weights", name, error, error <= ROUNDED, f"the original's {sources[name].name}"))
            self.notes.append("The Flax model's own weights were compared, and used where they are not the original's.")
            values = {name: value for name, value in values.items() if errors[name] <= ROUNDED}  # in all their digits
        else:
            self.notes.append("The weights are the original's: those of the Flax model were others.")
        self.port.set(values)
        self._rates()

    def _rates(self) -> None:
        here, there = self.port.rates, self.theirs.rates
        if here or there:
            rates = sorted(there.values()), sorted(here.values())
            self.notes.append(
                f"Dropout was set to 0 for training: its rates are {rates[0]} in the original, {rates[1]} here"
                + (", which are others: see that it drops the same." if rates[0] != rates[1] else ".")
            )

    def layers_equal(self, training: bool, theirs: Look | None = None) -> bool:
        """Whether every layer that both have puts out the same, and the model."""
        mode = "training" if training else "evaluation"
        if theirs is None:
            with _told(f"the original ran in {mode}"):
                theirs = self.theirs.look(self.args, training=training)
        with _told(f"the Flax model ran in {mode}"):
            ours = self.port.look(self.flax_args, training=training)
        self.looks[training] = ours, theirs
        pairs = {other: name for name, other in self.map.modules.items()}
        floor = 1e-6 * magnitude([a for seen in theirs.layers.values() for a in seen.outputs])
        found = self.found[training] = {}
        for name, seen in ours.layers.items():
            if pairs.get(name) in theirs.layers:
                found[name] = _worst(seen.outputs, theirs.layers[pairs[name]].outputs, floor)
        found[""] = _worst(ours.outputs, theirs.outputs, floor, strict=True)
        ends_equal = found[""].error <= self.tolerance
        for name, each in found.items():
            if each.axes:
                self.axes[name] = each.axes
            ok = each.error <= self.tolerance or (ends_equal and each.note == REORDERED)
            self.rows.append(Row(MODES[training], name or "the output", each.error, ok, each.note))
        return all(row.ok for row in self.rows if row.rung == MODES[training])

    def steps_equal(self, y: Any, loss: tuple[Loss, Loss] | None, layers: Sequence[str] | None, seed: int) -> None:
        """A step of training, unmixed and mixed at every layer that can be."""
        outputs = self.looks[True][0].outputs
        n = len(self.args[0])
        rng = np.random.default_rng(seed)
        losses, y = _losses(outputs, self.axes[""], y, loss, n, rng)
        places = self._places(layers)
        step = self.port.stepper(tuple(places), losses[0])
        pairs = {other: name for name, other in self.map.modules.items()}
        partner = np.roll(np.arange(n), 1)
        draws = {"": Draw(np.ones(n), partner, "input" if "input" in places else next(iter(places), ""))}
        draws |= {name: Draw(rng.uniform(0.2, 0.8, n), partner, name) for name in places}
        for place, draw in draws.items():
            where = f"took a step of training, mixed at {place}" if place else "took a step of training"
            there = draw._replace(layer=pairs[place] if place not in ("", "input") else "input")
            with _told(f"the original {where}"):
                theirs = self.theirs.step(self.args, y, there, self.axes.get(place, (0,)), losses[1])
            with _told(f"the Flax model {where}"):
                ours = step(self.flax_args, y, draw)
            rows = list(self._step_rows(ours, theirs))
            if not place:
                self.rows += rows
                continue
            worst = max(rows, key=lambda row: (not row.ok, row.error))
            note = f"{worst.rung}: {worst.what}"
            self.rows.append(Row("mixed at each layer", place, worst.error, all(r.ok for r in rows), note))

    def _places(self, layers: Sequence[str] | None) -> list[str]:
        """Where both sides can be mixed."""
        pairs = {other: name for name, other in self.map.modules.items()}
        seen, ran = (look.layers for look in self.looks[True])
        with _told("the Flax model was traced"):
            found = self.port.layers(self.flax_args)
        both = [
            layer.name
            for layer in found
            if layer.batch and not layer.looped and layer.name in self.axes
            if layer.name in seen and len(seen[layer.name].outputs) == 1 and pairs.get(layer.name) in ran
        ]
        places = ["input"] * (self.args[0].dtype.kind == "f") + both
        if layers is None:
            return places
        chosen = []
        for pattern in [layers] if isinstance(layers, str) else layers:
            matching = [place for place in places if glob(pattern).fullmatch(place)]
            if not matching:
                raise ValueError(
                    f"layers has {pattern!r}, which is no layer that both can mix: {suggest(pattern, places)}"
                )
            chosen += matching
        return [place for place in places if place in chosen]

    def _step_rows(self, ours: Step, theirs: Step) -> Iterator[Row]:
        def row(rung: str, what: str, error: float, note: str = "") -> Row:
            return Row(rung, what, error, error <= self.tolerance, note)

        yield row("outputs of a step", "the output", _worst(ours.outputs, theirs.outputs, 0.0, strict=True).error)
        yield row("losses", "the losses", relative_error(ours.losses, theirs.losses))
        floor = 1e-2 * magnitude(list(theirs.gradients.values()))  # below it is rounding: a bias before a BatchNorm
        for name, source in self.arrays.sources.items():
            if name in ours.gradients and source.name in theirs.gradients:
                gradient = source.convert(theirs.gradients[source.name])
                yield row("gradients", name, relative_error(ours.gradients[name], gradient, floor))
            elif name in ours.gradients:
                yield row("gradients", name, np.inf, f"trained here; {source.name} is a buffer in the original")
            elif source.name in theirs.gradients:
                yield row("gradients", name, np.inf, f"not trained here; {source.name} is a parameter in the original")
        for name, source in self.arrays.sources.items():
            if name in ours.statistics and source.name in theirs.statistics:
                statistic = source.convert(theirs.statistics[source.name])
                yield row("statistics after a step", name, relative_error(ours.statistics[name], statistic))

    def report(self) -> Report:
        rungs = {row.rung for row in self.rows}
        if any(not row.ok for row in self.rows if row.rung in MODES.values()):
            self.notes.append("What comes after is left out: it would differ for the same reason.")
        if "statistics after a step" in rungs:
            self.notes.append(
                "PyTorch's running variances are the unbiased ones, Flax's are not: compared is what Flax would keep."
            )
        layer, told = apart.told(self)
        return Report(tuple(self.rows), told, layer, tuple(self.notes), self.map.modules, self.values, self.tolerance)


def _worst(ours: list[np.ndarray], theirs: list[np.ndarray], floor: float, *, strict: bool = False) -> Difference:
    """The worst of what a layer puts out; what one side alone puts out, such as attention weights, is let go."""
    if strict and len(ours) != len(theirs):
        return Difference(np.inf, (), f"{len(ours)} arrays are put out here, {len(theirs)} by the original")
    each = [difference(a, b, floor) for a, b in zip(ours, theirs, strict=False)]
    return max(each, key=lambda d: d.error)._replace(axes=each[0].axes)


def _losses(
    outputs: list[np.ndarray], axes: Axes, y: Any, loss: tuple[Loss, Loss] | None, n: int, rng: np.random.Generator
) -> tuple[tuple[Loss, Loss], Any]:
    """The loss of both sides, and labels."""
    logits = outputs[0]
    classes = len(outputs) == 1 and logits.ndim == 2 and len(logits) == n
    if loss is not None:
        if y is None:
            raise ValueError("y is None, and a loss of your own needs labels.")
        return loss, y
    if y is None and not classes:
        return _weighed(outputs, axes, n), [rng.normal(size=a.shape) for a in outputs]
    y = rng.integers(0, logits.shape[1], n) if y is None else np.asarray(y)
    if not classes or y.shape not in ((n,), logits.shape):
        raise ValueError(
            f"y must be class numbers [{n}] or targets {list(logits.shape)}, got {list(y.shape)} for outputs "
            f"{[list(a.shape) for a in outputs]}: else give a loss of your own, loss=(for Flax, for PyTorch)."
        )
    y = y.astype(np.float64 if y.ndim == 2 else np.int64)
    cross_entropy = imported().nn.functional.cross_entropy

    def ours(logits: Any, y: Any) -> Any:
        log_p = jax.nn.log_softmax(logits)
        return -(log_p * y).sum(1) if y.ndim == 2 else -jnp.take_along_axis(log_p, y[:, None], 1)[:, 0]

    return (ours, lambda logits, y: cross_entropy(logits, y, reduction="none")), y


def _weighed(outputs: list[np.ndarray], axes: Axes, n: int) -> tuple[Loss, Loss]:
    if any(a.shape[:1] != (n,) or a.dtype.kind != "f" for a in outputs):
        raise ValueError(
            f"the outputs {[list(a.shape) for a in outputs]} are not all a batch of {n} floats: give a loss of your "
            "own, loss=(for Flax, for PyTorch), and y."
        )
    torch = imported()

    def ours(output: Any, y: Any) -> Any:
        return sum((a * w).reshape(n, -1).mean(1) for a, w in zip(jax.tree.leaves(output), y, strict=True))

    def theirs(output: Any, y: Any) -> Any:
        if isinstance(output, Mapping):
            output = [output[key] for key in sorted(output)]
        leaves = [output] if torch.is_tensor(output) else output
        arranged = [a.permute(axes) if a.ndim == len(axes) else a for a in leaves]
        return sum((a.reshape(w.shape) * w).reshape(n, -1).mean(1) for a, w in zip(arranged, y, strict=True))

    return ours, theirs


def _arguments(x: Any) -> tuple[np.ndarray, ...]:
    args = []
    for each in x if isinstance(x, tuple) else (x,):
        array = np.asarray(each.detach().cpu() if hasattr(each, "detach") else each)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"x must be a batch of numbers, or a tuple of them, got {shown(each)}.")
        args.append(array.astype(np.float64) if array.dtype.kind == "f" else array)
    if not args or args[0].ndim < 1 or len(args[0]) < 2:
        raise ValueError(f"x must be a batch of two samples or more, got shape {args[0].shape if args else ()}.")
    return tuple(args)


def _channels_last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1) if x.ndim in (4, 5) else x


@contextlib.contextmanager
def _precision() -> Iterator[None]:
    """Float64, on the CPU, which has it."""
    cpu = jax.default_device(jax.local_devices(backend="cpu")[0])
    x64, promoting, precise = jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), "highest"
    with cpu, x64, promoting, jax.default_matmul_precision(precise), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*is called more than once"
        )  # both sides are mixed at the first call
        yield


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """What was done when an error came, which the models raise themselves."""
    try:
        yield
    except Exception as error:
        error.add_note(f"(jax_mix.parity: while {what})")
        raise
