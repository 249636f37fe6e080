"""The figures of a report, each drawn twice: for light and for dark screens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from jax_mix.compare import planar
from jax_mix.compare.settings import Comparison
from jax_mix.compare.styles import THEMES, hues, styles, theme
from jax_mix.compare.summary import Found, baseline
from jax_mix.compare.sweep import alpha, many, sweeps
from jax_mix.training import data, plots
from jax_mix.training.methods import file_name, label

Record = Mapping[str, Any]
DPI = 130
_COLUMNS = 3  # of a legend below a figure


class Picture(NamedTuple):
    """A figure in the report: NAME.png and NAME.dark.png, and what it shows, for who cannot see it."""

    name: str
    alt: str


class Figures:
    """Draws figures of a comparison to a folder.

    Args:
      folder: where to; made if need be.
      comparison: what was compared.
      records: of its runs.
    """

    def __init__(self, folder: Path, comparison: Comparison, records: Sequence[Record]) -> None:
        self._folder, self._comparison = folder, comparison
        self._records = [record for record in records if record["status"] == "finished"]
        self._style = styles(comparison)
        self._many = many(comparison)
        folder.mkdir(parents=True, exist_ok=True)

    def differences(self, found: Sequence[Found]) -> Picture:
        """The answer: each method's difference in test error from the baseline, with its interval and its seeds."""
        base = baseline(self._comparison)
        shown = [each for each in found if each.difference]
        reference = next(each.values for each in found if each.method == base)

        def draw() -> Figure:
            figure = Figure(figsize=(6, 0.8 + (0.3 if self._many else 0.6) * len(shown)), layout="constrained")
            axes = figure.subplots()
            axes.axvline(0, color=mpl.rcParams["text.color"], linewidth=1)
            for y, each in enumerate(reversed(shown)):
                style = self._style[each.method]
                seeds = [100 * (each.values[seed] - reference[seed]) for seed in each.values if seed in reference]
                axes.plot(
                    seeds, [y + 0.18] * len(seeds), style["marker"], color=style["color"], alpha=0.5, markersize=4
                )
                assert each.difference is not None
                mean, low, high, n = each.difference
                if n > 1:
                    axes.plot([100 * low, 100 * high], [y, y], color=style["color"], linewidth=3)
                axes.plot(100 * mean, y, style["marker"], color=style["color"], markersize=9)
            axes.set(yticks=range(len(shown)), yticklabels=[label(each.method) for each in reversed(shown)])
            axes.set(xlabel=f"test error less that of {label(base)}, percentage points", ylim=(-0.5, len(shown) - 0.3))
            axes.grid(axis="x", alpha=0.5)
            axes.annotate("better", (0.02, 0.98), xycoords="axes fraction", va="top", fontsize=9)
            axes.annotate("worse", (0.98, 0.98), xycoords="axes fraction", va="top", ha="right", fontsize=9)
            left, right = axes.get_xlim()
            axes.set_xlim(min(left, -0.1 * (right - left)), max(right, 0.1 * (right - left)))
            return figure

        words = [f"{label(each.method)} {100 * each.difference.mean:+.2f} points" for each in shown if each.difference]
        return self._save("differences", f"Differences in test error from {label(base)}: {'; '.join(words)}.", draw)

    def reliability(self) -> Picture:
        """Accuracy by confidence, all seeds together, a panel for each method."""
        panels = {}
        for method in self._comparison.methods:
            of_seeds = [record["reliability"] for record in self._of(method)]
            if of_seeds:
                count, confidence, accuracy = (np.array([r[k] for r in of_seeds]) for k in of_seeds[0])
                total = count.sum(0)
                weighted = [(count * each).sum(0) / np.maximum(total, 1) for each in (confidence, accuracy)]
                panels[method] = (total / total.sum(), *weighted)

        def draw() -> Figure:
            figure, panel = self._panels(len(panels), 4 if self._many else 2)
            for axes, (method, (share, confidence, accuracy)) in zip(panel, panels.items(), strict=False):
                bins = len(share)
                color = self._style[method]["color"]
                center = (np.arange(bins) + 0.5) / bins
                axes.bar(center, share / share.max() * 0.25, 1 / bins, color=color, alpha=0.25)
                axes.plot([0, 1], [0, 1], "--", color=mpl.rcParams["text.color"], linewidth=1)
                there = share > 0
                axes.plot(confidence[there], accuracy[there], "o-", color=color, markersize=4)
                gap = np.sum(share * np.abs(confidence - accuracy))
                words = (
                    (label(method).replace(", ", "\n"), f"ECE {gap:.1%}")
                    if self._many
                    else (label(method), f"ECE of all seeds {gap:.1%}")
                )
                axes.set(title="\n".join(words), xlabel="confidence", xlim=(0, 1), ylim=(0, 1))
                axes.title.set_fontsize(8 if self._many else 10)
                if self._many:
                    axes.tick_params(labelsize=8)
                    axes.set_xlabel("confidence", fontsize=8)
            panel[0].set_ylabel("accuracy")
            return figure

        alt = "Reliability diagrams: accuracy against confidence for each method; on the dashed line both are equal."
        return self._save("reliability", alt, draw)

    def label_noise(self) -> Picture:
        """Test error by the share of random labels, of the last and of the best epoch."""
        levels = (0.0, *sorted(self._comparison.noise_levels))

        def draw() -> Figure:
            figure = Figure(figsize=(6, 4 + self._below()), layout="constrained")
            axes = figure.subplots()
            for method, style in self._style.items():
                for last, line in ((True, "-"), (False, ":")):
                    at = {level: [100 * self._error(r, last) for r in self._of(method, level)] for level in levels}
                    at = {100 * level: errors for level, errors in at.items() if errors}
                    mean = [np.mean(errors) for errors in at.values()]
                    spread = [float(np.std(errors, ddof=1)) if len(errors) > 1 else 0.0 for errors in at.values()]
                    shown = style if last else style | {"label": None, "marker": None}
                    axes.errorbar(list(at), mean, spread if last else None, linestyle=line, capsize=3, **shown)
            axes.plot([], [], ":", color=mpl.rcParams["text.color"], label="best epoch")
            axes.set(xlabel="random training labels, %", ylabel="test error, %")
            if not self._many:  # so many curves need all the room
                axes.set_ylim(0, None)
            self._legend(figure, axes, axes)
            axes.grid(alpha=0.5)
            return figure

        alt = "Test error against the share of random training labels for each method, at the last and the best epoch."
        return self._save("label_noise", alt, draw)

    def adversarial(self) -> Picture:
        """Error by the radius of FGSM and of PGD."""

        def draw() -> Figure:
            figure, panel = self._panels(2, 2, self._below())
            for axes, attack in zip(panel, ("fgsm", "pgd"), strict=True):
                for method, style in self._style.items():
                    if of_seeds := [record["adversarial"] for record in self._of(method)]:
                        errors = 100 * np.array([found[attack] for found in of_seeds])
                        spread = errors.std(0, ddof=1) if len(errors) > 1 else None
                        axes.errorbar(of_seeds[0]["radius"], errors.mean(0), spread, capsize=3, **style)
                radii = (0.0, *sorted(self._comparison.radii))
                axes.set(title=attack.upper(), xlabel="radius, of the range of pixels", ylim=(0, 101))
                axes.set_xticks(radii, [f"{radius:g}" for radius in radii], rotation=45, fontsize=9)
                axes.grid(alpha=0.5)
            panel[0].set_ylabel("error, %")
            self._legend(figure, panel[0], panel[0])
            return figure

        alt = "Error against the radius of two adversarial attacks, FGSM and PGD, for each method."
        return self._save("adversarial", alt, draw)

    def corrupted(self) -> Picture:
        """Error by kind and strength of corruption."""

        def draw() -> Figure:
            some = next(record["corrupted"] for method in self._style for record in self._of(method))
            figure, panel = self._panels(len(some), 3, self._below())
            for axes, kind in zip(panel, some, strict=False):
                strengths = [f"{strength:g}" for strength in some[kind]["strength"]]
                for method, style in self._style.items():
                    if of_seeds := [record["corrupted"][kind]["error"] for record in self._of(method)]:
                        axes.plot(strengths, 100 * np.mean(of_seeds, 0), **style, markersize=5)
                axes.set(title=kind, ylim=(0, 100))
                axes.grid(alpha=0.5)
            panel[0].set_ylabel("error, %")
            self._legend(figure, panel[0], panel[-1])
            return figure

        alt = "Error on test images with noise, blur, less contrast, rotation and occlusion, from mild to severe."
        return self._save("corrupted", alt, draw)

    def learning_curves(self) -> Picture:
        """Test error, error on training images as they are, and training loss by epoch: mean and spread over seeds."""
        curves: dict[str, Callable[[Any], float]] = {"test error, %": lambda epoch: 100 * (1 - epoch["accuracy"])}
        every = [epoch for method in self._style for record in self._of(method) for epoch in record["history"]]
        if all("fit_accuracy" in epoch for epoch in every):  # runs made before it was measured have none
            curves["training error, %"] = lambda epoch: 100 * (1 - epoch["fit_accuracy"])
        curves["training loss, nats"] = lambda epoch: epoch["loss"]

        def draw() -> Figure:
            rows = len(curves) - 1
            figure = Figure(figsize=(6.4, 3.1 * rows + 0.3 + (self._below() if rows == 1 else 0)), layout="constrained")
            panel = figure.subplots(rows, 2, squeeze=False).ravel()
            for axes, (title, value) in zip(panel, curves.items(), strict=False):
                for method, style in self._style.items():
                    values = [[value(epoch) for epoch in record["history"]] for record in self._of(method)]
                    if not values:
                        continue
                    epoch = [each["epoch"] for each in self._of(method)[0]["history"]]
                    mean = np.mean(values, 0)
                    axes.plot(epoch, mean, color=style["color"], label=style["label"])
                    if len(values) > 1 and not self._many:  # so many bands hide each other
                        spread = np.std(values, 0, ddof=1)
                        axes.fill_between(
                            epoch, mean - spread, mean + spread, color=style["color"], alpha=0.15, linewidth=0
                        )
                axes.set(title=title, xlabel="epoch")
                axes.xaxis.get_major_locator().set_params(integer=True)
                axes.grid(alpha=0.5)
                if title != "test error, %":  # that of training may be 0
                    axes.set_ylim(0, None)
            panel[0].set_yscale("log")
            for set_formatter in (panel[0].yaxis.set_major_formatter, panel[0].yaxis.set_minor_formatter):
                set_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))  # 20, not 2 x 10^1; few where decades are many
            for axes in panel[len(curves) :]:
                axes.set_axis_off()
            lines, names = panel[0].get_legend_handles_labels()
            if rows > 1:
                panel[-1].legend(lines, names, loc="center", fontsize=8 if self._many else 9)
            else:
                self._legend(figure, panel[1], panel[1])
            return figure

        return self._save("learning_curves", f"By epoch for each method: {', '.join(curves)}.", draw)

    def sweep(self, lines: Sequence[Sequence[Found]]) -> Picture:
        """What `lines` are about by alpha: a curve for each method that was run with three or more."""
        base, swept = baseline(self._comparison), sweeps(self._comparison)
        ticks = sorted({alpha(self._comparison, method) or 0.0 for methods in swept.values() for method in methods})

        def draw() -> Figure:
            figure = Figure(figsize=(6.4, 3.4), layout="constrained")
            for axes, line in zip(figure.subplots(1, len(lines)), lines, strict=True):
                found, scale = {each.method: each for each in line}, line[0].claim.scale
                if found[base].values:
                    style = self._style[base] | {"marker": None, "linestyle": "--"}
                    axes.axhline(scale * found[base].mean, **style)
                for i, (name, methods) in enumerate(swept.items()):
                    there = [found[method] for method in methods if found[method].values]
                    at = [(alpha(self._comparison, each.method) or 0.0) * 1.04**i for each in there]  # side by side
                    half = [_half(each) * scale for each in there]
                    color, marker = hues(self._comparison)[name]
                    mean = [scale * each.mean for each in there]
                    axes.errorbar(
                        at, mean, half, color=color, marker=marker, markersize=5, capsize=3, label=label(name)
                    )
                axes.set_xscale("log")
                axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=9)
                axes.set_xticks([], minor=True)
                axes.set(title=f"{line[0].claim.title},\n{line[0].claim.unit}", xlabel="alpha")
                axes.title.set_fontsize(10)
                axes.grid(alpha=0.5)
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
            return figure

        return self._save(
            "sweep", "Test error, NLL and calibration error against alpha, a curve for each method.", draw
        )

    def boundaries(self, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Picture:
        """What networks trained on spirals and on moons say of the plane."""

        def draw() -> Figure:
            figure = Figure(figsize=(6.4, 4.6), layout="constrained")
            rows = figure.subplots(len(found), len(planar.METHODS), squeeze=False)
            for line, (problem, of_methods) in zip(rows, found.items(), strict=True):
                x, y = planar.points(problem, 200, 0)
                for axes, (method, values) in zip(line, of_methods.items(), strict=True):
                    side = round(len(values["probability"]) ** 0.5)
                    plane = np.reshape(values["probability"], (side, side))
                    extent = (-planar.REACH, planar.REACH) * 2
                    image = axes.imshow(plane, origin="lower", extent=extent, cmap="RdBu", vmin=0, vmax=1)
                    colors = np.where(y == 1, "#4292c6", "#ef6548")
                    axes.scatter(*x.T, s=7, c=colors, linewidths=0.4, edgecolors="white")
                    axes.set(xticks=[], yticks=[])
                    axes.set_title(f"{label(method)}\nunsure on {np.mean(values['unsure']):.0%}", fontsize=9)
                line[0].set_ylabel(problem)
            figure.colorbar(image, ax=rows, label="probability of blue", shrink=0.8)
            return figure

        alt = "Decision boundaries on spirals and moons for each method, and how much of the plane it is unsure about."
        return self._save("boundaries", alt, draw)

    def mixed_batch(self, method: str, dataset: data.Dataset, mix: Any) -> Picture:
        """Four images of a batch, their partners and their mixes, with λ, box and layer."""
        image, name = dataset.train.image[: len(mix.partner)], f"mixed_{file_name(method)}"
        shown = (image, dataset.train.label[: len(image)], dataset.class_names, mix)
        for each in THEMES:
            with theme(each):
                plots.plot_mixed_batch(self._path(name, each), *shown, limit=4, title=label(method))
        return Picture(name, f"Images, their partners, and both mixed by {label(method)}, with lambda beside each.")

    def _of(self, method: str, noise: float = 0.0) -> list[Record]:
        return [record for record in self._records if (record["method"], record["noise"]) == (method, noise)]

    def _error(self, record: Record, last: bool) -> float:
        errors = [1 - epoch["accuracy"] for epoch in record["history"]]
        return errors[-1] if last else min(errors)

    def _legend(self, figure: Figure, named: Any, place: Any) -> None:
        """The methods' names: in an axes, or below all where they are many."""
        lines, names = named.get_legend_handles_labels()
        if self._many:
            figure.legend(lines, names, loc="outside lower center", ncols=_COLUMNS, fontsize=8)
        else:
            place.legend(lines, names, loc="best" if place is named else "center", fontsize=9)

    def _below(self) -> float:
        """The height of a legend below a figure, in inches."""
        return 0.2 * -(-len(self._style) // _COLUMNS) + 0.2 if self._many else 0.0

    def _panels(self, count: int, columns: int, below: float = 0.0) -> tuple[Figure, Any]:
        """`count` axes in rows, narrow enough for a phone, and what is left of the last row empty."""
        columns = min(columns, count)
        rows = -(-count // columns)
        figure = Figure(
            figsize=(6.4, (6.4 / columns * 0.95 + (0.35 if columns > 3 else 0)) * rows + 0.3 + below),
            layout="constrained",
        )
        panel = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for axes in panel[count:]:
            axes.set_axis_off()
        return figure, panel

    def _path(self, name: str, theme: str) -> Path:
        return self._folder / (f"{name}.png" if theme == "light" else f"{name}.{theme}.png")

    def _save(self, name: str, alt: str, draw: Callable[[], Figure]) -> Picture:
        for each in THEMES:
            with theme(each):
                plots.save(draw(), self._path(name, each), dpi=DPI)
        return Picture(name, alt)


def _half(found: Found) -> float:
    """Half the interval of a method's difference from the baseline; nan where there is none."""
    return (found.difference.high - found.difference.low) / 2 if found.difference and found.difference.n > 1 else np.nan
