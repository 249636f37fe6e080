"""MixUp and CutMix of one batch on CPU, beside torchvision v2, timm, fastai's callbacks, Kornia and Keras on JAX.

    python -m benchmarks.mixing

float32 images of three shapes. Ours are the one-line functions, `jax_mix.mixup` and `jax_mix.cutmix`, and the same
draw, blend and targets as a program of `jax.jit`. First every peer's draw is read from outside and given to jax_mix,
which has to make the same batch and targets of it. Then all take turns in one process on the same data, with
untimed calls before each timed one, and each with a draw of its own, by its own defaults: one lambda a batch in
torchvision and timm, one a sample in fastai, Keras, Kornia and here; partners by a roll in torchvision, a flip in timm,
else by permutation.

The target is half the time of the fastest peer that is not JAX; Keras is JAX. What takes our time is measured beside
it: the draw alone, the blend alone, a program that does nothing, and a copy of the images by NumPy, into memory that is
there already and into new memory, which the system hands out page by page; and how many such pages a call takes.

All of it is measured twice: with memory as glibc's allocator has it, and in a process that keeps what it once got.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_mix
from benchmarks.measuring import (
    KEEPING,
    give_back,
    in_a_process,
    in_ms,
    keys_in_turn,
    new_pages,
    ratio,
    save,
    side_by_side,
    summary,
    target,
)
from benchmarks.mixing_peers import ALPHA, OF_EVEN_BATCHES, PEERS
from parity_tests.parity.replaying import assert_same_batch
from parity_tests.tolerances import assert_within_ulp

SHAPES = {(512, 32, 32, 3): 10, (64, 224, 224, 3): 1000, (256, 224, 224, 3): 1000}  # and classes
ROUNDS, TIMES_FASTER = 21, 2
METHODS = {"mixup": jax_mix.MixUp(ALPHA["mixup"]), "cutmix": jax_mix.CutMix(ALPHA["cutmix"])}
ONE_LINE = {"mixup": jax_mix.mixup, "cutmix": jax_mix.cutmix}
OURS = ("one line", "jitted")
KEPT = "where_memory_is_kept"


def main() -> None:
    found = measure(SHAPES, ROUNDS)
    kept = in_a_process("from benchmarks import mixing; mixing.print_measured(mixing.SHAPES, mixing.ROUNDS)", KEEPING)
    save("mixing", {"what": f"one batch mixed, float32, alpha {ALPHA}", **joined(found, kept)})


def print_measured(shapes: Mapping[tuple[int, ...], int], rounds: int) -> None:
    print(json.dumps(measure(shapes, rounds)))


def joined(found: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """What was measured, and beside it what was measured where memory is kept."""
    targets = [each | {"what": f"{each['what']}, memory kept"} for each in kept["targets"]]
    return {"results": found["results"], KEPT: kept["results"], "targets": found["targets"] + targets}


def measure(shapes: Mapping[tuple[int, ...], int], rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {"results": {}, "targets": []}
    for (shape, classes), method in itertools.product(shapes.items(), METHODS):
        name = "x".join(map(str, shape))
        of = found["results"].setdefault(method, {})[name] = of_one(method, shape, classes, rounds)
        found["targets"] += [
            target(f"{method} {name}, {form}", faster["median"], at_least=TIMES_FASTER, reason=reason_of(form, of))
            for form, faster in of["times_faster_than_it"].items()
        ]
    return found


def of_one(method: str, shape: tuple[int, ...], classes: int, rounds: int) -> dict[str, Any]:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    y = np.eye(classes, dtype=np.float32)[np.arange(len(x)) % classes]
    left_out = OF_EVEN_BATCHES if len(x) % 2 else ()
    peers = {name: make(method, x, y) for name, make in PEERS.items() if name not in left_out}
    for peer in peers.values():
        check_same(x, y, peer, method)
    ours = our_forms(method, x, y)
    give_back()
    seconds = side_by_side(ours | peers, rounds=rounds, settle=True)
    medians = {name: np.median(times) for name, times in seconds.items()}
    fastest = min((name for name in peers if name != "Keras"), key=medians.__getitem__)
    times_faster = {name: ratio(seconds[fastest], seconds[name]) for name in ours}
    parts = side_by_side(our_parts(method, x, y), rounds=rounds, settle=True)
    return {
        "seconds": {name: summary(times) for name, times in seconds.items()},
        "fastest_peer": fastest,
        "times_faster_than_it": times_faster,
        "parts": {name: summary(times) for name, times in parts.items()},
        "new_pages_of_a_call": {name: new_pages(run) for name, run in (ours | peers).items()},
        "same_output_from_the_same_draw": list(peers),
    }


def check_same(x: np.ndarray, y: np.ndarray, peer: Any, method: str) -> None:
    """Of a draw of the peer's, jax_mix makes the same batch and targets: pasted bit for bit, blended to 2 units."""
    replays = (peer.replay() for _ in range(9))
    mix, image, mixed_target = next(each for each in replays if not np.array_equal(each.image, x))  # a box may be empty
    assert_same_batch(mix, x, image, range(len(x)) if method == "cutmix" else ())
    assert_within_ulp(mix.targets(y), mixed_target, np.ones_like(y), ulps=2)


