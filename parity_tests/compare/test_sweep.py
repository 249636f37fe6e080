"""A report of many methods, most of which differ in their alpha alone: tables, words and figures, from runs by hand."""

import html
import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from jax_mix.compare import figures, page, papers, styles, summary, sweep
from jax_mix.compare.settings import Comparison
from parity_tests.compare import given

ALPHAS = (1.0, 0.1, 0.4)  # not in order
METHODS = ("none", *(f"{name}:{alpha:g}" for name in ("mixup", "cutmix") for alpha in ALPHAS), "manifold")
COMPARISON = Comparison(methods=METHODS, seeds=3, noise_levels=(0.5,), radii=(0.1, 0.2), attacked=100)
# Points of test error that each adds to no mixing's 10, 12 and 8%, and a scatter by seed for intervals.
ADDED = dict(zip(METHODS[1:], (-4, -3, -6, 3, 0, 8, -2), strict=True))
SCATTER = (-0.1, 0.2, -0.1)


def records():
    made = []
    for method in METHODS:
        for noise in (0.0, 0.5):
            for seed in range(3):
                record = given.record("none", seed, noise) | {"method": method}
                if method != "none":
                    change = (ADDED[method] + SCATTER[seed] * (20 if ADDED[method] == 0 else 1)) / 100
                    record["history"] = [each | {"accuracy": each["accuracy"] - change} for each in record["history"]]
                made.append(record)
    return made


def found():
    return summary.find(COMPARISON, [summary.row(record) for record in records()])


def test_families():
    assert sweep.families(COMPARISON) == {
        "none": ["none"],
        "mixup": ["mixup:0.1", "mixup:0.4", "mixup:1"],
        "cutmix": ["cutmix:0.1", "cutmix:0.4", "cutmix:1"],
        "manifold": ["manifold"],
    }
    assert list(sweep.sweeps(COMPARISON)) == ["mixup", "cutmix"]
    assert sweep.sweeps(Comparison(methods=("mixup:0.1", "mixup:0.2", "mixup:1", "mixup"))).keys() == {"mixup"}
    assert sweep.sweeps(Comparison(methods=("mixup:0.1", "mixup:1", "mixup"))) == {}  # two alphas: 1 is the default
    assert sweep.alpha(Comparison(alpha=0.3), "mixup") == 0.3
    assert sweep.alpha(Comparison(alpha=None), "mixup") == 0.4  # the method's own
    assert sweep.alpha(COMPARISON, "none") is None
    assert (sweep.family("mixup:0.8+cutmix:1"), sweep.alpha(COMPARISON, "mixup:0.8+cutmix:1")) == (
        "mixup:0.8+cutmix:1",
        None,
    )


def test_an_alpha_that_is_drawn_from_a_range_is_a_family_of_its_own():
    drawn = "mixup:(0.2,1.0)"
    comparison = Comparison(methods=("mixup:0.1", drawn, "timm"))
    assert sweep.families(comparison) == {"mixup": ["mixup:0.1"], drawn: [drawn], "timm": ["timm"]}
    assert sweep.alpha(comparison, drawn) is None


def test_a_family_has_one_hue_darker_for_more_alpha():
    of = styles.styles(COMPARISON)
    assert list(of) == list(METHODS)
    for i, (name, methods) in enumerate(sweep.families(COMPARISON).items()):
        shades = [np.array(to_rgb(of[method]["color"])) for method in methods]
        if len(methods) == 1:
            assert of[methods[0]]["color"] == styles.COLORS[i]
        else:
            assert [shade.sum() for shade in shades] == sorted((shade.sum() for shade in shades), reverse=True), name
            assert {int(shade.argmax()) for shade in shades} == {int(np.argmax(to_rgb(styles.COLORS[i])))}
            assert len({of[method]["marker"] for method in methods}) == 3


