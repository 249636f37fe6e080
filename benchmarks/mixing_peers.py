"""MixUp and CutMix as torchvision, timm, fastai, Kornia and Keras have them, with their draws read from outside.

Each peer is called as its users call it, on a batch that it was given once: `peer()` is one mixed batch.
`peer.replay()` is another one, as NumPy, and the `jax_mix.Mix` of the draw that it was made of. Nothing of theirs is
changed.

They get one-hot targets, as jax_mix does, but for timm and Kornia, which take class numbers. timm writes into the batch
that it is given, and so does fastai's CutMix.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import kornia.augmentation as kornia
import numpy as np
import timm.data.mixup
import torch
from fastai.callback import mixup as fastai
from torchvision.transforms import v2

from jax_mix import Mix

ALPHA = {"mixup": 0.4, "cutmix": 1.0}
OF_EVEN_BATCHES = ("timm",)  # it refuses others


class Replayed(NamedTuple):
    mix: Mix
    image: np.ndarray  # [batch, height, width, channels]
    target: np.ndarray  # [batch, classes]


@dataclasses.dataclass
class Peer:
    """One library's MixUp or CutMix of one batch."""

    method: str
    x: np.ndarray  # [batch, height, width, channels]
    y: np.ndarray  # one-hot, [batch, classes]

    def __post_init__(self) -> None:
        self.image, self.one_hot = torch.tensor(np.moveaxis(self.x, -1, 1).copy()), torch.tensor(self.y)
        self.label = self.one_hot.argmax(1)
        self.n, self.size = len(self.x), self.x.shape[1:3]

    def mixed(self, partner: Any, lam: Any, box: Any = None) -> Mix:
        partner = np.asarray(partner, np.int32)
        if box is None:
            lam = np.asarray(lam, np.float32)
            return Mix(lam.reshape(lam.size) if lam.ndim else lam, partner)  # with axes for pixels, in fastai and Keras
        return Mix.from_box(partner, np.asarray(box, np.int32), self.size)

    def replayed(self, mix: Mix, image: torch.Tensor, target: Any) -> Replayed:
        return Replayed(mix, np.moveaxis(image.numpy(), 1, -1), np.asarray(target))


class Torchvision(Peer):
    def __post_init__(self) -> None:
        super().__post_init__()
        make = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[self.method]
        self.transform = make(alpha=ALPHA[self.method], num_classes=self.y.shape[1])

    def __call__(self) -> Any:
        return self.transform(self.image, self.one_hot)

    def replay(self) -> Replayed:
        with returned(self.transform, "make_params") as drawn:
            image, target = self()
        (drawn,) = drawn
        x1, y1, x2, y2 = drawn.get("box", [0] * 4)
        box = (y1, x1, y2, x2) if "box" in drawn else None
        return self.replayed(self.mixed(np.roll(np.arange(self.n), 1), drawn.get("lam"), box), image, target)


class Timm(Peer):
    def __post_init__(self) -> None:
        super().__post_init__()
        alphas = {f"{name}_alpha": alpha if name == self.method else 0.0 for name, alpha in ALPHA.items()}
        self.transform = timm.data.mixup.Mixup(**alphas, label_smoothing=0.0, num_classes=self.y.shape[1])

    def __call__(self) -> Any:
        return self.transform(self.image, self.label)

    def replay(self) -> Replayed:
        self.image = torch.tensor(np.moveaxis(self.x, -1, 1).copy())  # as it was before the calls that are timed
        with (
            returned(self.transform, "_params_per_batch") as lams,
            returned(timm.data.mixup, "cutmix_bbox_and_lam") as boxes,
        ):
            image, target = self()
        box = [np.asarray(box)[[0, 2, 1, 3]] for box, _ in boxes]  # of (yl, yh, xl, xh)
        return self.replayed(self.mixed(np.arange(self.n)[::-1], lams[0][0], box[0] if box else None), image, target)


