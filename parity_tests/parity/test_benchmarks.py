"""The benchmarks in small: both sides make the same, results have all that is told, and pages tell what they say."""

import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import jax_mix
from benchmarks import __main__ as command
from benchmarks import compositions, growth, measuring, mixing, mixing_peers, tests, train_step
from docs import speed
from torch_ref import recording

ROUNDS = 2
SHAPE = (6, 9, 8, 3)  # not square


@pytest.fixture(autouse=True)
def _one_thread():
    with recording.one_thread():
        yield


@pytest.fixture
def as_users_run():
    """Keras, and what fastai and timm do with numbers of Python, need JAX's own settings."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def plain():
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    return x, np.eye(4, dtype=np.float32)[np.arange(SHAPE[0]) % 4]


@pytest.mark.filterwarnings("ignore")  # of Keras and Kornia
@pytest.mark.usefixtures("as_users_run")
def test_mixing_in_small(monkeypatch):
    monkeypatch.setattr(mixing, "METHODS", {"mixup": mixing.METHODS["mixup"]})
    for name in ("_SPINNING", "_WAKING"):
        monkeypatch.setattr(measuring, name, 0)
    found = mixing.measure({SHAPE: 4}, ROUNDS)
    of = found["results"]["mixup"]["6x9x8x3"]
    assert set(of["seconds"]) == {*mixing.OURS, *mixing_peers.PEERS}
    assert of["same_output_from_the_same_draw"] == [*mixing_peers.PEERS]
    assert of["fastest_peer"] in set(mixing_peers.PEERS) - {"Keras"}
    assert all(each["n"] == ROUNDS for each in of["seconds"].values())
    assert [target["what"] for target in found["targets"]] == [f"mixup 6x9x8x3, {form}" for form in mixing.OURS]
    drawn = [bar.get_width() for bar in speed.bars(found).axes[0].patches]
    assert drawn == [1e3 * each["median_s"] for each in of["seconds"].values()]
    both = mixing.joined(found, found)
    lines = mixing.table(both).splitlines()
    assert [line.startswith("| MixUp [6, 9, 8, 3] |") for line in lines].count(True) == 2
    assert [target["what"] for target in both["targets"]][2:] == [
        f"mixup 6x9x8x3, {o}, memory kept" for o in mixing.OURS
    ]


def test_of_an_odd_batch_timm_is_left_out(monkeypatch):
    monkeypatch.setattr(mixing, "PEERS", {name: mixing_peers.PEERS[name] for name in ("torchvision", "timm")})
    odd = mixing.of_one("mixup", (5, *SHAPE[1:]), 4, ROUNDS)
    assert odd["same_output_from_the_same_draw"] == ["torchvision"]
    assert " |  | " in mixing.rows({"mixup": {"5x9x8x3": odd}})[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("method", ["mixup", "cutmix"])
@pytest.mark.parametrize("name", [*mixing_peers.PEERS])
def test_the_same_draw_makes_the_same_and_another_output_is_seen(name, method, plain, monkeypatch):
    peer = mixing_peers.PEERS[name](method, *plain)
    mixing.check_same(*plain, peer, method)
    monkeypatch.setattr(jax_mix.Mix, "_take", lambda self, x: x)  # nobody is mixed with another
    with pytest.raises(AssertionError):
        mixing.check_same(*plain, peer, method)


def test_train_step_in_small(monkeypatch):
    hidden = "Manifold Mixup"
    monkeypatch.setattr(train_step, "METHODS", {name: train_step.METHODS[name] for name in (train_step.NONE, hidden)})
    found = train_step.measure(train_step.Size((1, 1), 4, 8, 8, 5), ROUNDS)
    assert {side: set(of) for side, of in found["to_the_step_without"].items()} == {
        "jax_mix": {hidden},
        "timm": {"MixUp", "CutMix", "OneOf MixUp and CutMix"},
        "fastai": {"MixUp", "CutMix", hidden},
        "hooks": {"MixUp", hidden},
    }
    assert [target["what"] for target in found["targets"]] == ["step with Manifold Mixup over the step without"]
    assert re.search(rf"\| {hidden} \| [\d.]+ \|  \| [\d.]+ \| [\d.]+ \|", train_step.table(found))


def test_compositions_in_small(monkeypatch):
    for name, each in compositions.COMPOSITIONS.items():
        assert sum(each.parts.values()) == pytest.approx(1), name
    parts = {"MixUp": 0.25, "None": 0.75}
    method = jax_mix.OneOf(jax_mix.MixUp(0.8), None, probabilities=(0.25, 0.75))
    monkeypatch.setattr(compositions, "METHODS", {name: compositions.METHODS[name] for name in parts})
    monkeypatch.setattr(compositions, "COMPOSITIONS", {"some": compositions.Composition(method, parts)})
    found = compositions.measure({SHAPE: 4}, ROUNDS)
    assert found["results"]["6x9x8x3"]["to_parts"]["some"]["slowest"] in parts
    assert compositions.table(found).splitlines()[2].startswith("| some | [6, 9, 8, 3] |")
    seconds = {"some": [6.0, 6.0], "MixUp": [4.0, 4.0], "None": [8 / 3, 8 / 3]}
    of = compositions.compared(seconds, "some")
    assert (of["to_slowest"]["median"], of["to_mean"]["median"]) == pytest.approx((1.5, 2))


def test_growth_in_small(monkeypatch):
    run, arguments = growth.step_of(4, 8, 2)
    assert jax.eval_shape(run, jax.random.key(0), *arguments)[1].shape == ()
    jax.block_until_ready(growth.mixing(4, 8, 3)())
    monkeypatch.setattr(growth, "mixing", lambda *size: lambda: None)
    monkeypatch.setattr(growth, "step", lambda *size: lambda: None)
    monkeypatch.setattr(growth, "compiling", lambda counts, rounds: [[3.0 * n**2] * 2 for n in counts])
    monkeypatch.setattr(growth, "of_devices", lambda counts, rounds: growth.curve(counts, [[2.0] * 2, [1.0] * 2]))
    found = growth.measure((2, 4), (4, 8), (3, 5), (1, 2), (1, 2), ROUNDS)
    compiling = found["curves"]["compiling, by layers"]
    assert compiling["exponent"] == pytest.approx(2)
    assert compiling["medians"] == [3, 12]
    assert found["curves"]["mixing, by pixels"]["sizes"] == [16, 64]
    assert {target["what"]: target["hit"] for target in found["targets"]}["exponent of compiling, by layers"] is False
    drawn = speed.growth(found).axes[[*found["curves"]].index("compiling, by layers")]
    assert drawn.lines[1].get_ydata().tolist() == [3000, 12000]


def test_a_process_that_keeps_its_memory_gets_no_new_pages():
    code = (
        "import numpy as np; from benchmarks import measuring; x = np.ones(2**22); "
        "print(measuring.new_pages(lambda: [each.copy() for each in (x, x)]))"
    )
    assert measuring.in_a_process(code, measuring.KEEPING) < 10 < measuring.in_a_process(code)


def test_what_other_processes_take_is_seen(monkeypatch):
    monkeypatch.setattr(measuring, "_LOOK", 0.2)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        taken = measuring.others()
        other.kill()
    assert taken > 0.5 / os.cpu_count()


def test_the_tests_are_timed_with_all_their_processes():
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint('3 passed in 1s')"
    found = tests.measured([sys.executable, "-c", busy])
    assert found["cpu_seconds"] > 0.2
    assert found["said"] == "3 passed in 1s"
    assert tests.table(found).splitlines()[2].endswith("| 3 passed in 1s |")


def test_what_is_not_installed_is_named():
    measuring.needs("json")
    with pytest.raises(ModuleNotFoundError, match="it needs json, fastia; fastia is not installed"):
        measuring.needs("json", "fastia")


def test_targets_and_exponents():
    missed = measuring.target("a", 1.2, at_most=1.0, reason="because")
    assert missed == {"what": "a", "measured": 1.2, "at_most": 1.0, "hit": False, "reason": "because"}
    assert measuring.told(missed) == "a: 1.2, target at most 1, missed: because"
    hit = measuring.target("a", 2.0, at_least=2, reason="because")
    assert hit["hit"]
    assert "reason" not in hit
    assert measuring.exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    assert measuring.ratio([2.0, 6.0], [1.0, 2.0])["median"] == 2.5


def test_a_call_that_is_not_timed_stands_before_each_that_is(monkeypatch):
    monkeypatch.setattr(measuring, "_WAKING", 0)
    calls = []
    seconds = measuring.side_by_side({n: lambda n=n: calls.append(n) for n in "ab"}, rounds=2, settle=True)
    assert "".join(calls) == "aabb" * 3
    assert [len(each) for each in seconds.values()] == [2, 2]


def test_the_command_lists_refuses_skips_and_tells(tmp_path, monkeypatch, capfd):
    assert command.main(["mixng"]) == 2
    told = capfd.readouterr().err
    assert told == "benchmarks: there is no 'mixng'; the nearest is 'mixing', and --list names all.\n"
    assert command.main(["--small"]) == 2
    assert capfd.readouterr().err == "benchmarks: there is no flag '--small'; there are --list and --help.\n"
    assert command.main(["--list"]) == 0
    listed = capfd.readouterr().out.splitlines()
    assert {"mixing", "train_step", "compositions", "growth"} <= {line.split()[0] for line in listed}
    assert all(len(line.split()) > 3 for line in listed), "each says what it measures"

    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    folder = tmp_path / "benchmarks"
    for name, text in {
        "__init__": "",
        "__main__": (command.FOLDER / "__main__.py").read_text(),
        "helper": '"""No benchmark."""\n',
        "lacking": '"""Needs what is not here."""\nimport no_such_package\ndef main(): pass\n',
        "faulty": '"""Fails."""\ndef main(): raise SystemExit(3)\n',
        "one": '"""Hits one of two."""\nimport json\nfrom pathlib import Path\ndef main():\n'
        "    targets = [{'what': 'speed', 'hit': True}, {'what': 'bytes', 'hit': False}]\n"
        "    Path('benchmarks/results/one.cpu.json').write_text(json.dumps({'targets': targets}))\n",
    }.items():
        (folder / f"{name}.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks"],
        cwd=tmp_path,
        env={"PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, "one failed"
    assert "lacking is skipped: No module named 'no_such_package'" in done.stdout
    assert done.stdout.splitlines()[0] == "[1/3] faulty: Fails."
    assert done.stdout.splitlines()[-3:] == [
        "faulty: failed with status 3",
        "lacking: skipped, its packages are not here",
        "one: benchmarks/results/one.cpu.json, 1 of 2 targets hit, missed: bytes",
    ]


def test_the_pages_are_what_the_results_say():
    for page in speed.PAGES:
        text = page.read_text(encoding="utf-8")
        assert "written by docs.speed" in text
        assert speed.with_tables(text) == text, f"{page.name}: python -m docs.speed"


def test_readme_says_no_number_of_its_own():
    text = speed.PAGES[1].read_text(encoding="utf-8")
    section = re.search(r"\n## Speed\n(.*?)\n## ", text, re.DOTALL)[1]
    written = re.sub(r"<!-- speed:.*?<!-- end of speed -->", "", section, flags=re.DOTALL)
    assert not re.search(r"\d", written)


def test_a_missed_target_stands_below_its_table(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "RESULTS", tmp_path)
    found = {
        "to_the_step_without": {"jax_mix": {"MixUp": {"median": 1.5}}},
        "seconds": {"jax_mix": {"none": {"median_s": 1}}},
    }
    found["targets"] = [
        measuring.target("step", 1.5, at_most=1.02, reason="the draw"),
        measuring.target("b", 1, at_most=1),
    ]
    (tmp_path / "train_step.cpu.json").write_text(json.dumps(found))
    page = "a\n<!-- train_step: written by docs.speed -->\nold\n<!-- end of train_step -->\nz"
    assert speed.with_tables(page) == (
        "a\n<!-- train_step: written by docs.speed -->\n| over the step without | jax_mix |\n|---|---|\n"
        "| MixUp | 1.500 |\n| the step without | 1000 ms |\n\n- step: 1.5, target at most 1.02, missed: the draw.\n"
        "<!-- end of train_step -->\nz"
    )
    assert speed.table("growth") == "Not measured yet."


def test_readme_has_the_rows_of_the_results(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "RESULTS", tmp_path)
    seconds = {"one line": {"median_s": 0.004}, "jitted": {"median_s": 0.003}, "timm": {"median_s": 0.009}}
    faster = {"one line": {"median": 2.25}, "jitted": {"median": 3.0}}
    of = {"seconds": seconds, "fastest_peer": "timm", "times_faster_than_it": faster}
    shapes = {"512x32x32x3": of, "256x224x224x3": of}
    found = {
        "mixing": {"cores": 2, "device": "A processor, 1 device(s)", "results": {"mixup": shapes, "cutmix": shapes}},
        "train_step": {"to_the_step_without": {s: {"Manifold Mixup": {"median": 1.01}} for s in ("jax_mix", "fastai")}},
        "compile_time": {"cores": 2, "a network": {"compile_ratio_to_none": {"manifold": 1.2}}},
        "start_up": {"seconds": {name: {"whole": {"median": 7.0}} for name in ("first", "second", "fastai")}},
    }
    found["compile_time"]["targets"] = [measuring.target("a", 1.4, at_most=1.3), measuring.target("b", 1, at_most=1.3)]
    assert speed.table("speed") == "Not measured yet."
    for name, each in found.items():
        (tmp_path / f"{name}.cpu.json").write_text(json.dumps(each))
    in_miniature = {"targets": [measuring.target("c", 1, at_most=1.3)]}  # no result
    (tmp_path / "accelerator_small.cpu.json").write_text(json.dumps(in_miniature))
    picture, _, head, _, *rows, _, told = speed.table("speed").splitlines()
    assert picture.endswith("](docs/speed.png)")
    assert len(rows) == 7
    assert rows[0] == (
        "| MixUp of [512, 32, 32, 3], one line; jitted | 4 ms; 3 ms | timm, 9 ms | 2.25 and 3.00 times as fast |"
    )
    assert all(row.count("|") == head.count("|") for row in rows)
    assert told == "Medians, on 2 cores of A processor. Of the targets of all benchmarks 1 of 2 are hit."
