"""How a folder of images is meant: what is a split, a class or a group in it; and what is told where that is open."""

import contextlib
import io
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from jax_mix.training import data
from jax_mix.training.data import splitting
from jax_mix.training.data.layout import split_of
from jax_mix.training.errors import UserError


def save(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full((4, 4), value, np.uint8)).save(path)


def make(root, *folders, count=4):
    """Images 0.png, 1.png, ... in each folder, their values their numbers."""
    for folder in folders:
        for i in range(count):
            save(root / folder / f"{i}.png", i)


def load(folder, **options):
    """The data set, what was printed, and what on stderr."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        dataset = data.load(str(folder), **options)
        print(dataset)
    return dataset, out.getvalue(), err.getvalue()


def refused(folder, **options):
    with pytest.raises(UserError) as caught:
        data.load(str(folder), **options)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(("--dataset ", "--split-by "))
    return line


def run(sentence):
    """Run the command that a sentence tells, and give the `--dataset` that it tells after it."""
    command, dataset = re.search(r"(python -[cm] .*) and (?:then|give) --dataset (\S+) instead\.?$", sentence).groups()
    subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True)
    return dataset


SPLITS = (
    "Training Testing, training_set test_set, seg_train seg_test, TRAIN VAL, TrainData TestData, train2017 val2017, "
    "images_train images_val, trainset testset, Training Evaluation, train1 test1, my-train my-valid"
)


@pytest.mark.parametrize("names", [each.split() for each in SPLITS.split(", ")], ids="-".join)
def test_the_usual_names_of_splits(names, tmp_path):
    train, test = names
    make(tmp_path, f"{train}/cat", f"{train}/dog")
    make(tmp_path, f"{test}/cat", f"{test}/dog", count=2)
    dataset, out, err = load(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert [np.bincount(split.label).tolist() for split in (dataset.train, dataset.test)] == [[4, 4], [2, 2]]
    assert f"training images are those in '{train}', test images those in '{test}'" in out
    assert "training and test images of each: cat 4 and 2; dog 4 and 2" in out
    assert err == ""


def test_names_that_are_no_splits():
    assert all(split_of(name) is None for name in ("trains", "contest", "valley", "tester", "evaluator", "0", "été"))
    assert all(split_of(name) for name in ("Train", "test-images", "valid", "ValSet", "2012 validation"))


def test_a_folder_in_a_folder_of_the_same_name_as_zips_unpack(tmp_path):
    make(tmp_path, "seg_train/seg_train/cat", "seg_train/seg_train/dog", "seg_test/seg_test/cat")
    make(tmp_path, "seg_test/seg_test/dog", "seg_pred/seg_pred")
    dataset, _, err = load(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert err == "left out: the folder 'seg_pred'\n"


def test_of_a_test_and_a_validation_the_test_is_used_and_the_other_told(tmp_path):
    make(tmp_path, *(f"{split}/{name}" for split in ("train", "val") for name in ("cat", "dog")))
    make(tmp_path, "test/cat", "test/dog", count=3)
    dataset, out, err = load(tmp_path)
    assert len(dataset.test.label) == 6
    assert "test images those in 'test'" in out
    assert err == "left out: the folder 'val'\n"


def test_a_test_without_labels_is_passed_over_for_a_validation_with_them(tmp_path):
    make(tmp_path, *(f"{split}/{name}" for split in ("train", "val") for name in ("cat", "dog")), "test/unknown")
    _, out, err = load(tmp_path)
    assert "test images those in 'val'" in out
    assert err == "left out: the folder 'test'\n"


def test_a_class_may_be_called_train(tmp_path):
    make(tmp_path, "bus", "plane", "train")
    dataset, out, _ = load(tmp_path)
    assert dataset.class_names == ("bus", "plane", "train")
    assert "bus 3 and 1; plane 3 and 1; train 3 and 1" in out
    make(tmp_path, "train/steam", "train/electric")  # images in it as before, so that these are no classes
    assert load(tmp_path)[0].class_names == ("bus", "plane", "train")
    make(tmp_path / "tube", "test_tube", "train_station")
    assert load(tmp_path / "tube")[0].class_names == ("test_tube", "train_station")


UNCLEAR = {
    "flat splits": (["train", "test1"], "train and test1 look like splits, but hold no folders of classes"),
    "parts of training": (["train1", "train2"], "train1 and train2 look like splits"),
    "a split beside classes": (["cat", "dog", "test"], "test looks like a split, not like a class"),
    "splits of unknown names": (["A/cat", "A/dog", "B/cat", "B/dog"], "A and B hold the same folders, cat, dog: which"),
    "folds": (["fold1/0", "fold1/1", "fold2/0", "fold2/1"], "fold1 and fold2 hold the same folders, 0, 1: which"),
    "masks": (["COVID/images", "COVID/masks", "Normal/images", "Normal/masks"], "COVID holds images, masks, of which only"),
    "masks in splits": (["train/images", "train/masks", "val/images", "val/masks"], "images, masks, are no classes"),
    "the truth": (["Original", "Ground Truth"], "two classes or more; there is: Ground Truth, Original; put the images"),
    "splits of grades": (["DEV/grade 1", "DEV/grade 2", "Holdout/grade 1", "Holdout/grade 2"], "DEV and Holdout hold the"),
    "splits of levels": (["2019/level_0", "2019/level_1", "2020/level_0", "2020/level_1"], "2019 and 2020 hold the same"),
    "a set in itself": (["no", "yes", "brain/no", "brain/yes"], r"brain holds folders of the same names .*, no, yes: give"),
    "a level deeper": (["train/animals/cat", "train/animals/dog", "test/animals/cat"], "one class, animals, and two or more"),
    "splits in classes": (["cat/train", "cat/test", "dog/train", "dog/test"], "cat holds splits, test, train: put the classes"),
    "masks alone": (["images", "masks"], "two classes or more; there is: images, masks; put the images of each class"),
    "a test without labels": (["train/cat", "train/dog", "test"], "test has no folders of classes .*/train"),
    "a folder around all": (["all/cat", "all/dog"], r"there is: all; if the classes are in all, give --dataset \S+/all instead\.$"),
    "two for training": (["train/cat", "training/cat", "test/cat"], "train and training: which is for training"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNCLEAR)
def test_what_could_be_meant_otherwise_is_refused(case, tmp_path):
    folders, sentence = UNCLEAR[case]
    make(tmp_path, *folders)
    assert re.search(sentence, refused(tmp_path))


@pytest.mark.parametrize("split_by", ["image", "folder"])
def test_splits_in_classes_are_refused_however_they_are_split(split_by, tmp_path):
    make(tmp_path, "cat/train", "cat/test", "dog/train", "dog/test")
    assert "holds splits, test, train: put the classes in the splits, test/cat" in refused(tmp_path, split_by=split_by)


VIEWS = ("front", "back", "left")


@pytest.fixture
def patients(tmp_path):
    """Ten patients in each of two classes, with three views of each; the value is the patient's number."""
    for name in ("a", "b"):
        for patient in range(10):
            for k, view in enumerate(VIEWS):
                save(tmp_path / "scans" / name / f"patient{patient}" / f"{view}.png", 10 * patient + k)
    return tmp_path / "scans"


