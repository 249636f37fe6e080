"""What the figures of a report draw, read back from their axes: the numbers of runs made by hand (given.py)."""

import numpy as np
import pytest

from jax_mix.compare import figures, styles, summary
from parity_tests.compare import given

SEEDS = range(given.SEEDS)
RADII = (0.0, 0.2, 0.1)  # as the runs have them


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """`drawn(name, *arguments)`: the picture and the axes of its light form, by title."""
    saved = {}
    monkeypatch.setattr(
        "jax_mix.compare.figures.plots.save", lambda figure, path, dpi: saved.update({path.name: figure})
    )
    made = figures.Figures(tmp_path, given.COMPARISON, [*given.records(), given.failed("none", 7)])

    def draw(name, *arguments):
        picture = getattr(made, name)(*arguments)
        assert picture.name == name
        assert saved.keys() == {f"{name}.png", f"{name}.dark.png"}
        return picture, saved[f"{name}.png"].axes

    return draw


def color(method):
    return styles.COLORS[given.METHODS.index(method)]


def lines_of(axes, method):
    return [line for line in axes.get_lines() if line.get_color() == color(method)]


def values(column, method, noise=0.0):
    return np.array([given.value(column, method, seed, noise) for seed in SEEDS])


def spread(container):
    """Half the length of each error bar."""
    (bars,) = container.lines[2]
    return [(top - bottom) / 2 for (_, bottom), (_, top) in bars.get_segments()]


def test_differences_are_drawn_from_bottom_to_top_with_their_intervals_and_seeds(drawn):
    found = summary.find(given.COMPARISON, [summary.row(record) for record in given.records()])[0]
    picture, (axes,) = drawn("differences", found)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["CutMix", "Manifold Mixup", "MixUp, alpha 0.4"]
    for y, method in enumerate(reversed(given.METHODS[1:])):
        seeds, bar, mean = lines_of(axes, method)
        changes = 100 * (values("last_error", method) - values("last_error", "none"))
        np.testing.assert_allclose(seeds.get_xdata(), changes)
        difference = next(each.difference for each in found if each.method == method)
        np.testing.assert_allclose(bar.get_xdata(), [100 * difference.low, 100 * difference.high])
        np.testing.assert_allclose(mean.get_xdata(), changes.mean())
        assert (bar.get_ydata()[0], mean.get_ydata()[0]) == (y, y)
        assert f"{given.NAMES[method]} {changes.mean():+.2f} points" in picture.alt
    words = {text.get_text(): text.xyann[0] for text in axes.texts}
    assert words["better"] < 0.5 < words["worse"]  # to the left an error is less
    assert axes.get_xlabel() == "test error less that of no mixing, percentage points"


def test_reliability_weighs_each_seed_by_how_many_predictions_it_has(drawn):
    _, panels = drawn("reliability")
    number = np.array([[0.0, 10.0 * (seed + 1), 30.0] for seed in SEEDS]).sum(0)
    confidence = [sum(10 * (s + 1) * (0.5 + 0.02 * s) for s in SEEDS) / 60, 0.9]
    accuracy = [0.3, sum(0.8 + 0.02 * s for s in SEEDS) / 3]
    gap = (np.abs(np.subtract(confidence, accuracy)) * number[1:] / number.sum()).sum()
    for axes, method in zip(panels, given.METHODS, strict=True):
        assert axes.get_title() == f"{given.NAMES[method]}\nECE of all seeds {gap:.1%}"
        (line,) = lines_of(axes, method)
        np.testing.assert_allclose(line.get_xdata(), confidence)
        np.testing.assert_allclose(line.get_ydata(), accuracy)
        heights = np.array([bar.get_height() for bar in axes.patches])
        np.testing.assert_allclose(heights / heights.max(), number / number.max())
        assert (axes.get_xlabel(), panels[0].get_ylabel()) == ("confidence", "accuracy")


