"""How figures look: themes, and the color and marker of each method."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
from matplotlib.colors import to_hex, to_rgb

from jax_mix.compare.settings import Comparison
from jax_mix.compare.sweep import families
from jax_mix.plot import PLAIN_TEXT
from jax_mix.training.methods import label

THEMES = {
    "light": {"paper": "#ffffff", "ink": "#1f2328", "faint": "#d0d7de"},
    "dark": {"paper": "#161b22", "ink": "#e6edf3", "faint": "#444c56"},
}
COLORS = ("#888888", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's: for all eyes
MARKERS = "osD^vPX"
_LIGHTEST, _DARKEST = 0.6, 0.3  # of white and black in a shade: all can be seen on both papers


@contextlib.contextmanager
def theme(name: str) -> Iterator[None]:
    """Matplotlib's colors and sizes for "light" or "dark"."""
    paper, ink, faint = THEMES[name].values()
    settings: Any = {
        "figure.facecolor": paper,
        "axes.facecolor": paper,
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
        **PLAIN_TEXT,
    }
    with mpl.rc_context(settings):
        yield


def hues(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """A color and a marker for each family of methods."""
    return {name: (COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(families(comparison))}


def styles(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Color, marker and label of each method: those that differ in alpha alone have one hue, darker for more."""
    of_method = {}
    for name, methods in families(comparison).items():
        hue, marker = hues(comparison)[name]
        color = hue
        for i, method in enumerate(methods):
            if len(methods) > 1:
                color, marker = _shade(hue, i / (len(methods) - 1)), MARKERS[i % len(MARKERS)]
            of_method[method] = {"color": color, "marker": marker, "label": label(method)}
    return {method: of_method[method] for method in comparison.methods}


def _shade(color: str, depth: float) -> str:
    """A color from its lightest shade, at 0, to its darkest, at 1."""
    part = _LIGHTEST + depth * (-_DARKEST - _LIGHTEST)  # of white; below 0: of black
    other = 1.0 if part > 0 else 0.0
    red, green, blue = ((1 - abs(part)) * each + abs(part) * other for each in to_rgb(color))
    return to_hex((red, green, blue))
