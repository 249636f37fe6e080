"""jax_mix.training.load_run: a run's folder is enough to use its network, and what is wrong with one is told."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from jax_mix.training import evaluation, load_run
from jax_mix.training.config import Config
from jax_mix.training.data.source import resized
from jax_mix.training.errors import UserError
from parity_tests.training.given_runs import given_run, random_set

ROOT = Path(__file__).parents[2]
SMALL = {"mix": "none", "batch_size": 8, "devices": 1}


@pytest.fixture(scope="module")
def trained(finished_run):
    return load_run(finished_run[0])


def test_it_is_as_good_as_its_run_says_to_the_last_digit(finished_run, trained, digits):
    metrics = json.loads((finished_run[0] / "metrics.json").read_text())
    measured = evaluation.measure(trained.logits(digits.test.image), digits.test.label)
    assert measured == {name: metrics[name] for name in ("accuracy", "nll", "ece")}
    assert 0.2 < measured["accuracy"] < 1  # the weights that are not averaged have another


def test_it_knows_what_its_images_and_logits_are(trained, digits):
    assert (trained.class_names, trained.image_shape) == (digits.class_names, (8, 8, 1))
    about = trained.about
    assert (about.model, about.width, about.averaged, about.layers) == ("preact_resnet8", 4, True, None)
    assert about.dataset == f"digits (1437 images, {digits.fingerprint})"
    assert {"python", "jax_mix", "jax", "flax", "numpy"} <= about.versions.keys()
    np.testing.assert_array_equal(trained.normalize.mean, digits.normalize.mean)
    np.testing.assert_array_equal(trained.normalize.std, digits.normalize.std)


def test_probabilities_are_of_each_class_and_sum_to_1(trained, digits):
    image = digits.test.image[:7]
    found = trained.predict(image)
    assert (found.shape, found.dtype) == ((7, 10), np.float32)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(found.argmax(1), trained.logits(image).argmax(1))
    assert trained.predict(image[:0]).shape == (0, 10)
    np.testing.assert_allclose(trained.predict(image, batch_size=3), found, rtol=1e-5)


def test_nothing_that_only_training_needs_is_imported(finished_run):
    others = "tensorflow_datasets grain tensorboard sklearn matplotlib tyro torch array_record scipy jinja2 safetensors"
    code = (
        "import sys, numpy; from jax_mix.training import load_run; "
        f"load_run({str(finished_run[0])!r}).predict(numpy.zeros((1, 8, 8, 1), numpy.uint8)); "
        f"print([name for name in {others.split()} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def colour_run(tmp_path_factory):
    """Of images that are not square."""
    folder = tmp_path_factory.mktemp("colour") / "it"
    given_run(folder, Config(model="mlp", **SMALL), random_set((6, 10, 3)))
    return load_run(folder)


def test_images_of_any_size_are_scaled_and_cut(colour_run):
    rng = np.random.default_rng(0)
    large = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((30, 50), (60, 50), (12, 40), (6, 10))]
    made = colour_run.preprocess(large)
    assert (made.shape, made.dtype) == ((4, 6, 10, 3), np.uint8)
    np.testing.assert_array_equal(made[3], large[3])
    for one, other in zip(made[:3], large[:3], strict=True):
        np.testing.assert_array_equal(one, resized(other, (6, 10)))
    block = large[0].reshape(6, 5, 10, 5, 3).mean((1, 3))  # a fifth in both directions, nothing cut
    assert np.abs(made[0] - block).mean() < 30
    middle = colour_run.preprocess([np.pad(large[3], ((7, 7), (0, 0), (0, 0)))])
    np.testing.assert_array_equal(middle[0], large[3])  # of the same width: the rows above and below go
    np.testing.assert_array_equal(colour_run.preprocess(np.stack(large[:1])), made[:1])


def test_files_are_read_as_those_of_a_folder_are(colour_run, trained, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8)
    PIL.Image.fromarray(array).save(tmp_path / "colour.png")
    PIL.Image.fromarray(array[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(colour_run.preprocess([tmp_path / "colour.png"])[0], array)
    np.testing.assert_array_equal(colour_run.preprocess(str(tmp_path / "grey.png"))[0], array[..., :1].repeat(3, -1))
    with pytest.warns(UserWarning, match=r"colour\.png' has colours, the images of the run are grey"):
        made = trained.preprocess([tmp_path / "colour.png"])
    grey = np.asarray(PIL.Image.fromarray(array).convert("L"))[..., None]
    np.testing.assert_array_equal(made[0], resized(grey, 8))


def test_bits_that_are_in_use_are_those_of_the_run(tmp_path):
    """Of files of 16 bits."""
    given_run(tmp_path / "run", Config(model="mlp", bits=12, **SMALL), random_set((4, 4, 1)))
    values = np.random.default_rng(0).integers(0, 4096, (4, 4)).astype(np.uint16)
    PIL.Image.fromarray(values).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(
        load_run(tmp_path / "run").preprocess([tmp_path / "deep.png"])[0, ..., 0], values >> 4
    )


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (np.zeros((6, 10, 3), np.uint8), r"images must be an array \[n, height, width, channels\], .* images\[None\]"),
        (np.zeros((1, 6, 10, 1), np.uint8), r"an image must be \[height, width, 3\], .* got \[6, 10, 1\]\."),
        ([np.zeros((6, 10), np.uint8)], r"an image must be \[height, width, 3\], .* got \[6, 10\]\."),
        (np.zeros((1, 6, 10, 3), np.float32), r"images must be uint8, 0 to 255, got float32\."),
        ([np.zeros((0, 10, 3), np.uint8)], r"an image must be"),
        (["no.jpg"], r"'no\.jpg' \(FileNotFoundError: .*\) cannot be read as an image\."),
        ([__file__], r"test_trained\.py' \(UnidentifiedImageError: .*\) cannot be read as an image\."),
    ],
)
def test_images_that_cannot_be_used_are_told(images, told, colour_run):
    with pytest.raises(UserError, match=told):
        colour_run.predict(images)


def test_logits_that_are_not_finite_are_told(trained, monkeypatch, digits):
    monkeypatch.setattr(evaluation, "predict", lambda *_, **__: np.array([[0.0, np.nan], [0, 1]]))
    with pytest.raises(UserError, match=r"^the logits of 1 of 2 images are infinite or nan\.$"):
        trained.predict(digits.test.image[:2])


MODEL = """
from flax import nnx
from beside import width

