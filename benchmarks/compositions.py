"""Compositions beside their parts: OneOf, a box for each sample, and all of it in one; draw, blend and targets, jitted.

    python -m benchmarks.compositions

The parts of a composition are the methods that it chooses among, each alone. A batch of a composition may take 1.05
times as long as one of the slowest of its parts: one program serves every method, so that it cannot be faster than that
one. Beside it stands the mean of the parts by their probabilities, which is what a program for each method would take,
chosen outside of jit. All take turns on the same images.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measuring import in_ms, keys_in_turn, ratio, save, side_by_side, summary, target
from jax_mix import CutMix, MixUp, OneOf

SHAPES = {(512, 32, 32, 3): 10, (64, 224, 224, 3): 1000}  # and classes
ROUNDS, AT_MOST = 25, 1.05


class Composition(NamedTuple):
    method: Any
    parts: dict[str, float]  # names of METHODS, and how likely each is


METHODS = {
    "MixUp": MixUp(0.8),
    "CutMix": CutMix(1.0),
    "CutMix, a box a sample": CutMix(1.0, per="sample"),
    "None": None,
}
_HALF = {"MixUp": 0.5, "CutMix": 0.5}
_EACH = {"MixUp": 0.5, "CutMix, a box a sample": 0.5}
COMPOSITIONS = {
    "OneOf, a batch": Composition(OneOf(MixUp(0.8), CutMix(1.0)), _HALF),
    "OneOf, a sample": Composition(OneOf(MixUp(0.8), CutMix(1.0, per="sample"), per="sample"), _EACH),
    "a box a sample": Composition(CutMix(1.0, per="sample"), {"CutMix": 1.0}),
    "everything": Composition(
        OneOf(
            OneOf(MixUp(0.8), CutMix(1.0, per="sample"), per="sample"),
            CutMix(1.0, per="sample", probability=0.5),
            None,
            probabilities=(0.5, 0.3, 0.2),
            per="sample",
        ),
        {"MixUp": 0.25, "CutMix, a box a sample": 0.55, "None": 0.2},
    ),
}


def main() -> None:
    save("compositions", {"what": "one batch, float32: draw, blend and targets, jitted", **measure(SHAPES, ROUNDS)})


def measure(shapes: dict[tuple[int, ...], int], rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {"results": {}, "targets": []}
    for shape, classes in shapes.items():
        name = "x".join(map(str, shape))
        image = jnp.asarray(np.random.default_rng(0).normal(size=shape).astype(np.float32))
        one_hot = jnp.eye(classes)[np.arange(len(image)) % classes]
        programs = METHODS | {name: each.method for name, each in COMPOSITIONS.items()}
        runs = {name: jitted(method, image, one_hot) for name, method in programs.items()}
        seconds = side_by_side(runs, rounds=rounds, settle=True)
        sampling = {name: drawing(method, shape) for name, method in programs.items() if method is not None}
        draws = side_by_side(sampling, rounds=rounds, settle=True)
        of = {name: compared(seconds, name) for name in COMPOSITIONS}
        found["results"][name] = {
            "seconds": {name: summary(times) for name, times in seconds.items()},
            "seconds_of_the_draw_alone": {name: summary(times) for name, times in draws.items()},
            "to_parts": of,
        }
        found["targets"] += [
            target(f"{each}, {name}, to its slowest part", of[each]["to_slowest"]["median"], at_most=AT_MOST,
                   reason=reason_of(each, seconds, draws))
            for each in COMPOSITIONS
        ]  # fmt: skip
    return found


def jitted(method: Any, image: Any, one_hot: Any) -> Any:
    keys = keys_in_turn()

    @jax.jit
    def run(key: Any, image: Any, one_hot: Any) -> Any:
        if method is None:
            return image, one_hot
        mix = method.sample(key, image.shape)
        return mix.blend(image), mix.targets(one_hot)

    return lambda: run(next(keys), image, one_hot)


def drawing(method: Any, shape: tuple[int, ...]) -> Any:
    keys = keys_in_turn()
    draw = jax.jit(lambda key: method.sample(key, shape))
    return lambda: draw(next(keys))


def compared(seconds: dict[str, list[float]], name: str) -> dict[str, Any]:
    """A composition's time as a multiple of its slowest part's, and of the mean of its parts."""
    parts = COMPOSITIONS[name].parts
    slowest = max(parts, key=lambda part: float(np.median(seconds[part])))
    mean = [sum(p * seconds[part][i] for part, p in parts.items()) for i in range(len(seconds[name]))]
    return {
        "parts": parts,
        "slowest": slowest,
        "to_slowest": ratio(seconds[name], seconds[slowest]),
        "to_mean": ratio(seconds[name], mean),
    }


def reason_of(name: str, seconds: dict[str, list[float]], draws: dict[str, list[float]]) -> str:
    """A composition draws what each of its methods draws, and then chooses."""
    parts = COMPOSITIONS[name].parts
    ms, drawn = ({each: in_ms(float(np.median(times))) for each, times in of.items()} for of in (seconds, draws))
    alone = ", ".join(f"{part} {ms[part]} ms, of which its draw {drawn.get(part, '0')}" for part in parts)
    return f"it takes {ms[name]} ms, of which its draw {drawn[name]}; alone its parts take: {alone}"


def table(result: dict[str, Any]) -> str:
    """Each composition's time, and what multiple of its parts' it is, with quartiles."""
    lines = [
        "| composition | images | ms | its parts, ms | to the slowest | to their mean |",
        "|---|---|---|---|---|---|",
    ]
    for shape, of in result["results"].items():
        ms = {name: in_ms(each["median_s"]) for name, each in of["seconds"].items()}
        for name, each in of["to_parts"].items():
            parts = ", ".join(f"{part} {ms[part]}" for part in each["parts"])
            ratios = " | ".join(with_quartiles(each[which]) for which in ("to_slowest", "to_mean"))
            lines.append(f"| {name} | [{shape.replace('x', ', ')}] | {ms[name]} | {parts} | {ratios} |")
    return "\n".join(lines)


def with_quartiles(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['first_quartile']:.2f} to {ratio['third_quartile']:.2f})"


if __name__ == "__main__":
    main()