def in_test(dataset):
    """The values of the test images of each class."""
    return [set(dataset.test.image[dataset.test.label == k, 0, 0, 0].tolist()) for k in range(2)]


def test_images_are_split_by_their_paths_below_the_class(patients):
    dataset, _, _ = load(patients)
    for values in in_test(dataset):
        assert len(values) == 6
        assert len({value % 10 for value in values}) > 1, "one view of all patients is the test"
        assert len({value // 10 for value in values}) > 2


def test_what_is_in_a_subfolder_can_be_kept_together(patients):
    dataset, _, _ = load(patients, split_by="folder")
    a, b = in_test(dataset)
    assert a == b  # a patient of that name is the same one in both classes
    assert sorted(value % 10 for value in a) == [0, 0, 1, 1, 2, 2]
    assert load(patients, split_by="folder", test_fraction=0.5)[0].test.label.shape == (30,)


def test_subfolders_are_kept_together_where_classes_share_only_some(tmp_path):
    """The class with two patients has one of them in the test, and the other class cannot take its other one there."""
    make(tmp_path, *(f"common/p{i}" for i in range(10)), "rare/p3", "rare/p7", "rare/p3/deeper", count=2)
    dataset, _, _ = load(tmp_path, split_by="folder", image_size=2)
    assert 0 < (dataset.test.label == 1).sum() < 6
    assert (dataset.test.label == 0).sum() == 4


def test_a_class_with_few_subfolders_chooses_first():
    """Whichever two of the other class's ten it has, one of them is in the test."""
    root = Path("photos")
    for one, other in itertools.combinations(range(10), 2):
        folders = {"common": range(10), "rare": (one, other)}
        classes = {k: [root / k / f"p{i}" / f"{j}.png" for i in some for j in (1, 2)] for k, some in folders.items()}
        train, test = splitting.split("./photos", root, classes, 0.2, by_folder=True)
        assert (len(train["rare"]), len(test["rare"])) == (2, 2)
        assert (len(train["common"]), len(test["common"])) == (16, 4)
        sides = [{image.parent.name for images in part.values() for image in images} for part in (train, test)]
        assert not sides[0] & sides[1]


def test_subfolders_that_cannot_be_kept_together_are_told(tmp_path):
    make(tmp_path, "a", "b")
    assert "no class in" in refused(tmp_path, split_by="folder")
    make(tmp_path / "two", "a/p1", "a/p2", "b/p1")
    assert "class b has no images for the test with --split-by folder" in refused(tmp_path / "two", split_by="folder")


def test_the_flag_says_that_subfolders_are_no_classes(tmp_path):
    make(tmp_path, "A/cat", "A/dog", "B/cat", "B/dog")
    assert load(tmp_path, split_by="image")[0].class_names == ("A", "B")
    make(tmp_path / "trains", "train/steam", "train/electric", "bus/red")
    assert load(tmp_path / "trains", split_by="image")[0].class_names == ("bus", "train")


def test_links_are_followed_but_not_in_circles(tmp_path):
    make(tmp_path, "photos/cat", "photos/dog", "elsewhere/more", count=3)
    (tmp_path / "photos/dog/more").symlink_to(tmp_path / "elsewhere/more")
    (tmp_path / "photos/cow").symlink_to(tmp_path / "elsewhere/more")  # a class
    (tmp_path / "photos/cat/all").symlink_to("..")
    (tmp_path / "elsewhere/more/up").symlink_to(tmp_path / "photos/dog")
    (tmp_path / "photos/file").symlink_to("cat/0.png")  # no class
    dataset, _, err = load(tmp_path / "photos")
    assert dataset.class_names == ("cat", "cow", "dog")
    counts = np.bincount(np.concatenate([dataset.train.label, dataset.test.label]))
    assert counts.tolist() == [3, 6, 6]
    assert "back to a folder around them: 'cat/all', 'cow/up/more', 'dog/more/up'" in err


def test_what_is_left_out_is_counted_and_named_at_each_start(tmp_path):
    make(tmp_path, "cat", "dog")
    for name in ("cat/a.HEIC", "dog/b.heif", "dog/c.jxl", "dog/d.CR2"):
        (tmp_path / name).write_bytes(b"ftypheic")
    for name in ("cat/a.pdf", "cat/b.mpg", "dog/c.h5", "dog/d.eps", "dog/e.txt", "labels.txt", "dog/none"):
        (tmp_path / name).write_bytes(b"%PDF")
    for name in (
        ".DS_Store",
        "cat/Thumbs.db",
        "__MACOSX/cat/1.png",
        "lost+found/1.png",
        "$RECYCLE.BIN/1.png",
        "@eaDir/1.png",
        "dog/.ipynb_checkpoints/1.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    save(tmp_path / "loose.png")
    os.mkfifo(tmp_path / "dog/pipe.png")
    first, second = load(tmp_path), load(tmp_path)
    assert first[2] == second[2]
    assert len(first[0].train.label) + len(first[0].test.label) == 8
    assert first[2].splitlines() == [
        "left out: 1 image in no folder of a class: 'loose.png'",
        "left out: 4 images of a kind that Pillow does not read: 'cat/a.HEIC', 'dog/b.heif', 'dog/c.jxl', 'dog/d.CR2'",
        "left out: 8 files of other kinds: .txt 2, .pdf 1, .mpg 1, .h5 1, .eps 1, no ending 1, .png 1",
    ]


def test_where_there_are_no_images_it_is_told_what_there_is(tmp_path):
    (tmp_path / "data.npz").write_bytes(b"")
    assert "there is: none (left out: 1 file of other kinds: .npz 1)." in refused(tmp_path)
    make(tmp_path, "cat")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog/1.heic").write_bytes(b"")
    told = refused(tmp_path)
    assert "there is no image in '" in told
    assert "left out: 1 image of a kind that Pillow does not read: 'dog/1.heic'; 1 file of other kinds" in told


def test_names_of_all_kinds(tmp_path):
    make(tmp_path, "Größe 1", "it's", "a.b", "日本")
    save(tmp_path / "it's" / "UPPER CASE.PNG")
    dataset, _, err = load(f"{tmp_path}/")
    assert dataset.class_names == ("Größe 1", "a.b", "it's", "日本")
    assert len(dataset.train.label) + len(dataset.test.label) == 17
    assert err == ""
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    save(tmp_path / os.fsdecode(b"\xff") / "1.png")
    save(tmp_path / os.fsdecode(b"\xff") / "2.png")
    load(tmp_path)[1].encode()


def test_many_classes_are_told_by_the_first_and_the_last(tmp_path):
    make(tmp_path, *(f"{i:02}" for i in range(30)), count=2)
    _, out, _ = load(tmp_path)
    assert "30 classes\ntraining and test images of each: 00 1 and 1; 01 1 and 1; " in out
    assert out.endswith("09 1 and 1; ... 29 1 and 1\n")


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("Image Index,Finding Labels,Follow-up #,Patient Gender", "r['Finding Labels']"),
        ("image,dx_type,dx,age", "r['dx']"),
        ("image,MEL,NV,BCC", None),
        ("file,age", None),
    ],
)
def test_the_column_of_labels_is_one_that_is_called_so(table, told, tmp_path):
    """Another would give other classes, and train."""
    make(tmp_path, "photos")
    names = table.split(",")
    rows = [",".join([f"{i}.png", *(str((i * k) % 3 + k * (i > 1)) for k in range(1, len(names)))]) for i in range(4)]
    (tmp_path / "train.csv").write_text("\n".join([table, *rows]))
    (tmp_path / "sample_submission.csv").write_text("id,label\n0.png,0\n1.png,1\n2.png,0\n3.png,0\n")
    sentence = refused(tmp_path)
    assert "submission" not in sentence
    assert (told is None and "shutil" not in sentence) or told in sentence


def test_a_command_that_sorts_by_name_takes_all_endings(tmp_path):
    for i in range(4):
        save(tmp_path / "all" / f"cat.{i}.png", i)
        save(tmp_path / "all" / f"dog.{i}.bmp", i)
    dataset, _, _ = load(run(refused(tmp_path)))
    assert dataset.class_names == ("cat", "dog")
    assert len(dataset.train.label) + len(dataset.test.label) == 8


def test_a_table_of_labels_is_told_with_a_command_that_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "with ends", "flat/train", "flat/test", "parts/part_1")
    for i in range(4, 8):
        save(tmp_path / "parts" / "part_2" / f"{i}.png", i)
    (tmp_path / "with ends/labels.csv").write_text("file;width;kind\n0.png;4;x/y\n1.png;4;z\n2.png;4;x/y\n3.png;4;z\n")
    (tmp_path / "flat/train.csv").write_text("id,breed\n0,pug\n1,pug\n2,husky\n3,husky\n9,husky\n")
    rows = "".join(f"l{i},{i},{'even' if i % 2 == 0 else 'odd'}\n" for i in range(8))
    (tmp_path / "parts/about.csv").write_text("lesion,image_id,dx\n" + rows)
    (tmp_path / "with ends").rename(tmp_path / "ends")
    for folder, names, labels in (
        ("./ends", ("x-y", "z"), {0: 0, 2: 0, 1: 1, 3: 1}),
        ("./flat", ("husky", "pug"), {0: 1, 1: 1, 2: 0, 3: 0}),
        ("./parts", ("even", "odd"), {i: i % 2 for i in range(8)}),
    ):
        dataset, _, _ = load(run(refused(folder)))
        assert dataset.class_names == names
        read = zip(dataset.train.image[:, 0, 0, 0], dataset.train.label, strict=True)
        assert all(labels[int(value)] == label for value, label in read)


