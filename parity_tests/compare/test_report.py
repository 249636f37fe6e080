"""The numbers and words of a report, computed once more from runs made by hand (given.py)."""

import csv
import html
import json
import re
import statistics

import numpy as np
import PIL.Image
import pytest
from scipy import stats

from jax_mix.compare import page, papers, summary
from jax_mix.compare.settings import Comparison
from parity_tests.compare import given

TITLES = {
    ("last_error", 0.0): "Test error",
    ("best_error", 0.0): "Test error, best epoch",
    ("last_nll", 0.0): "NLL",
    ("last_ece", 0.0): "Calibration error (ECE)",
    ("last_error", 0.5): "Error after 50% random labels",
    ("fgsm_0.1", 0.0): "Error under FGSM, radius 0.1",
    ("fgsm_0.2", 0.0): "Error under FGSM, radius 0.2",
    ("pgd_0.1", 0.0): "Error under PGD, radius 0.1",
    ("pgd_0.2", 0.0): "Error under PGD, radius 0.2",
    ("corrupted", 0.0): "Error on corrupted images, mean",
}


def values(column, noise, method):
    return [given.value(column, method, seed, noise) for seed in range(given.SEEDS)]


def difference(column, noise, method, level=0.95):
    """Mean and ends of the interval for three methods to be right together, by SciPy's paired test."""
    test = stats.ttest_rel(values(column, noise, method), values(column, noise, "none"))
    ends = test.confidence_interval(1 - (1 - level) / 3)
    return np.mean(values(column, noise, method)) - np.mean(values(column, noise, "none")), ends.low, ends.high


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report in full, but for its figures, which are one pixel."""

    def save(figure, path, *, dpi):
        PIL.Image.new("RGB", (130, 260)).save(path)

    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jax_mix.compare.figures.plots.save", save)
        arguments = given.COMPARISON, given.dataset(), given.records(), given.PLANE, {}, "python train.py compare"
        page.write(folder, *arguments)
    return folder


@pytest.fixture(scope="module")
def text(written):
    """What a reader sees, in one line."""
    body = (written / "report.html").read_text().partition("<main>")[2]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).replace("\N{NO-BREAK SPACE}", " ").split())


def rows(written, name):
    with (written / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_is_a_line_of_cells_csv():
    line = summary.row(given.record("mixup:0.4", 1))
    first = {"method": "mixup:0.4", "noise": 0.0, "seed": 1, "status": "finished", "reason": "", "seconds": 11.0}
    assert {name: line[name] for name in first} == first
    last, best = given.value("last_error", "mixup:0.4", 1), given.value("best_error", "mixup:0.4", 1)
    nll, ece = (given.value(name, "mixup:0.4", 1) for name in ("last_nll", "last_ece"))
    corrupted = given.value("corrupted", "mixup:0.4", 1)
    numbers = {
        "last_epoch": 4,
        "last_error": last,
        "last_nll": nll,
        "last_ece": ece,
        "best_epoch": 2,  # the third is as good: the first of them counts
        "best_error": best,
        "best_nll": nll + 0.2,
        "best_ece": ece + 0.02,
        "fgsm_0": last + 0.01,
        "pgd_0": last + 0.01,
        **{name: given.value(name, "mixup:0.4", 1) for name in ("fgsm_0.1", "fgsm_0.2", "pgd_0.1", "pgd_0.2")},
        "corrupted": corrupted,
        "noise_0.1": corrupted - 0.2,
        "noise_0.2": corrupted - 0.1,
        "blur_0.02": corrupted + 0.3,
    }  # fmt: skip
    assert {name: line[name] for name in numbers} == pytest.approx(numbers)
    assert line.keys() == first.keys() | numbers.keys()


def test_a_run_that_failed_is_a_line_without_numbers():
    line = summary.row(given.failed("cutmix", 2, 0.5))
    told = {"method": "cutmix", "noise": 0.5, "seed": 2, "status": "failed", "reason": "the loss became nan"}
    assert line == told | {"seconds": 1.0}


def test_cells_csv_has_a_line_for_each_run_and_a_column_for_each_number(written):
    lines = rows(written, "cells.csv")
    assert [(line["method"], float(line["noise"]), int(line["seed"])) for line in lines] == [
        (method, noise, seed) for noise in (0.0, 0.5) for seed in range(3) for method in given.METHODS
    ]
    for line, record in zip(lines, given.records(), strict=True):
        expected = {name: str(value) for name, value in summary.row(record).items()}
        assert {name: text for name, text in line.items() if text} == {k: v for k, v in expected.items() if v}


def test_differences_are_those_of_the_method_less_the_baseline(written):
    lines = rows(written, "differences.csv")
    assert [line["claim"] for line in lines[::3]] == list(TITLES.values())
    for line, ((column, noise), verdicts) in zip(lines[::3], given.VERDICTS.items(), strict=True):
        assert (line["column"], float(line["noise"])) == (column, noise)
        of_claim = [each for each in lines if (each["column"], float(each["noise"])) == (column, noise)]
        assert [each["method"] for each in of_claim] == list(given.METHODS[1:])
        assert [each["verdict"] for each in of_claim] == list(verdicts)
        for each in of_claim:
            found = [float(each[name]) for name in ("mean", "low", "high")]
            assert found == pytest.approx(difference(column, noise, each["method"]))
            assert (each["against"], each["n"]) == ("none", "3")
    kept = json.loads((written / "report.json").read_text())
    assert [{name: str(value) for name, value in each.items()} for each in kept["differences"]] == lines
    assert kept["runs"] == given.records()
    shown_of_it = {name: given.PLANE["spirals"]["mixup"][name] for name in ("error", "unsure")}
    assert kept["plane"]["spirals"]["mixup"] == shown_of_it


def test_the_verdict_is_of_the_side_of_zero():
    for low, high, verdict, change in (
        (-2.0, -1.0, "better", "less"),
        (1.0, 2.0, "worse", "more"),
        (-1.0, 1.0, "undecided", "undecided"),
        (-1.0, 0.0, "undecided", "undecided"),
        (0.0, 1.0, "undecided", "undecided"),
    ):
        interval = summary.Interval((low + high) / 2, low, high, 3)
        assert (interval.verdict, interval.change) == (verdict, change)


def test_mean_and_deviation_of_a_method():
    found = summary.find(given.COMPARISON, [summary.row(record) for record in given.records()])
    for line, (column, noise) in zip(found, TITLES, strict=True):
        for each, method in zip(line, given.METHODS, strict=True):
            assert each.method == method
            assert each.mean == pytest.approx(np.mean(values(column, noise, method)))
            assert each.std == pytest.approx(np.std(values(column, noise, method), ddof=1))
        assert (line[0].claim.scale, line[0].claim.unit) == ((1, "nats") if "nll" in column else (100, "%"))


def test_the_first_sentences(text):
    mean, low, high = (100 * each for each in difference("last_error", 0.0, "mixup:0.4"))
    _, *undecided = (100 * each for each in difference("last_error", 0.0, "manifold"))
    _, *worse = (100 * each for each in difference("last_error", 0.0, "cutmix"))
    assert mean == pytest.approx(-4)
    expected = (
        "Does mixing help on pets? Yes: MixUp, alpha 0.4 lowers test error to 6.00%, from the 10.00% of no mixing. "
        f"The difference is -4.00 points, 95% interval {low:+.2f} to {high:+.2f}, with 3 paired seeds. "
        f"Manifold Mixup is undecided (+0.50 points, 95% interval {undecided[0]:+.2f} to {undecided[1]:+.2f}); "
        f"CutMix raises it (+10.00 points, 95% interval {worse[0]:+.2f} to {worse[1]:+.2f})."
    )
    assert text.startswith(expected)
    assert low < -5
    assert -3 < high < 0


def found_of(changes, base=(0.1, 0.12, 0.08)):
    """What is found of test error for methods that change it so."""
    comparison = Comparison(methods=("none", *changes), seeds=len(base), noise_levels=())
    lines = [
        {"method": method, "noise": 0.0, "seed": seed, "last_error": base[seed] + change}
        for method, of in ({"none": [0.0] * len(base)} | changes).items()
        for seed, change in enumerate(of)
    ]
    return comparison, summary.find(comparison, lines)[0]


def test_of_two_that_lower_it_the_larger_is_first():
    less = tuple(change / 2 for change in given.CHANGES["better"])
    said = page.answer(*found_of({"mixup": less, "cutmix": given.CHANGES["better"]}))
    assert said["short"] == "Yes: CutMix lowers test error to 6.00%, from the 10.00% of no mixing."
    assert said["long"].startswith("The difference is -4.00 points, 95% interval ")
    assert "with 3 paired seeds. MixUp lowers it (-2.00 points" in said["long"]


def test_the_answer_no():
    said = page.answer(*found_of({"mixup": given.CHANGES["worse"], "cutmix": (0.2, 0.205, 0.195)}))
    assert said["short"] == "No: every method raises test error, from the 10.00% of no mixing."
    assert said["long"].startswith("Over 3 paired seeds: MixUp raises it (+10.00 points, 95% interval ")
    assert "; CutMix raises it (+20.00 points" in said["long"]


def test_the_answer_where_nothing_is_shown():
    said = page.answer(*found_of({"mixup": given.CHANGES["undecided"], "cutmix": given.CHANGES["worse"]}))
    assert said["short"] == "Not that these runs could show."
    start = "No method lowers test error from the 10.00% of no mixing by more than chance may, with 3 paired seeds. "
    assert said["long"].startswith(start + "MixUp is undecided (+0.50 points")
    assert "; CutMix raises it (+10.00 points" in said["long"]


def test_the_answer_of_one_seed():
    said = page.answer(*found_of({"mixup": (-0.03,), "cutmix": (0.02,)}, base=(0.1,)))
    told = "Differences in test error from no mixing: MixUp -3.00 points; CutMix +2.00 points. Give more --seeds."
    assert (said["short"], said["long"]) == ("One seed cannot tell.", told)


def test_without_no_mixing_the_first_method_is_what_others_are_compared_with():
    comparison = Comparison(methods=("mixup", "cutmix"), seeds=3, noise_levels=())
    assert summary.baseline(comparison) == "mixup"
    assert summary.baseline(Comparison(methods=("mixup", "none"), noise_levels=())) == "none"


def shown(value, scale, digits, sign=""):
    return f"{scale * value:{sign}.{digits}f}"


def test_the_table_of_means_and_deviations(text):
    columns = [key for key in TITLES if key[0].startswith(("last", "best")) and key[1] == 0]
    head = "Test error, % Test error, best epoch, % NLL, nats Calibration error (ECE), %"
    body = []
    for method in given.METHODS:
        body.append(given.NAMES[method])
        for column, noise in columns:
            of_seeds, form = values(column, noise, method), ((1, 3) if "nll" in column else (100, 2))
            body.append(f"{shown(np.mean(of_seeds), *form)} ± {shown(statistics.stdev(of_seeds), *form)}")
    caption = "does on 1,200 test images; mean ± standard deviation over 3 seeds. "
    assert f"{caption}{head} {' '.join(body)} The papers' claims" in text


def test_the_table_of_claims_and_how_it_is_counted(text):
    body = []
    for (column, noise), title in TITLES.items():
        body.append(title)
        form = (1, 3) if "nll" in column else (100, 2)
        for method, verdict in zip(given.METHODS[1:], given.VERDICTS[column, noise], strict=True):
            mean, low, high = (shown(each, *form, "+") for each in difference(column, noise, method))
            body.append(f"{mean} {low} to {high} {verdict}")
    assert f"claim: lower MixUp, alpha 0.4 Manifold Mixup CutMix {' '.join(body)} Is its" in text
    for i, method in enumerate(given.METHODS[1:]):
        of_method = [of[i] for of in given.VERDICTS.values()]
        counts = [of_method.count(verdict) for verdict in ("better", "worse", "undecided")]
        told = "{} is better than no mixing in {} of 10 numbers, worse in {}, and undecided in {}."
        assert told.format(given.NAMES[method], counts[0], *counts[1:]) in text


def test_the_sentences_of_each_part(text):
    for sentence in (
        "ECE is lowered by CutMix; raised by Manifold Mixup; undecided for MixUp, alpha 0.4; "
        "NLL is lowered by Manifold Mixup; raised by MixUp, alpha 0.4; undecided for CutMix.",
        "With 50% random labels the last epoch's error is lowered by Manifold Mixup, CutMix; raised by MixUp, "
        "alpha 0.4.",
        "Against no mixing, test error is lowered by MixUp, alpha 0.4; raised by CutMix; undecided for Manifold Mixup.",
        "here at 50% it is lowered by Manifold Mixup, CutMix; raised by MixUp, alpha 0.4.",
        "Every pixel of 100 test images is moved",
        "The same 100 test images with noise",
    ):
        assert sentence in text, sentence


def test_what_the_runs_were(text):
    assert "runs 24: 4 methods, 3 seeds, 2 noise levels" in text
    assert "24 runs on cpu, 1 device(s); 2 cores; Python 3.11.9, jax 0.1" in text
    total = sum(10 + seed + 100 * noise for seed in range(3) for noise in (0, 0.5)) * 4
    assert f"seconds of a run {total / 24:.1f} on average, {total:,.0f} of all" in text


def test_the_plane_in_words(text):
    """Less and more than no mixing, each by its own list of seeds; two intervals are right together."""
    lines = (
        "spirals no mixing 11.0% 5.0%",
        "spirals MixUp 31.0%, +20.0 points (more) 2.0%, -3.0 points (less)",
        "spirals Manifold Mixup 14.3%, +3.3 points (undecided) 15.0%, +10.0 points (more)",
    )
    assert " ".join(lines) in text


def test_the_intervals_of_the_plane_are_two(monkeypatch):
    """At 95% each of these would be shown; both together it is not."""
    changes = np.array([0.01, 0.02, 0.03, 0.01])
    half = {among: stats.t.ppf(1 - 0.025 / among, 3) * changes.std(ddof=1) / 2 for among in (1, 2)}
    shift = (half[1] + half[2]) / 2 - changes.mean()
    none = {"unsure": [0.1] * 4, "error": [0.1] * 4}
    mixup = {"unsure": (0.1 + changes + shift).tolist(), "error": (0.1 + changes + 2 * half[2]).tolist()}
    _, line = page._plane({"moons": {"none": none, "mixup": mixup}})
    assert line[2].endswith("(undecided)")
    assert line[3].endswith("(more)")


@pytest.mark.parametrize(
    ("errors", "agrees"),
    [
        ({"manifold": 0.02, "mixup": 0.03, "none": 0.05}, True),
        ({"manifold": 0.04, "mixup": 0.03, "none": 0.05}, False),
        ({"manifold": 0.05, "mixup": 0.03, "none": 0.02}, False),
        ({"mixup": 0.03, "none": 0.05}, None),
    ],
)
def test_the_order_of_methods_beside_the_papers(errors, agrees):
    comparison = Comparison(methods=(*errors, "cutmix"), seeds=2, noise_levels=())
    lines = [
        {"method": method, "noise": 0.0, "seed": seed, "last_error": error + 0.001 * seed}
        for method, error in (errors | {"cutmix": 0.025}).items()
        for seed in range(2)
    ]
    order = page._order(summary.find(comparison, lines)[0])
    assert papers.ORDER == ("manifold", "mixup", "none")
    assert order["theirs"] == ["Manifold Mixup", "MixUp", "no mixing"]
    assert order["agrees"] is agrees
    sorted_errors = sorted((errors | {"cutmix": 0.025}).items(), key=lambda item: item[1])
    assert order["ours"] == [f"{given.NAMES.get(name, 'MixUp')} {error + 0.0005:.2%}" for name, error in sorted_errors]


def test_the_order_is_in_the_page(text):
    ours = "MixUp, alpha 0.4 6.00%, no mixing 10.00%, Manifold Mixup 10.50%, CutMix 20.00%"
    assert f"the papers' order is Manifold Mixup, MixUp, no mixing; here it is {ours}. Of the papers" in text
    assert "the order here does not agree with theirs. Against no mixing" in text


@pytest.mark.parametrize(("mixup", "word"), [(0.03, "agrees"), (0.06, "does not agree")])
def test_whether_the_order_agrees_is_said(mixup, word, tmp_path):
    errors = {"none": 0.05, "mixup": mixup, "manifold": 0.02}
    comparison = Comparison(methods=tuple(errors), seeds=2, noise_levels=(), radii=(0.2, 0.1))
    made = []
    for method, error in errors.items():
        for seed in range(2):
            record = given.record("none", seed) | {"method": method}
            record["history"][-1]["accuracy"] = 1 - error - 0.001 * seed
            made.append(record)
    page.write(tmp_path, comparison, given.dataset(), made, given.PLANE, {}, "")
    assert f"the order here <strong>{word}</strong> with theirs" in (tmp_path / "report.html").read_text()


def test_failures_are_counted_by_method_and_share_of_labels():
    made = [
        *given.records()[:8],
        given.failed("cutmix", 2),
        given.failed("cutmix", 2, 0.5),
        given.failed("mixup:0.4", 2),
    ]
    made += [given.failed("cutmix", 1, 0.5, "another reason")]
    assert page._failures(made) == [
        "CutMix failed in 1 of 3 runs: the loss became nan",
        "CutMix with 50% random labels failed in 2 of 2 runs: the loss became nan",
        "MixUp, alpha 0.4 failed in 1 of 3 runs: the loss became nan",
    ]
