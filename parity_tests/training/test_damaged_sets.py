"""A prepared set of TFDS whose files are not as they were written, or name what they should not."""

import shutil
from pathlib import Path

import pytest

from jax_mix.training import data
from jax_mix.training.errors import UserError


@pytest.fixture
def prepared(data_dir, tmp_path):
    """A copy of a prepared set, the folder of its files."""
    shutil.copytree(Path(data_dir) / "digits", tmp_path / "copied")
    (files,) = (tmp_path / "copied").iterdir()
    return files


@pytest.mark.parametrize("damage", ["empty", "cut", "gone", "of another set"])
@pytest.mark.parametrize("file", ["dataset_info.json", "features.json", "digits-train.array_record-00000-of-00001"])
def test_damaged_files_of_a_set_are_told(damage, file, prepared, tmp_path):
    path = prepared / file
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        other = b"[1]" if file.endswith(".json") else whole[::-1]
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "of another set": other}[damage])
    with pytest.raises(UserError) as error:
        data.load("copied", str(tmp_path), cache_dir=str(tmp_path / "cache"))
    told = str(error.value)
    if (damage, file) == ("gone", "features.json"):  # by which a set is known
        assert told.startswith("--dataset 'copied' is neither known to TFDS nor in")
    else:
        assert told.startswith(f"--dataset copied: its files in '{tmp_path}' are damaged, or not those of an image set")
        assert "tfds build copied --file_format=array_record" in told


def test_features_of_a_set_are_tfdss_own(prepared, tmp_path):
    """TFDS imports the module that the file names."""
    text = (prepared / "features.json").read_text()
    (prepared / "features.json").write_text(text.replace("tensorflow_datasets.core.features.image_feature", "harmful"))
    told = r"features\.json' names 'harmful\.Image', which is no feature of TFDS: not read\.$"
    with pytest.raises(UserError, match=told):
        data.load("copied", str(tmp_path))


def test_fewer_examples_than_a_set_says_are_told(prepared, tmp_path):
    about = prepared / "dataset_info.json"
    about.write_text(about.read_text().replace('"1437"', '"1500"'))
    with pytest.raises(UserError, match="index 1437 out of bound 1437"):
        data.load("copied", str(tmp_path), cache_dir=str(tmp_path / "cache"))
