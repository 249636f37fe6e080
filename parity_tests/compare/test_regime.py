"""Whether the network fits its training images, and what makes the answer less sure: words, from runs made by hand."""

import html
import re

import numpy as np
import pytest

from jax_mix.compare import figures, page, regime, summary
from jax_mix.compare.settings import Comparison
from parity_tests.compare import given

# Of each method and seed, at no noise; with 50% random labels what is learned of them.
ERROR = {"none": 0.002, "mixup:0.4": 0.013, "manifold": 0.02, "cutmix": 0.031}
LEARNED = {"none": 0.97, "mixup:0.4": 0.52, "manifold": 0.41, "cutmix": 0.33}


def with_fit(record):
    """A run made by hand, with what it says of its training images."""
    error = ERROR[record["method"]] + 0.001 * (record["seed"] - 1)  # of three seeds the mean is that of the table
    wrong = {"true_error": error, "learned": None}
    if record["noise"]:
        wrong = {"true_error": error + 0.2, "learned": LEARNED[record["method"]]}
    history = [epoch | {"fit_accuracy": 1 - error - 0.1 * (4 - epoch["epoch"])} for epoch in record["history"]]
    return record | {"training": {"images": 3, "error": error, "nll": 3 * error, **wrong}, "history": history}


def records():
    return [with_fit(record) for record in given.records()]


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_it_is_in_cells_csv(noise):
    line = summary.row(with_fit(given.record("cutmix", 1, noise)))
    expected = {"train_images": 3, "train_error": 0.031, "train_nll": 0.093, "train_true_error": 0.031}
    if noise:
        expected |= {"train_true_error": 0.231, "train_learned": 0.33}
    assert {name: value for name, value in line.items() if name.startswith("train_")} == pytest.approx(expected)


def said(errors, images=1000, looked_at=1000, methods=("none", "mixup")):
    lines = [
        {"method": method, "noise": 0.0, "seed": seed, "train_error": error, "train_images": looked_at}
        for method in methods
        for seed, error in enumerate(errors)
    ]
    wrong = [line | {"noise": 0.5, "train_error": 0.9} for line in lines]  # tells nothing of the regime
    return regime.regime(Comparison(methods=methods, noise_levels=(0.5,)), lines + wrong, images)


@pytest.mark.parametrize(
    ("errors", "start", "end"),
    [
        ([0.0, 0.0], "fits all of its training images: this is where", "mixing is meant to help."),
        ([0.0001, 0.0], "fits more than 99.9% of", "meant to help."),
        ([0.001, 0.003], "fits 99.8% of its training images: this is where", "mixing is meant to help."),
        ([0.01], "fits 99.0% of", "mixing is meant to help."),
        ([0.011], "fits 98.9% of its training images, not yet all", "more for mixing than this one."),
        ([0.05], "fits 95.0% of", "more for mixing than this one."),
        ([0.06, 0.05], "still gets 6% of its training images wrong", "use a larger network before you judge."),
        ([0.18], "still gets 18% of its training images wrong: train longer or", "before you judge."),
    ],
)
def test_the_sentence(errors, start, end):
    sentence = said(errors)
    assert sentence.startswith(f"Without mixing the network {start}")
    assert sentence.endswith(end)


def test_what_the_sentence_is_of():
    assert "99.8% of its training images (of 5,000 that were looked at): this" in said([0.002], 60_000, 5000)
    assert "give none among the --methods" in said([0.002], methods=("mixup",))
    old = [{"method": "none", "noise": 0.0, "seed": 0, "last_error": 0.1}]
    assert regime.regime(Comparison(methods=("none",), noise_levels=()), old, 1000) == ""


def test_a_curve_falls_if_its_last_fifth_is_lower_by_more_than_the_fifth_before_scatters():
    def histories(*errors):
        return [[{"accuracy": 1 - error} for error in of_seed] for of_seed in errors]

    start = [0.9] * 6
    falls = histories([*start, 0.30, 0.28, 0.25, 0.24], [*start, 0.31, 0.27, 0.26, 0.23])
    assert regime.still_falls(falls) == pytest.approx(0.29 - 0.245)
    scatters = histories([*start, 0.20, 0.38, 0.25, 0.24], [*start, 0.31, 0.27, 0.26, 0.23])
    assert np.std([0.2, 0.38, 0.31, 0.27], ddof=1) > 0.29 - 0.245
    assert regime.still_falls(scatters) == 0
    assert regime.still_falls(histories([*start, 0.24, 0.25, 0.28, 0.30])) == 0  # it rises
    assert regime.still_falls(histories([0.9, 0.5, 0.3, 0.2])) == 0  # four epochs
    assert regime.still_falls(histories([0.9, 0.5, 0.3, 0.2, 0.1])) == 0  # of one value there is no scatter
    assert regime.still_falls([]) == 0


