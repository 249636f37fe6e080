"""`python -m benchmarks.accelerator` in miniature, on the CPU, as on a machine without fastai, TFDS and Grain."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from benchmarks import accelerator, measuring
from benchmarks.on_gpu import child, mixing, page, parity, training
from parity_tests.tolerances import assert_close

ROOT = Path(__file__).parents[2]
# What a machine with JAX, PyTorch, timm, torchvision, optax, orbax and flax need not have.
NOT_THERE = (
    "fastai",
    "tensorflow_datasets",
    "array_record",
    "grain",
    "tensorboard",
    "simplejpeg",
    "importlib_resources",
)
NOT_THERE += ("sklearn", "matplotlib", "tyro", "flatbuffers", "kornia", "keras", "jaxtyping", "pytest", "hypothesis")
HIDING = f"""
import importlib.machinery
find = importlib.machinery.PathFinder.find_spec
hidden = {NOT_THERE}
importlib.machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, *rest: None if name.partition(".")[0] in hidden else find(name, *rest)
)
"""
SIDES = {"jax_mix", "PyTorch", "torch.compile"}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("accelerator")
    (folder / "sitecustomize.py").write_text(HIDING)
    environment = os.environ | {"PYTHONPATH": str(folder), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = ["-m", "benchmarks.accelerator", "--small", "--minutes", "9", "--results", str(folder)]
    return folder, subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def result(done):
    folder, process = done
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads((folder / "accelerator_small.cpu.json").read_text())


def test_it_runs_without_what_a_bare_machine_has_not(result):
    told = result["parts"]["hardware"]["results"]
    assert told["without"].keys() == {"fastai", "tensorflow_datasets", "grain"}
    assert {"jax", "torch", "timm", "torchvision"} <= told["versions"].keys()
    statuses = {name: part["status"] for name, part in result["parts"].items()}
    small = {"train resnet50", "overhead vit_small_patch16_224", "overhead resnet50"}
    assert statuses == {name: "left out" if name in small else "done" for name in accelerator.PARTS}


def test_both_sides_are_equal(result):
    found = dict(result["parts"]["parity"]["results"])
    assert found.pop("TF32") == {"left_out": "a CPU has no TF32"}
    assert found.keys() == {f"float32, {e}" for e in ("arrays", "PreActResNet")} | {
        f"bfloat16, {e}" for e in ("arrays", "ViT")
    }
    distances = {f"{key}, {path}": each for key, of in found.items() for path, each in page._distances(of)}
    assert len(distances) == 2 * (3 + 5)
    for path, each in distances.items():
        assert_close(each["from_torch"], 0.0, f"far from torch in {path.partition(',')[0]}")
        assert each["yardstick"] == 0 if "float32" in path else each["yardstick"] > 0, path


def test_every_part_has_its_numbers(result):
    parts = result["parts"]
    assert parts["mixing"]["results"].keys() == {f"[4, 8, 8, 4] {dtype}" for dtype in mixing.DTYPES}
    for of in parts["mixing"]["results"].values():
        assert of["copy"]["seconds"].keys() == SIDES - {"torch.compile"}
        for method in ("MixUp", "CutMix"):
            assert of[method]["share_of_copy"].keys() == SIDES
            assert of[method]["units_from_ours"].keys() == SIDES - {"jax_mix"}
    for name in ("resnet18", "vit_small_patch16_224"):
        of = parts[f"train {name}"]["results"]
        assert of["memory, jax_mix"]["program"] > 0
        assert of["step"]["seconds"].keys() == of["images_a_second"].keys() == SIDES
        assert of["utilisation"] == dict.fromkeys(SIDES)
        assert all(each["n"] == 3 and each["median_s"] > 0 for each in of["step"]["seconds"].values())
    steps = parts["overhead resnet18"]["results"]["step"]["seconds"]
    assert steps.keys() == {f"{side}, {method}" for side in ("jax_mix", "PyTorch") for method in training.ALPHAS}


def test_targets_and_tables_are_of_these_numbers(result, done):
    targets = {each["what"]: each for each in result["targets"]}
    of = result["parts"]["overhead resnet18"]["results"]["step"]["seconds"]
    cutmix = targets["resnet18, step with cutmix over the step without"]
    assert cutmix["measured"] == of["jax_mix, cutmix"]["median_s"] / of["jax_mix, none"]["median_s"]
    assert cutmix["hit"] is (cutmix["measured"] <= 1.02)
    of = result["parts"]["train resnet18"]["results"]["step"]["seconds"]
    speed = targets["resnet18, images a second over those of torch.compile"]
    assert speed["measured"] == of["torch.compile"]["median_s"] / of["jax_mix"]["median_s"]
    assert speed["hit"] is (speed["measured"] >= 1.1)
    assert all(each["hit"] or each["reason"] for each in targets.values())
    assert "resnet50, images a second over those of PyTorch" in result["not_measured"]
    table = page.table(result)
    assert done[1].stdout.strip().endswith(table)
    for row in (
        "| float32, arrays, MixUp |",
        "| CutMix, [4, 8, 8, 4] bfloat16 |",
        "| resnet18 | 4 |",
        "| resnet18, manifold |",
    ):
        assert table.count(row) == 1
    assert 'Part "train resnet50": left out, in miniature resnet18 stands for it.' in table


# One for which there is no time; one that fails, one that crashes, one that hangs, and one after them.
PARTS = {"hardware": 0.001, "fails": 5, "crashes": 5, "hangs": 0.1, "works": 5}
CHILD = f"""
import json, os, sys, time

def say(line):
    print({child.MARK!r} + json.dumps(line), flush=True)