def test_labels_in_names_are_told_with_a_command_that_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(4):
        save(tmp_path / "pets" / "train" / f"cat.{i}.png")
        save(tmp_path / "pets" / "train" / f"big_dog_{i}.png")
        save(tmp_path / "pets" / "test1" / f"{i}.png")
    sentence = refused("./pets")
    assert "train and test1 look like splits" in sentence
    dataset, _, _ = load(run(sentence))
    assert dataset.class_names == ("big_dog", "cat")
    assert len(dataset.train.label) == 6


def test_an_archive_is_told_with_a_command_that_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "photos/cat", "photos/dog")
    for kind in ("zip", "gztar"):
        archive = shutil.make_archive("packed", kind, "photos")
        assert load(run(refused(os.path.relpath(archive))))[0].class_names == ("cat", "dog")
        shutil.rmtree("packed")


def test_paths_of_other_things_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "photos/cat", "mnist/1")
    assert "is a file, not a folder: give the folder that has" in refused("./photos/cat/0.png")
    assert "there is no such folder; did you mean ./photos?" in refused("./photo")
    assert "there is no such folder." in refused("~nobody-of-that-name/photos")
    assert "is not prepared in" in (sentence := refused("mnist", data_dir=str(tmp_path)))
    assert sentence.endswith("give --dataset ./mnist")
    for flag, value in {"bits": 12, "split_by": "folder", "test_fraction": 0.5}.items():
        told = f"--{flag.replace('_', '-')} is {value}, but --dataset digits is no folder of images"
        with pytest.raises(UserError, match=told):
            data.load("digits", **{flag: value})