class Net(nnx.Module):
    def __init__(self, in_channels, num_classes, *, image_size, rngs):
        self.first = nnx.Linear(in_channels * image_size[0] * image_size[1], width, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, image):
        return self.head(self.drop(nnx.relu(self.first(image.reshape(image.shape[0], -1)))))
"""


def test_a_models_own_file_is_kept_with_its_run(tmp_path, monkeypatch):
    """As it was: what becomes of the file later is nothing to the run."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # it comes back as it was
    dataset = random_set((4, 4, 3))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "beside.py").write_text("width = 5")
    (tmp_path / "code" / "nets.py").write_text(MODEL)
    model = given_run(tmp_path / "run", Config(model=f"{tmp_path / 'code' / 'nets.py'}:Net", **SMALL), dataset)
    (tmp_path / "code" / "nets.py").write_text("Net = None")
    sys.path.remove(str(tmp_path / "code"))  # as in another process
    del sys.modules["beside"], sys.modules["nets"]
    trained = load_run(tmp_path / "run")
    expected = evaluation.predict(model, dataset.normalize, dataset.test.image)
    np.testing.assert_array_equal(trained.logits(dataset.test.image), expected)
    np.testing.assert_array_equal(trained.logits(dataset.test.image), expected)  # nothing is dropped
    shutil.rmtree(tmp_path / "run" / "source")
    with pytest.raises(UserError, match=r"source/nets\.py' cannot be imported: FileNotFoundError"):
        load_run(tmp_path / "run")