def cautions(seeds, methods=("none", "mixup"), mixup=0.15, last=(0.3, 0.3)):
    """Of runs whose last two fifths have these errors, with the changes by `mixup` from no mixing."""
    comparison = Comparison(methods=methods, seeds=seeds, noise_levels=())
    made, lines = [], []
    for method in methods:
        for seed in range(seeds):
            change = 0 if method == "none" else mixup + 0.0001 * seed
            errors = [0.9, 0.8, 0.7, *last]
            history = [{"epoch": i, "accuracy": 1 - e - 0.001 * seed} for i, e in enumerate(errors, 1)]
            made.append({"method": method, "noise": 0.0, "seed": seed, "status": "finished", "history": history})
            lines.append({"method": method, "noise": 0.0, "seed": seed, "last_error": 0.3 + change})
    return regime.cautions(comparison, summary.find(comparison, lines)[0], made)


def test_few_seeds_are_cautioned_of():
    assert cautions(1) == []  # the answer says that one cannot tell
    assert cautions(2) == ["Two seeds give no interval worth the name: give --seeds 5 or more."]
    for seeds in (3, 4):
        (told,) = cautions(seeds)
        assert told.startswith(f"{seeds} seeds are few")
    assert cautions(5) == []


def test_curves_that_still_fall_are_cautioned_of():
    (told,) = cautions(5, last=(0.4, 0.3))
    assert "over the last fifth of the epochs by up to 10.0 points (every method): longer runs" in told


def test_the_best_of_many_is_cautioned_of_if_there_is_one():
    methods = ("none", *(f"mixup:{alpha:g}" for alpha in (0.1, 0.2, 0.4, 0.6, 0.8, 1, 2)))
    (told,) = cautions(5, methods, mixup=-0.1)
    assert told.startswith("The best of 7 methods was chosen by the test images themselves")
    assert cautions(5, methods) == []
    assert cautions(5, methods[:6], mixup=-0.1) == []


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """What a reader sees of runs that measured their fit, and of runs made before that."""
    seen = []
    for made in (records(), given.records()):
        folder = tmp_path_factory.mktemp("report")
        page.write(folder, given.COMPARISON, given.dataset(), made, given.PLANE, {}, "python train.py compare")
        body = (folder / "report.html").read_text().partition("<main>")[2]
        text = html.unescape(re.sub(r"<[^>]*>", " ", body)).replace("\N{NO-BREAK SPACE}", " ")
        seen.append(" ".join(text.split()))
    return seen


def test_the_first_screen_has_it_before_the_picture(texts):
    first = texts[0].partition("Each method against no mixing")[0]
    assert "fits 99.8% of its training images: this is where mixing is meant to help. 3 seeds are few" in first
    assert "Here: Without mixing the network fits 99.8%" in texts[0].partition("Beside the papers' own")[2]


def test_the_table_of_training_images(texts):
    body = [
        f"{name} {100 * ERROR[method]:.2f} ± 0.10 {3 * ERROR[method]:.3f} ± 0.003"
        for method, name in given.NAMES.items()
    ]
    assert f"neither mixed nor augmented. Training error, % Training NLL, nats {' '.join(body)}" in texts[0]


def test_the_table_of_wrong_labels_learned_by_heart(texts):
    body = [
        f"50% {name} {ERROR[method]:.1%} {ERROR[method] + 0.2:.1%} {LEARNED[method]:.1%}"
        for method, name in given.NAMES.items()
    ]
    assert f"error, given labels error, right labels wrong labels learned {' '.join(body)}" in texts[0]


def test_of_runs_made_before_nothing_is_said_of_it(texts):
    for words in ("fits", "wrong labels learned", "Training error", "Here: "):
        assert words not in texts[1], words
    assert "Yes: MixUp, alpha 0.4 lowers test error" in texts[1]


def test_learning_curves_show_training_error_where_it_is_known(monkeypatch, tmp_path):
    saved = {}
    monkeypatch.setattr("jax_mix.compare.figures.plots.save", lambda figure, path, dpi: saved.update(figure=figure))
    figures.Figures(tmp_path, given.COMPARISON, records()).learning_curves()
    test, fit, loss, _ = saved["figure"].axes
    assert [axes.get_title() for axes in (test, fit, loss)] == [
        "test error, %",
        "training error, %",
        "training loss, nats",
    ]
    for line, error in zip(fit.get_lines(), ERROR.values(), strict=True):
        np.testing.assert_allclose(line.get_ydata(), 100 * (error + 0.1 * np.arange(3, -1, -1)))