(name, _), = json.loads(sys.argv[1])["parts"]
say({{"part": name, "status": "cut short"}})
say({{"part": name, "key": "found", "value": 1}})
if name == "crashes":
    os._exit(3)
if name == "hangs":
    time.sleep(600)
print("a library's line")
end = {{"status": "failed", "why": "ValueError: no"}} if name == "fails" else {{"status": "done"}}
say({{"part": name, **end, "seconds": 1.0}})
"""


def test_a_part_that_does_not_end_well_ends_no_other(monkeypatch):
    for name, value in (("PARTS", PARTS), ("_CHILD", CHILD), ("_LEAST", 0.05), ("_GRACE", 2.0)):
        monkeypatch.setattr(accelerator, name, value)
    saved = []
    monkeypatch.setattr(measuring, "save", lambda name, result: saved.append(json.dumps(result)))
    parts = accelerator.measure(minutes=0.25)["parts"]
    assert parts["fails"] == {"status": "failed", "why": "ValueError: no", "seconds": 1.0, "results": {"found": 1}}
    assert parts["crashes"] == {
        "status": "cut short",
        "why": "its process ended with status 3",
        "results": {"found": 1},
    }
    assert parts["hangs"]["why"].startswith("it took longer than ")
    assert parts["hangs"]["results"] == {"found": 1}
    assert parts["works"]["status"] == "done"
    assert parts["hardware"]["status"] == "left out"
    assert any('"crashes": {"status": "cut short", "results": {"found": 1}' in each for each in saved)  # as they come
    table = page.table(json.loads(saved[-1]))
    assert 'Part "fails": failed, ValueError: no.' in table
    assert 'Part "hardware": left out, 15 seconds were left' in table


def test_a_part_tells_what_failed_in_it_and_goes_on(capsys, monkeypatch):
    def run(part):
        with part.piece("first"):
            raise KeyError("gone")
        with part.piece("second"):
            part.need(10, "it")
        raise ValueError("no")

    monkeypatch.setattr(mixing, "run", run)
    child.main(json.dumps({"small": False, "parts": [["mixing", time.monotonic() + 5], ["hardware", 0.0]]}))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(child.MARK)]
    said = [json.loads(line.removeprefix(child.MARK)) for line in lines]
    assert said[1] == {"part": "mixing", "key": "first", "value": {"failed": "KeyError: 'gone'"}}
    assert said[2]["value"] == {"left_out": "it takes about 10 seconds, and 5 were left"}
    assert said[3] | {"seconds": 0} == {"part": "mixing", "status": "failed", "why": "ValueError: no", "seconds": 0}
    assert said[-1]["status"] == "done"


def test_a_batch_that_does_not_fit_is_halved(capsys):
    tried = []

    def measure(batch):
        tried.append(batch)
        if batch > 32:
            with part.piece("memory"):  # which would keep any other error
                raise (
                    torch.OutOfMemoryError("CUDA out of memory") if batch > 64 else RuntimeError("RESOURCE_EXHAUSTED: ")
                )

    part = child.Part("train", small=False, deadline=0.0)
    child.largest_batch(part, training.BATCHES, measure)
    assert tried == [128, 64, 32]
    assert "it does not fit: OutOfMemoryError: CUDA out of memory" in capsys.readouterr().out


def test_outputs_that_are_not_the_same_are_not_timed():
    image = np.random.default_rng(0).random((4, 8, 8, 3), np.float32)
    rounded = np.nextafter(image, 1)
    for name, apart, allowed in (("MixUp", rounded, True), ("CutMix", rounded, False), ("MixUp", image[::-1], False)):
        outputs = {
            "jax_mix": lambda: jax.numpy.asarray(image),
            "PyTorch": lambda apart=apart: torch.tensor(apart.copy()),
        }
        if allowed:
            assert 0 < mixing.check_same(name, outputs)["units_from_ours"]["PyTorch"] <= 1
        else:
            with pytest.raises(AssertionError, match=f"{name} is another one"):
                mixing.check_same(name, outputs)


@pytest.mark.parametrize("name", ["resnet50", "vit_small_patch16_224"])
def test_the_networks_of_full_size_are_the_same_on_both_sides(name):
    """Nothing is computed: parameters are counted, and the operations of a forward pass."""
    network = training.NETWORKS[name]
    model = nnx.eval_shape(lambda: network.ours(False))
    with torch.device("meta"):
        theirs = sum(p.numel() for p in network.theirs(False).parameters())
    assert sum(a.size for a in jax.tree.leaves(nnx.state(model, nnx.Param))) == theirs
    model.eval()
    graphdef, state = nnx.split(model)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    lowered = jax.jit(lambda state, image: nnx.merge(graphdef, state)(image)).lower(state, image)
    assert_close(lowered.cost_analysis()["flops"], network.flops, "operations of a network")


def test_utilisation():
    """A known card: half of 989 * 10^12 operations a second."""
    assert training.utilisation(1e9, 989e12 / 6e9, "NVIDIA H100 80GB HBM3") == pytest.approx(0.5)
    assert training.utilisation(1e9, 1.0, "a card that nobody knows") is None


def test_without_a_gpu_it_says_so(capsys):
    accelerator.main()
    assert "JAX sees no GPU here, but cpu: python -m benchmarks.accelerator --small" in capsys.readouterr().out


def test_the_whole_ladder_is_asked_for_where_it_is_not_in_miniature():
    assert parity.PRECISIONS == ("float32", "bfloat16", "TF32")
    assert parity.networks(small=False).keys() == {"PreActResNet", "ViT"}
