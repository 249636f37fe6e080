"""--weights, --normalize, --freeze-epochs, --body-rate: what a run starts from, and how it learns; without PyTorch."""

import dataclasses
import importlib
import json
import re
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

import train
from jax_mix.training import data, load_run, loop, models, optimizers, weights
from jax_mix.training.build import load, make_learner, prepare, resolve
from jax_mix.training.config import Config
from jax_mix.training.errors import Stopped, UserError
from jax_mix.training.models.torch_names import twin, variables
from jax_mix.training.run import choose_folder
from parity_tests.training.given_runs import given_run, random_set

SHAPE = (32, 32, 3)
VIT = "vit_small_patch16_224"


def abstract(name, classes=7, shape=SHAPE):
    """A network without numbers."""
    arguments = {"in_channels": shape[2], "num_classes": classes, "image_size": shape[:2]}
    return nnx.eval_shape(lambda: models.make(name, **arguments, rngs=nnx.Rngs(0)))


def arrays_of(name, classes=7):
    """Zeros by the twin's names, in float16 to be small."""
    found = twin(name, in_channels=3, num_classes=classes, image_size=SHAPE[:2], width=None)
    model = abstract(name, classes)
    for variable in variables(model).values():
        variable.set_value(np.zeros(variable.shape, np.float16))
    own = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    nnx.update(model, jax.tree.map(lambda a: np.zeros(a.shape, np.float16), own))
    return found.weights(model)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A file with a resnet18 of seven classes, and its arrays."""
    arrays = arrays_of("resnet18")
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    safetensors.numpy.save_file(arrays, path)
    return path, arrays


def start(path, model, name="resnet18", classes=7, shape=SHAPE):
    names = tuple(f"class {i}" for i in range(classes))
    return weights.start_from(str(path), model, name, image_shape=shape, class_names=names, width=None)


def saved(tmp_path, arrays, name="other.safetensors", **metadata):
    path = tmp_path / name
    safetensors.numpy.save_file(arrays, path, metadata or None)
    return path


def about(class_names, image_shape=SHAPE):
    """What train.py export writes beside weights."""
    values = {"class_names": class_names, "image_shape": image_shape, "mean": [1.0] * 3, "std": [2.0] * 3}
    return {name: json.dumps(value) for name, value in values.items()}


def renamed(arrays, old, new):
    return {name.replace(old, new): array for name, array in arrays.items()}


MISFITS = {
    "missing and left over": (
        lambda a: renamed(a, "layer1.0.conv1", "layer1.0.convA"),
        "there is no layer1.0.conv1.weight (nearest there: layer1.0.convA.weight); "
        "the network has no layer1.0.convA.weight.",
    ),
    "missing alone": (
        lambda a: {n: v for n, v in a.items() if "layer4" not in n},
        "there is no layer4.0.bn1.bias, layer4.0.bn1.running_mean, layer4.0.bn1.weight and 22 more.",
    ),
    "left over alone": (lambda a: a | {"fc2.weight": a["fc.weight"]}, "the network has no fc2.weight."),
    "another shape": (
        lambda a: a | {"conv1.weight": np.zeros((64, 3, 5, 7), np.float16)},
        "of another shape conv1.weight is [64, 3, 5, 7] there and [64, 3, 7, 7] here.",
    ),
    "a head of other features": (
        lambda a: a | {"fc.weight": np.zeros((7, 100), np.float16)},
        "of another shape fc.weight is [7, 100] there and [7, 512] here.",
    ),
    "whole numbers": (
        lambda a: a | {"bn1.bias": np.zeros(64, np.int8)},
        "bn1.bias in '{path}' is of int8, not of float32.",
    ),
    "nan": (
        lambda a: a | {"bn1.bias": np.full(64, np.nan, np.float16)},
        "bn1.bias in '{path}' has numbers that are infinite or nan.",
    ),
    "a variance below 0": (
        lambda a: a | {"bn1.running_var": np.full(64, -0.5, np.float16)},
        "bn1.running_var in '{path}' is a variance, and has numbers below 0.",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_named(case, resnet, tmp_path):
    change, told = MISFITS[case]
    path = saved(tmp_path, change(resnet[1]))
    with pytest.raises(UserError) as caught:
        start(path, abstract("resnet18"))
    message = str(caught.value)
    assert message.startswith("--weights: ")
    assert message.endswith(told.format(path=path)), message
    assert len(message.splitlines()) == 1


def test_what_is_no_weights_is_told(resnet, tmp_path, monkeypatch):
    (tmp_path / "damaged.safetensors").write_bytes(b"123456789")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "file.pth").write_bytes(b"")
    (tmp_path / "link.pth").symlink_to("gone.pth")
    import_module = importlib.import_module

    def without_torch(name, *others):
        if name == "torch":
            raise ModuleNotFoundError(name)
        return import_module(name, *others)

    monkeypatch.setattr(importlib, "import_module", without_torch)
    cases = {
        tmp_path / "damagd.safetensors": f"there is no file or folder .* did you mean '{tmp_path}/damaged.safetensors'",
        tmp_path / "none" / "here.pt": r"there is no file or folder '.*here\.pt'\.$",
        tmp_path / "damaged.safetensors": "cannot be read as weights \\(SafetensorError: ",
        tmp_path / "notes.txt": r"must be a \.safetensors, a file of PyTorch, \.pt .*, or a run's folder",
        tmp_path / "file.pth": "is a file of PyTorch, which is not installed: pip install torch, or give",
        tmp_path: "--weights: there is no run in ",
        tmp_path / "link.pth": f"'{tmp_path}/link.pth' is a link to 'gone.pth', which cannot be found",
        tmp_path / "links.pth": r"there is no file or folder '.*links\.pth'\.$",  # that link is not meant
        "": "--weights is empty: give a file or a run's folder, or leave it out",
    }
    model = abstract("resnet18")
    for path, told in cases.items():
        with pytest.raises(UserError, match=told):
            start(path, model)
    grey = (32, 32, 1)
    with pytest.raises(UserError, match="cannot be read for --model resnet18: torchvision's resnet18 is of channels 3"):
        start(resnet[0], abstract("resnet18", shape=grey), shape=grey)
    with pytest.raises(UserError, match=r"--model vit: neither torchvision .* a vit\. .* --weights runs/NAME\."):
        start(resnet[0], abstract("resnet18"), name="vit")


def test_a_head_of_other_classes_is_new_and_that_is_told(resnet, tmp_path):
    path, arrays = resnet
    told = f"weights: those of '{path}'"
    assert start(path, abstract("resnet18")) == told
    assert start(path, abstract("resnet18", 3), classes=3) == (
        f"{told}, but for the head, which is new, of 3 classes: that given is of 7"
    )
    headless = saved(tmp_path, {name: array for name, array in arrays.items() if not name.startswith("fc.")})
    assert start(headless, abstract("resnet18")).endswith("but for the head, which is new, of 7 classes: none is given")
    exported = saved(tmp_path, arrays, "run.safetensors", **about([f"class {i}" for i in range(7)]))
    assert start(exported, abstract("resnet18")) == f"weights: those of '{exported}'"
    exported = saved(tmp_path, arrays, "run.safetensors", **about(["cat"] * 7))
    assert start(exported, abstract("resnet18")).endswith("of 7 classes: that given is of others")
    assert weights.normalization(str(exported), "resnet18") == ("1.0", "1.0", "1.0", "2.0", "2.0", "2.0")


def test_the_kept_head_and_body_are_set_and_the_new_head_is_not(resnet):
    model = models.make("resnet18", in_channels=3, num_classes=3, image_size=(32, 32), rngs=nnx.Rngs(0))
    head = np.asarray(model.fc.kernel[...])
    start(resnet[0], model, classes=3)
    np.testing.assert_array_equal(model.fc.kernel[...], head)
    assert np.abs(head).max() > 0
    for path, variable in variables(model).items():
        assert variable.dtype == np.float32
        assert path[0] == "fc" or not np.any(variable[...]), path


def test_pixels_are_normalised_as_the_weights_need_it(resnet):
    path = str(resnet[0])
    config = resolve(Config(model="resnet18", weights=path, mix="none"))
    assert config.normalize == ("imagenet",)
    assert resolve(dataclasses.replace(config, normalize=("data",))).normalize == ("data",)
    with pytest.raises(UserError, match=f"--normalize must be given with --weights for {VIT}, .*half.*imagenet"):
        resolve(Config(model=VIT, weights=path, mix="none"))
    found = data.normalization(("imagenet",))
    image = np.array([[[[0, 128, 255]]]], np.uint8)
    expected = (np.array([0, 128, 255]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(found(image)[0, 0, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(data.normalization(("half",))(image)[0, 0, 0], [-1, 1 / 255, 1], rtol=1e-5)
    np.testing.assert_allclose(data.normalization(("1", "2", "3", "4", "5", "6")).std, [4, 5, 6])


def test_the_normalisation_is_the_runs(resnet, tmp_path, monkeypatch):
    """In its data, its about.json, and so where it is used."""
    dataset = random_set(SHAPE)
    monkeypatch.setattr(data, "load", lambda *_, **__: dataset)
    config = Config(model="mlp", normalize=("half",), mix="none", batch_size=8, devices=1)
    normalized = load(config)
    np.testing.assert_allclose(normalized.normalize.mean, [127.5] * 3)
    assert load(dataclasses.replace(config, normalize=None)) == load(dataclasses.replace(config, normalize=("data",)))
    unresolved = load(Config(model="resnet18", weights=str(resnet[0]), mix="none"))  # as compare loads it
    assert unresolved.normalize.mean.tolist() == data.normalization(("imagenet",)).mean.tolist()
    given_run(tmp_path / "run", config, normalized)
    assert load_run(tmp_path / "run").about.mean == (127.5, 127.5, 127.5)
    monkeypatch.setattr(data, "load", lambda *_, **__: random_set((32, 32, 1)))
    config = resolve(Config(model="resnet18", weights=str(resnet[0]), mix="none"))
    with pytest.raises(UserError, match=r"--normalize imagenet, for --weights, is of 3 channels, .* of 1\."):
        load(config)


def test_positions_are_resampled_or_refused(tmp_path):
    model = abstract(VIT, shape=(32, 48, 3))
    given = arrays_of(VIT)
    given["pos_embed"] = np.random.default_rng(0).normal(size=(1, 17, 384)).astype(np.float16)
    path = saved(tmp_path, given)
    told = start(path, model, VIT, shape=(32, 48, 3))
    assert told == f"weights: those of '{path}', its positions of 4 x 4 patches resampled to 2 x 3"
    expected = weights.resampled(given["pos_embed"], (4, 4), (2, 3), 1)
    np.testing.assert_array_equal(model.position[...], expected)
    np.testing.assert_array_equal(expected[:, 0], given["pos_embed"][:, 0])
    long = (32, 128, 3)  # as many patches, in other places
    assert start(path, abstract(VIT, shape=long), VIT, shape=long).endswith("of 4 x 4 patches resampled to 2 x 8")
    given["pos_embed"] = given["pos_embed"][:, :7]
    path = saved(tmp_path, given)
    with pytest.raises(UserError, match="has positions of 6 patches, which are no square"):
        start(path, model, VIT, shape=(32, 48, 3))
    path = saved(tmp_path, given, **about([f"class {i}" for i in range(7)], (32, 48, 3)))
    assert start(path, model, VIT, shape=(32, 48, 3)) == f"weights: those of '{path}'"
    np.testing.assert_array_equal(model.position[...], given["pos_embed"])


@pytest.fixture(scope="module")
def vit():
    """The arrays of a vision transformer of 2 x 2 patches, and where they go."""
    return arrays_of(VIT), abstract(VIT)


@pytest.mark.parametrize("shape", [(384,), (5, 384), (2, 5, 384), (1, 1, 384), (1, 1, 5, 384), (1, 17, 100)])
def test_positions_of_another_shape_are_told(shape, vit, tmp_path):
    path = saved(tmp_path, vit[0] | {"pos_embed": np.zeros(shape, np.float16)})
    told = f"of another shape pos_embed is {list(shape)} there and [1, 5, 384] here."
    with pytest.raises(UserError, match=re.escape(told)):
        start(path, vit[1], VIT)


@pytest.mark.parametrize("dtype", [np.int32, bool, np.complex64])
@pytest.mark.parametrize("tokens", [5, 17])
def test_positions_that_are_no_floats_are_told(dtype, tokens, vit, tmp_path):
    path = saved(tmp_path, vit[0] | {"pos_embed": np.zeros((1, tokens, 384), dtype)})
    with pytest.raises(UserError, match=f"pos_embed in '.*' is of {np.dtype(dtype)}, not of float32"):
        start(path, vit[1], VIT)


BESIDE = {
    "image_shape": (
        *("7", "null", '"abc"', "[]", "[32, 32]", "[0, 32, 3]", "[32.0, 32, 3]", "[true, 32, 3]", '{"0": 32}'),
        "must be height, width and channels, positive whole numbers; got ",
    ),
    "class_names": ("7", '"abc"', "[1, 2]", "must be a list of names; got "),
    "mean": ("7", '["a"]', "[null]", "must be a list of numbers; got "),
    "std": ("7", "[[1]]", "must be a list of numbers; got "),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_is_beside_weights_is_checked(name, tmp_path):
    *values, told = BESIDE[name]
    for value in values:
        path = saved(tmp_path, {"a": np.zeros(1)}, **about(["cat"]) | {name: value})
        with pytest.raises(UserError, match=re.escape(f"--weights: {name} in '{path}' {told}{value}.")):
            weights.normalization(str(path), "resnet18")
    path = saved(tmp_path, {"a": np.zeros(1)}, **about(["cat"]) | {name: "[" * 100_000})
    with pytest.raises(UserError, match="cannot be read as weights"):
        weights.normalization(str(path), "resnet18")


def test_positions_and_the_shape_of_images_beside_them_must_agree(vit, tmp_path):
    path = saved(tmp_path, vit[0], **about([f"class {i}" for i in range(7)], (32, 48, 3)))
    with pytest.raises(UserError, match="of 4 patches, but is for images of 32 x 48, which are 2 x 3 patches"):
        start(path, vit[1], VIT)


@pytest.mark.parametrize("name", ["a", None])
@pytest.mark.parametrize("inside", ["", "weights.safetensors", "deep/file.pth", "link.pth"])
@pytest.mark.parametrize("again", ["overwrite", "resume"])
def test_a_run_does_not_start_from_the_folder_that_it_writes_over(name, inside, again, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other.pth"
    folder = out / (name or "digits-none-0")
    (folder / "deep").mkdir(parents=True)
    for file in (other, *(folder / each for each in ("config.json", "metrics.json", "weights.safetensors"))):
        file.write_text("{}")
    (folder / "link.pth").symlink_to(other)
    (tmp_path / "alias").symlink_to(folder)
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    config = Config(out=str(out), name=name, mix="none", model="mlp", **{again: True})
    given = [folder / inside] + ([tmp_path / "alias" / inside] if inside != "link.pth" else [])
    for path in given:
        told = f"--weights: '{path}' is the run's own folder, '{folder}', or in it, where the run writes over it: give "
        with pytest.raises(UserError, match=re.escape(told)):
            train.run(dataclasses.replace(config, weights=str(path)))
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    beside = dataclasses.replace(config, weights=str(folder.with_name(f"{folder.name}2")))
    assert choose_folder(beside) == folder


FLAGS = {"mix": "none", "model": "mlp", "batch_size": 256, "epochs": 3, "devices": 1, "learning_rate": 0.02}


@pytest.fixture(scope="module")
def earlier(data_dir, tmp_path_factory):
    """The folder of a run to start from."""
    out = tmp_path_factory.mktemp("earlier")
    train.run(Config(data_dir=data_dir, out=str(out), name="run", **FLAGS | {"epochs": 1}))
    return out / "run"


def state_of(folder):
    return {path: np.asarray(variable[...]) for path, variable in variables(load_run(folder).model).items()}


def test_a_run_starts_from_another_and_goes_on_the_same_over_the_end_of_the_frozen_epochs(
    earlier, data_dir, tmp_path, monkeypatch, capsys
):
    flags = FLAGS | {"data_dir": data_dir, "weights": str(earlier), "freeze_epochs": 2, "body_rate": 0.1}
    config = Config(out=str(tmp_path), name="whole", schedule="fine_tune", **flags)
    states, step, start = [], loop.pure_step, state_of(earlier)

    def keep(*arguments):
        state, loss = step(*arguments)
        states.append({path: np.asarray(each[...]) for path, each in nnx.to_flat_state(state["model"])})
        return state, loss

    monkeypatch.setattr(loop, "pure_step", keep)
    train.run(config)
    assert f"weights: those of '{earlier}'; pixels are normalised by " in capsys.readouterr().out
    for path, first in start.items():
        moved = [not np.array_equal(state[path], first) for state in states]
        assert moved == ([True] * 15 if path[0] == "head" else [False] * 10 + [True] * 5), path

    def cut_off(*arguments):
        if len(states) == 15 + 7:
            signal.raise_signal(signal.SIGTERM)
        return keep(*arguments)

    monkeypatch.setattr(loop, "pure_step", cut_off)
    config = dataclasses.replace(config, name="cut off")
    with pytest.raises(Stopped):
        train.run(config)
    train.run(dataclasses.replace(config, resume=True))
    for name in ("accuracy", "history"):
        whole, cut = (json.loads((tmp_path / each / "metrics.json").read_text()) for each in ("whole", "cut off"))
        assert whole[name] == cut[name]
    for path, array in state_of(tmp_path / "cut off").items():
        np.testing.assert_array_equal(array, states[14][path])


def test_rates_of_head_body_and_norms():
    """On a network with norms: 0, a tenth and 1 while it is frozen, then the part that is asked for."""
    model = models.make("preact_resnet8", in_channels=1, num_classes=3, image_size=(8, 8), width=4, rngs=nnx.Rngs(0))
    config = Config(weights="given", freeze_epochs=1, body_rate=0.25, epochs=2, schedule="constant", weight_decay=0.0)
    learner = make_learner(config, model, 4)
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
    grads = jax.tree.map(jnp.ones_like, before)
    moved, update = [], nnx.jit(lambda optimizer, model, grads: optimizer.update(model, grads))
    for _ in range(4):
        update(learner.optimizer, model, grads)
        after = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
        moved.append({path: np.mean(a) for path, a in nnx.to_flat_state(jax.tree.map(jnp.subtract, after, before))})
        before = after
    for path in moved[0]:
        is_norm = any("norm" in str(name) for name in path)
        parts = (1, 1) if path[0] == "head" else (0.1, 0.25) if is_norm else (0, 0.25)
        # SGD's momentum of 0.9: a second step is 1.9 of the first; after the frozen epoch it begins anew.
        wanted = [-0.1 * part * momentum for part in parts for momentum in (1, 1.9)]
        np.testing.assert_allclose([step[path] for step in moved], wanted, rtol=1e-4, atol=1e-9, err_msg=str(path))
    assert optimizers.body_of(model, "head", frozen=1, rate=1.0).norms >= {"norm", "layer1.layers.0.norm1"}


HEADLESS = """
from flax import nnx
class Net(nnx.Module):
    def __init__(self, in_channels, num_classes, *, rngs):
        self.last = nnx.Linear(in_channels, num_classes, rngs=rngs)
    def __call__(self, image):
        return self.last(image.mean((1, 2)))
"""


def test_a_network_whose_head_cannot_be_told_is_refused_before_training(tmp_path):
    (tmp_path / "headless.py").write_text(HEADLESS)
    config = Config(model=f"{tmp_path / 'headless.py'}:Net", freeze_epochs=1, mix="none", batch_size=8, devices=1)
    told = f"--freeze-epochs needs a head in --model {config.model}, as attribute head or fc or classifier."
    with pytest.raises(UserError, match=re.escape(told)):
        prepare(resolve(config), random_set((8, 8, 3)))
