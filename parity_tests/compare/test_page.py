"""The quick comparison, quicker still, and its report as a reader sees it: opened from disk in headless Chromium."""

import csv
import json
import re
import shutil

import pytest

import train
from jax_mix.compare import planar

pytestmark = pytest.mark.pictures

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
VIEWS = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
}


@pytest.fixture(scope="module")
def report(data_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("quick")
    flags = ["--quick", "--model", "mlp", "--seeds", "2", "--epochs", "3", "--attacked", "50"]
    flags += ["--data-dir", data_dir, "--out", str(out), "--devices", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planar, "_STEPS", 50)  # as good a figure as of more
        assert train.main(["compare", *flags]) == 0
    return out / "compare-digits" / "report.html"


def test_the_report_stands_alone(report):
    page = report.read_text()
    urls = re.findall(r'(?:src|srcset|href)="([^"]{5})', page)
    assert len(urls) > 15
    assert set(urls) == {"data:"}
    assert "http" not in re.sub(r'"data:[^"]*"', "", page)
    assert all(len(alt) > 20 for alt in re.findall(r'alt="([^"]*)"', page))
    for file in ("cells.csv", "differences.csv", "report.json", "config.json", "figures/label_noise.png"):
        assert (report.parent / file).stat().st_size > 0
    with (report.parent / "cells.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 4 * 2 * 2
    assert all(float(line["last_error"]) < 0.3 for line in lines if float(line["noise"]) == 0)


def test_all_json_of_a_comparison_is_standard(report):
    """With one seed an interval is infinite, which JSON cannot say."""

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    files = sorted(report.parent.rglob("*.json"))
    assert len(files) > 16
    for file in files:
        json.loads(file.read_text(), parse_constant=refuse)


def test_the_first_words_are_question_and_answer(report):
    text = re.sub(r"<[^>]*>", " ", report.read_text().partition("<main>")[2])
    assert re.match(r"\s*Does mixing help on digits\?\s*(Yes: |No: |Not that these runs could show\.)", text)


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize("view", VIEWS)
def test_a_browser_shows_it(report, view, tmp_path):
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=quiet)
        context = browser.new_context(**VIEWS[view])
        page, told, asked = context.new_page(), [], []
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: asked.append(request.url[:5]))
        page.goto(report.as_uri())
        shown = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)")
        current = page.evaluate("[...document.images].map(image => image.currentSrc === image.src)")
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        cut = page.evaluate(
            "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
        )
        answer = page.locator(".answer").bounding_box()
        pixels = page.screenshot(path=tmp_path / f"{view}.png")
        browser.close()
    assert told == []
    assert set(asked) <= {"file:", "data:"}
    assert len(shown) == 10
    assert all(width > 100 for width in shown)
    assert set(current) == {view != "dark"}  # dark screens get the dark figures
    assert wide <= 0  # nothing to scroll sideways
    assert cut == 0  # tables neither
    assert answer["y"] + answer["height"] < VIEWS[view]["viewport"]["height"]  # it is on the first screen
    assert len(pixels) > 10_000
