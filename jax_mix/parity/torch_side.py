"""The side of PyTorch: a copy in float64, its arrays by name, its layers, and a step of training."""

from __future__ import annotations

import contextlib
import copy
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jax_mix._checks import shown
from jax_mix.parity.flax_side import rates
from jax_mix.parity.names import Module
from jax_mix.parity.records import Axes, Draw, Look, Seen, Step

_Hook = Callable[..., Any]


def imported() -> Any:
    """PyTorch, which is asked for when a comparison runs and not before."""
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "jax_mix.parity compares with PyTorch, which is not installed: pip install torch.", name="torch"
        ) from error


class Original:
    """A PyTorch model, as the ladder uses it."""

    def __init__(self, model: Any) -> None:
        self.torch = torch = imported()
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"original must be a torch.nn.Module, got {shown(model)}.")
        self.model = copy.deepcopy(model).cpu().double()
        for parameter in self.model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())  # those that the user has frozen too
        self.modules = {name: module for name, module in self.model.named_modules()}
        self.rates = rates(iter(self.modules.items()))

    def arrays(self) -> dict[str, np.ndarray]:
        """Parameters, and buffers that are saved and hold floats; one that has several names by its first."""
        saved = set(self.model.state_dict())
        named = [*self.model.named_parameters(), *((n, b) for n, b in self.model.named_buffers() if n in saved)]
        return {name: value.detach().numpy().copy() for name, value in named if value.is_floating_point()}

    def listed(self, order: Sequence[str]) -> dict[str, Module]:
        """Every module with its own arrays, those in `order` first."""
        arrays: dict[str, dict[str, np.ndarray]] = {name: {} for name in self.modules}
        for name, array in self.arrays().items():
            module, _, leaf = name.rpartition(".")
            arrays[module][leaf] = array
        names = dict.fromkeys([*(name for name in order if name in self.modules), *self.modules])
        kinds = {name: frozenset(cls.__name__ for cls in type(module).__mro__) for name, module in self.modules.items()}
        return {name: Module(kinds[name], arrays[name]) for name in names}

    def look(self, args: Sequence[np.ndarray], *, training: bool, seed: int = 0) -> Look:
        """Run forward and keep what every module puts out. Dropout is off in training too."""
        layers: dict[str, Seen] = {}
        given: dict[str, list[np.ndarray]] = {}

        def before(name: str, module: Any, args: Any, kwargs: Any) -> None:
            given.setdefault(name, self._arrays((args, kwargs)))

        def after(name: str, module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if name not in layers and (outputs := self._arrays(output)):
                layers[name] = Seen(given[name], outputs)

        with self._running(training, seed), self.torch.no_grad(), contextlib.ExitStack() as stack:
            for name, module in self.modules.items():
                if name:
                    stack.enter_context(_hooked(module, before, after, name))
            y = self.model(*self._tensors(args))
        return Look(self._arrays(y), layers)

    def step(self, args: Sequence[np.ndarray], y: Any, draw: Draw, axes: Axes, loss: Any) -> Step:
        """A step of training, mixed at a module whose output's axes stand in the order `axes` in Flax's layout.

        BatchNorm's running variances are as Flax keeps them.
        """
        torch = self.torch
        lam, partner = torch.from_numpy(draw.lam), torch.from_numpy(draw.partner)

        def blend(x: Any) -> Any:
            x = x.movedim(axes[0], 0)
            weight = lam.reshape(-1, *[1] * (x.ndim - 1))
            return (weight * x + (1 - weight) * x[partner]).movedim(0, axes[0])

        called = []

        def mixed(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
            called.append(module)
            if len(called) > 1:
                return None
            if isinstance(output, tuple):
                return (blend(output[0]), *output[1:])  # the rest, such as attention weights, the Flax layer has not
            if not torch.is_tensor(output):
                told = f"the original's {draw.layer!r} puts out a {type(output).__name__}, where it cannot be mixed"
                raise TypeError(f"{told}: leave it out of layers.")
            return blend(output)

        counts: dict[str, list[int]] = {}

        def count(name: str, module: Any, args: Any, kwargs: Any) -> None:
            x = args[0] if args else next(iter(kwargs.values()))
            counts.setdefault(name, []).append(x.numel() // x.shape[1])

        tensors = self._tensors(args)
        buffers = {name: value.clone() for name, value in self.model.named_buffers()}
        with self._running(True, 0), contextlib.ExitStack() as stack:
            if draw.layer == "input":
                tensors[0] = blend(tensors[0]) if tensors[0].is_floating_point() else tensors[0]
            else:
                stack.enter_context(_hooked(self.modules[draw.layer], None, mixed))
            for name, module in self.modules.items():
                if hasattr(module, "running_var") and hasattr(module, "momentum"):
                    stack.enter_context(_hooked(module, count, None, name))
            output = self.model(*tensors)
            losses, partners = (loss(output, self._tree(y, rows)) for rows in (slice(None), draw.partner))
            if losses.shape != lam.shape:
                told = f"{list(lam.shape)}, got {list(losses.shape)}: PyTorch's own take reduction='none'"
                raise ValueError(f"the loss for PyTorch must give a loss for each sample, {told}.")
            losses = torch.lerp(partners, losses, lam)
            self.model.zero_grad()
            losses.mean().backward()
            slopes = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in self.model.named_parameters()}
            gradients = {name: slope.numpy().copy() for name, slope in slopes.items()}
            statistics = {n: b.detach().numpy().copy() for n, b in self.model.named_buffers() if b.is_floating_point()}
            for name, sizes in counts.items():
                self._as_flax_keeps_it(f"{name}.running_var", self.modules[name], sizes, buffers, statistics)
        return Step(self._arrays(output), losses.detach().numpy(), gradients, statistics)

    def _as_flax_keeps_it(
        self, name: str, module: Any, sizes: list[int], before: Mapping[str, Any], after: dict[str, np.ndarray]
    ) -> None:
        """PyTorch lets the running variance drift to the unbiased variance, n/(n-1) of the one that Flax lets it."""
        if name not in after or module.momentum is None or len(set(sizes)) != 1 or sizes[0] < 2:
            return
        kept = before[name].numpy() * (1 - module.momentum) ** len(sizes)
        after[name] = kept + (after[name] - kept) * (sizes[0] - 1) / sizes[0]

    @contextlib.contextmanager
    def _running(self, training: bool, seed: int) -> Iterator[None]:
        """In training without dropout, or in evaluation; buffers are afterwards what they were."""
        torch = self.torch
        self.model.train(training)
        buffers = {name: value.clone() for name, value in self.model.named_buffers()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if training:
                rates(iter(self.modules.items()), off=True)
            yield
        with torch.no_grad():
            for name, value in self.model.named_buffers():
                value.copy_(buffers[name])

    def _tensors(self, args: Sequence[np.ndarray]) -> list[Any]:
        return [self.torch.tensor(a) for a in args]

    def _tree(self, y: Any, rows: Any) -> Any:
        if isinstance(y, (list, tuple)):
            return [self._tree(part, rows) for part in y]
        return self.torch.tensor(np.asarray(y)[rows])

    def _arrays(self, value: Any) -> list[np.ndarray]:
        """The tensors in any tuples, lists and dicts, in order. Copies: what runs next may write into them."""
        if self.torch.is_tensor(value):
            return [value.detach().numpy().copy()]
        if isinstance(value, Mapping):
            value = [value[key] for key in sorted(value)]  # the order in which JAX takes them
        return [a for part in value for a in self._arrays(part)] if isinstance(value, (list, tuple)) else []


@contextlib.contextmanager
def _hooked(
    module: Any, before: Callable[..., Any] | None, after: Callable[..., Any] | None, *first: Any
) -> Iterator[None]:
    """While this lasts, a module's calls are shown to `before` and `after`, with `first` before their arguments."""
    handles = []
    if before is not None:
        handles.append(module.register_forward_pre_hook(lambda *args: before(*first, *args), with_kwargs=True))
    if after is not None:
        handles.append(module.register_forward_hook(lambda *args: after(*first, *args), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