def test_a_network_that_computes_in_bfloat16_does_so_again(tmp_path):
    dataset = random_set((4, 4, 3))
    model = given_run(tmp_path / "run", Config(model="mlp", dtype="bfloat16", **SMALL), dataset)
    expected = evaluation.predict(model, dataset.normalize, dataset.test.image)
    np.testing.assert_array_equal(load_run(tmp_path / "run").logits(dataset.test.image), expected)
    assert load_run(tmp_path / "run").model.head.dtype == "bfloat16"


def damage(folder):
    """Change a byte of the checkpoint's largest file."""
    file = max((folder / "checkpoints").glob("*/state/**/d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def no_step(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["history"][-1]["step"] = 2
    (folder / "metrics.json").write_text(json.dumps(metrics))


def other_model(folder):
    about = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps(about | {"class_names": ["a", "b", "c"]}))


def other_mean(folder):
    about = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps(about | {"mean": [1.0]}))


WRONG = {
    "no such run": (shutil.rmtree, r"^there is no run in '.*/it': a run's folder has a config\.json\.$"),
    "unfinished": (
        lambda f: (f / "metrics.json").unlink(),
        r"is not finished: python train\.py --resume \S+/it goes on",
    ),
    "metrics damaged": (lambda f: (f / "metrics.json").write_text("{"), r"metrics\.json' is not as it was written"),
    "of earlier versions": (lambda f: (f / "about.json").unlink(), r"has no about\.json, .* --resume \S+/it writes it"),
    "about damaged": (lambda f: (f / "about.json").write_text('{"a": 1}'), r"about\.json' is not as it was written"),
    "about of others": (other_mean, r"about\.json' is not as it was written \(mean and std must be of each channel\)"),
    "no checkpoint": (lambda f: shutil.rmtree(f / "checkpoints"), r"^there is no checkpoint in '.*/it/checkpoints'\.$"),
    "checkpoint damaged": (
        damage,
        r"^the checkpoint '.*/1' is damaged: .* is not as SHA256SUMS says; python train\.py",
    ),
    "last one not saved": (
        no_step,
        r"^the checkpoint of step 2 could not be saved, '.*' has that of 1; python train\.py",
    ),
    "another model": (
        other_model,
        r"is of another model: model\.head\.bias\.value is float32\[2\] there and float32\[3\]",
    ),
    "without the best": (
        lambda f: None,
        r"^the run in '.*' was made without --keep-best: it has the last epoch alone\.$",
    ),
    "a comparison": (lambda f: (f / "report.html").touch(), r"holds a comparison: its runs keep no networks\.$"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "it"
    given_run(folder, Config(model="mlp", **SMALL), random_set((4, 4, 3)))
    return folder


@pytest.mark.parametrize("case", WRONG)
def test_a_folder_that_cannot_be_used_is_told_and_left_as_it_is(case, whole, tmp_path):
    break_it, told = WRONG[case]
    shutil.copytree(whole, tmp_path / "it")
    break_it(tmp_path / "it")
    before = sorted(map(str, tmp_path.rglob("*")))
    with pytest.raises(UserError, match=told):
        load_run(tmp_path / "it", best=case == "without the best")
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_a_name_that_is_nearly_a_runs_is_told(whole):
    with pytest.raises(UserError, match=re.escape(f"did you mean '{whole}'?")):
        load_run(f"{whole}s")


def test_a_folder_that_cannot_be_written_is_enough(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "it")
    for path in [tmp_path / "it", *(tmp_path / "it").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert load_run(tmp_path / "it").class_names == ("cat", "dog")
    for path in [tmp_path / "it", *(tmp_path / "it").rglob("*")]:
        path.chmod(0o755)
