"""train.py export: what is written gives the same elsewhere, without this project, and in PyTorch."""

import subprocess
import sys

import jax
import numpy as np
import pytest

import train
from jax_mix.training import load_run
from jax_mix.training.config import Config
from jax_mix.training.data.source import resized
from jax_mix.training.exporting import fit
from jax_mix.training.models.torch_names import twin
from parity_tests.tolerances import assert_close
from parity_tests.training.given_runs import given_run, random_set

SMALL = {"mix": "none", "batch_size": 8, "devices": 1}
ELSEWHERE = """
import sys
import jax, jax.export, numpy
exported = jax.export.deserialize(bytearray(open("exported.jax", "rb").read()))
images = numpy.load("images.npz")
numpy.savez("found.npz", **{name: exported.call(image) for name, image in images.items()})
print(exported.platforms, [name for name in ("jax_mix", "flax", "PIL", "orbax", "torch") if name in sys.modules])
"""


def test_it_gives_the_same_probabilities_in_a_process_without_this_project(finished_run, digits, tmp_path, capsys):
    assert train.main(["export", str(finished_run[0]), "--out", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"wrote {tmp_path / 'exported.jax'}: ")
    assert "no weights.safetensors for PyTorch: neither torchvision nor fastai nor timm has a preact_resnet8." in output
    test, trained = np.asarray(digits.test.image), load_run(finished_run[0])
    images = {"one": test[:1], "five": test[:5], "all": test, "large": test[:3].repeat(3, 1).repeat(5, 2)}
    np.savez(tmp_path / "images.npz", **images)
    command = [sys.executable, "-c", ELSEWHERE]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "('cpu', 'cuda', 'tpu') []"
    found = np.load(tmp_path / "found.npz")
    for name in ("one", "five", "all"):
        assert_close(found[name], trained.predict(images[name]), "same program")
        assert found[name].dtype == np.float32
    expected = trained.predict(images["large"])
    assert np.abs(expected - trained.predict(test[:3])).max() > 0.01  # it is cut
    np.testing.assert_array_equal(found["large"].argmax(1), expected.argmax(1))
    assert_close(found["large"], expected, "probabilities of scaled images")


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_scaled_as_pillow_does_but_for_rounding(channels):
    """Smooth ones, photographs say, and noise."""
    rng = np.random.default_rng(0)
    jitted = jax.jit(fit, static_argnums=(1, 2))
    for size in ((8, 12), (5, 5), (8, 30), (19, 12), (40, 61), (7, 200), (64, 96), (1, 3)):
        noise = rng.integers(0, 256, (2, *size, channels), np.uint8)
        expected = np.stack([resized(image, (8, 12)) for image in noise])
        apart = np.abs(np.asarray(jitted(noise, 8, 12)).astype(int) - expected)
        assert apart.max() <= 1, size
        assert np.mean(apart > 0) < 0.05, size
        if size == (8, 12):
            np.testing.assert_array_equal(expected, noise)
            assert apart.max() == 0


def test_a_network_unlike_its_twin_is_told():
    same = {"num_classes": 2, "image_size": (32, 32)}
    for name, whose, width in (("resnet50", "torchvision", 64), ("convnext_tiny", "timm", 96)):
        assert twin(name, in_channels=3, width=16, **same) == f"{whose}'s {name} is of width {width}, this one of 16"
    assert twin("resnet18", in_channels=1, width=None, **same) == (
        "torchvision's resnet18 is of channels 3, this one of 1"
    )


COUNTS = """
from flax import nnx

class Net(nnx.Module):
    def __init__(self, in_channels, num_classes, *, image_size, rngs):
        self.head = nnx.Linear(in_channels, num_classes, rngs=rngs)

    def __call__(self, image):
        for i in range(image.shape[0]):
            image = image.at[i].multiply(2)
        return self.head(image.mean((1, 2)))
"""


def test_what_cannot_be_exported_is_told_in_a_sentence(tmp_path, capsys):
    (tmp_path / "nets_that_count.py").write_text(COUNTS)
    config = Config(model=f"{tmp_path / 'nets_that_count.py'}:Net", **SMALL)
    given_run(tmp_path / "run", config, random_set((4, 4, 3)))
    cases = {
        "export needs the folder of a run": ["export"],
        "there is no run in": ["export", str(tmp_path / "none")],
        f"--model {config.model} cannot be exported for any number of images (": ["export", str(tmp_path / "run")],
        "--out: cannot write to": ["export", str(tmp_path / "run"), "--out", f"{tmp_path}/run/config.json/a"],
    }
    for told, words in cases.items():
        assert train.main(words) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"train.py: {told}")
    assert not (tmp_path / "run" / "exported.jax").exists()
