"""The weights that train.py export writes, in PyTorch: the same logits, and back to the last bit."""

import json

import numpy as np
import pytest
import safetensors
import safetensors.torch
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


def test_pytorch_loads_the_weights_and_gives_the_same_logits(tmp_path, capsys):
    dataset = random_set((33, 40, 3), n=4)
    given_run(tmp_path / "run", Config(model="resnet18", mix="none", batch_size=4, devices=1), dataset)
    assert train.main(["export", str(tmp_path / "run")]) == 0
    path = tmp_path / "run" / "weights.safetensors"
    made_by = "torchvision.models.resnet18(num_classes=2)"
    assert f"wrote {path}: for {made_by} of PyTorch" in capsys.readouterr().out
    theirs = torchvision.models.resnet18(num_classes=2)
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
    returned = twin(name, in_channels=channels, num_classes=5, width=None).weights(ours)
    wanted = {key: a for key, a in convert.torch_arrays(theirs).items() if not key.endswith(convert.TORCH_ONLY)}
    assert returned.keys() == wanted.keys()
    for key, array in wanted.items():
        np.testing.assert_array_equal(returned[key], array, err_msg=key)
