"""A finished run, to be used: its network as it is evaluated, and how images are made ready for it."""

from __future__ import annotations

import dataclasses
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_mix.training import evaluation, tasks
from jax_mix.training.about import About, read_about, read_metrics
from jax_mix.training.build import make_network
from jax_mix.training.checkpoints import read_part, resuming
from jax_mix.training.data import Normalize
from jax_mix.training.data.pixels import Decoded, decode, header, reason
from jax_mix.training.data.source import resized
from jax_mix.training.errors import UserError, require
from jax_mix.training.files import expanded


@dataclasses.dataclass(frozen=True)
class Trained:
    """The network of a finished run, and all that its images and logits need; `load_run` makes it.

    Attributes:
      model: in inference mode.
      class_names: one for each logit.
      image_shape: height, width and channels of the images that it takes.
      normalize: makes uint8 images of that shape ready for it.
      bits: that are in use in files of 16 bits.
      about: all that is known of the run.
    """

    model: Any
    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]
    normalize: Normalize
    bits: int
    about: About

    @property
    def task(self) -> tasks.Task:
        """Whether an image is of one class, or has any number of labels; and what follows from it."""
        return tasks.of_probabilities(self.about.probabilities)

    def predict(self, images: Any, *, batch_size: int = 500) -> np.ndarray:
        """The probability of each class, float32 `[n, classes]`: they sum to 1, but where an image has several labels.

        Args:
          images: uint8 `[n, height, width, channels]` of any height and width; or a sequence, each of which is an array
            `[height, width, channels]`, or the path of a file.
          batch_size: how many at once.

        Raises:
          UserError: an image cannot be read, or used; or a logit is infinite or nan.
        """
        logits = self.logits(self.preprocess(images), batch_size=batch_size)
        return np.asarray(self.task.of_logits(logits))

    def logits(self, image: Any, *, batch_size: int = 500) -> np.ndarray:
        """The network's logits, float32 `[n, classes]`, for images as `preprocess` gives them.

        Raises:
          UserError: a logit is infinite or nan.
        """
        if len(image) == 0:
            return np.zeros((0, len(self.class_names)), np.float32)
        logits = evaluation.predict(self.model, self.normalize, image, batch_size=batch_size)
        wrong = int(np.sum(~np.isfinite(logits).all(axis=1)))
        require(wrong == 0, f"the logits of {wrong} of {len(logits)} images are infinite or nan.")
        return logits

    def preprocess(self, images: Any) -> np.ndarray:
        """The images in the form the network was trained on, uint8 `[n, height, width, channels]`.

        They are scaled, until they just cover that size, or of a run with `--test-crop` somewhat more, and cut to it in
        their middle. Files are read as those of a folder to train on are; of a file with colours a network of grey
        images is given the grey, with a warning.

        Args:
          images: as for `predict`.

        Raises:
          UserError: an image cannot be read, or used.
        """
        if isinstance(images, (str, os.PathLike)):
            images = [images]
        if hasattr(images, "ndim") and images.ndim != 4:
            raise UserError(
                f"images must be an array [n, height, width, channels], or a sequence of images, got one of shape "
                f"{tuple(images.shape)}; of a single image: images[None]."
            )
        as_it_is = self.about.test_crop is None and getattr(images, "shape", ())[1:] == self.image_shape
        if as_it_is and images.dtype == np.uint8:
            return np.asarray(images)
        made: Any = np.empty((len(images), *self.image_shape), np.uint8)
        for i, image in enumerate(images):
            made[i] = self._file(Path(image)) if isinstance(image, (str, os.PathLike)) else self._array(image)
        return made

    def decode(self, file: Path) -> Decoded | Exception:
        """A file's image in the form the network was trained on, or the exception that was raised."""
        height, width, channels = self.image_shape
        crop = self.about.test_crop
        return decode(file, grey=channels == 1, size=(height, width), bits=self.bits, crop=crop)

    def loses_colour(self, file: Path) -> bool:
        """Whether a file has colours that the network was not trained on."""
        found = header(file)
        return self.image_shape[2] == 1 and not isinstance(found, Exception) and not found.grey

    def _file(self, file: Path) -> np.ndarray:
        decoded = self.decode(file)
        if isinstance(decoded, Exception):
            raise UserError(f"{reason(file, decoded)} cannot be read as an image.")
        if self.loses_colour(file):
            warnings.warn(f"'{file}' has colours, the images of the run are grey: so is this one made.", stacklevel=4)
        return decoded.image

    def _array(self, image: Any) -> np.ndarray:
        array, channels = np.asarray(image), self.image_shape[2]
        array = array[..., None] if array.ndim == 2 else array
        require(array.dtype == np.uint8, f"images must be uint8, 0 to 255, got {array.dtype}.")
        require(
            array.ndim == 3 and array.shape[2] == channels and array.size > 0,
            f"an image must be [height, width, {channels}], as those that the run was trained on, got "
            f"{list(np.shape(image))}.",
        )
        return resized(array, (self.image_shape[0], self.image_shape[1]), self.about.test_crop)


def load_run(folder: str | os.PathLike[str], *, best: bool = False) -> Trained:
    """The network of a finished run, from the run's folder.

    >>> from jax_mix.training import load_run
    >>> trained = load_run("runs/digits-manifold-0")  # doctest: +SKIP
    >>> trained.predict(["photo.jpg"])  # doctest: +SKIP

    Args:
      folder: of the run, as `runs/NAME`.
      best: take the best epoch, of a run with `--keep-best`, not the last.

    Returns:
      A `Trained`: the weights of the last checkpoint, or their average where the run evaluates that, in inference mode.

    Raises:
      UserError: there is no finished run, something in its folder is damaged, or the model's code is not there.
    """
    path = expanded(os.fspath(folder))
    metrics = read_metrics(path)
    about = read_about(path)
    model = _make_model(path, about)
    part = "average" if about.averaged else "model"
    if best:
        require("best" in metrics, f"the run in '{path}' was made without --keep-best: it has the last epoch alone.")
        wanted, checkpoints, or_else = metrics["best"]["step"], path / "best", "the last epoch's is there, without best"
    else:
        wanted, checkpoints = metrics["history"][-1]["step"], path / "checkpoints"
        or_else = f"{resuming(path)} makes it again from the one before"
    step, state = read_part(checkpoints, part, nnx.state(model), or_else=or_else)
    told = f"the checkpoint of step {wanted} could not be saved, '{checkpoints}' has that of {step}"
    require(step == wanted, f"{told}; {or_else}.")
    nnx.update(model, state)
    model.eval()
    normalize = Normalize(*(jnp.asarray(each, jnp.float32) for each in (about.mean, about.std)))
    return Trained(model, about.class_names, about.image_shape, normalize, about.bits, about)


def _make_model(folder: Path, about: About) -> nnx.Module:
    """The network, with weights that are yet to be read."""
    name = about.model
    if about.source is not None:
        name = str(folder / about.source)
        if about.beside not in sys.path and about.beside is not None:
            sys.path.append(about.beside)  # what the file imports from its folder is not copied
    num_classes = len(about.class_names)
    return make_network(name, about.image_shape, num_classes, width=about.width, dtype=about.dtype, rngs=nnx.Rngs(0))