def test_the_curves_are_means_by_alpha_with_the_interval_of_the_difference(monkeypatch, tmp_path):
    saved = {}
    monkeypatch.setattr("jax_mix.compare.figures.plots.save", lambda figure, path, dpi: saved.update(figure=figure))
    lines = [found()[0], found()[2], found()[3]]
    figures.Figures(tmp_path, COMPARISON, records()).sweep(lines)
    error, *_ = axes = saved["figure"].axes
    assert [each.get_title() for each in axes] == ["Test error,\n%", "NLL,\nnats", "Calibration error (ECE),\n%"]
    assert error.get_lines()[0].get_ydata() == pytest.approx([10, 10])  # no mixing
    for shift, container, name in zip((1, 1.04), error.containers, ("mixup", "cutmix"), strict=True):
        assert container.get_label() == {"mixup": "MixUp", "cutmix": "CutMix"}[name]
        line, _, (bars,) = container
        np.testing.assert_allclose(line.get_xdata(orig=False), np.array([0.1, 0.4, 1]) * shift)
        added = np.array([ADDED[f"{name}:{alpha:g}"] for alpha in (0.1, 0.4, 1)])
        np.testing.assert_allclose(line.get_ydata(orig=False), 10 + added)
        for method, (low, high) in zip(sweep.families(COMPARISON)[name], bars.get_segments(), strict=True):
            interval = next(each.difference for each in lines[0] if each.method == method)
            np.testing.assert_allclose([low[1], high[1]], [10 + 100 * interval.low, 10 + 100 * interval.high])


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    page.write(folder, COMPARISON, given.dataset(), records(), given.PLANE, {}, "python train.py compare")
    body = (folder / "report.html").read_text().partition("<main>")[2]
    marked = re.sub(r"<strong>([\d.]+)</strong>", r"[\1]", body)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", marked)).split())


def test_the_answer_counts_the_others(text):
    assert "Yes: MixUp, alpha 0.4 lowers test error to 4.00%" in text
    assert "with 3 paired seeds. Of the others 3 lower it, 2 raise it, 1 is undecided." in text


def test_the_table_of_alphas(text):
    assert "Lowest test error: MixUp at alpha 0.4 (4.00%); CutMix at alpha 0.1 (10.00%). Each was" in text
    assert "alpha 0.1 0.4 1 MixUp: Test error, % 7.00 [4.00] 6.00 MixUp: NLL" in text
    assert "CutMix: Test error, % [10.00] 18.00 13.00 CutMix: NLL" in text


def test_tables_of_claims_have_a_row_for_each_method(text):
    heads = ["Test error Test error, best epoch NLL", "Calibration error (ECE) Error after 50% random labels"]
    heads += ["Error under FGSM, radius 0.2 Error under PGD, radius 0.1 Error under PGD, radius 0.2"]
    for head in heads:
        assert f"NLL in nats. method {head}" in text
    tables = text.partition("Every number, method by method")[2].split("method ")
    rows = re.findall(r"((?:MixUp|CutMix|Manifold Mixup)(?:, alpha [\d.]+)?) ([+-][\d.]+) ", tables[1])
    assert rows == [(papers.told([method]), f"{ADDED[method]:+.2f}") for method in METHODS[1:]]


def test_claims_in_words(text):
    lower = "holds for MixUp (alpha 0.1, 0.4, 1), Manifold Mixup; does not hold for CutMix (alpha 0.4, 1); "
    assert f"Test error is lower: {lower}undecided for CutMix, alpha 0.1." in text
    assert "Against no mixing, test error is lowered by MixUp (alpha 0.1, 0.4, 1), Manifold Mixup; raised by" in text


def test_the_order_is_of_each_at_its_best_alpha(text):
    assert "here it is, each at its best alpha, MixUp, alpha 0.4 4.00%, Manifold Mixup 8.00%, " in text


def claim(key, noise, *verdicts):
    ends = {"better": (-2, -1), "worse": (1, 2), "undecided": (-1, 1)}
    about = summary.Claim(key, key, noise)
    return [
        summary.Found(about, method, {}, summary.Interval(0, *ends[verdict], 3))
        for method, verdict in zip(("mixup", "manifold", "cutmix"), verdicts, strict=True)
    ]


def test_a_claim_of_several_numbers_holds_in_part():
    lines = [
        claim("last_error", 0.0, "better", "worse", "undecided"),
        claim("last_error", 0.2, "better", "better", "undecided"),
        claim("last_error", 0.4, "better", "worse", "worse"),
        claim("fgsm_0.1", 0.0, "undecided", "undecided", "undecided"),
    ]
    told = dict(papers.held(lines))
    assert told["Test error is lower"] == "holds for MixUp; does not hold for Manifold Mixup; undecided for CutMix"
    assert (
        told["Wrong labels hurt less"] == "holds for MixUp; holds in part for Manifold Mixup; does not hold for CutMix"
    )
    assert told["One-step attacks fool it less (FGSM)"] == "undecided for MixUp, Manifold Mixup, CutMix"
    assert told["Likelihood is better (NLL)"] == "not known"


def test_of_many_methods_one_of_a_family_is_shown_mixed():
    mixes = dict.fromkeys(METHODS[1:])
    assert page._shown(COMPARISON, mixes) == ["mixup:1", "cutmix:1", "manifold"]
    few = Comparison(methods=("none", "mixup:0.1", "mixup:0.4"))
    assert page._shown(few, {"mixup:0.1": None, "mixup:0.4": None}) == ["mixup:0.1", "mixup:0.4"]