class Fastai(Peer):
    """The callback's own `before_batch`; in place of a Learner something that only has its batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.callback = {"mixup": fastai.MixUp, "cutmix": fastai.CutMix}[self.method](ALPHA[self.method])
        self.callback.learn, self.callback.stack_y = _Batch(self.image, self.one_hot), False

    def __call__(self) -> Any:
        batch = self.callback.learn
        batch.xb, batch.yb = (self.image,), (self.one_hot,)
        self.callback.before_batch()
        return batch.xb[0], batch.yb[0]

    def replay(self) -> Replayed:
        self.image = torch.tensor(np.moveaxis(self.x, -1, 1).copy())
        with returned(torch, "randperm") as partners, returned(self.callback, "rand_bbox", missing=True) as boxes:
            image, target = self()
        box = [[int(at[i]) for i in (1, 0, 3, 2)] for at in boxes]  # of (x1, y1, x2, y2)
        return self.replayed(self.mixed(partners[0], self.callback.lam, box[0] if box else None), image, target)


@dataclasses.dataclass
class _Batch:
    image: torch.Tensor
    one_hot: torch.Tensor
    xb: Any = ()
    yb: Any = ()
    x = property(lambda self: self.xb[0])
    y = property(lambda self: self.yb[0])


class Kornia(Peer):
    def __post_init__(self) -> None:
        super().__post_init__()
        keys: Any = {"data_keys": ["input", "class"]}
        if self.method == "mixup":
            self.transform: Any = kornia.RandomMixUpV2(**keys)
        else:
            self.transform = kornia.RandomCutMixV2(use_correct_lambda=True, **keys)

    def __call__(self) -> Any:
        return self.transform(self.image, self.label)

    def replay(self) -> Replayed:
        image, labels = self()
        drawn = {name: value.numpy() for name, value in self.transform._params.items()}
        if self.method == "mixup":
            mix, own = self.mixed(drawn["mixup_pairs"], 1 - drawn["mixup_lambdas"]), 1 - labels[:, 2]
        else:
            labels, corners = labels[0], drawn["crop_src"][0]  # its corners are inside: the last row and column
            box = np.concatenate([corners[:, 0, ::-1], corners[:, 2, ::-1] + 1], 1)
            mix, own = self.mixed(drawn["mix_pairs"][0], None, box), labels[:, 2]
        one_hot = torch.eye(self.y.shape[1])
        target = own[:, None] * one_hot[labels[:, 0].long()] + (1 - own)[:, None] * one_hot[labels[:, 1].long()]
        return self.replayed(mix, image, target)


class Keras(Peer):
    """Called as its documentation does, outside of jit."""

    def __post_init__(self) -> None:
        import jax.numpy as jnp

        keras = _keras()
        make = {"mixup": keras.layers.MixUp, "cutmix": keras.layers.CutMix}[self.method]
        self.layer = make(data_format="channels_last")
        self.batch = {"images": jnp.asarray(self.x), "labels": jnp.asarray(self.y)}
        self.n, self.size = len(self.x), self.x.shape[1:3]

    def __call__(self) -> Any:
        return self.layer(self.batch, training=True)

    def replay(self) -> Replayed:
        with (
            returned(self.layer, "get_random_transformation") as drawn,
            returned(self.layer, "_compute_crop_bounds", missing=True) as bounds,
        ):
            mixed = self()
        partner, lam = (np.asarray(drawn[0][name]) for name in ("permutation_order", "mix_weight"))
        mix = self.mixed(partner, lam)
        if bounds:  # of fractions of pixels, of x and of y; the weight is that of their area
            (left, right), (top, bottom) = (np.ceil(np.asarray(ends)) for ends in bounds)
            mix = dataclasses.replace(self.mixed(partner, None, np.stack([top, left, bottom, right], 1)), lam=mix.lam)
        return Replayed(mix, np.asarray(mixed["images"]), np.asarray(mixed["labels"]))


@functools.cache
def _keras() -> Any:
    """It reads its backend when it is imported, and writes its settings to a folder."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, KERAS_BACKEND="jax", KERAS_HOME=folder):
        import keras
    assert keras.backend.backend() == "jax", "Keras was imported before, with another backend"
    return keras


@contextmanager
def returned(where: Any, name: str, *, missing: bool = False) -> Iterator[list[Any]]:
    """What a function returns within, which goes on as it is; with `missing` it may be that there is none."""
    kept: list[Any] = []
    function = getattr(where, name, None)
    if function is None and missing:
        yield kept
        return

    def call(*args: Any, **kwargs: Any) -> Any:
        kept.append(function(*args, **kwargs))  # type: ignore[misc]
        return kept[-1]

    with mock.patch.object(where, name, call):
        yield kept


PEERS: dict[str, Callable[[str, np.ndarray, np.ndarray], Any]] = {
    "torchvision": Torchvision,
    "timm": Timm,
    "fastai": Fastai,
    "Kornia": Kornia,
    "Keras": Keras,
}
