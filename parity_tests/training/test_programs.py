"""Compiled programs on disk: taken from there to the same numbers, whatever has happened to the folder meanwhile."""

import math
import os
import time
from pathlib import Path

import jax
import pytest
from jax._src import compilation_cache as jaxs
from jax.experimental.compilation_cache import compilation_cache

import train
from jax_mix.training import programs
from jax_mix.training.programs import Kept

OPTIONS = ("dir", "max_size"), ("min_entry_size_bytes", "min_compile_time_secs", "enable_xla_caches")


@pytest.fixture
def as_users_start(monkeypatch):
    """JAX as it is where no cache of its own is set; afterwards the tests' own is."""
    names = [f"jax_compilation_cache_{each}" for each in OPTIONS[0]]
    names += [f"jax_persistent_cache_{each}" for each in OPTIONS[1]]
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setattr(jaxs, "get_file_cache", jaxs.get_file_cache)
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    jax.clear_caches()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def start_anew():
    """As another process would."""
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    jax.clear_caches()


def changed(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a bit of the program changed": lambda path: changed(path, -1),
    "a bit of the sum changed": lambda path: changed(path, 0),
    "cut to half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut within the sum": lambda path: path.write_bytes(path.read_bytes()[:7]),
    "emptied": lambda path: path.write_bytes(b""),
}


def test_runs_have_the_same_numbers_with_programs_from_disk_and_where_these_are_damaged(
    as_users_start, data_dir, tmp_path, monkeypatch, capfd
):
    made, given, put, get = [], [], Kept.put, Kept.get
    monkeypatch.setattr(Kept, "put", lambda kept, key, value: (made.append(key), put(kept, key, value))[1])
    monkeypatch.setattr(
        Kept, "get", lambda kept, key: (value := get(kept, key), given.append(key) if value else None)[0]
    )

    def run(name):
        made.clear(), given.clear()
        start_anew()
        flags = ["--model", "mlp", "--mix", "mixup", "--epochs", "1", "--devices", "1", "--data-dir", data_dir]
        flags += ["--out", str(tmp_path), "--name", name, "--cache-dir", str(tmp_path / "cache")]
        assert train.main(flags) == 0
        said = capfd.readouterr()
        assert "cache" not in said.err
        (folder,) = (tmp_path / "cache").glob("programs-*")
        told = f"compiled programs are kept for the next start in {folder}\n"
        if not (folder / "refused").exists():
            assert said.out.endswith(told) == bool(made)
        return (tmp_path / name / "metrics.json").read_bytes()

    first = run("first")
    assert any("pure_step" in key for key in made)
    assert run("second") == first
    (folder,) = (tmp_path / "cache").glob("programs-*")
    if (folder / "refused").exists():
        pytest.skip("on this processor XLA does not take its own programs back")
    taken = set(given)
    assert not made
    for i, path in enumerate(sorted(folder.iterdir())):
        list(DAMAGES.values())[i % len(DAMAGES)](path)
    assert run("damaged") == first
    assert set(made) == taken


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_none_and_goes(damage, tmp_path):
    Kept(tmp_path, most=1000).put("step", b"program" * 10)
    DAMAGES[damage](tmp_path / "step")
    kept = Kept(tmp_path, most=1000)
    assert kept.get("step") is None
    kept.put("step", b"another")
    assert Kept(tmp_path, most=1000).get("step") == b"another"


@pytest.mark.parametrize("unlink", ["another process was sooner", "the folder can only be read"])
def test_a_damaged_entry_is_none_where_it_cannot_be_removed(unlink, tmp_path, monkeypatch):
    Kept(tmp_path, most=1000).put("step", b"program")
    changed(tmp_path / "step", -1)
    kept = Kept(tmp_path, most=1000)
    error = FileNotFoundError if unlink == "another process was sooner" else PermissionError
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda self: raise_(error()))
        assert kept.get("step") is None
    kept.put("step", b"program")  # and so it was not one that XLA does not take back
    assert kept.is_used
    assert not (tmp_path / "refused").exists()


def raise_(error):
    raise error


