"""Write the tables of docs/speed.md and of README's section Speed, and draw speed.png and growth.png, from the results.

python -m docs.speed

A table stands between two marks, `<!-- NAME: written by docs.speed -->` and `<!-- end of NAME -->`: it is what
`table(result)` of benchmarks/NAME.py makes of benchmarks/results/NAME.cpu.json, or of the only NAME.DEVICE.json, with
its picture before it, and behind it the targets that were missed. NAME may have the device too, as in
`accelerator.nvidia-h100`. README's is called speed.
"""

from __future__ import annotations

import importlib
import itertools
import json
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks import measuring
from benchmarks.measuring import RESULTS
from docs import marks
from jax_mix.training.plots import save

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path(__file__).parent
PAGES = (FOLDER / "speed.md", FOLDER.parent / "README.md")
TITLES = {"mixup": "MixUp", "cutmix": "CutMix"}
PICTURES = {
    "mixing": ("speed.png", "Milliseconds for a batch: jax_mix beside torchvision, timm, fastai, Kornia and Keras"),
    "growth": ("growth.png", "Seconds against sizes on logarithmic axes, beside linear growth"),
}
OURS, OTHERS, EDGE = "#0072b2", "#b8b8b8", "#444444"


def result(name: str) -> dict[str, Any]:
    """A committed result; FileNotFoundError where there is none yet."""
    path = RESULTS / (f"{name}.json" if "." in name else f"{name}.cpu.json")
    others = [] if path.exists() or "." in name else list(RESULTS.glob(f"{name}.*.json"))
    found: dict[str, Any] = json.loads((others[0] if len(others) == 1 else path).read_text(encoding="utf-8"))
    return found


def table(name: str) -> str:
    """The table of a benchmark's committed result, and a line for each of its targets that was missed."""
    try:
        if name == "speed":
            return readme(*map(result, ("mixing", "train_step", "compile_time", "start_up")))
        found = result(name)
    except FileNotFoundError:
        return "Not measured yet."
    written: str = importlib.import_module(f"benchmarks.{name.partition('.')[0]}").table(found)
    missed = [f"- {measuring.told(each)}." for each in found.get("targets", ()) if not each["hit"]]
    return "\n".join([*picture(name, ""), written, *(["", *missed] if missed else [])])


def picture(name: str, folder: str) -> list[str]:
    if name not in PICTURES:
        return []
    file, says = PICTURES[name]
    return [f"![{says}]({folder}{file})", ""]


def readme(mixing: dict[str, Any], steps: dict[str, Any], compiling: dict[str, Any], starts: dict[str, Any]) -> str:
    """The rows that say most, and how many of all targets were hit."""
    lines = [*picture("mixing", "docs/"), "| | jax_mix | fastest that is not JAX | speed |", "|---|---|---|---|"]
    for method, shape in itertools.product(("mixup", "cutmix"), ("512x32x32x3", "256x224x224x3")):
        of = mixing["results"][method][shape]
        ms = {name: f"{measuring.in_ms(each['median_s'])} ms" for name, each in of["seconds"].items()}
        faster = [of["times_faster_than_it"][form]["median"] for form in ("one line", "jitted")]
        lines.append(
            f"| {TITLES[method]} of [{shape.replace('x', ', ')}], one line; jitted | "
            f"{ms['one line']}; {ms['jitted']} | {of['fastest_peer']}, {ms[of['fastest_peer']]} | "
            f"{faster[0]:.2f} and {faster[1]:.2f} times as fast |"
        )
    ours, fastais = (steps["to_the_step_without"][side]["Manifold Mixup"]["median"] for side in ("jax_mix", "fastai"))
    lines.append(f"| Train step with Manifold Mixup, over the step without | {ours:.2f} | fastai, {fastais:.2f} | |")
    ratios = {
        n.partition(",")[0]: of["compile_ratio_to_none"]["manifold"] for n, of in compiling.items() if is_network(of)
    }
    told = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    lines.append(f"| Compiling it, over compiling the step without | {told} | | |")
    whole = {name: f"{of['whole']['median']:.1f} s" for name, of in starts["seconds"].items()}
    lines.append(
        f"| `python train.py`, start to end; its second start | {whole['first']}; {whole['second']} | "
        f"fastai's twin, {whole['fastai']} | |"
    )
    results = [path for path in sorted(RESULTS.glob("*.json")) if "_small." not in path.name]  # in miniature: no result
    targets = [each for path in results for each in targets_of(path)]
    hit = sum(each["hit"] for each in targets)
    cores, device = mixing["cores"], mixing["device"].partition(",")[0]
    told = f"Medians, on {cores} cores of {device}. Of the targets of all benchmarks {hit} of {len(targets)} are hit."
    return "\n".join([*lines, "", told])


