"""train.py from end to end: every method runs, equal seeds give equal bits, and bad input is told in one sentence."""

import contextlib
import dataclasses
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.export
import numpy as np
import optax
import pytest
from fastai.callback import schedule as fastai_schedule
from flax import nnx

import jax_mix
import train
from training import data
from training.errors import UserError
from training.models import PreActResNet

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def first_run(data_dir, tmp_path_factory):
    """A short run of the defaults: its folder, model and metrics."""
    out = tmp_path_factory.mktemp("runs")
    return out, *train.run(train.Config(data_dir=data_dir, out=str(out), name="first", epochs=6, width=4, devices=1))


def test_the_defaults_learn(first_run):
    _, _, metrics = first_run
    assert metrics["accuracy"] > 0.8
    assert metrics["history"][-1]["loss"] < metrics["history"][0]["loss"]


def test_a_run_leaves_its_files(first_run):
    out, _, metrics = first_run
    names = sorted(path.name for path in (out / "first").iterdir())
    assert names == [
        "checkpoints",
        "config.json",
        "events.out.tfevents.000000001",
        "learning_curve.png",
        "metrics.json",
        "metrics.jsonl",
        "mixed_batch.png",
    ]
    assert json.loads((out / "first" / "metrics.json").read_text()) == metrics
    assert [record["epoch"] for record in metrics["history"]] == [1, 2, 3, 4, 5, 6]
    lines = (out / "first" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == metrics["history"]
    assert {name: metrics["history"][-1][name] for name in ("accuracy", "nll", "ece")}.items() <= metrics.items()
    config = json.loads((out / "first" / "config.json").read_text())
    assert (config["alpha"], config["layers"], config["epochs"]) == (0.4, ["layer1", "layer2"], 6)


def test_config_json_repeats_the_run_to_the_last_bit(first_run, tmp_path):
    out, model, metrics = first_run
    file = str(out / "first" / "config.json")
    again, metrics_again = train.run(
        train.parse(["--config", file, "--out", str(tmp_path), "--devices", "1"], train.Config)
    )
    assert metrics_again == metrics
    leaves, leaves_again = (jax.tree.leaves(nnx.to_pure_dict(nnx.state(m))) for m in (model, again))
    assert len(leaves) == len(leaves_again) > 20
    assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(leaves, leaves_again, strict=True))
    assert (tmp_path / "digits-manifold-0" / "metrics.json").read_bytes() == (
        out / "first" / "metrics.json"
    ).read_bytes()


