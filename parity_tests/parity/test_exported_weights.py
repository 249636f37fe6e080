"""The weights that train.py export writes, in PyTorch: the same logits, and back to the last bit."""

import json

import numpy as np
import pytest
import safetensors
import safetensors.torch
import timm
import torch
import torchvision
from fastai.vision.models import xresnet
from flax import nnx

import train
from jax_mix.training import load_run, models
from jax_mix.training.config import Config
from jax_mix.training.models.torch_names import twin
from parity_tests.tolerances import assert_close
from parity_tests.training.given_runs import given_run, random_set
from torch_ref import convert

MADE_BY = {  # the size of images: the call that makes it
    "resnet18": ((33, 40), "torchvision.models.resnet18(num_classes=2)"),
    "vit_small_patch16_224": ((32, 48), "timm.create_model('vit_small_patch16_224', num_classes=2, img_size=(32, 48))"),
    "convnext_tiny": ((33, 40), "timm.create_model('convnext_tiny', num_classes=2)"),
}


@pytest.mark.parametrize("name", MADE_BY)
def test_pytorch_loads_the_weights_and_gives_the_same_logits(name, tmp_path, capsys):
    size, made_by = MADE_BY[name]
    dataset = random_set((*size, 3), n=4)
    given_run(tmp_path / "run", Config(model=name, mix="none", batch_size=4, devices=1), dataset)
    assert train.main(["export", str(tmp_path / "run")]) == 0
    path = tmp_path / "run" / "weights.safetensors"
    assert f"wrote {path}: for {made_by} of PyTorch" in capsys.readouterr().out
    theirs = eval(made_by, {"torchvision": torchvision, "timm": timm})  # it must run
    theirs.load_state_dict(safetensors.torch.load_file(path))
    theirs.eval()
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["model"] == made_by
    assert json.loads(metadata["class_names"]) == ["cat", "dog"]
    mean, std = (torch.tensor(json.loads(metadata[which]))[:, None, None] for which in ("mean", "std"))
    image = torch.tensor(np.moveaxis(dataset.test.image, -1, 1)).float()
    with torch.no_grad():
        logits = theirs((image - mean) / std)
    assert_close(load_run(tmp_path / "run").logits(dataset.test.image), logits, "logits float32, full width")


TWINS = {
    "resnet34": (lambda: torchvision.models.resnet34(num_classes=5), 3),
    "resnet50": (lambda: torchvision.models.resnet50(num_classes=5), 3),
    "xresnet18": (lambda: xresnet.xresnet18(c_in=1, n_out=5), 1),
}


@pytest.mark.parametrize("name", TWINS)
def test_weights_that_came_from_pytorch_go_back_to_the_last_bit(name):
    torch.manual_seed(0)
    make, channels = TWINS[name]
    theirs = make()
    with torch.no_grad():
        for value in theirs.state_dict().values():
            if value.ndim == 1:
                value.uniform_(0.5, 1.5)
    ours = nnx.eval_shape(lambda: getattr(models, name)(channels, 5, rngs=nnx.Rngs(0)))
    convert.copy_to_flax(theirs, ours)
    returned = twin(name, in_channels=channels, num_classes=5, image_size=(32, 32), width=None).weights(ours)
    wanted = {key: a for key, a in convert.torch_arrays(theirs).items() if not key.endswith(convert.TORCH_ONLY)}
    assert returned.keys() == wanted.keys()
    for key, array in wanted.items():
        np.testing.assert_array_equal(returned[key], array, err_msg=key)
