"""Every wrong input gets one sentence that names the argument, what was given and what is allowed."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jax_mix
from parity_tests.library import models_linen, models_nnx

KEY = jax.random.key(0)
X, Y = np.ones((4, 8, 8, 1), np.float32), np.eye(4, dtype=np.float32)
MIX = jax_mix.Mix(0.5, np.array([1, 0, 3, 2]))
MLP = models_nnx.MLP(nnx.Rngs(0))
ROW = np.ones((4, 4), np.float32)
DENSE = models_linen.Dense()
VARIABLES = DENSE.init(KEY, ROW)
XENT = optax.softmax_cross_entropy_with_integer_labels


class Unused(models_nnx.MLP):
    def __call__(self, x):
        return self.head(self.first(x))


class WithAuxiliary(models_nnx.MLP):
    def __init__(self, rngs):
        super().__init__(rngs, width=4)
        self.first = Pair(rngs)

    def __call__(self, x):
        return self.head(x + self.first(x)[0])


class Pair(nnx.Linear):
    """A layer that puts out two numbers."""

    def __init__(self, rngs):
        super().__init__(4, 8, rngs=rngs)

    def __call__(self, x):
        h = super().__call__(x)
        return h.mean(), h.max()


class Tied(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 4, rngs=rngs)
        self.tied = self.first

    def __call__(self, x):
        return self.tied(self.first(x))


class Tensor:
    """What is known of a torch tensor without torch: its name."""

    __module__ = "torch"


def at(layer):
    return jax_mix.Mix(0.5, np.array([1, 0, 3, 2]), layer=layer)


CASES = {
    # what: (error, the sentence, the call)
    "alpha zero": (ValueError, "alpha must be positive and finite, got 0.0", lambda: jax_mix.MixUp(0)),
    "alpha negative": (ValueError, "alpha must be positive and finite, got -1.0", lambda: jax_mix.CutMix(-1.0)),
    "alpha nan": (ValueError, "alpha must be positive and finite, got nan", lambda: jax_mix.MixUp(float("nan"))),
    "alpha inf": (ValueError, "alpha .* finite, got inf", lambda: jax_mix.mixup(KEY, X, Y, alpha=np.inf)),
    "alpha None": (ValueError, "alpha must be one positive number, got None", lambda: jax_mix.ManifoldMixup(None)),
    "alpha a string": (ValueError, "alpha must be one positive number, got '0.4'", lambda: jax_mix.MixUp("0.4")),
    "alpha an array": (ValueError, "alpha must be one positive number", lambda: jax_mix.MixUp(np.ones(3))),
    "key a seed": (TypeError, r"key must be one key, as jax.random.key\(seed\) makes it, got 0", lambda: jax_mix.MixUp().sample(0, (4,))),
    "key and shape swapped": (TypeError, "key must be one key", lambda: jax_mix.CutMix().sample((4, 8, 8, 1), KEY)),
    "several keys": (TypeError, "key must be one key", lambda: jax_mix.ManifoldMixup(layers="a").sample(jax.random.split(KEY), (4,))),
    "per": (ValueError, "per is 'smaple': did you mean 'sample'", lambda: jax_mix.MixUp(1.0, per="smaple")),
    "partner": (ValueError, "partner is 'rol': did you mean 'roll'", lambda: jax_mix.MixUp(1.0, partner="rol")),
    "box": (ValueError, "box is 'papers': did you mean 'paper'", lambda: jax_mix.CutMix(1.0, box="papers")),
    "probability": (ValueError, "probability must be a number from 0 to 1, got 2", lambda: jax_mix.MixUp(1.0, probability=2)),
    "probability a string": (ValueError, "probability must be a number from 0 to 1, got '0.5'", lambda: jax_mix.MixUp(1.0, probability="0.5")),
    "probability None": (ValueError, "probability must be a number .* got None", lambda: jax_mix.MixUp(1.0, probability=None)),
    "fold": (ValueError, "fold must be True or False, got 'no'", lambda: jax_mix.MixUp(1.0, fold="no")),
    "spatial_axes a number": (ValueError, "spatial_axes must be one, two or three axes, .* got 1", lambda: jax_mix.CutMix(1.0, spatial_axes=1)),
    "spatial_axes": (ValueError, "spatial_axes must be two different axes", lambda: jax_mix.CutMix(1.0, spatial_axes=(1, 1))),
    "lengths": (ValueError, "same number of samples, got 4 in x and 3 in y", lambda: jax_mix.mixup(KEY, X, Y[:3])),
    "lengths, cutmix": (ValueError, "got 4 in x and 3 in y", lambda: jax_mix.cutmix(KEY, X, Y[:3])),
    "no batch axis": (ValueError, "x must be arrays with one batch axis", lambda: jax_mix.mixup(KEY, np.float32(1), Y)),
    "integer images": (TypeError, "floating type to be mixed, got uint8: cast", lambda: jax_mix.mixup(KEY, np.zeros((4, 8), np.uint8), Y)),
    "integer images of two axes": (TypeError, "got uint8: cast counts and columns of a table first, x.astype.jnp.float32.; ", lambda: MIX.blend(np.zeros((4, 8), np.uint8))),
    "uint8 images": (TypeError, "got uint8: cast images first, .* / 255; make masks of class numbers one-hot; or paste", lambda: MIX.blend(X.astype(np.uint8))),
    "columns of a table": (TypeError, "got int32: cast counts and columns of a table first, x.astype.jnp.float32.;", lambda: MIX.blend(np.ones((4, 3), np.int32))),
    "an integer mask": (TypeError, "got int32: .* make class numbers one-hot; .* paste masks, with CutMix", lambda: MIX.blend(np.ones((4, 8, 8), np.int32))),
    "token ids": (TypeError, r"token ids at hidden layers, ManifoldMixup\(use_input=False\)", lambda: jax_mix.mixup(KEY, np.ones((4, 8), np.int32), Y)),
    "a mask of booleans": (TypeError, "got bool: cast a mask first, x.astype.jnp.float32., or paste it", lambda: MIX.blend(X > 0)),
    "a misspelt option": (TypeError, "mixup has no option 'alph': did you mean 'alpha'. There are: .*'probability'", lambda: jax_mix.mixup(KEY, X, Y, alph=0.4)),
    "a number for a key": (TypeError, "key must be one key, .* got 0", lambda: jax_mix.mixup(0, X, Y)),
    "Rngs for a key": (TypeError, "key must be one key, as jax.random.key.seed. makes it, got nnx.Rngs: rngs.mixup.. gives one", lambda: jax_mix.mixup(nnx.Rngs(0), X, Y)),
    "targets in a list": (ValueError, "y must be arrays, got numbers in a list: jnp.asarray.y. makes one", lambda: jax_mix.mixup(KEY, X, [0, 1, 0, 1])),
    "no targets": (ValueError, "y must be arrays .* got None", lambda: jax_mix.mixup(KEY, X, None)),
    "a torch tensor": (TypeError, r"x must be arrays of JAX or NumPy, got a torch.Tensor: jnp.asarray\(tensor.detach\(\).cpu\(\).numpy", lambda: jax_mix.mixup(KEY, Tensor(), Y)),
    "a torch tensor, targets": (TypeError, "y must be arrays .* torch.Tensor", lambda: jax_mix.cutmix(KEY, X, Tensor())),
    "a torch tensor, blend": (TypeError, "x must be arrays .* torch.Tensor", lambda: MIX.blend({"image": X, "audio": Tensor()})),
    "a torch tensor, forward": (TypeError, "x must be arrays .* torch.Tensor", lambda: jax_mix.forward(MLP, Tensor(), MIX)),
    "a torch tensor, labels": (TypeError, "labels must be arrays .* torch.Tensor", lambda: jax_mix.mixed_loss(XENT, Y, Tensor(), MIX)),
    "a torch tensor, logits": (TypeError, "logits must be arrays .* torch.Tensor", lambda: jax_mix.mixed_loss(XENT, Tensor(), np.arange(4), MIX)),
    "a torch tensor, losses": (TypeError, "the loss must be arrays .* torch.Tensor", lambda: MIX.losses(Tensor(), Tensor())),
    "a torch tensor, lam": (TypeError, "lam must be arrays .* torch.Tensor", lambda: jax_mix.Mix(Tensor(), MIX.partner).blend(X)),
    "a torch tensor, partner": (TypeError, "partner must be arrays .* torch.Tensor", lambda: jax_mix.Mix(0.5, Tensor()).blend(X)),
    "a torch tensor, box": (TypeError, "box must be arrays .* torch.Tensor", lambda: jax_mix.Mix.from_box(MIX.partner, Tensor(), (8, 8))),
    "a torch tensor, bind": (TypeError, "x must be arrays .* torch.Tensor", lambda: jax_mix.ManifoldMixup().bind(MLP, Tensor())),
    "a torch parameter": (TypeError, "got a torch.Parameter", lambda: MIX.blend(type("Parameter", (Tensor,), {})())),
    "strings as labels": (TypeError, r"y must be class numbers or one-hot, got strings: np.unique\(y, return_inverse=True\)", lambda: jax_mix.mixup(KEY, X, np.array(list("abca")))),
    "strings in a list": (TypeError, "y must be class numbers or one-hot, got strings", lambda: MIX.targets(["cat", "dog", "cat", "cow"])),
    "strings as objects": (TypeError, "y must be class numbers or one-hot, got Python objects", lambda: MIX.targets(np.array(list("abca"), object))),
    "strings, loss": (TypeError, "labels must be class numbers or one-hot, got strings", lambda: jax_mix.mixed_loss(XENT, Y, np.array(list("abca")), MIX)),
    "strings as inputs": (TypeError, r"x must be numbers, got strings: np.asarray\(x, np.float32\)", lambda: MIX.blend(np.array(["1", "2", "3", "4"]))),
    "dates": (TypeError, r"x must be numbers, got datetime64\[D\]", lambda: MIX.blend(np.zeros(4, "M8[D]"))),
    "records": (TypeError, r"x must be numbers, got \[\('age', '<f8'\)\]", lambda: MIX.blend(np.zeros(4, [("age", float)]))),
    "no array at all": (TypeError, "x must be arrays of JAX or NumPy, got set", lambda: MIX.blend({1, 2, 3, 4})),
    "labels of 0 and 1": (TypeError, "y must be float targets, got int32: for 0 and 1 of several labels, y.astype", lambda: MIX.targets(np.ones((4, 3), np.int64))),
    "labels of True and False": (TypeError, "y must be float targets, got bool: for 0 and 1 of several labels, y.astype", lambda: MIX.targets(Y > 0)),
    "a loss of booleans": (TypeError, "the loss must be floats, to be weighed by lam, got bool: cast it, loss.astype", lambda: jax_mix.mixed_loss(lambda l, y: l.argmax(-1) == y, Y, np.arange(4), MIX)),
    "a loss of integers": (TypeError, "the loss must be floats, .* got int32", lambda: MIX.losses(np.arange(4, dtype=np.int32), np.arange(4, dtype=np.int32))),
    "a complex loss": (TypeError, "the loss must be floats, .* got complex64", lambda: MIX.losses(Y[0] * 1j, Y[0] * 1j)),
    "a loss and more": (TypeError, "the loss must be one array, a float per example, got a tuple", lambda: jax_mix.mixed_loss(lambda l, y: (XENT(l, y), l), Y, np.arange(4), MIX)),
    "no loss": (TypeError, "the loss must be one array, a float per example, got None", lambda: jax_mix.mixed_loss(lambda l, y: None, Y, np.arange(4), MIX)),
    "alpha, a range the other way round": (ValueError, r"alpha must be a positive number, or a range \(low, high\) of them, got \(1, 0.2\)", lambda: jax_mix.MixUp((1, 0.2))),
    "alpha, a range of three": (ValueError, "alpha must be a positive number, or a range", lambda: jax_mix.MixUp((0.1, 0.2, 0.3))),
    "lam and alpha": (ValueError, "lam and alpha cannot both be given, got lam=0.7, alpha=1.0", lambda: jax_mix.MixUp(1.0, lam=0.7)),
    "lam that would be folded": (ValueError, "lam is 0.3, and fold=True would take 1-lam where it is below 0.5: give fold=False", lambda: jax_mix.MixUp(lam=0.3)),
    "lam of a method out of range": (ValueError, r"lam must be a number from 0 to 1, or a range \(low, high\), got \(0.5, 2\)", lambda: jax_mix.MixUp(lam=(0.5, 2))),
    "lam of a method, a string": (ValueError, "lam must be a number from 0 to 1", lambda: jax_mix.MixUp(lam="half")),
    "pairs without flip": (ValueError, "per='pair' is one draw .* partner='flip' alone, got partner='permutation'", lambda: jax_mix.MixUp(per="pair")),
    "pairs within classes": (ValueError, "per='pair' needs every sample .* no within, no where", lambda: jax_mix.MixUp(per="pair", partner="flip").sample(KEY, X.shape, within=np.arange(4))),
    "within of floats": (ValueError, r"within must be one int for each row, \[4\], got float32\[4\]", lambda: jax_mix.MixUp().sample(KEY, X.shape, within=np.ones(4, np.float32))),
    "within of another length": (ValueError, r"within must be one int for each row, \[4\], got int32\[3\]", lambda: jax_mix.CutMix().sample(KEY, X.shape, within=np.arange(3))),
    "where of integers": (ValueError, r"where must be one bool for each row, \[4\], got int32\[4\]", lambda: jax_mix.MixUp().sample(KEY, X.shape, where=np.arange(4))),
    "box form": (ValueError, "box is 'tim': did you mean 'timm'", lambda: jax_mix.CutMix(box="tim")),
    "side out of range": (ValueError, "side must be a number from 0 to 1, or a range .*, got 1.5", lambda: jax_mix.CutMix(side=1.5)),
    "side and alpha": (ValueError, "side stands in the place of lam and of alpha: give one of them", lambda: jax_mix.CutMix(0.5, side=0.5)),
    "side and lam": (ValueError, "side stands in the place of lam and of alpha", lambda: jax_mix.CutMix(lam=0.5, side=0.5)),
    "side as drawn": (ValueError, "correct_lam must be True with side", lambda: jax_mix.CutMix(side=0.5, correct_lam=False)),
    "side folded": (ValueError, "fold must be False with side", lambda: jax_mix.CutMix(side=0.5, fold=True)),
    "side traced": (ValueError, "side must be known before compilation: give lam", lambda: jax.jit(lambda side: jax_mix.CutMix(side=side))(0.5)),
    "a side of no pixel": (ValueError, r"no box from images of \(8, 8\) pixels: with box='fastai' and side=0.1, height and width must be at least 20", lambda: jax_mix.CutMix(side=0.1).sample(KEY, X.shape)),
    "a fixed lambda of no pixel": (ValueError, "with box='fastai' and lam=0.98, height and width must be at least 11", lambda: jax_mix.CutMix(lam=0.98).sample(KEY, X.shape)),
    "four spatial axes": (ValueError, r"spatial_axes must be one, two or three axes, .* got \(1, 2, 3, 4\)", lambda: jax_mix.CutMix(spatial_axes=(1, 2, 3, 4))),
    "volumes without depth": (ValueError, r"CutMix needs three spatial axes, 1, 2 and 4 \(spatial_axes\), got shape \(4, 8, 8, 1\)", lambda: jax_mix.CutMix(spatial_axes=(1, 2, 4)).sample(KEY, X.shape)),
    "a box of four for a line": (ValueError, r"box must be whole pixels \(x1, x2\), \[2\] or \[4, 2\], got \[0, 0, 4, 4\]", lambda: jax_mix.Mix.from_box(MIX.partner, np.array([0, 0, 4, 4]), (8,), spatial_axes=(1,))),
    "layers for CutMix, unbound": (ValueError, "looked up in the model first", lambda: jax_mix.CutMix(layers="a.*").sample(KEY, X.shape)),
    "no layers for CutMix": (ValueError, "layers must name at least one layer when use_input is False", lambda: jax_mix.CutMix(use_input=False)),
    "a hidden row for CutMix": (ValueError, r"CutMix needs two spatial axes, 1 and 2 \(spatial_axes\), got a hidden state of shape \(4, 8\)", lambda: jax_mix.forward(MLP, ROW, dataclasses.replace(jax_mix.CutMix().sample(KEY, X.shape), layer="first"))),
    "outside of another length": (ValueError, r"outside must be one float a sample, \[4\], got shape \(3,\)", lambda: jax_mix.Mix(0.5, MIX.partner, np.array([0, 0, 4, 4]), outside=np.ones(3)).blend(X)),
    "outside out of range": (ValueError, "outside must be from 0 to 1, got 1.5", lambda: jax_mix.Mix(0.5, MIX.partner, np.array([0, 0, 4, 4]), outside=1.5).blend(X)),
    "layer_probabilities": (ValueError, "layer_probabilities must be 2 numbers that sum to 1, for input, first, got ", lambda: jax_mix.ManifoldMixup(layers="first", layer_probabilities=(0.5, 0.4)).sample(KEY, X.shape)),
    "OneOf nothing": (ValueError, "OneOf needs one method or more", lambda: jax_mix.OneOf()),
    "OneOf no method": (TypeError, "OneOf chooses among methods of jax_mix and None, got 0.4", lambda: jax_mix.OneOf(0.4, jax_mix.MixUp())),
    "OneOf probabilities": (ValueError, r"probabilities must be 2 numbers that sum to 1, for MixUp, None, got \(0.5, 0.6\)", lambda: jax_mix.OneOf(jax_mix.MixUp(), None, probabilities=(0.5, 0.6))),
    "OneOf probabilities traced": (ValueError, "probabilities must be 2 numbers", lambda: jax.jit(lambda p: jax_mix.OneOf(jax_mix.MixUp(), None, probabilities=p).sample(KEY, X.shape))(np.ones(3, np.float32))),
    "OneOf groups": (ValueError, "OneOf's methods must have the same groups, got 1, 2", lambda: jax_mix.OneOf(jax_mix.MixUp(), jax_mix.CutMix(groups=2))),
    "OneOf axes": (ValueError, r"must have the same spatial_axes, got \(1, 2\), \(2, 3\)", lambda: jax_mix.OneOf(jax_mix.CutMix(), jax_mix.OneOf(None, jax_mix.CutMix(spatial_axes=(2, 3))))),
    "OneOf layers a sample": (ValueError, "per='sample' needs methods that mix at one and the same layer, got input; input, first", lambda: jax_mix.OneOf(jax_mix.CutMix(), jax_mix.ManifoldMixup(layers="first"), per="sample").sample(KEY, X.shape)),
    "OneOf pairs": (ValueError, "per='pair' needs methods with partner='flip', got permutation", lambda: jax_mix.OneOf(jax_mix.MixUp(), None, per="pair")),
    "dense, of labels": (ValueError, r"dense is True, but y has not the spatial axes of the images' \(8, 8\) pixels: got shapes \[\(4, 4\)\]", lambda: jax_mix.CutMix().sample(KEY, X.shape).targets(Y, dense=True)),
    "dense axes of one": (ValueError, "dense must be two whole numbers, .* got .1,.", lambda: jax_mix.CutMix().sample(KEY, X.shape).targets(X, dense=(1,))),
    "integer masks, by lam": (TypeError, "y must be float targets, got int32", lambda: jax_mix.CutMix().sample(KEY, X.shape).targets(X.astype(np.int32), dense=False)),
    "weights of one-hot labels": (TypeError, "class_weights and ignore_index need labels that are class numbers, one array, got float32", lambda: jax_mix.mixed_loss(optax.softmax_cross_entropy, Y, Y, MIX, class_weights=np.ones(4))),
    "weights of two axes": (ValueError, r"class_weights must be one float a class, got shape \(4, 4\)", lambda: jax_mix.mixed_loss(XENT, Y, np.arange(4), MIX, class_weights=Y)),
    "weights of a reduced loss": (ValueError, r"the loss must be one per label, \[4\], got \[\]", lambda: jax_mix.mixed_loss(lambda l, y: XENT(l, y).mean(), Y, np.arange(4), MIX, ignore_index=3)),
    "images of one pixel": (ValueError, r"CutMix can cut no box from images of \(1, 1\) pixels: .*must be at least 2, got shape \(4, 1, 1, 3\)", lambda: jax_mix.CutMix(1.0).sample(KEY, (4, 1, 1, 3))),
    "images of one row, cutmix": (ValueError, r"no box from images of \(1, 8\) pixels", lambda: jax_mix.cutmix(KEY, X[:, :1], Y)),
    "images of one column": (ValueError, r"no box from images of \(8, 1\) pixels", lambda: jax_mix.CutMix(1.0, spatial_axes=(2, 3)).sample(KEY, (4, 3, 8, 1))),
    "the paper's box of two pixels": (ValueError, "with box='paper' and fold=False, height and width must be at least 3", lambda: jax_mix.CutMix(1.0, box="paper").sample(KEY, (4, 2, 9))),
    "a folded box of two pixels": (ValueError, "with box='fastai' and fold=True, height and width must be at least 3", lambda: jax_mix.CutMix(1.0, fold=True).sample(KEY, (4, 9, 2))),
    "integer images, forward": (TypeError, "got uint8: cast", lambda: jax_mix.forward(MLP, ROW.astype(np.uint8), MIX)),
    "integer targets": (TypeError, "y must be float targets, got int32: .*one_hot", lambda: jax_mix.mixup(KEY, X, np.arange(4))),
    "another batch": (ValueError, "x must have the draw's batch size, 4, got 3", lambda: MIX.blend(X[:3])),
    "another batch, forward": (ValueError, "batch size, 4, got 3", lambda: jax_mix.forward(MLP, ROW[:3], MIX)),
    "another batch, labels": (ValueError, "labels must have the draw's batch size, 4, got 3", lambda: jax_mix.mixed_loss(lambda *_: np.ones(4), ROW, np.arange(3), MIX)),
    "partner out of range": (ValueError, r"partner must be whole numbers from 0 to 3, got \[1, 0, 3, 4\]", lambda: jax_mix.Mix(0.5, np.array([1, 0, 3, 4])).blend(X)),
    "lam of another length": (ValueError, r"got shapes \(4,\) and \(3,\)", lambda: jax_mix.Mix(np.ones(3), MIX.partner).blend(X)),
    "lam out of range": (ValueError, "lam must be from 0 to 1, got 1.7", lambda: jax_mix.Mix(1.7, MIX.partner).blend(X)),
    "lam nan": (ValueError, "lam must be from 0 to 1, got nan", lambda: jax_mix.Mix(np.nan, MIX.partner).blend(X)),
    "groups": (ValueError, "groups must be a whole number of 1 or more, got 0", lambda: jax_mix.MixUp(1.0, groups=0)),
    "groups of a batch": (ValueError, "groups must divide the batch of 4 samples, got 3", lambda: jax_mix.MixUp(1.0, groups=3).sample(KEY, X.shape)),
    "groups of one": (ValueError, "groups must leave two samples or more in each, .* got 4 of 4", lambda: jax_mix.MixUp(1.0, groups=4).sample(KEY, X.shape)),
    "partner of another group": (ValueError, r"partner must be of the same of 2 groups of 2, got \[1, 0, 3, 0\]", lambda: jax_mix.Mix(0.5, np.array([1, 0, 3, 0]), groups=2).blend(X)),
    "partner of floats": (ValueError, "partner must be whole numbers from 0 to 3", lambda: jax_mix.Mix(0.5, np.ones(4)).blend(X)),
    "a layer index out of range": (ValueError, "layer must be a name or an index into layers, .'input',., got 1", lambda: jax_mix.forward(MLP, ROW, at(np.int32(1)))),
    "layers twice": (ValueError, "layers must be different names", lambda: jax_mix.forward(MLP, ROW, jax_mix.Mix(0.5, MIX.partner, layer=np.int32(0), layers=("first", "first")))),
    "images of no pixels": (ValueError, r"two spatial axes.*got shape \(4, 0, 8, 3\)", lambda: jax_mix.CutMix(1.0).sample(KEY, (4, 0, 8, 3))),
    "no spatial axes": (ValueError, r"two spatial axes.*got shape \(4, 8\)", lambda: jax_mix.CutMix(1.0).sample(KEY, (4, 8))),
    "no spatial axes, cutmix": (ValueError, "CutMix needs two spatial axes", lambda: jax_mix.cutmix(KEY, ROW, Y)),
    "a box for other images": (ValueError, r"drawn for images of \(8, 8\) pixels, got x of \(4, 4\)", lambda: jax_mix.CutMix(1.0).sample(KEY, X.shape).blend(X[:, :4, :4])),
    "a box larger than the image": (ValueError, r"inside the image of \(8, 8\) pixels, got \[0, 0, 9, 8\]", lambda: jax_mix.Mix(0.5, MIX.partner, np.array([0, 0, 9, 8])).blend(X)),
    "a box larger, from_box": (ValueError, "inside the image", lambda: jax_mix.Mix.from_box(MIX.partner, np.array([0, 0, 9, 8]), (8, 8))),
    "a box of fractions": (ValueError, "box must be whole pixels", lambda: jax_mix.Mix.from_box(MIX.partner, np.array([0.5, 0, 4, 8]), (8, 8))),
    "a box of fractions, blend": (ValueError, "box must be whole pixels", lambda: jax_mix.Mix(0.5, MIX.partner, box=np.array([0.5, 0, 4, 8])).blend(X)),
    "a box for other samples": (ValueError, r"box must be whole pixels .*\[4\] or \[4, 4\], got ", lambda: jax_mix.Mix(0.5, MIX.partner, box=np.zeros((3, 4), int)).blend(X)),
    "a box of three numbers, blend": (ValueError, "box must be whole pixels", lambda: jax_mix.Mix(0.5, MIX.partner, box=np.array([0, 0, 4])).blend(X)),
    "a box of three numbers": (ValueError, "box must be whole pixels", lambda: jax_mix.Mix.from_box(MIX.partner, np.array([0, 0, 4]), (8, 8))),
    "image_size": (ValueError, r"image_size must be two whole numbers, \(height, width\), got 32", lambda: jax_mix.Mix.from_box(MIX.partner, np.array([0, 0, 4, 4]), 32)),
    "a negative batch": (ValueError, "shape must be the batch's shape", lambda: jax_mix.MixUp(1.0).sample(KEY, (-1,))),
    "shape is an array": (ValueError, "shape must be the batch's shape, batch first, as image.shape", lambda: jax_mix.MixUp(1.0).sample(KEY, X)),
    "shape is empty": (ValueError, "shape must be the batch's shape", lambda: jax_mix.MixUp(1.0).sample(KEY, ())),
    "unbound layers": (ValueError, "looked up in the model first: method = method.bind", lambda: jax_mix.ManifoldMixup(1.0).sample(KEY, (4,))),
    "unbound glob": (ValueError, "looked up in the model first", lambda: jax_mix.ManifoldMixup(1.0, layers="a.*").sample(KEY, (4,))),
    "no layers but the input": (ValueError, "at least one layer when use_input is False, got .'input',.", lambda: jax_mix.ManifoldMixup(1.0, layers="input", use_input=False)),
    "no layers": (ValueError, "at least one layer", lambda: jax_mix.ManifoldMixup(1.0, layers=(), use_input=False)),
    "layers of a wrong type": (ValueError, "paths, globs or module types, got 3", lambda: jax_mix.ManifoldMixup(1.0, layers=[3])),
    "layers a number": (ValueError, "paths, globs or module types, got 5", lambda: jax_mix.ManifoldMixup(1.0, layers=5)),
    "no example": (ValueError, "an example of what the model is called with", lambda: jax_mix.ManifoldMixup(1.0).bind(MLP)),
    "token input": (ValueError, "an input of int32 cannot be mixed.*use_input=False", lambda: jax_mix.ManifoldMixup(1.0).bind(nnx.Embed(4, 8, rngs=nnx.Rngs(0)), np.ones((4, 4), np.int32))),
    "an output that is no batch": (ValueError, "layers has 'first', whose output is no batch of 4 floats", lambda: jax_mix.ManifoldMixup(1.0, layers="first").bind(WithAuxiliary(nnx.Rngs(0)), ROW)),
    "another name of a layer": (ValueError, "layer 'tied' is another name of 'first': use that", lambda: jax_mix.forward(Tied(nnx.Rngs(0)), ROW, at("tied"))),
    "a bridged layer": (ValueError, "layer 'layers.0' is a Linen module inside nnx.bridge.ToNNX", lambda: jax_mix.forward(nnx.Sequential(nnx.bridge.lazy_init(nnx.bridge.ToNNX(DENSE, rngs=nnx.Rngs(0)), ROW)), ROW, at("layers.0"))),
    "layer not among layers": (ValueError, "layer is 'firts': did you mean 'first'", lambda: jax_mix.ManifoldMixup(1.0, layers="first").sample(KEY, (4,), layer="firts")),
    "unknown layer, forward": (ValueError, "layer 'firts' is not in the model: did you mean 'first'", lambda: jax_mix.forward(MLP, ROW, at("firts"))),
    "unknown layer, bind": (ValueError, "layers has 'firts'.* did you mean 'first'", lambda: jax_mix.ManifoldMixup(1.0, layers="firts").bind(MLP, ROW)),
    "unknown type, bind": (ValueError, "type Conv, of which no module runs.*'Linear'", lambda: jax_mix.ManifoldMixup(1.0, layers=nnx.Conv).bind(MLP, ROW)),
    "nothing eligible": (ValueError, "no eligible layer", lambda: jax_mix.ManifoldMixup(1.0).bind(nnx.Sequential(nnx.BatchNorm(4, rngs=nnx.Rngs(0))), ROW)),
    "a layer that never runs": (ValueError, "layer 'second' never runs in this forward pass: .*There are: 'first', 'head'", lambda: jax_mix.forward(Unused(nnx.Rngs(0)), ROW, at("second"))),
    "a layer that never runs, bind": (ValueError, "layers has 'second', which never runs", lambda: jax_mix.ManifoldMixup(1.0, layers="second").bind(Unused(nnx.Rngs(0)), ROW)),
    "unknown layer, Linen": (ValueError, "layer 'liner' is not among the layers that run: did you mean 'linear'", lambda: jax_mix.forward(DENSE, ROW, at("liner"), variables=VARIABLES)),
    "an iteration that is not there": (ValueError, "layer 'blocks.3' is not in the model: did you mean 'blocks.2'", lambda: jax_mix.forward(models_nnx.Scanned(nnx.Rngs(0)), ROW, at("blocks.3"))),
    "a scanned block without its iteration": (ValueError, "scanned over 3 iterations: name one of them, as 'blocks.0'", lambda: jax_mix.forward(models_nnx.Scanned(nnx.Rngs(0)), ROW, at("blocks"))),
    "no model": (TypeError, "model must be a Flax NNX model, or .* got function", lambda: jax_mix.forward(lambda x: x, ROW, MIX)),
    "Linen without variables": (TypeError, "passed unbound, with its variables", lambda: jax_mix.forward(DENSE, ROW, MIX)),
    "Linen bound": (TypeError, "passed unbound", lambda: jax_mix.forward(DENSE.bind(VARIABLES), ROW, MIX, variables=VARIABLES)),
    "NNX with variables": (TypeError, "variables is for Linen", lambda: jax_mix.forward(MLP, ROW, MIX, variables=VARIABLES)),
    "mix is a method": (TypeError, "mix must be a jax_mix.Mix, .* got MixUp", lambda: jax_mix.forward(MLP, ROW, jax_mix.MixUp(1.0))),
    "mix is a method, loss": (TypeError, "mix must be a jax_mix.Mix, .* got MixUp", lambda: jax_mix.mixed_loss(XENT, ROW, np.arange(4), jax_mix.MixUp(1.0))),
    "a reduced loss": (ValueError, r"one per example, \[4, ...\], not yet reduced; got shape \(\)", lambda: jax_mix.mixed_loss(lambda l, y: XENT(l, y).mean(), ROW, np.arange(4), MIX)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_clear_sentence(case):
    error, sentence, call = CASES[case]
    with pytest.raises(error, match=sentence) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value)[-1] == "."


def test_a_one_line_form_checks_what_only_equals_what_it_has_seen():
    jax_mix.mixup(KEY, X, Y, groups=1)
    with pytest.raises(ValueError, match="groups must be a whole number of 1 or more, got True"):
        jax_mix.mixup(KEY, X, Y, groups=True)
    with pytest.raises(TypeError) as caught:
        jax_mix.mixup(KEY, Tensor(), Y)
    assert caught.value.__context__ is None


def test_a_hidden_state_that_cannot_be_mixed_names_its_layer():
    class Counts(nn.Module):
        @nn.compact
        def __call__(self, x):
            return (x > 0).astype(jnp.int32)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Counts(name="counts")(nn.Dense(4)(x)).astype(jnp.float32)

    variables = Model().init(KEY, ROW)
    with pytest.raises(ValueError, match=r"layer 'counts' puts out no batch of 4 floats: int32\[4, 4\]"):
        jax_mix.forward(Model(), ROW, at("counts"), variables=variables)
