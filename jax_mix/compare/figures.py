"""The figures of a report, each drawn twice: for light and for dark screens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from jax_mix.compare import planar
from jax_mix.compare.settings import Comparison, label
from jax_mix.compare.summary import Found, baseline
from jax_mix.training import data, methods, plots

Record = Mapping[str, Any]
DPI = 130
THEMES = {
    "light": {"paper": "#ffffff", "ink": "#1f2328", "faint": "#d0d7de"},
    "dark": {"paper": "#161b22", "ink": "#e6edf3", "faint": "#444c56"},
}
_COLORS = ("#888888", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's: for all eyes
_MARKERS = "osD^vPX"


class Picture(NamedTuple):
    """A figure in the report: NAME.png and NAME.dark.png, and what it shows, for who cannot see it."""

    name: str
    alt: str


@contextlib.contextmanager
def theme(name: str) -> Iterator[None]:
    """Matplotlib's colors and sizes for "light" or "dark"."""
    paper, ink, faint = THEMES[name].values()
    settings: Any = {
        "figure.facecolor": paper,
        "axes.facecolor": paper,
        "savefig.facecolor": paper,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": faint,
        "xtick.color": ink,
        "ytick.color": ink,
        "grid.color": faint,
        "legend.facecolor": paper,
        "legend.edgecolor": faint,
        "font.size": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        **plots.PLAIN_TEXT,
    }
    with mpl.rc_context(settings):
        yield


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
        self._style = {
            method: {"color": _COLORS[i % len(_COLORS)], "marker": _MARKERS[i % len(_MARKERS)], "label": label(method)}
            for i, method in enumerate(comparison.methods)
        }
        folder.mkdir(parents=True, exist_ok=True)

    def differences(self, found: Sequence[Found]) -> Picture:
        """The answer: each method's difference in test error from the baseline, with its interval and its seeds."""
        base = baseline(self._comparison)
        shown = [each for each in found if each.difference]
        reference = next(each.values for each in found if each.method == base)

        def draw() -> Figure:
            figure = Figure(figsize=(6, 0.8 + 0.6 * len(shown)), layout="constrained")
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
            figure, panel = self._panels(len(panels), 2)
            for axes, (method, (share, confidence, accuracy)) in zip(panel, panels.items(), strict=False):
                bins = len(share)
                color = self._style[method]["color"]
                center = (np.arange(bins) + 0.5) / bins
                axes.bar(center, share / share.max() * 0.25, 1 / bins, color=color, alpha=0.25)
                axes.plot([0, 1], [0, 1], "--", color=mpl.rcParams["text.color"], linewidth=1)
                there = share > 0
                axes.plot(confidence[there], accuracy[there], "o-", color=color, markersize=4)
                gap = np.sum(share * np.abs(confidence - accuracy))
                axes.set(
                    title=f"{label(method)}\nECE of all seeds {gap:.1%}", xlabel="confidence", xlim=(0, 1), ylim=(0, 1)
                )
                axes.title.set_fontsize(10)
            panel[0].set_ylabel("accuracy")
            return figure

        alt = "Reliability diagrams: accuracy against confidence for each method; on the dashed line both are equal."
        return self._save("reliability", alt, draw)

    def label_noise(self) -> Picture:
        """Test error by the share of random labels, of the last and of the best epoch."""
        levels = (0.0, *sorted(self._comparison.noise_levels))

        def draw() -> Figure:
            figure = Figure(figsize=(6, 4), layout="constrained")
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
            axes.set(xlabel="random training labels, %", ylabel="test error, %", ylim=(0, None))
            axes.legend(fontsize=9)
            axes.grid(alpha=0.5)
            return figure

        alt = "Test error against the share of random training labels for each method, at the last and the best epoch."
        return self._save("label_noise", alt, draw)

    def adversarial(self) -> Picture:
        """Error by the radius of FGSM and of PGD."""

        def draw() -> Figure:
            figure, panel = self._panels(2, 2)
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
            panel[0].legend(fontsize=9)
            return figure

        alt = "Error against the radius of two adversarial attacks, FGSM and PGD, for each method."
        return self._save("adversarial", alt, draw)

    def corrupted(self) -> Picture:
        """Error by kind and strength of corruption."""

        def draw() -> Figure:
            some = next(record["corrupted"] for method in self._style for record in self._of(method))
            figure, panel = self._panels(len(some), 3)
            for axes, kind in zip(panel, some, strict=False):
                strengths = [f"{strength:g}" for strength in some[kind]["strength"]]
                for method, style in self._style.items():
                    if of_seeds := [record["corrupted"][kind]["error"] for record in self._of(method)]:
                        axes.plot(strengths, 100 * np.mean(of_seeds, 0), **style, markersize=5)
                axes.set(title=kind, ylim=(0, 100))
                axes.grid(alpha=0.5)
            panel[0].set_ylabel("error, %")
            panel[-1].legend(*panel[0].get_legend_handles_labels(), loc="center", fontsize=9)
            return figure

        alt = "Error on test images with noise, blur, less contrast, rotation and occlusion, from mild to severe."
        return self._save("corrupted", alt, draw)

    def learning_curves(self) -> Picture:
        """Test error and training loss by epoch, mean and spread over seeds."""

        def draw() -> Figure:
            figure = Figure(figsize=(6.4, 3.4), layout="constrained")
            panel = figure.subplots(1, 2)
            for method, style in self._style.items():
                histories = [record["history"] for record in self._of(method)]
                if not histories:
                    continue
                epoch = [each["epoch"] for each in histories[0]]
                of_epochs = {
                    "test error, %": [[100 * (1 - each["accuracy"]) for each in history] for history in histories],
                    "training loss, nats": [[each["loss"] for each in history] for history in histories],
                }
                for axes, (title, values) in zip(panel, of_epochs.items(), strict=True):
                    mean = np.mean(values, 0)
                    axes.plot(epoch, mean, color=style["color"], label=style["label"])
                    if len(values) > 1:
                        spread = np.std(values, 0, ddof=1)
                        axes.fill_between(
                            epoch, mean - spread, mean + spread, color=style["color"], alpha=0.15, linewidth=0
                        )
                    axes.set(title=title, xlabel="epoch")
                    axes.xaxis.get_major_locator().set_params(integer=True)
            panel[0].set_yscale("log")
            for set_formatter in (panel[0].yaxis.set_major_formatter, panel[0].yaxis.set_minor_formatter):
                set_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))  # 20, not 2 x 10^1; few where decades are many
            panel[1].set_ylim(0, None)
            panel[1].legend(fontsize=9)
            for axes in panel:
                axes.grid(alpha=0.5)
            return figure

        return self._save("learning_curves", "Test error and training loss by epoch for each method.", draw)

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
        image, name = dataset.train.image[: len(mix.partner)], f"mixed_{methods.file_name(method)}"
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

    def _panels(self, count: int, columns: int) -> tuple[Figure, Any]:
        """`count` axes in rows, narrow enough for a phone, and what is left of the last row empty."""
        columns = min(columns, count)
        rows = -(-count // columns)
        figure = Figure(figsize=(6.4, 6.4 / columns * 0.95 * rows + 0.3), layout="constrained")
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