def our_forms(method: str, x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], Any]]:
    image, one_hot = jnp.asarray(x), jnp.asarray(y)
    one_line, alpha = ONE_LINE[method], ALPHA[method]
    keys = keys_in_turn()
    jitted = jax.jit(lambda key, image, one_hot: applied(METHODS[method].sample(key, image.shape), image, one_hot))
    forms = (lambda: one_line(next(keys), image, one_hot, alpha=alpha), lambda: jitted(next(keys), image, one_hot))
    return dict(zip(OURS, forms, strict=True))


def our_parts(method: str, x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], Any]]:
    image, one_hot, there = jnp.asarray(x), jnp.asarray(y), x.copy()
    key = jax.random.key(0)
    draw = jax.jit(lambda key: METHODS[method].sample(key, x.shape))
    blend, nothing, mix = jax.jit(applied), jax.jit(lambda key: key), draw(key)
    return {
        "draw": lambda: draw(key),
        "blend": lambda: blend(mix, image, one_hot),
        "a program that does nothing": lambda: nothing(key),
        "a copy into memory that is there": lambda: np.copyto(there, x),
        "a copy into new memory": x.copy,
    }


def applied(mix: jax_mix.Mix, image: Any, one_hot: Any) -> Any:
    return mix.blend(image), mix.targets(one_hot)


def reason_of(form: str, of: dict[str, Any]) -> str:
    """What takes our time, in milliseconds."""
    seconds = of["seconds"] | of["parts"]
    ms = {name: in_ms(each["median_s"]) for name, each in seconds.items()}
    if form == OURS[0]:
        return f"jitted it takes {ms['jitted']} ms"
    return (
        f"of {ms['jitted']} ms the draw alone takes {ms['draw']}, the blend alone {ms['blend']}, where a copy of the "
        f"images takes {ms['a copy into memory that is there']}, and into new memory {ms['a copy into new memory']}; "
        f"a call gets {of['new_pages_of_a_call']['jitted']:,.0f} new pages"
    )


def table(result: dict[str, Any]) -> str:
    """Milliseconds of each, and how many times faster ours are than the fastest peer that is not JAX."""
    names = [*OURS, *PEERS]
    head = [f"| ms, median | {' | '.join(names)} | beside | one line | jitted |", "|---" * (len(names) + 4) + "|"]
    kept = f"Where memory is kept, by the environment variables {' '.join(f'`{n}={v}`' for n, v in KEEPING.items())}:"
    return "\n".join([*head, *rows(result["results"]), "", kept, "", *head, *rows(result[KEPT])])


def rows(results: dict[str, Any]) -> list[str]:
    lines = []
    for method, shapes in results.items():
        for shape, of in shapes.items():
            seconds = of["seconds"]
            times = [in_ms(seconds[name]["median_s"]) if name in seconds else "" for name in (*OURS, *PEERS)]
            faster = [f"{of['times_faster_than_it'][name]['median']:.2f}" for name in OURS]
            title = {"mixup": "MixUp", "cutmix": "CutMix"}[method]
            lines.append(
                f"| {title} [{shape.replace('x', ', ')}] | {' | '.join(times)} | {of['fastest_peer']} | "
                f"{' | '.join(faster)} |"
            )
    return lines


if __name__ == "__main__":
    main()
