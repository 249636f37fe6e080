"""What goes around a layer, and where mixing comes to the same: decided in one pass over a model's program (jaxpr).

Mixing at a layer is exact if every path from the batch to the outputs goes through it, if it is a *cut*: then at
`lam = 0` the outputs are the partner's. In the program each layer's output is marked, by an identity that names it.
The pass carries a few bitmasks for each value, one bit a layer: from where it can be reached without passing the
layer, and whether it is affine in the layer's output. No number is computed and no threshold is needed. An operation
that is not known here is taken to let everything through and to be affine in nothing, so that what is called a cut
is one, and what is called the same is the same.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

_MARK = "jax_mix_layer"

# Operations that call one inner program with their own operands.
_CALLS = {
    "jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call",
    "custom_vjp_call_jaxpr", "shard_map",
}  # fmt: skip
# Operations that are linear in all their operands together.
_LINEAR = {
    "add", "add_any", "sub", "neg", "real", "imag", "conj", "complex", "copy", "copy_p", "name", "reshape", "transpose",
    "broadcast_in_dim", "squeeze", "expand_dims", "concatenate", "split", "pad", "slice", "rev", "reduce_sum", "cumsum",
    "reduce_window_sum", "reduce_precision", "fft", "psum", "psum_invariant", "pvary", "pcast", "all_gather",
    "ppermute", "all_to_all", "reduce_scatter", "optimization_barrier", "sharding_constraint", "layout_constraint",
    "mesh_cast", "reshard", "device_put",
}  # fmt: skip
_BILINEAR = {"mul", "dot_general", "conv_general_dilated"}
# Operations that are linear in all operands but some: the first and the last (None: to the end) of those.
_LINEAR_BUT: dict[str, tuple[int, int | None]] = {
    "div": (1, None),
    "select_n": (0, 1),
    "gather": (1, None),
    "dynamic_slice": (1, None),
    "dynamic_update_slice": (2, None),
    "scatter": (1, 2),
    "scatter-add": (1, 2),
}


class Flow(NamedTuple):
    """What is known of one value; masks with a bit for each layer, and for each source after them."""

    around: int = 0  # layers that some path from the batch to here does not pass; one range of bits a source
    on: int = 0  # what this value depends on: layers, sources, weights
    bent: int = 0  # on which of them other than affinely
    weighed: int = 0  # which of them met weights on the way


def mark(path: str, leaf: int, value: jax.Array) -> jax.Array:
    """`value`, marked in the program as leaf number `leaf` of the output of the module at `path`."""
    return checkpoint_name(value, f"{_MARK}:{leaf}:{path}")


class Flows:
    """How the batch flows through a program whose layers' outputs are marked.

    Args:
      program: the marked program.
      sources: for each input of the program the number of its source, 0 the one that is mixed; None for weights.
      stacked: for each marked path its number of iterations, None for a layer that is not stacked, in running order.
      outputs: for each output of the program whether it counts.
      fixed: (path, leaf) of marks that do not count: what they mark is no batch.
    """

    def __init__(
        self,
        program: ClosedJaxpr,
        sources: Sequence[int | None],
        stacked: dict[str, int | None],
        outputs: Sequence[bool],
        fixed: Collection[tuple[str, int]] = (),
    ):
        self._program, self._sources, self._stacked, self._counts = program, sources, stacked, outputs
        self._fixed = fixed
        self._first: dict[str, int] = {}  # the number of a path's layer, or of its iteration 0
        number = 0
        for path, length in stacked.items():
            self._first[path] = number
            number += 1 if length is None else length
        self.layers = number
        self.n_sources = max((s for s in sources if s is not None), default=0) + 1
        self._weights = 1 << (self.layers + self.n_sources)
        self._any_source = self._weights - (1 << self.layers)
        self._repeated = sum(1 << (s * self.layers) for s in range(self.n_sources))  # a layer's bits of every source
        self.in_loops: set[str] = set()  # paths that a loop runs otherwise than as one stacked block after the other
        self.at: dict[int, dict[int, Flow]] = {}  # layer number -> leaf -> what is known of it
        self._end = self._at_the_end(None)

    def number(self, path: str, iteration: int) -> int:
        return self._first[path] + iteration

    # What may be asked of a layer, by its number.

    def carries_batch(self, layer: int, leaf: int) -> bool:
        """Whether a leaf of the layer's output depends on the batch."""
        flow = self.at.get(layer, {}).get(leaf)
        return flow is not None and bool(flow.on & self._any_source)

    def reaches(self, layer: int) -> bool:
        """Whether the outputs depend on the layer's output."""
        return bool(self._end.on >> layer & 1)

    def source_reaches(self, source: int) -> bool:
        """Whether the outputs depend on a source."""
        return bool(self._end.on >> (self.layers + source) & 1)

    def around(self, layer: int) -> list[int]:
        """The sources from which some path to the outputs goes around the layer; none if it is a cut."""
        return [s for s in range(self.n_sources) if self._end.around >> (s * self.layers + layer) & 1]

    def like_input(self, layer: int) -> bool:
        """Whether mixing a cut is mixing the input: it is affine in what is mixed, and nothing else came in."""
        flow = self._value(layer)
        return flow.on & self._any_source == 1 << self.layers and not flow.bent >> self.layers & 1

    def like_output(self, layer: int) -> bool:
        """Whether mixing a cut is mixing the outputs: they are affine in it, or no weights come after it."""
        return self.reaches(layer) and not (self._end.bent >> layer & 1 and self._end.weighed >> layer & 1)

    def like(self, layer: int, earlier: int) -> bool:
        """Whether mixing at `layer` is mixing at the `earlier` one: it is affine in that, and nothing else came in."""
        flow = self._value(layer)
        around = flow.around & self._repeated << earlier
        return bool(flow.on >> earlier & 1) and not flow.bent >> earlier & 1 and not around

    def detour(self, layer: int) -> tuple[int | None, list[int], int | None]:
        """How the batch goes around a layer that is no cut: from where, through which layers beside it, to where.

        None for the beginning is the input, for the end the output.
        """
        at = self.at
        self.at = {}
        blocked = self._at_the_end(layer)
        without, self.at = self.at, at
        on = self._value(layer).on
        beside, start, end = [], None, None
        for other in at:  # in running order
            if other == layer:
                continue
            its = self._value(other).on
            after = its >> layer & 1
            if blocked.on >> other & 1 and not after:
                if on >> other & 1:
                    start = other
                elif its & self._any_source:
                    beside.append(other)
            flow = _union(without.get(other, {}).values())
            if after and end is None and flow.on & self._any_source:
                end = other
        return start, beside, end

    def _value(self, layer: int) -> Flow:
        return _union(self.at.get(layer, {}).values())

    # The pass itself.

    def _at_the_end(self, blocked: int | None) -> Flow:
        """What is known of the outputs that count, together. From before a `blocked` layer nothing gets past it."""
        everything = (1 << self.layers) - 1
        weights = Flow(on=self._weights)
        inputs = [
            weights if s is None else Flow(everything << (s * self.layers), 1 << (self.layers + s))
            for s in self._sources
        ]
        self._blocked = blocked
        self._called: set[tuple[int, int]] = set()  # (number, leaf) of layers that have run
        outputs = self._walk(self._program.jaxpr, inputs, None, 0)
        return _union(flow for flow, counts in zip(outputs, self._counts, strict=True) if counts)

    def _walk(self, jaxpr: Jaxpr, inputs: Sequence[Flow], at: tuple[int, int] | None, loops: int) -> list[Flow]:
        """The outputs' flows. `at`: the iteration of the scan around and the scan's length."""
        env: dict[Any, Flow] = dict.fromkeys(jaxpr.constvars, Flow(on=self._weights))
        env.update(zip(jaxpr.invars, inputs, strict=True))

        def read(value: Any) -> Flow:
            return Flow() if isinstance(value, Literal) else env.get(value, Flow())

        for equation in jaxpr.eqns:
            operands = [read(v) for v in equation.invars]
            written = [v for v in equation.invars if "Ref" in type(getattr(v, "aval", None)).__name__]
            if written:  # a reference holds what may be written to it, here or in a program within
                operands = [
                    _bent(_union(operands)) if v in written else o
                    for v, o in zip(equation.invars, operands, strict=True)
                ]
            kind, params = equation.primitive.name, equation.params
            if kind == "name" and str(params["name"]).startswith(_MARK + ":"):
                results = [self._passed(str(params["name"]), operands[0], at, loops)]
            elif kind == "scan":
                results = self._scan(params, operands, at, loops)
            elif kind == "while":
                results = self._while(params, operands, at, loops)
            elif kind == "cond":
                results = self._cond(params, operands, at, loops)
            elif kind in _CALLS and (inner := _inner(params)) and len(inner[0].invars) == len(operands):
                results = self._walk(inner[0], operands, at, loops)
            else:
                results = [self._operation(equation, operands)] * len(equation.outvars)
            env.update(dict.fromkeys(written, _bent(_union([*operands, *results]))))
            env.update(zip(equation.outvars, results, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _passed(self, name: str, flow: Flow, at: tuple[int, int] | None, loops: int) -> Flow:
        _, leaf, path = name.split(":", 2)
        first, length = self._first[path], self._stacked[path]
        if (path, int(leaf)) in self._fixed:
            return flow
        if length is not None and loops == 0:  # under vmap: all members at once, each goes around the others
            numbers = range(first, first + length)
            through = 0
        elif length is not None and loops == 1 and at is not None and at[1] == length:
            numbers = range(first + at[0], first + at[0] + 1)
            through = 1 << numbers[0]
        elif length is None and loops == 0:
            numbers, through = range(first, first + 1), 1 << first
        else:
            self.in_loops.add(path)
            return flow
        if any((number, int(leaf)) in self._called for number in numbers):
            return flow  # called again, it is not mixed
        own = functools.reduce(operator.or_, (1 << n for n in numbers))
        on = flow.on if self._blocked not in numbers else 0
        flow = Flow(flow.around & ~(through * self._repeated), on | own, flow.bent & ~own, flow.weighed & ~own)
        for number in numbers:
            self._called.add((number, int(leaf)))
            leaves = self.at.setdefault(number, {})
            leaves[int(leaf)] = _union([flow, leaves.get(int(leaf), Flow())])
        return flow

    def _cond(self, params: Any, operands: list[Flow], at: Any, loops: int) -> list[Flow]:
        """A layer's first call may be in each of the branches, of which one runs."""
        called, outs, either = self._called, [], set()
        for branch in params["branches"]:
            self._called = set(called)
            outs.append(self._walk(branch.jaxpr, operands[1:], at, loops))
            either |= self._called
        self._called = either
        chosen = _bent(operands[0])
        return [_union([chosen, *each]) for each in zip(*outs, strict=True)]

    def _scan(self, params: Any, operands: list[Flow], at: Any, loops: int) -> list[Flow]:
        body = params["jaxpr"].jaxpr
        consts, carries, length = *_counts(params), params["length"]
        carry, xs = operands[consts : consts + carries], operands[consts + carries :]
        ys = [Flow()] * (len(body.outvars) - carries)
        if loops == 0 and any(self._stacked[path] == length for path in _marked(body)):
            steps = reversed(range(length)) if params["reverse"] else range(length)
            for step in steps:
                out = self._walk(body, [*operands[:consts], *carry, *xs], (step, length), 1)
                carry, ys = out[:carries], [_union(pair) for pair in zip(ys, out[carries:], strict=True)]
            return [*carry, *ys]
        while True:  # masks only grow, so this ends
            out = self._walk(body, [*operands[:consts], *carry, *xs], None, loops + 1)
            grown = [_union(pair) for pair in zip(carry, out[:carries], strict=True)]
            if grown == carry:
                return [*carry, *out[carries:]]
            carry = grown

    def _while(self, params: Any, operands: list[Flow], at: Any, loops: int) -> list[Flow]:
        test, body = params["cond_jaxpr"].jaxpr, params["body_jaxpr"].jaxpr
        a, b = params["cond_nconsts"], params["body_nconsts"]
        carry = operands[a + b :]
        while True:
            going_on = _bent(self._walk(test, [*operands[:a], *carry], None, loops + 1)[0])
            out = self._walk(body, [*operands[a : a + b], *carry], None, loops + 1)
            grown = [_union([before, after, going_on]) for before, after in zip(carry, out, strict=True)]
            if grown == carry:
                return carry
            carry = grown

    def _operation(self, equation: Any, operands: list[Flow]) -> Flow:
        """One operation: whatever reaches an operand reaches the result."""
        kind = equation.primitive.name
        flow = _union(operands)
        bent, weighed = flow.bent, flow.weighed
        if kind == "convert_element_type":
            floats = [jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in (equation.invars[0], equation.outvars[0])]
            bent |= 0 if all(floats) else flow.on
        elif kind in _BILINEAR:
            bent |= operands[0].on & operands[1].on
        elif kind in _LINEAR_BUT:
            first, last = _LINEAR_BUT[kind]
            bent |= _union(operands[first:last]).on
        elif kind not in _LINEAR:
            bent |= flow.on
        if any(o.on & self._weights and not o.on & self._any_source for o in operands):
            weighed |= flow.on
        return Flow(flow.around, flow.on, bent, weighed)


def _union(flows: Iterable[Flow]) -> Flow:
    around = on = bent = weighed = 0
    for flow in flows:
        around, on, bent, weighed = around | flow[0], on | flow[1], bent | flow[2], weighed | flow[3]
    return Flow(around, on, bent, weighed)


def _bent(flow: Flow) -> Flow:
    """What depends on `flow` by a choice: never affinely."""
    return flow._replace(bent=flow.bent | flow.on)


def _counts(params: dict[str, Any]) -> list[int]:
    """How many of a scan's operands are the same at each step, and how many are carried from one to the next."""
    if "ft_in" in params:  # since jax 0.12
        return [len(list(part)) for part in params["ft_in"].unpack()[:2]]
    return [params["num_consts"], params["num_carry"]]


def _inner(params: dict[str, Any]) -> list[Jaxpr]:
    """The programs among an operation's parameters."""
    values = jax.tree.leaves(list(params.values()), is_leaf=lambda v: isinstance(v, (Jaxpr, ClosedJaxpr)))
    values = [v.jaxpr if isinstance(v, ClosedJaxpr) else v for v in values]
    return [v for v in values if isinstance(v, Jaxpr)]


def _marked(jaxpr: Jaxpr) -> set[str]:
    """The paths of all marks in a program."""
    paths = set()
    for equation in jaxpr.eqns:
        name = str(equation.params.get("name", ""))
        if name.startswith(_MARK + ":"):
            paths.add(name.split(":", 2)[2])
        for inner in _inner(equation.params):
            paths |= _marked(inner)
    return paths
