"""Labels from a table: one a file, which trains as a folder of classes does, or several; and what is refused."""

import json

import numpy as np
import PIL.Image
import pytest
from jax import export as jax_export

import train
from jax_mix.training import build, data, evaluation, load_run, loop
from jax_mix.training.config import Config
from jax_mix.training.errors import UserError

NAMES, COUNT = ("blue", "green", "red"), 40
FILES = [f"sub/{i:02}.png" if i % 2 else f"{i:02}.png" for i in range(COUNT)]


def tags(i):
    """Of image number i: its number modulo 8, in binary."""
    return [name for k, name in enumerate(NAMES) if i >> k & 1]


SEVERAL = "image_name,tags,is_valid\n" + "".join(
    f"{file},{' '.join(reversed(tags(i)))},{i % 5 == 0}\n" for i, file in enumerate(FILES)
)
ONE = "file;label;age\n" + "".join(f"{file};{'odd' if i % 2 else 'even'};3\n" for i, file in enumerate(FILES))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of one value each: their number times 6."""
    root = tmp_path_factory.mktemp("photos") / "photos"
    (root / "sub").mkdir(parents=True)
    for i, file in enumerate(FILES):
        PIL.Image.fromarray(np.full((6, 5), 6 * i, np.uint8)).save(root / file)
    return root


def written(tmp_path, text):
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    return str(tmp_path / "table.csv")


def load(photos, tmp_path, text, delimiter=None, **options):
    table = written(tmp_path, text)
    return data.load(str(photos), labels=table, label_delim=delimiter, cache_dir=str(tmp_path / "cache"), **options)


def numbers(examples):
    """Which images they are."""
    return (np.asarray(examples.image)[:, 0, 0, 0].astype(int) // 6).tolist()


def check_several(dataset):
    """All images are there once, each with its labels."""
    for split in (dataset.train, dataset.test):
        wanted = [[float(name in tags(i)) for name in dataset.class_names] for i in numbers(split)]
        np.testing.assert_array_equal(split.label, np.array(wanted, np.float32), strict=True)
    assert sorted(numbers(dataset.train) + numbers(dataset.test)) == list(range(COUNT))


FORMS = {  # what the table is made into, and the delimiter
    "a delimiter, a column is_valid": (SEVERAL, " "),
    "without endings, twice, with commas": (
        "id,labels\n" + "".join(f'{f[:-4]},"{", ".join(tags(i))}"\n' for i, f in enumerate(FILES)) + "\n00,\n",
        ",",
    ),
    "a column for each": (
        "red,file,blue,green\n" + "".join(f"{i >> 2 & 1}.0,./{f},{i & 1},{bool(i & 2)}\n" for i, f in enumerate(FILES)),
        None,
    ),
}


@pytest.mark.parametrize(("text", "delimiter"), FORMS.values(), ids=FORMS)
def test_several_labels_a_file(text, delimiter, photos, tmp_path, capsys):
    dataset = load(photos, tmp_path, text, delimiter)
    check_several(dataset)
    assert set(dataset.class_names) == set(NAMES)
    assert "these columns are read: files in" in capsys.readouterr().out
    if "is_valid" in text:
        assert numbers(dataset.test) == [0, 10, 20, 30, *(5, 15, 25, 35)]
    else:
        assert len(dataset.test.label) == 8
    check_several(load(photos, tmp_path, text, delimiter))  # from the cache
    crops = data.Cropping(6, test_crop=1.0)
    for _ in range(2):
        encoded = load(photos, tmp_path, text, delimiter, cropping=crops)
        np.testing.assert_array_equal(encoded.train.label, dataset.train.label, strict=True)


def test_one_label_a_file_is_as_a_folder_of_classes(photos, tmp_path, capsys):
    dataset = load(photos, tmp_path, ONE)
    assert dataset.class_names == ("even", "odd")
    for split in (dataset.train, dataset.test):
        np.testing.assert_array_equal(split.label, np.array(numbers(split), np.int32) % 2, strict=True)
    assert np.bincount(dataset.test.label).tolist() == [4, 4]
    flags = "file,even,odd\n" + "".join(f"{file},{1 - i % 2},{i % 2}\n" for i, file in enumerate(FILES))
    again = load(photos, tmp_path, flags)  # one 1 a row
    np.testing.assert_array_equal(again.train.label, dataset.train.label, strict=True)
    sides = ["valid"] * 10 + ["Train"] * 20 + ["test"] * 8  # of two files it says nothing
    rows = [
        f"{file},{'odd' if i % 2 else 'zero'},{side}\n"
        for i, (file, side) in enumerate(zip(FILES, sides, strict=False))
    ]
    capsys.readouterr()
    given = load(photos, tmp_path, "file,species,split\n" + "".join(rows))
    assert (sorted(numbers(given.test)), len(given.train.label)) == (list(range(30, 38)), 20)
    assert given.train.label.tolist() == [0] * 10 + [1] * 10  # class by class, as of folders
    said = capsys.readouterr().err
    assert "left out: 10 images of the validation, as there is a test" in said
    assert f"left out: 2 images that '{tmp_path / 'table.csv'}' has not: '38.png', 'sub/39.png'" in said


WRONG = {
    "a row of no file": (ONE + "x.png;odd;1\ny.png;odd;1\n", ["2 rows, the first in line 42, 'x.png'", "of no image"]),
    "two labels": (ONE + "00.png;odd;3\n", ["1 row, the first in line 42, '00.png'", "with other labels"]),
    "no label": (ONE.replace(";odd;", ";;"), ["20 rows, the first in line 3, 'sub/01.png', without a label"]),
    "one class": (ONE.replace(";odd;", ";even;"), ["needs two or more different labels, got even"]),
    "a class of one": (ONE.replace(";odd;", ";seldom;", 1), ["1 label of a single file, seldom", "--label-delim ' '"]),
    "no header": (ONE.partition("\n")[2], ["first line must name the columns, and has the image '00.png'"]),
    "no column of files": ("a,b\n1,2\n", ["no column has names of images in", "such as '00.png'"]),
    "no column of labels": (ONE.replace("label", "x"), ["which column has the labels, x, age? Call it label."]),
    "one column": ("file\n00.png\n", ["one column, 'file', and needs two"]),
    "two columns of a name": ("file,file\n00.png,x\n", ["two columns called 'file'"]),
    "a row that is short": (ONE + "00.png;odd\n", ["2 cells in line 42, and its first line has 3"]),
    "a split of no name": (ONE.replace("age", "is_valid"), ["'is_valid' must be True or False", "got '3' in line 2"]),
    "no test": (ONE.replace("age", "is_valid").replace(";3", ";0"), ["has no file for the test"]),
    "no training": (
        ONE.replace("age", "is_valid").replace("odd;3", "odd;1").replace(";3", ";0"),
        ["no training image is labelled odd"],
    ),
    "empty": ("", ["must have a line that names its columns"]),
    "half a quote": (ONE + '"x', ["cannot be read as a table"]),
}


@pytest.mark.parametrize(("text", "told"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_table_is_told(text, told, photos, tmp_path):
    with pytest.raises(UserError) as raised:
        load(photos, tmp_path, text)
    assert str(raised.value).startswith("--labels ")
    for words in told:
        assert words in str(raised.value)


def flags(photos, tmp_path, text, delimiter=" "):
    table = ["--labels", written(tmp_path, text), *(["--label-delim", delimiter] if delimiter else [])]
    return ["--dataset", str(photos), *table, "--cache-dir", str(tmp_path / "cache"), "--out", str(tmp_path)]


def test_a_delimiter_that_is_nowhere_is_told(photos, tmp_path):
    with pytest.raises(UserError, match=r"^--label-delim is '\|', but each file has one label, such as 'even'"):
        load(photos, tmp_path, ONE, "|")
    with pytest.raises(UserError, match="no file has a label"):
        load(photos, tmp_path, "file,label\n00.png,\nsub/01.png,\n", " ")


NOT_OF_SEVERAL = {
    "cross entropy": ([], "--loss cross_entropy is for images of one class each"),
    "noise": (["--loss", "bce", "--label-noise", "0.2"], "--label-noise is 0.2, which draws a class anew"),
    "smoothing": (["--loss", "bce", "--label-smoothing", "0.1"], "--label-smoothing is 0.1, which spreads"),
    "sampler": (["--loss", "bce", "--sampler", "balanced"], "--sampler is balanced, which draws classes alike"),
    "a fraction": (["--loss", "bce", "--test-fraction", "0.5"], "says the split: drop --test-fraction 0.5"),
    "compare": (["compare", "--loss", "bce"], "--labels gives images several labels each, and what compare measures"),
}


@pytest.mark.parametrize(("words", "told"), NOT_OF_SEVERAL.values(), ids=NOT_OF_SEVERAL)
def test_what_is_not_for_several_labels_is_told(words, told, photos, tmp_path, capsys):
    command = words[:1] if words[:1] == ["compare"] else []
    assert train.main([*command, *flags(photos, tmp_path, SEVERAL), *words[len(command) :]]) == 2
    assert told in capsys.readouterr().err


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """The folder of a run of several labels, and the data it was made of."""
    out = tmp_path_factory.mktemp("run")
    given = flags(photos, out, SEVERAL)
    rest = "--model mlp --mix cutmix --loss bce --epochs 2 --batch-size 8 --devices 1 --name it"
    assert train.main([*given, *rest.split(), "--keep-best"]) == 0
    config = Config(dataset=given[1], labels=given[3], label_delim=" ", loss="bce", cache_dir=given[7])
    return out / "it", build.load(config)


def test_a_run_of_several_labels_leaves_what_can_be_used(finished, photos, tmp_path, capsys):
    folder, dataset = finished
    metrics, trained = json.loads((folder / "metrics.json").read_text()), load_run(folder)
    assert not list(folder.glob("confusion_matrix*"))
    logits = trained.logits(dataset.test.image)
    measured = evaluation.measure(logits, dataset.test.label)
    assert {name: metrics[name] for name in measured} == measured
    assert set(measured) == {"mean_average_precision", "bce", "label_accuracy"}
    precisions = [each["average_precision"] for each in metrics["per_class"]]
    assert np.mean(precisions) == pytest.approx(measured["mean_average_precision"])
    assert metrics["best"] == max(
        metrics["history"], key=lambda record: (record["mean_average_precision"], -record["bce"])
    )

    probabilities = trained.predict(dataset.test.image)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), rtol=1e-5)
    call = jax_export.deserialize(bytearray(exported_of(folder, tmp_path))).call
    np.testing.assert_allclose(call(np.asarray(dataset.test.image)), probabilities, rtol=1e-4)

    capsys.readouterr()
    assert train.main(["predict", str(folder), *(str(photos / file) for file in FILES), "--format", "json"]) == 0
    of_files = trained.predict([photos / file for file in FILES])
    for each, row in zip(json.loads(capsys.readouterr().out), of_files, strict=True):
        assert {one["class"]: one["probability"] for one in each["classes"]} == pytest.approx(
            dict(zip(NAMES, row.tolist(), strict=True)), rel=1e-4
        )
        assert set(each["labels"]) == {name for name, p in zip(NAMES, row, strict=True) if p > 0.5}


def exported_of(folder, out):
    assert train.main(["export", str(folder), "--out", str(out)]) == 0
    return (out / "exported.jax").read_bytes()


def test_a_run_of_several_labels_is_measured_on_others(finished, photos, tmp_path, capsys):
    folder, _ = finished
    assert train.main(["evaluate", str(folder), "--out", str(tmp_path)]) == 0
    own = json.loads((tmp_path / "evaluation.json").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    assert own["per_class"] == metrics["per_class"]
    # Two of the labels, in another order, of two images.
    table = written(tmp_path, "file,red,blue\n00.png,0,0\nsub/05.png,1,1\n")
    words = ["--dataset", str(photos), "--labels", table, "--out", str(tmp_path)]
    assert train.main(["evaluate", str(folder), *words]) == 0
    found = json.loads((tmp_path / "evaluation.json").read_text())
    label = np.array([[0, 0, 0], [1, 0, 1]], np.float32)
    trained = load_run(folder)
    wanted = evaluation.measure(trained.logits(trained.preprocess([photos / FILES[0], photos / FILES[5]])), label)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    capsys.readouterr()
    words[3] = written(tmp_path, ONE.replace("even", "red").replace("odd", "blue"))
    assert train.main(["evaluate", str(folder), *words]) == 2
    assert "in the run an image has any number of labels, in these data an image is of one class" in (
        capsys.readouterr().err
    )


def test_the_best_epoch_of_several_labels():
    history = [
        {"epoch": k, "mean_average_precision": precision, "bce": loss}
        for k, (precision, loss) in enumerate([(0.5, 0.1), (0.7, 0.3), (0.7, 0.2), (0.6, 0.1)])
    ]
    assert loop.best_epoch(history)["epoch"] == 2
    assert (loop.has_ended(history, 1), loop.has_ended(history, 2)) == (True, False)