@pytest.mark.parametrize("whose", ["others can write to it", "it is another user's"])
def test_a_folder_of_others_is_not_used(whose, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "folder"
    Kept(folder, most=1000).put("step", b"hostile")
    if whose == "others can write to it":
        folder.chmod(0o777)
    else:
        if os.getuid() == 0:
            os.chown(folder, 12345, -1)
        monkeypatch.setattr(os, "getuid", lambda: 12346)
    kept = Kept(folder, most=1000)
    kept.put("other", b"program")
    assert (kept.get("step"), kept.is_used) == (None, False)
    told = f"--cache-dir: compiled programs cannot be kept in '{folder}' ({whose}): going on without"
    assert capsys.readouterr().err.splitlines() == [told]


def test_a_folder_within_is_left_alone(tmp_path):
    """On a GPU, XLA may put one there."""
    (tmp_path / "xla").mkdir()
    (tmp_path / "xla" / "file").write_bytes(bytes(1000))
    os.utime(tmp_path / "xla", (0, 0))
    kept = Kept(tmp_path, most=40)
    kept.put("a", b"1"), kept.put("b", b"2")
    assert kept.is_used
    assert (tmp_path / "xla" / "file").exists()


def test_what_was_used_longest_ago_goes_where_all_is_too_large(tmp_path):
    kept = Kept(tmp_path, most=3 * 132)  # the sum of an entry is of 32 bytes
    for i, name in enumerate("abc"):
        kept.put(name, bytes(100))
        os.utime(tmp_path / name, (i, i))
    assert kept.get("a") == bytes(100)
    kept.put("d", bytes(100))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c", "d"]
    assert Kept(tmp_path, most=200).get("c") is None  # at the next start too
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_was_writing_goes_after_a_day(tmp_path):
    for name, age in ((".step.17", 0), (".step.18", 2 * 24 * 3600)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    Kept(tmp_path, most=1000)
    assert [path.name for path in tmp_path.iterdir()] == [".step.17"]


def test_a_folder_whose_programs_xla_does_not_take_back_is_not_used_again_by_that_version(tmp_path, monkeypatch):
    Kept(tmp_path, most=1000).put("step", b"program")
    kept = Kept(tmp_path, most=1000)
    assert kept.get("step") == b"program"
    kept.put("step", b"program")  # JAX has compiled it all the same
    for each in (kept, Kept(tmp_path, most=1000)):
        assert not each.is_used
        assert each.get("step") is None
    monkeypatch.setattr(jax, "__version__", "another")
    assert Kept(tmp_path, most=1000).get("step") == b"program"


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_where_nothing_can_be_written_it_says_so_once_and_goes_on(when, tmp_path, capsys):
    folder = tmp_path / "folder"
    if when == "at the start":
        folder.touch()
    kept = Kept(folder, most=1000)
    if when == "later":
        folder.rmdir()
    kept.put("step", b"program")
    kept.put("other", b"program")
    assert (kept.get("step"), kept.is_used) == (None, False)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith(f"--cache-dir: compiled programs cannot be kept in '{folder}' (")
    assert told[0].endswith("): going on without")


@pytest.mark.parametrize("setting", ["another folder", "switched off", "several processes"])
def test_what_a_user_has_set_stays(setting, as_users_start, tmp_path, monkeypatch):
    if setting == "another folder":
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    elif setting == "switched off":
        monkeypatch.setattr(type(jax.config), "jax_enable_compilation_cache", False)
    else:
        monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    before = jax.config.jax_compilation_cache_dir
    programs.keep(str(tmp_path / "ours"))
    assert jax.config.jax_compilation_cache_dir == before
    assert not (tmp_path / "ours").exists()


def test_what_the_environment_says_holds(as_users_start, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "-1")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 7)
    found = []
    monkeypatch.setattr(programs, "Kept", lambda folder, most: found.append(most) or Kept(folder, most=most))
    programs.keep(str(tmp_path))
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 7
    assert jax.config.jax_persistent_cache_min_entry_size_bytes == -1
    assert found == [math.inf]


def test_another_processor_has_another_folder(as_users_start, tmp_path, monkeypatch):
    for processor in ("one", "other"):
        start_anew()
        monkeypatch.setattr(programs, "_processor", lambda name=processor: name)
        programs.keep(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["programs-one", "programs-other"]
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in tmp_path.iterdir())
