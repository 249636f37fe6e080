"""train.py predict and evaluate: what they tell of images, and that whatever is wrong ends in one sentence."""

import csv
import json
import re
import shutil

import numpy as np
import PIL.Image
import pytest
from sklearn.metrics import confusion_matrix as scikit_learns

import train
from jax_mix.training import evaluation, load_run
from jax_mix.training.config import Config
from jax_mix.training.confusion import confusion_matrix, summary
from parity_tests.training.given_runs import given_run, random_set

CLASSES = ("newt", "cat", "dog")  # not in the order of a folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of small images in colour."""
    folder = tmp_path_factory.mktemp("runs") / "it"
    given_run(folder, Config(model="mlp", mix="none", batch_size=8, devices=1), random_set((6, 6, 3), CLASSES))
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photographs of two of the classes, and a text."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(1)
    for name, count in {"cat": 3, "dog": 2}.items():
        (root / name).mkdir()
        for i in range(count):
            PIL.Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).save(root / name / f"{i}.png")
    (root / "cat" / "notes.txt").write_text("of cats")
    return root


def predict(run, *words):
    return train.main(["predict", str(run), *map(str, words)])


def test_what_is_predicted_is_told_in_three_forms(run, photos, tmp_path, capsys):
    files = [photos / "dog" / "1.png", *(photos / "cat" / f"{i}.png" for i in range(3))]
    probabilities = load_run(run).predict(files)
    order = np.argsort(-probabilities, axis=1)
    for words in ([], ["--batch-size", 2]):
        assert predict(run, files[0], photos / "cat", "--format", "json", *words) == 0
        output = capsys.readouterr()
        assert output.err == f"left out in '{photos / 'cat'}': 1 file of other kinds: .txt 1\n"
        found = json.loads(output.out)
        assert [each["image"] for each in found] == [str(file) for file in files]
        for each, row, first in zip(found, probabilities, order, strict=True):
            assert [one["class"] for one in each["classes"]] == [CLASSES[k] for k in first]
            np.testing.assert_allclose([one["probability"] for one in each["classes"]], row[first], rtol=1e-5)
    assert predict(run, *files, "--out", tmp_path / "found.csv", "--top", 1) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'found.csv'}\n"
    with (tmp_path / "found.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["class_1"]) for row in rows] == [
        (str(file), CLASSES[first[0]]) for file, first in zip(files, order, strict=True)
    ]
    assert rows[0].keys() == {"image", "class_1", "probability_1"}
    assert predict(run, *files) == 0
    first, second, _ = order[0]
    words = [f"{CLASSES[k]} {probabilities[0, k]:.2%}" for k in (first, second)]
    assert capsys.readouterr().out.splitlines()[0].startswith(f"{files[0]}  {'  '.join(words)}")


def test_a_file_that_is_no_image_may_be_passed_over(run, photos, capsys):
    text = photos / "cat" / "notes.txt"
    assert predict(run, text, photos / "dog", "--broken-images", "skip") == 0
    output = capsys.readouterr()
    assert [line.split()[0] for line in output.out.splitlines()] == [str(photos / "dog" / f"{i}.png") for i in range(2)]
    assert output.err.startswith(f"left out: '{text}' (UnidentifiedImageError")