SHORT = ["--epochs", "1", "--width", "4", "--batch-size", "256", "--devices", "1"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--mix", "none"], {"alpha": None, "layers": None}),
        (["--mix", "mixup"], {"alpha": 0.4, "layers": None}),
        (["--mix", "cutmix"], {"alpha": 1.0, "layers": None}),
        (
            ["--mix", "manifold", "--alpha", "2", "--layers", "layer*"],
            {"alpha": 2.0, "layers": ["layer1", "layer2", "layer3"]},
        ),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_each_method_runs(arguments, expected, data_dir, tmp_path, capsys):
    assert train.main([*SHORT, *arguments, "--data-dir", data_dir, "--out", str(tmp_path), "--seed", "7"]) == 0
    folder = tmp_path / f"digits-{arguments[1]}-7"
    config = json.loads((folder / "config.json").read_text())
    assert expected.items() <= config.items()
    assert np.isfinite(json.loads((folder / "metrics.json").read_text())["nll"])
    output = capsys.readouterr().out
    assert "1437 training and 360 test images of 8x8x1, 10 classes" in output
    assert "test accuracy" in output
    assert str(folder) in output


BAD_INPUT = {
    "alpha 0": (["--alpha", "0"], ["--alpha", "positive", "0.0", "--mix none"]),
    "alpha negative": (["--alpha", "-0.4", "--mix", "cutmix"], ["--alpha", "positive", "-0.4"]),
    "alpha nan": (["--alpha", "nan"], ["--alpha", "finite", "nan"]),
    "alpha infinite": (["--alpha", "inf"], ["--alpha", "finite", "inf"]),
    "alpha without mixing": (["--mix", "none", "--alpha", "1"], ["--alpha is 1.0", "--mix none"]),
    "layers without manifold": (["--mix", "cutmix", "--layers", "stem"], ["--layers", "--mix manifold", "cutmix"]),
    "layer unknown": (
        ["--layers", "stem", "layr1", "--width", "4"],
        ["--layers", "'layr1'", "did you mean 'layer1'", "'stem'"],
    ),
    "epochs 0": (["--epochs", "0"], ["--epochs", "at least 1", "0"]),
    "batch size 0": (["--batch-size", "0"], ["--batch-size", "at least 1", "0"]),
    "batch size above the set": (["--batch-size", "1440"], ["--batch-size", "at most 1437", "1440"]),
    "checkpoint every 0": (["--checkpoint-every", "0"], ["--checkpoint-every", "at least 1", "0"]),
    "nothing to resume": (["--resume", "--width", "4"], ["--resume: there is no checkpoint in"]),
    "width 0": (["--width", "0"], ["--width", "at least 1"]),
    "learning rate 0": (["--learning-rate", "0"], ["--learning-rate", "positive", "0.0"]),
    "alpha end 0": (["--alpha-end", "0"], ["--alpha-end", "positive", "0.0"]),
    "alpha end without mixing": (["--mix", "none", "--alpha-end", "1"], ["--alpha-end is 1.0", "--mix none"]),
    "groups without mixing": (["--mix", "none", "--mix-groups", "2"], ["--mix-groups is 2", "--mix none"]),
    "groups": (["--mix-groups", "7"], ["--mix-groups must divide the 64 images", "7"]),
    "groups of a part": (["--mix-groups", "64", "--accumulate", "2"], ["--mix-groups must divide the 32 images", "64"]),
    "groups 0": (["--mix-groups", "0"], ["--mix-groups", "at least 1", "0"]),
    "unmixed epochs": (["--mix-off-epochs", "21"], ["--mix-off-epochs", "from 0 to --epochs 20", "21"]),
    "accumulate 0": (["--accumulate", "0"], ["--accumulate", "at least 1", "0"]),
    "accumulate": (["--accumulate", "3"], ["--accumulate must divide --batch-size 64", "3"]),
    "label smoothing 1": (["--label-smoothing", "1"], ["--label-smoothing", "less than 1", "1.0"]),
    "ema 1": (["--ema", "1"], ["--ema", "between 0 and 1", "1.0"]),
    "devices 0": (["--devices", "0"], ["--devices", "at least 1", "0"]),
    "more devices than there are": (["--devices", "9"], ["--devices", "at most 8", "9"]),
    "a batch that devices cannot share": (
        ["--devices", "3"],
        ["--batch-size must be a multiple of 3, the 3 devices", "got 64", "fewer --devices"],
    ),
    "a part that devices cannot share": (["--accumulate", "16"], ["multiple of 128", "--accumulate 16", "got 64"]),
    "processes without coordinator": (["--num-processes", "2"], ["--num-processes is 2", "--coordinator is None"]),
    "coordinator without port": (["--coordinator", "host"], ["--coordinator", "host:port or auto", "'host'"]),
    "coordinator alone": (["--coordinator", "host:1"], ["--num-processes must be given"]),
    "no process": (
        ["--coordinator", "host:1", "--num-processes", "2", "--process-id", "2"],
        ["--process-id", "from 0 to 1", "2"],
    ),
    "no cluster": (["--coordinator", "auto"], ["--coordinator auto", "could not be joined"]),
    "config not there": (["--config", "no.json"], ["--config", "'no.json'", "No such file"]),
    "config of a list": (["--config", "LIST"], ["--config", "is not the config.json of a run"]),
    "milestones beyond the run": (
        ["--schedule", "step", "--milestones", "0.5", "1.5"],
        ["--milestones", "between 0 and 1", "(0.5, 1.5)"],
    ),
    "milestones without step": (["--milestones", "0.3"], ["--milestones", "--schedule step", "one_cycle"]),
    "weight decay negative": (["--weight-decay", "-1"], ["--weight-decay", "0 or positive", "-1.0"]),
    "seed negative": (["--seed", "-1"], ["--seed", "from 0 to 4294967295", "-1"]),
    "data set misspelt": (["--dataset", "fashion_mnst"], ["--dataset 'fashion_mnst'", "did you mean 'fashion_mnist'"]),
    "data set not a name": (["--dataset", "a/../digits"], ["--dataset 'a/../digits'", "neither known to TFDS nor in"]),
    "folder not there": (["--dataset", "../photos"], ["--dataset ../photos: there is no such folder"]),
    "image size 0": (["--image-size", "0"], ["--image-size", "from 1 to 4096", "0"]),
    "test fraction": (["--test-fraction", "1"], ["--test-fraction", "between 0 and 1", "1.0"]),
    "workers negative": (["--workers", "-1"], ["--workers", "from 0 to", "-1"]),
    "images of a giant": (["--image-size", "100000"], ["--image-size", "from 1 to 4096", "100000"]),
    "groups of one": (["--mix-groups", "64"], ["--mix-groups", "two images or more", "64"]),
    "workers without number": (["--workers", "100000"], ["--workers", "four a core", "100000"]),
    "workers for the device": (["--workers", "2", "--feed", "device"], ["--workers is 2", "--feed device"]),
    "model misspelt": (["--model", "resnet19"], ["--model 'resnet19'", "did you mean 'resnet18'"]),
    "width of a model that has none": (["--model", "mlp", "--width", "8"], ["--width is 8", "--model mlp"]),
    "more images than there are": (["--train-images", "1438"], ["--train-images", "at most 1437", "1438"]),
    "no images": (["--train-images", "0"], ["--train-images", "at least 1", "0"]),
    "label noise": (["--label-noise", "1.5"], ["--label-noise", "from 0 to 1", "1.5"]),
    "compared method misspelt": (["compare", "--methods", "manifld"], ["--methods", "did you mean 'manifold'"]),
    "compared method's alpha": (["compare", "--methods", "mixup:a"], ["--methods: 'mixup:a'", "mixup:0.4"]),
    "compared method's alpha 0": (["compare", "--methods", "none", "mixup:0"], ["--alpha", "positive", "0.0"]),
    "alpha of no mixing": (["compare", "--methods", "none:1"], ["--methods: 'none:1'", "without an alpha"]),
    "a method twice": (["compare", "--methods", "none", "none"], ["--methods", "differ", "('none', 'none')"]),
    "no method": (["compare", "--methods"], ["--methods", "at least one"]),
    "seeds 0": (["compare", "--seeds", "0"], ["--seeds", "from 1 to 1000", "0"]),
    "attacked 0": (["compare", "--attacked", "0"], ["--attacked", "at least 1", "0"]),
    "noise level": (["compare", "--noise-levels", "0.2", "20"], ["--noise-levels", "at most 1", "20.0"]),
    "radius": (["compare", "--radii", "0"], ["--radii", "above 0", "0.0"]),
    "compared batch": (["compare", "--batch-size", "1440"], ["--batch-size", "at most 1437", "1440"]),
    "compared layers": (["compare", "--layers", "layr1"], ["--layers", "did you mean 'layer1'"]),
    "compared width": (["compare", "--width", "0"], ["--width", "at least 1", "0"]),
    "data set not there": (
        ["--dataset", "cifar10"],
        ["--dataset cifar10 is not prepared in", "--data-dir", "tfds build cifar10 --file_format=array_record"],
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_told_in_one_sentence(case, data_dir, tmp_path, capsys):
    arguments, fragments = BAD_INPUT[case]
    if arguments == ["--config", "LIST"]:
        arguments = ["--config", str(tmp_path / "list.json")]
        (tmp_path / "list.json").write_text("[1]")
    command, arguments = (arguments[:1], arguments[1:]) if arguments[0] == "compare" else ([], arguments)
    assert train.main([*command, "--data-dir", data_dir, "--out", str(tmp_path / "runs"), *arguments]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("train.py: ")
    assert all(fragment in told for fragment in fragments), told
    assert not (tmp_path / "runs").exists()  # nothing is left behind


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(first_run, data_dir, tmp_path, capsys, monkeypatch):
    out, _, _ = first_run
    arguments = ["--data-dir", data_dir, "--epochs", "6", "--width", "4", "--out", str(tmp_path), "--name", "first"]
    arguments += ["--devices", "1"]
    step = train.pure_step
    calls = []

    def stopped(*args):
        calls.append(args)
        if len(calls) == 40:  # within the second epoch
            signal.raise_signal(signal.SIGTERM)
        return step(*args)

    monkeypatch.setattr(train, "pure_step", stopped)
    assert train.main(arguments) == 128 + signal.SIGTERM
    assert capsys.readouterr().err.endswith("train.py: stopped at step 40 by SIGTERM; continue with --resume.\n")
    assert not (tmp_path / "first" / "metrics.json").exists()

    assert train.main(arguments) == 2
    assert "has the checkpoint of step 40 of a run that is not finished" in capsys.readouterr().err
    assert train.main([*arguments, "--resume", "--seed", "1", "--alpha", "0.2"]) == 2
    assert "made with --alpha 0.4, --seed 0; now they are 0.2 and 1." in capsys.readouterr().err

    def results():
        return [(folder / "first" / "metrics.json").read_bytes() for folder in (out, tmp_path)]

    assert train.main([*arguments, "--resume"]) == 0
    steps = 6 * (1437 // 64)
    assert len(calls) == steps  # none was done twice
    first, resumed = results()
    assert resumed == first
    (tmp_path / "first" / "metrics.json").unlink()
    assert train.main([*arguments, "--resume"]) == 0
    assert "the run is finished: its results are written again" in capsys.readouterr().out
    first, again = results()
    assert (again, len(calls)) == (first, steps)
    config = [json.loads((folder / "first" / "config.json").read_text()) for folder in (out, tmp_path)]
    assert config[0] | {"out": ""} == config[1] | {"out": ""}
    assert config[0]["name"] is None  # repeated with other flags, it replaces nothing of that name

    del calls[:-39]  # now the next call is the fortieth
    assert train.main(arguments) == 128 + signal.SIGTERM  # a finished run is replaced
    assert [path.name for path in (tmp_path / "first" / "checkpoints").iterdir()] == ["1"]


@pytest.mark.parametrize("every", ["1", "5"])
def test_a_step_that_fails_leaves_its_draw_and_no_checkpoint(every, data_dir, digits, tmp_path, capsys):
    arguments = ["--learning-rate", "1e30", "--data-dir", data_dir, "--out", str(tmp_path), "--name", "high"]
    assert train.main([*SHORT, *arguments, "--checkpoint-every", every]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    what, step = {"1": ("the model became infinite or nan", 2), "5": ("the loss became nan", 3)}[every]
    path = tmp_path / "high" / "failed_step.npz"
    assert told == (
        f"train.py: --learning-rate 1e+30 is too high: {what} in step {step}; its images and draw are in '{path}', "
        "checkpoints are kept."
    )
    assert [folder.name for folder in (tmp_path / "high").glob("checkpoints/*")] == (["1"] if every == "1" else [])

    failed = dict(np.load(path))
    index = failed.pop("index")
    assert failed.pop("step") == step
    order_key, step_key = train.split_seed(train.Config())[1:3]
    np.testing.assert_array_equal(index, data.epoch_batches(order_key, 1, 1437, 256)[step - 1])
    key = jax.random.fold_in(step_key, step - 1)
    np.testing.assert_array_equal(failed.pop("key"), jax.random.key_data(key))
    mix = jax_mix.Mix(**failed)  # to be replayed
    expected = METHODS["manifold"].sample(jax.random.split(key)[1], (256, 8, 8, 1))
    np.testing.assert_allclose(mix.lam, expected.lam, rtol=1e-6)
    np.testing.assert_array_equal(mix.partner, expected.partner)
    assert int(mix.layer) == int(expected.layer)
    assert mix.layers.tolist() == ["input", "layer1", "layer2"]


def test_other_images_or_labels_are_not_gone_on_with(data_dir, tmp_path, digits, capsys, monkeypatch):
    flags = [*SHORT, "--data-dir", data_dir, "--out", str(tmp_path), "--name", "other", "--devices", "1"]
    assert train.main(flags) == 0
    label = np.array(digits.train.label)
    label[[0, 1]] = label[[1, 0]]
    assert label[0] != label[1]
    other = dataclasses.replace(digits, train=digits.train._replace(label=label))
    monkeypatch.setattr(data, "load", lambda *_, **__: other)
    assert train.main([*flags, "--resume"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"made with --dataset digits (1437 images, {digits.fingerprint}); now it is digits (1437 images, " in told


def test_ctrl_c_before_training_ends_without_a_traceback(data_dir, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "load", interrupted)
    assert train.main([*SHORT, "--data-dir", data_dir, "--out", str(tmp_path)]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "train.py: stopped by SIGINT, outside of training.\n"


def test_a_folder_that_cannot_be_written_is_found_before_the_data_is_read(data_dir, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(data, "load", lambda *_: pytest.fail("the data was read"))
    assert train.main(["--data-dir", data_dir, "--out", str(tmp_path / "file")]) == 2
    assert "--out: cannot write to the folder" in capsys.readouterr().err


def test_a_data_folder_that_cannot_be_written_is_told(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert train.main(["--data-dir", str(tmp_path / "file"), "--out", str(tmp_path)]) == 2
    assert "--data-dir: cannot prepare the digits" in capsys.readouterr().err


def test_a_data_set_is_looked_for_without_the_network(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    assert train.main(["--dataset", "cifar10", "--data-dir", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "cifar10 is not prepared" in capsys.readouterr().err


def test_help_explains_every_field(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        train.main(["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for field in train.Config.__dataclass_fields__:
        flag = f"--{field.replace('_', '-')} "
        assert flag in text
        assert not text.split(flag)[1].split(" ", 1)[1].startswith("(default"), f"{flag} has no help"
    assert "handwritten digits with Manifold Mixup" in text


def test_importing_brings_in_no_other_framework():
    code = "import sys, train; print([m for m in ('torch', 'tensorflow', 'fastai') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


METHODS = {
    "none": None,
    "mixup": jax_mix.MixUp(),
    "manifold": jax_mix.ManifoldMixup(layers=("layer1", "layer2")),
    "cutmix": jax_mix.CutMix(),
}


train_step = nnx.jit(train.train_step, static_argnames="recipe")


def small_resnet():
    return PreActResNet(1, 10, blocks=(1, 1), width=4, rngs=nnx.Rngs(0))


def batch_of(digits, n=16):
    return data.Examples(*(array[:n] for array in digits.train))


@pytest.mark.parametrize("name", METHODS)
def test_the_step_exports_for_cpu_gpu_and_tpu(name, digits):
    learner = train.make_learner(train.Config(), small_resnet(), 10)
    graphdef, state = nnx.split(learner)
    recipe = train.Recipe(METHODS[name])

    def step(state, key, batch):
        return train.pure_step(graphdef, state, key, batch, digits.normalize, recipe)

    arguments = state, jax.random.key(0), batch_of(digits)
    exported = jax.export.export(jax.jit(step), platforms=["cpu", "cuda", "tpu"])(*arguments)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    new_state, loss = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    assert (loss.shape, loss.dtype) == ((), np.float32)
    assert [a.shape for a in jax.tree.leaves(new_state)] == [a.shape for a in jax.tree.leaves(state)]


def by_hand(model, batch, key, method, smoothing=0.0, normalize=None):
    """The loss and gradients of one batch from the library's parts; the model's BatchNorm sees the batch."""
    shift_key, key = jax.random.split(key)
    image = normalize(data.random_shift(shift_key, batch.image))
    mix = method.sample(key, image.shape)
    target = optax.smooth_labels(mix.targets(jax.nn.one_hot(batch.label, 10)), smoothing)

    @nnx.jit
    def step(model, image):
        def loss(model):
            return optax.softmax_cross_entropy(model(image), target).mean()

        return nnx.value_and_grad(loss)(model)

    return step(model, mix.blend(image))


def test_the_step_is_the_formula(digits):
    """One step's loss against the library's parts put together by hand; and the model moves."""
    method, batch = METHODS["mixup"], batch_of(digits)
    model = small_resnet()
    copy, initial = nnx.clone(model), nnx.clone(model)
    learner = train.make_learner(train.Config(), model, 10)
    recipe = train.Recipe(method, label_smoothing=0.2)
    loss = train_step(learner, jax.random.key(3), batch, digits.normalize, recipe)

    expected, _ = by_hand(copy, batch, jax.random.key(3), method, 0.2, digits.normalize)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert not np.array_equal(model.stem.kernel[...], initial.stem.kernel[...])
    np.testing.assert_allclose(model.norm.mean[...], copy.norm.mean[...], rtol=1e-4)  # BatchNorm saw the mixed batch
    assert not np.array_equal(model.norm.mean[...], np.zeros(8))


def test_accumulated_gradients_are_the_mean_over_the_parts(digits):
    """Every other image is a batch of its own, with a draw of its own."""
    method, batch = METHODS["mixup"], batch_of(digits)
    model = small_resnet()
    copy = nnx.clone(model)
    config = train.Config(optimizer="sgd", schedule="constant", learning_rate=1.0, weight_decay=0.0)
    learner = train.make_learner(config, model, 10)
    loss = train_step(learner, jax.random.key(3), batch, digits.normalize, train.Recipe(method, accumulate=2))

    before = np.asarray(copy.stem.kernel[...])
    losses, grads = [], []
    for i, key in enumerate(jax.random.split(jax.random.key(3), 2)):
        part = data.Examples(*(array[i::2] for array in batch))
        part_loss, part_grads = by_hand(copy, part, key, method, normalize=digits.normalize)
        losses.append(part_loss)
        grads.append(part_grads.stem.kernel[...])
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(before - model.stem.kernel[...], np.mean(grads, 0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(model.norm.mean[...], copy.norm.mean[...], rtol=1e-4)  # moved twice


def test_averaged_weights_are_evaluated(digits):
    model = small_resnet()
    learner = train.make_learner(train.Config(ema=0.5), model, 10)
    expected = {"kernel": np.asarray(model.head.kernel[...]), "mean": np.asarray(model.norm.mean[...])}
    for step in range(1, 13):
        train_step(learner, jax.random.key(step), batch_of(digits), digits.normalize, train.Recipe(ema=0.5))
        kept = min(0.5, (1 + step) / (10 + step))
        for name, value in {"kernel": model.head.kernel, "mean": model.norm.mean}.items():
            expected[name] = kept * expected[name] + (1 - kept) * np.asarray(value[...])
    assert learner.evaluated is learner.average
    np.testing.assert_allclose(learner.average.head.kernel[...], expected["kernel"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(learner.average.norm.mean[...], expected["mean"], rtol=1e-5, atol=1e-7)
    assert not np.allclose(learner.average.head.kernel[...], model.head.kernel[...], rtol=1e-3)


OWN = """
from flax import nnx

class Sows(nnx.Module):
    def __init__(self, num_classes, *, image_size, rngs):
        self.block = nnx.Linear(image_size[0] * image_size[1], 8, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(8, num_classes, rngs=rngs)

    def __call__(self, image):
        hidden = nnx.relu(self.block(image.reshape(image.shape[0], -1)))
        self.sow(nnx.Intermediate, "hidden", hidden)
        return self.head(self.dropout(hidden))
"""


@pytest.fixture
def own(tmp_path):
    """What `--model` takes for a class of OWN, after its source is changed."""

    def model(name, old="", new=""):
        (tmp_path / "own.py").write_text(OWN.replace(old, new))
        return f"{tmp_path / 'own.py'}:{name}"

    return model


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")  # Flax would have it in nnx.capture
@pytest.mark.parametrize("flags", [{}, {"ema": 0.9, "accumulate": 2}])
def test_a_model_that_sows_has_one_program(flags, own, digits):
    config = train.Config(model=own("Sows"), layers=("block",), epochs=2, devices=1, **flags)
    before = train.pure_step._cache_size()
    model, _, _ = train.train(config, data.take(digits, 256))
    assert train.pure_step._cache_size() == before + 1
    assert not jax.tree.leaves(nnx.state(model, nnx.Intermediate))  # of the evaluation neither


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
@pytest.mark.parametrize("flags", [{}, {"ema": 0.9, "accumulate": 2}])
def test_a_model_that_adds_variables_is_told(flags, own, digits):
    config = train.Config(
        model=own("Sows", "self.sow(nnx.Intermediate", "self.sow(nnx.Cache"), layers=("block",), **flags
    )
    with pytest.raises(UserError, match=r"^--model: its forward pass adds Variables: make them before"):
        train.train(config, digits)


def test_a_step_writes_over_the_old_state(digits):
    """So that weights and momentum are in memory once."""
    graphdef, state = nnx.split(train.make_learner(train.Config(), small_resnet(), 10))
    new, _ = train.pure_step(graphdef, state, jax.random.key(0), batch_of(digits), digits.normalize, train.Recipe())
    assert all(array.is_deleted() for array in jax.tree.leaves(state) if array.ndim > 0)
    assert jax.tree.structure(new) == jax.tree.structure(state)


def test_alpha_changes_as_fastais_cosine():
    recipe = train.Recipe(jax_mix.MixUp(0.2), alpha_end=1.0, steps=10)
    assert train.Recipe(recipe.method).method_at(5) is recipe.method
    for step in range(10):
        alpha = recipe.method_at(np.int32(step)).alpha
        np.testing.assert_allclose(alpha, fastai_schedule.SchedCos(0.2, 1.0)(step / 10), rtol=1e-6)
    draws = [jax.jit(lambda i: recipe.method_at(i).sample(jax.random.key(0), (1000,)).lam)(i) for i in (0, 9)]
    assert np.mean(draws[0]) > 1.1 * np.mean(draws[1])  # a small alpha mixes less


def test_the_last_epochs_are_not_mixed(data_dir, digits):
    """Up to there the runs are equal; in the last epoch training loss falls below that of mixed batches."""
    config = train.Config(mix="mixup", alpha=8.0, epochs=2, width=4, devices=1)
    mixed, off = (train.train(dataclasses.replace(config, mix_off_epochs=epochs), digits)[-1] for epochs in (0, 1))
    assert mixed[0] == off[0]
    assert off[1]["loss"] < 0.95 * mixed[1]["loss"]


@pytest.mark.long
def test_a_run_that_is_killed_twenty_times_leaves_the_same_bytes(data_dir, tmp_path):
    """SIGKILL to train.py itself at random moments, also while it starts, compiles, saves or writes its results."""

    def start(name):
        flags = ["--data-dir", data_dir, "--out", str(tmp_path), "--name", name, "--epochs", "30", "--width", "4"]
        flags += ["--checkpoint-every", "5", "--ema", "0.9", "--feed", "grain"]
        flags += ["--resume"] if any((tmp_path / name / "checkpoints").glob("[0-9]*[0-9]")) else []
        return subprocess.Popen([sys.executable, "train.py", *flags], cwd=ROOT, stderr=subprocess.PIPE, text=True)

    def finish(name):
        _, told = (process := start(name)).communicate()
        assert process.returncode == 0, told
        return [(tmp_path / name / file).read_bytes() for file in ("metrics.json", "metrics.jsonl")]

    rng = random.Random(0)
    for _ in range(20):
        process = start("killed")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=rng.uniform(1, 25))
        process.kill()
        process.wait()
    assert finish("killed") == finish("unbroken")
