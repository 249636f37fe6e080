"""jax_mix/training/run.py: where a run's results go, and that none is replaced unasked."""

import json
import math
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest

import train
from jax_mix.training.command_line import parse
from jax_mix.training.config import Config
from jax_mix.training.confusion import summary
from jax_mix.training.errors import UserError
from jax_mix.training.files import locked, write_json, write_jsonl
from jax_mix.training.run import choose_folder, locked_run, metrics_of, write_config

ROOT = Path(__file__).parents[2]


def leave(folder, *names):
    """What a run left: config.json, metrics.json when it was finished, a checkpoint."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.startswith("checkpoints/") else path.write_text("{}")


FINISHED = ("config.json", "metrics.json", "checkpoints/440")
BEGUN = ("config.json", "checkpoints/22")


def test_a_finished_run_keeps_its_folder_and_the_next_has_a_number(tmp_path):
    config = Config(out=str(tmp_path))
    first, second, third = (tmp_path / f"digits-manifold-0{end}" for end in ("", "-2", "-3"))
    assert choose_folder(config) == first
    leave(first, *FINISHED)
    assert choose_folder(config) == second
    assert choose_folder(Config(out=str(tmp_path), seed=1)) == tmp_path / "digits-manifold-1"
    leave(second, *FINISHED)
    assert choose_folder(config) == third
    assert choose_folder(Config(out=str(tmp_path), resume=True)) == second
    assert choose_folder(Config(out=str(tmp_path), overwrite=True)) == second


def test_a_run_that_has_begun_keeps_its_folder(tmp_path):
    """It is refused if it has a checkpoint, or gone on with; without one there is nothing to lose."""
    leave(tmp_path / "digits-manifold-0", *FINISHED)
    folder = tmp_path / "digits-manifold-0-2"
    for left in (BEGUN, BEGUN[:1], ("checkpoints/22",)):
        leave(folder, *left)
        for flags in ({"resume": True}, {"overwrite": True}, *([] if left[-1] == "checkpoints/22" else [{}])):
            assert choose_folder(Config(out=str(tmp_path), **flags)) == folder
        subprocess.run(["rm", "-r", folder], check=True)
    leave(folder, *BEGUN)
    for name, before, other in ((None, "", "a"), (folder.name, "--name: ", "another")):
        with pytest.raises(UserError) as error:
            choose_folder(Config(out=str(tmp_path), name=name))
        assert str(error.value) == (
            f"{before}'{folder}' has the checkpoint of step 22 of a run that is not finished: with --resume {folder} "
            f"it goes on, with --overwrite it is replaced; or give this one {other} --name."
        )


def test_a_name_is_that_of_one_run(tmp_path):
    leave(tmp_path / "mine", *FINISHED)
    with pytest.raises(UserError, match=r"--name: '.*mine' holds a finished run: give .* replace it with --overwrite"):
        choose_folder(Config(out=str(tmp_path), name="mine"))
    for flags in ({"resume": True}, {"overwrite": True}):
        assert choose_folder(Config(out=str(tmp_path), name="mine", **flags)) == tmp_path / "mine"
    with pytest.raises(UserError, match=r"^--resume: there is no checkpoint in '.*other/checkpoints'\.$"):
        choose_folder(Config(out=str(tmp_path), name="other", resume=True))
    with pytest.raises(UserError, match="--resume goes on with a run, --overwrite replaces it"):
        Config(resume=True, overwrite=True)


def test_the_folder_of_a_run_is_all_that_resume_needs(tmp_path):
    used = Config(mix="mixup", alpha=0.3, epochs=7, milestones=(0.5,), schedule="step", out=str(tmp_path), devices=2)
    write_config(tmp_path / "some run", used, anew=True)
    for given in (tmp_path / "some run", f"{tmp_path}/some run/"):
        config = parse(["--resume", str(given)], Config)
        assert (config.resume, config.name, config.devices) == (True, "some run", None)
        assert (config.mix, config.alpha, config.epochs, config.milestones) == ("mixup", 0.3, 7, (0.5,))
        assert choose_folder(config) == tmp_path / "some run"
    assert parse(["--resume", str(given), "--checkpoint-every", "5"], Config).checkpoint_every == 5
    for twice in (["--resume", str(given), "--resume"], ["--resume", "--resume", str(given)]):
        assert parse(twice, Config) == config
    with pytest.raises(UserError, match=r"^--resume is given a and b: one run at a time\.$"):
        parse(["--resume", "a", "--resume", "b"], Config)
    assert parse(["--resume", "--epochs", "7"], Config) == Config(resume=True, epochs=7)
    assert parse(["--epochs", "7", "--resume"], Config) == Config(resume=True, epochs=7)
    with pytest.raises(
        UserError, match=r"^--resume: there is no run in 'no/such': a run's folder has a config\.json\."
    ):
        parse(["--resume", "no/such"], Config)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"optimizer": "scgd"}', "has 'scgd' for --optimizer, which it cannot be."),
        ('{"epochs": "two"}', "has 'two' for --epochs, which it cannot be."),
        ('{"epoch": 2}', "'--epoch' is not a flag: did you mean --epochs"),
        ('{"epochs": 2', "cannot be read as the config.json of a run"),
        ("", "cannot be read as the config.json of a run"),
        ("[]", "is not the config.json of a run."),
    ],
)
def test_a_damaged_config_is_told_with_its_run(text, told, tmp_path, capsys):
    (tmp_path / "config.json").write_text(text)
    assert train.main(["--resume", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"train.py: --resume: '{tmp_path}'")
    assert told in line


def test_a_run_from_its_own_folder(tmp_path, monkeypatch):
    write_config(tmp_path / "here", Config(epochs=7), anew=True)
    monkeypatch.chdir(tmp_path / "here")
    config = parse(["--resume", "."], Config)
    assert choose_folder(config) == tmp_path / "here"


def test_overwriting_removes_what_the_earlier_run_left(tmp_path):
    leave(tmp_path, *FINISHED, "failed_step.npz", "mixed_batch.png", "notes.txt")
    write_config(tmp_path, Config(), anew=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "config.json", "notes.txt"]


def test_what_killed_processes_were_writing_goes(tmp_path):
    for name in (".metrics.4711.json", ".learning_curve.12.png", ".hidden", ".my.notes", "a.1.json"):
        (tmp_path / name).write_text("")
    write_config(tmp_path, Config())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", ".my.notes", "a.1.json", "config.json"]


def test_a_home_folder_is_found_wherever_it_is_written(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert choose_folder(Config(out="~/runs")) == tmp_path / "runs" / "digits-manifold-0"
    assert choose_folder(Config(out="~nobody-at-all/runs")).parts[0] == "~nobody-at-all"


def standard(text):
    """The value of a JSON text, read by a parser that knows no NaN."""

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_what_is_written_is_standard_json(tmp_path):
    value = {"nan": math.nan, "interval": (-math.inf, 0.5), "nested": [{"inf": math.inf}], "n": 1, "none": None}
    expected = {"nan": None, "interval": [None, 0.5], "nested": [{"inf": None}], "n": 1, "none": None}
    write_json(tmp_path / "a.json", value)
    assert standard((tmp_path / "a.json").read_text()) == expected
    write_jsonl(tmp_path / "a.jsonl", [value, value])
    assert [standard(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [expected] * 2


HOLDS = "import sys; from pathlib import Path; from jax_mix.training.files import locked\n"
HOLDS += "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


@pytest.mark.parametrize("command", [[], ["compare"]])
def test_a_folder_is_one_runs_until_its_process_ends(command, data_dir, tmp_path, capsys):
    """Also if that is killed; and what another has finished meanwhile is not replaced."""
    with subprocess.Popen([sys.executable, "-c", HOLDS, tmp_path / "it"], cwd=ROOT, stdin=PIPE, stdout=PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        flags = ["--data-dir", data_dir, "--out", str(tmp_path), "--name", "it", "--devices", "1"]
        assert train.main([*command, *flags]) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith(f"train.py: another process is at work in '{tmp_path / 'it'}': wait for its end")
        other.kill()
    with locked(tmp_path / "it"):
        assert [path.name for path in tmp_path.iterdir()] == ["it"]
        assert not list((tmp_path / "it").iterdir())


def test_what_another_process_finished_meanwhile_stays(tmp_path):
    config = Config(out=str(tmp_path))
    folder = choose_folder(config)
    leave(folder, *FINISHED)
    told = r"^another process has just finished its run in '.*': start this one again\.$"
    with pytest.raises(UserError, match=told), locked_run(folder, config):
        pytest.fail("it was given")
    with locked(folder):  # what was refused holds nothing
        pass


def test_metrics_are_of_the_last_epoch_and_have_the_history():
    history = [{"epoch": k, "step": k, "loss": 2.0, "accuracy": k / 4, "nll": k + 1.0, "ece": k / 8} for k in (1, 3, 2)]
    metrics = metrics_of(history, summary(np.array([[3, 1], [2, 0]]), ("cat", "dog")))
    per_class = [{"class": "cat", "images": 4, "accuracy": 0.75}, {"class": "dog", "images": 2, "accuracy": 0.0}]
    of_classes = {"largest_class": {"class": "cat", "share": 4 / 6}, "per_class": per_class}
    assert metrics == {"accuracy": 0.5, "nll": 3.0, "ece": 0.25, **of_classes, "history": history}