WRONG = {
    "no run": (["predict"], "predict needs the folder of a run, and images: python train.py predict runs/NAME"),
    "no images": (["predict", "RUN"], "predict needs images, or folders of them: python"),
    "no such run": (
        ["predict", "RUNS", "PHOTOS"],
        "there is no run in 'RUNS': a run's folder has a config.json; did you",
    ),
    "no such file": (["predict", "RUN", "no.jpg"], "there is no file or folder 'no.jpg'."),
    "no image": (["predict", "RUN", "PHOTOS/cat/notes.txt"], "'PHOTOS/cat/notes.txt' (UnidentifiedImageError: "),
    "only broken ones": (
        ["predict", "RUN", "PHOTOS/cat/notes.txt", "--broken-images", "skip"],
        "none of the files could be read as an image.",
    ),
    "an empty folder": (["predict", "RUN", "EMPTY"], "there is no image in the folder 'EMPTY'."),
    "out is a folder": (["predict", "RUN", "PHOTOS", "--out", "EMPTY"], "--out: 'EMPTY' is a folder: give a file."),
    "out is nowhere": (["predict", "RUN", "PHOTOS", "--out", "EMPTY/a/b.csv"], "--out: there is no folder 'EMPTY/a'."),
    "top 0": (["predict", "RUN", "PHOTOS", "--top", "0"], "--top must be at least 1, got 0."),
    "a flag": (
        ["predict", "RUN", "PHOTOS", "--ouput", "a"],
        "'--ouput' is not a flag: did you mean --out? see --help.",
    ),
    "nothing to evaluate": (["evaluate"], "evaluate needs the folder of a run: python train.py evaluate runs/NAME."),
    "other classes": (
        ["evaluate", "RUN", "--dataset", "OTHERS"],
        "--dataset OTHERS has the class 'dgo', which the run has not: did you mean 'dog'? There are: 'newt'",
    ),
    "other channels": (
        ["evaluate", "DIGITS", "--dataset", "digits", "--data-dir", "TFDS"],
        "--dataset digits has images of 1 channels, and the run was trained on images of 3.",
    ),
    "classes of a set": (
        ["evaluate", "RUN", "--dataset", "digits", "--data-dir", "TFDS"],
        "--dataset digits has the class '0', which the run has not: There are: 'newt', 'cat', 'dog'",
    ),
    "an empty set": (
        ["evaluate", "RUN", "--dataset", "EMPTY"],
        "--dataset EMPTY needs a folder for each of two classes",
    ),
    "no such set": (["evaluate", "RUN", "--dataset", "./no"], "--dataset ./no: there is no such folder"),
    "a file": (
        ["evaluate", "RUN", "--dataset", "PHOTOS/cat/0.png"],
        "--dataset PHOTOS/cat/0.png is a file, not a folder",
    ),
    "the run's own, gone": (
        ["evaluate", "RUN", "--data-dir", "EMPTY"],
        "--dataset digits has the class '0', which the",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_in_a_sentence(case, run, photos, data_dir, tmp_path, capsys):
    words, told = WRONG[case]
    (tmp_path / "empty").mkdir()
    if case == "other classes":
        shutil.copytree(photos, tmp_path / "others")
        (tmp_path / "others" / "dog").rename(tmp_path / "others" / "dgo")
    places = {"RUN": run, "PHOTOS": photos, "EMPTY": tmp_path / "empty", "TFDS": data_dir, "RUNS": run.with_name("its")}
    places |= {"OTHERS": tmp_path / "others", "DIGITS": tmp_path / "digits"}
    if "DIGITS" in words:
        names = tuple(map(str, range(10)))
        config = Config(model="mlp", mix="none", batch_size=8, devices=1)
        given_run(tmp_path / "digits", config, random_set((8, 8, 3), names, n=10))

    def filled(text):
        return re.sub("|".join(f"{name}\\b" for name in places), lambda match: str(places[match[0]]), text)

    assert train.main([filled(word) for word in words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"train.py: {filled(told)}"), error


def test_a_run_is_measured_on_its_own_test_images_to_the_last_digit(finished_run, data_dir, tmp_path, capsys):
    folder, _ = finished_run
    metrics = json.loads((folder / "metrics.json").read_text())
    for words in ([], ["--dataset", "digits"]):
        assert train.main(["evaluate", str(folder), *words, "--out", str(tmp_path / "measured")]) == 0
        assert "\n" not in capsys.readouterr().err  # the data are as they were; where reading is slow, a bar shows it
        found = json.loads((tmp_path / "measured" / "evaluation.json").read_text())
        assert {name: found[name] for name in ("accuracy", "nll", "ece")}.items() <= metrics.items()
        assert (found["dataset"], found["images"]) == ("digits", 360)


def test_a_folder_is_measured_by_the_names_of_its_classes(run, photos, tmp_path, capsys):
    """Of which it need not have all."""
    files = [photos / name for name in ("cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png")]
    logits, label = load_run(run).logits(load_run(run).preprocess(files)), np.array([1, 1, 1, 2, 2], np.int32)
    expected = evaluation.measure(logits, label)
    words = ["--dataset", str(photos), "--batch-size", "2", "--out", str(tmp_path / "measured")]
    assert train.main(["evaluate", str(run), *words]) == 0
    output = capsys.readouterr()
    assert "left out: 1 file of other kinds: .txt 1" in output.err
    assert "5 images: accuracy" in output.out
    assert "(the largest class, cat, is 60.00% of the images)" in output.out
    found = json.loads((tmp_path / "measured" / "evaluation.json").read_text())
    assert [found[name] for name in expected] == pytest.approx(list(expected.values()), rel=1e-5)
    assert [(each["class"], each["images"]) for each in found["per_class"]] == [("newt", 0), ("cat", 3), ("dog", 2)]
    assert found["per_class"][0]["accuracy"] is None
    with (tmp_path / "measured" / "confusion_matrix.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows[1:]] == rows[0][1:] == list(CLASSES)
    counts = scikit_learns(label, logits.argmax(1), labels=[0, 1, 2])
    np.testing.assert_array_equal([[int(number) for number in row[1:]] for row in rows[1:]], counts)
    with PIL.Image.open(tmp_path / "measured" / "confusion_matrix.png") as picture:
        picture.verify()


def test_of_a_folder_with_splits_the_test_is_measured(run, photos, tmp_path, capsys):
    for split in ("train", "test"):
        shutil.copytree(photos, tmp_path / "set" / split)
    (tmp_path / "set" / "test" / "cat" / "0.png").unlink()
    words = ["--dataset", str(tmp_path / "set"), "--out", str(tmp_path / "measured")]
    assert train.main(["evaluate", str(run), *words]) == 0
    assert "4 images: accuracy" in capsys.readouterr().out


def test_the_confusion_matrix_is_scikit_learns():
    rng = np.random.default_rng(0)
    label, logits = rng.integers(0, 4, 200), rng.normal(size=(200, 5))
    found = confusion_matrix(logits, label)
    np.testing.assert_array_equal(found, scikit_learns(label, logits.argmax(1), labels=range(5)))
    told = summary(found, ("a", "b", "c", "d", "e"))
    images = np.bincount(label, minlength=5)
    assert told["largest_class"] == {"class": "abcde"[images.argmax()], "share": images.max() / 200}
    for k, each in enumerate(told["per_class"][:4]):
        assert each["accuracy"] == np.mean(logits[label == k].argmax(1) == k)


def test_a_finished_run_tells_of_each_class(finished_run, digits):
    """The last epoch's network, on the test images; the accuracy that it tells is that of the matrix."""
    folder, said = finished_run
    metrics = json.loads((folder / "metrics.json").read_text())
    logits, label = load_run(folder).logits(digits.test.image), np.asarray(digits.test.label)
    with (folder / "confusion_matrix.csv").open(newline="") as file:
        counts = np.array([[int(number) for number in row[1:]] for row in list(csv.reader(file))[1:]])
    np.testing.assert_array_equal(counts, scikit_learns(label, logits.argmax(1), labels=range(10)))
    assert metrics["accuracy"] == pytest.approx(counts.trace() / 360, rel=1e-6)
    assert metrics["per_class"][4] == {"class": "4", "images": 36, "accuracy": counts[4, 4] / 36}
    assert metrics["largest_class"] == {"class": "3", "share": 37 / 360}
    assert f"test accuracy {metrics['accuracy']:.2%} (the largest class, 3, is 10.28% of the images), NLL " in said
    with PIL.Image.open(folder / "confusion_matrix.png") as picture:
        picture.verify()
