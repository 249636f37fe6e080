"""Weights of PyTorch, in its files: a run that starts from them gives the same logits, and they come back the same."""

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from fastai.vision.models import xresnet
from flax import nnx
from timm.layers import resample_abs_pos_embed

from jax_mix.training import load_run, models, weights
from jax_mix.training.build import normalized, resolve
from jax_mix.training.config import Config
from jax_mix.training.errors import UserError
from jax_mix.training.models.torch_names import twin
from parity_tests.parity.twins import given_timm, unlike_the_start
from parity_tests.tolerances import assert_close
from parity_tests.training.given_runs import given_run, random_set

SIZE = (64, 64)
VIT = "vit_small_patch16_224"
NETWORKS = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=5),
    "resnet34": lambda: torchvision.models.resnet34(num_classes=5),
    "resnet50": lambda: torchvision.models.resnet50(num_classes=5),
    "xresnet18": lambda: xresnet.xresnet18(n_out=5),
    VIT: lambda: given_timm(VIT, num_classes=5, img_size=SIZE),
    "convnext_tiny": lambda: given_timm("convnext_tiny", num_classes=5),
}
FILES = {
    ".safetensors": safetensors.torch.save_file,
    ".pth": torch.save,
    ".bin": lambda arrays, path: torch.save({name: torch.nn.Parameter(t) for name, t in arrays.items()}, path),
    ".pt": lambda arrays, path: torch.save({"model": arrays, "epoch": 3}, path),
    ".tar": lambda arrays, path: torch.save({"state_dict": {f"module.{n}": t for n, t in arrays.items()}}, path),
}
KINDS = [("resnet18", ".pth"), ("resnet34", ".tar"), ("resnet50", ".safetensors"), ("xresnet18", ".pt")]
KINDS += [(VIT, ".safetensors"), ("convnext_tiny", ".bin")]


def given(name):
    torch.manual_seed(0)
    return unlike_the_start(NETWORKS[name]())


def start(path, name, classes=5):
    """Our network with the weights of a file."""
    arguments = {"in_channels": 3, "num_classes": classes, "image_size": SIZE}
    model = nnx.eval_shape(lambda: models.make(name, **arguments, rngs=nnx.Rngs(0)))
    names = tuple(map(str, range(classes)))
    weights.start_from(str(path), model, name, image_shape=(*SIZE, 3), class_names=names, width=None)
    return model


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_a_file_of_pytorch_comes_and_goes_to_the_last_bit(name, kind, tmp_path):
    arrays = given(name).state_dict()
    FILES[kind](arrays, tmp_path / f"file{kind}")
    model = start(tmp_path / f"file{kind}", name)
    back = twin(name, in_channels=3, num_classes=5, image_size=SIZE, width=None).weights(model)
    wanted = {key: tensor.numpy() for key, tensor in arrays.items() if not key.endswith("num_batches_tracked")}
    assert back.keys() == wanted.keys()
    for key, array in wanted.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)


@pytest.mark.parametrize(
    ("kind", "dtype"), [(".safetensors", torch.bfloat16), (".pth", torch.bfloat16), (".safetensors", torch.float64)]
)
def test_weights_of_other_floats(kind, dtype, tmp_path):
    arrays = {name: t.to(dtype) if t.is_floating_point() else t for name, t in given("resnet18").state_dict().items()}
    FILES[kind](arrays, tmp_path / f"file{kind}")
    model = start(tmp_path / f"file{kind}", "resnet18")
    assert model.fc.kernel.dtype == model.bn1.mean.dtype == np.float32
    np.testing.assert_array_equal(model.fc.kernel[...].T, arrays["fc.weight"].float())
    np.testing.assert_array_equal(model.layer4.layers[0].bn1.var[...], arrays["layer4.0.bn1.running_var"].float())


def test_files_of_pytorch_that_hold_no_weights_are_told(tmp_path):
    model = given("resnet18")
    torch.save(model, tmp_path / "whole.pt")
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    (tmp_path / "damaged.pt").write_bytes(b"PK123")
    torch.save({0: torch.zeros(3)}, tmp_path / "numbered.pt")
    cases = {"whole": "cannot be read as weights (Unpick", "list": "holds no weights by name", "damaged": "be read as"}
    cases["numbered"] = "holds no weights by name"
    for name, told in cases.items():
        with pytest.raises(UserError) as caught:
            start(tmp_path / f"{name}.pt", "resnet18")
        assert told in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


ODD = {
    "sparse": (lambda t: t.to_sparse(), "torch.float32, torch.sparse_coo, on device cpu"),
    "quantized": (
        lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.quint8),
        "torch.quint8, torch.strided, on device cpu",
    ),
    "meta": (lambda t: t.to("meta"), "torch.float32, torch.strided, on device meta"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's own, of what it reads
@pytest.mark.parametrize("kind", ODD)
def test_tensors_that_are_no_plain_arrays_are_told(kind, tmp_path):
    change, told = ODD[kind]
    path = tmp_path / "file.pth"
    torch.save({"conv1.weight": change(torch.ones(3))}, path)
    with pytest.raises(UserError) as caught:
        start(path, "resnet18")
    assert str(caught.value) == f"--weights: conv1.weight in '{path}' is no plain array of numbers, but {told}."


def test_positions_are_resampled_as_timms():
    rng = np.random.default_rng(0)
    for prefix, old, new in [(1, (14, 14), (4, 4)), (1, (4, 4), (14, 9)), (0, (3, 5), (5, 3)), (1, (7, 7), (7, 8))]:
        position = rng.normal(size=(1, prefix + old[0] * old[1], 6)).astype(np.float32)
        theirs = resample_abs_pos_embed(torch.tensor(position), list(new), list(old), num_prefix_tokens=prefix)
        assert_close(weights.resampled(position, old, new, prefix), theirs, "resampled positions")


@pytest.mark.parametrize(("name", "normalize"), [("resnet18", None), (VIT, ("half",)), ("convnext_tiny", None)])
def test_a_run_that_starts_from_a_file_gives_pytorchs_logits(name, normalize, tmp_path):
    """From pixels on, by the mean and deviation that the weights were trained with, after the run was read again."""
    model = given(name).eval()
    torch.save(model.state_dict(), tmp_path / "file.pth")
    dataset = random_set((*SIZE, 3), tuple("abcde"), n=5)
    flags = {"model": name, "weights": str(tmp_path / "file.pth"), "normalize": normalize}
    config = resolve(Config(mix="none", batch_size=5, devices=1, **flags))
    given_run(tmp_path / "run", config, normalized(config, dataset))
    mean, std = (
        (timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
        if normalize is None
        else (timm.data.IMAGENET_INCEPTION_MEAN, timm.data.IMAGENET_INCEPTION_STD)
    )
    image = torch.tensor(np.moveaxis(dataset.test.image, -1, 1)) / 255
    with torch.no_grad():
        logits = model(torchvision.transforms.functional.normalize(image, mean, std))
    assert_close(load_run(tmp_path / "run").logits(dataset.test.image), logits, "logits float32, full width")