def test_label_noise_has_the_last_and_the_best_epoch_at_each_share(drawn):
    _, (axes,) = drawn("label_noise")
    for i, method in enumerate(given.METHODS):
        last, best = axes.containers[2 * i : 2 * i + 2]
        of_last = [100 * values("last_error", method, noise) for noise in (0.0, 0.5)]
        of_best = [100 * values("best_error", method), of_last[1] - 3]
        for container, errors, dotted in ((last, of_last, False), (best, of_best, True)):
            np.testing.assert_allclose(container.lines[0].get_xdata(orig=False), [0, 50])
            np.testing.assert_allclose(container.lines[0].get_ydata(orig=False), [each.mean() for each in errors])
            assert (container.lines[0].get_linestyle() == ":") == dotted
        np.testing.assert_allclose(spread(last), [each.std(ddof=1) for each in of_last])


def test_attacks_have_a_panel_each(drawn):
    _, panels = drawn("adversarial")
    for axes, attack in zip(panels, ("fgsm", "pgd"), strict=True):
        assert axes.get_title() == attack.upper()
        for container, method in zip(axes.containers, given.METHODS, strict=True):
            errors = [values("last_error", method) + 0.01, *(values(f"{attack}_{r}", method) for r in RADII[1:])]
            np.testing.assert_allclose(container.lines[0].get_xdata(orig=False), RADII)
            np.testing.assert_allclose(container.lines[0].get_ydata(orig=False), [100 * each.mean() for each in errors])
            np.testing.assert_allclose(spread(container), [100 * each.std(ddof=1) for each in errors])


def test_corruptions_have_a_panel_each(drawn):
    _, panels = drawn("corrupted")
    for axes, (kind, of) in zip(panels, given.CORRUPTED.items(), strict=False):
        assert axes.get_title() == kind
        for method in given.METHODS:
            (line,) = lines_of(axes, method)
            assert list(line.get_xdata()) == [f"{strength:g}" for strength in of]
            expected = [100 * (values("corrupted", method).mean() + more) for more in of.values()]
            np.testing.assert_allclose(line.get_ydata(), expected)


def test_learning_curves_are_means_over_seeds_with_a_band_of_one_deviation(drawn):
    _, (error, loss) = drawn("learning_curves")
    assert (error.get_title(), loss.get_title()) == ("test error, %", "training loss, nats")
    for i, method in enumerate(given.METHODS):
        histories = [given.record(method, seed)["history"] for seed in SEEDS]
        errors = np.array([[100 * (1 - epoch["accuracy"]) for epoch in history] for history in histories])
        losses = np.array([[epoch["loss"] for epoch in history] for history in histories])
        for axes, of_seeds in ((error, errors), (loss, losses)):
            (line,) = lines_of(axes, method)
            assert list(line.get_xdata()) == [1, 2, 3, 4]
            np.testing.assert_allclose(line.get_ydata(), of_seeds.mean(0))
            band = axes.collections[i].get_paths()[0].vertices
            ends = [band[band[:, 0] == epoch, 1] for epoch in (1, 2, 3, 4)]
            np.testing.assert_allclose([each.max() for each in ends], of_seeds.mean(0) + of_seeds.std(0, ddof=1))
            np.testing.assert_allclose([each.min() for each in ends], of_seeds.mean(0) - of_seeds.std(0, ddof=1))


def test_boundaries_are_drawn_from_below_and_blue_is_class_1(drawn):
    _, axes = drawn("boundaries", given.PLANE)
    for panel, (method, of) in zip(axes, given.PLANE["spirals"].items(), strict=False):
        name = {"none": "no mixing", "mixup": "MixUp", "manifold": "Manifold Mixup"}[method]
        assert panel.get_title() == f"{name}\nunsure on {np.mean(of['unsure']):.0%}"
        (image,) = panel.images
        np.testing.assert_allclose(image.get_array(), np.reshape(of["probability"], (2, 2)))
        assert image.origin == "lower"
        assert (image.norm.vmin, image.norm.vmax) == (0, 1)
        red, _, blue, _ = image.cmap(1.0)
        assert blue > red