def is_network(value: Any) -> bool:
    return isinstance(value, dict) and "compile_ratio_to_none" in value


def targets_of(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")).get("targets", [])
    return found


def with_tables(page: str) -> str:
    """The page with each table between its two marks as the results have it."""
    return marks.with_tables(page, "docs.speed", table)


def bars(mixing: dict[str, Any]) -> Any:
    """Milliseconds of each library, a row for each method and a column for each shape."""
    results = mixing["results"]
    shapes = list(next(iter(results.values())))
    figure, axes = plt.subplots(len(results), len(shapes), figsize=(11, 4.6), layout="constrained", squeeze=False)
    for row, (method, of_shapes) in zip(axes, results.items(), strict=True):
        for axis, (shape, of) in zip(row, of_shapes.items(), strict=True):
            times = {label(name): 1e3 * each["median_s"] for name, each in of["seconds"].items()}
            limit = 4.5 * 1e3 * of["seconds"][of["fastest_peer"]]["median_s"]  # longer bars are cut, and say so
            colors = [OURS if name.startswith("jax_mix") else OTHERS for name in times]
            axis.barh(list(times), list(times.values()), color=colors)
            for at, ms in enumerate(times.values()):
                far, told = ms > 0.8 * limit, measuring.in_ms(ms / 1e3)
                text = f"{told}{' →' if ms > limit else ''} " if far else f" {told}"
                color = "white" if far and colors[at] == OURS else EDGE
                axis.text(min(ms, limit), at, text, va="center", ha="right" if far else "left", fontsize=8, color=color)
            axis.set_xlim(0, limit)
            axis.invert_yaxis()
            axis.set_title(f"{TITLES[method]} [{shape.replace('x', ', ')}]", fontsize=10)
            axis.tick_params(labelsize=8)
            axis.spines[["top", "right"]].set_visible(False)
            if axis is not row[0]:
                axis.set_yticklabels([])
    figure.supxlabel("milliseconds for one batch, median; shorter is better", fontsize=9)
    return figure


def label(name: str) -> str:
    return f"jax_mix, {name}" if name in ("one line", "jitted") else name + (" (JAX)" if name == "Keras" else "")


def growth(found: dict[str, Any]) -> Any:
    """Each curve on logarithmic axes beside a line of exponent 1 through its first point."""
    curves = found["curves"]
    figure, axes = plt.subplots(2, -(-len(curves) // 2), figsize=(11, 4.8), layout="constrained")
    for axis in axes.flat[len(curves) :]:
        axis.axis("off")
    for axis, (name, of) in zip(axes.flat, curves.items(), strict=False):
        sizes, ms = of["sizes"], [1e3 * median for median in of["medians"]]
        axis.plot(sizes, [ms[0] * size / sizes[0] for size in sizes], "--", color=OTHERS, linewidth=1)
        axis.plot(sizes, ms, "o-", color=OURS, markersize=4)
        axis.set(xscale="log", yscale="log", title=f"{name}: exponent {of['exponent']:.2f}")
        axis.title.set_fontsize(9)
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        ends = (0, -1) if max(ms[0], ms[-1]) > 1.5 * min(ms[0], ms[-1]) else (0,)  # one above the other is not read
        axis.set_yticks([ms[at] for at in ends], [measuring.in_ms(of["medians"][at]) for at in ends])
        axis.minorticks_off()
        axis.tick_params(labelsize=8)
        axis.set_ylabel("CPU ms" if name.startswith("compiling") else "ms", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("dashed: linear growth", fontsize=9)
    return figure


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
    for name, draw in (("mixing", bars), ("growth", growth)):
        try:
            save(draw(result(name)), FOLDER / PICTURES[name][0], dpi=80)
        except FileNotFoundError:
            print(f"{name} is not measured yet: python -m benchmarks {name}")
