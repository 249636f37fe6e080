"""How good predictions are, and how far their confidence can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding

from jax_mix.training import devices
from jax_mix.training.data import Dataset, Examples, Normalize, rows_from_host
from jax_mix.training.data.labels import are_several
from jax_mix.training.errors import TrainingFailed
from jax_mix.training.sharding import gathered, is_split

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int


def accuracy(logits: Float[Array, "n classes"], label: Int[Array, " n"]) -> Float[Array, ""]:
    """The share of images whose highest logit is their label's. float32 `[]`."""
    return jnp.mean(_correct(logits, label))


def nll(logits: Float[Array, "n classes"], label: Int[Array, " n"]) -> Float[Array, ""]:
    """The mean negative log-likelihood of the labels, in nats. float32 `[]`."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=-1))


def ece(logits: Float[Array, "n classes"], label: Int[Array, " n"], *, bins: int = 15) -> Float[Array, ""]:
    """Expected calibration error: how far confidence and accuracy lie apart, on average. float32 `[]`.

    Predictions are put in `bins` intervals of confidence, `(k/bins, (k+1)/bins]`; the gap between mean confidence
    and accuracy in each is weighted by how many it holds.

    Source: Guo et al., arXiv:1706.04599, equation 3, with its 15 bins.
    """
    number, confidence, right = reliability(logits, label, bins=bins)
    return jnp.sum(jnp.abs(confidence - right) * number) / label.shape[0]


class Reliability(NamedTuple):
    """A reliability diagram, for each interval of confidence: how many predictions it holds, their means.

    float32 `[bins]` each; an interval that holds none has means of 0.
    """

    number: Float[Array, " bins"]
    confidence: Float[Array, " bins"]
    accuracy: Float[Array, " bins"]


def reliability(logits: Float[Array, "n classes"], label: Int[Array, " n"], *, bins: int = 15) -> Reliability:
    """How often predictions are right, by how confident they are; in `bins` intervals, `(k/bins, (k+1)/bins]`.

    Source: Guo et al., arXiv:1706.04599, section 2.
    """
    confidence = jnp.max(jax.nn.softmax(logits), axis=-1)
    k = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
    number, *sums = (
        jax.ops.segment_sum(each, k, num_segments=bins)
        for each in (jnp.ones_like(confidence), confidence, _correct(logits, label))
    )
    return Reliability(number, *(each / jnp.maximum(number, 1) for each in sums))


def evaluate(
    model: Any, data: Dataset, sharding: NamedSharding | None = None, watched: Examples | None = None
) -> dict[str, float]:
    """What `measure` tells of an NNX model on the test images, each of which counts once.

    Args:
      model: is left in training mode.
      data: whose test images.
      sharding: of a batch over devices; None: on one.
      watched: training images, to see how well the model fits them as they are; None: none.

    Returns:
      That; of images watched, of one class each, "fit_accuracy" and "fit_nll" too.

    Raises:
      TrainingFailed: a logit of a test image is infinite or nan.
    """
    return evaluation(model, data, sharding, watched)()


def evaluation(
    model: Any, data: Dataset, sharding: NamedSharding | None = None, watched: Examples | None = None
) -> Callable[[], dict[str, float]]:
    """`evaluate`, begun: what is given waits for the devices, and gives what they found."""
    model.eval()
    of_test = prediction(model, data.normalize, data.test.image, sharding)
    of_watched = None if watched is None else prediction(model, data.normalize, watched.image, sharding)
    model.train()

    def found() -> dict[str, float]:
        logits = of_test()
        wrong = int(np.sum(~np.isfinite(logits).all(axis=1)))
        if wrong:
            raise TrainingFailed(
                f"the logits of {wrong} of {len(logits)} test images are infinite or nan, though the weights are "
                "finite: try --dtype float32, or a lower --learning-rate."
            )
        measured = measure(logits, data.test.label)
        if watched is not None and of_watched is not None:
            of_seen = measure(of_watched(), watched.label)
            measured |= {"fit_accuracy": of_seen["accuracy"], "fit_nll": of_seen["nll"]}
        return measured

    return found


def measure(logits: Any, label: Any) -> dict[str, float]:
    """`{"accuracy": ..., "nll": ..., "ece": ...}` of logits, float32 `[n, classes]`, and labels, int `[n]`.

    Of several labels an image, `[n, classes]` of 0 and 1, `{"mean_average_precision": ..., "bce": ...,
    "label_accuracy": ...}`: over the labels that an image has at all; the binary cross-entropy, in nats; and the share
    of labels that are on the right side of a probability of 0.5, fastai's `accuracy_multi`.
    """
    if not are_several(label):
        return {k: float(v) for k, v in _measure(logits, label).items()}
    logits, label = np.asarray(logits), np.asarray(label)
    of_labels = average_precisions(logits, label)
    return {
        "mean_average_precision": float(of_labels[np.isfinite(of_labels)].mean()),
        "bce": float(_binary_cross_entropy(logits, label)),
        "label_accuracy": float(np.mean((logits > 0) == (label > 0))),
    }


def average_precisions(
    scores: Float[np.ndarray, "n classes"], label: Float[np.ndarray, "n classes"]
) -> Float[np.ndarray, " classes"]:
    """Of each label its average precision, float64 `[classes]`; nan of one that no image has.

    It is the mean, over the images that have the label, of the precision among those that score as high or higher.

    Args:
      scores: logits, or probabilities.
      label: 0 or 1.

    Source: scikit-learn's `average_precision_score`.

    >>> average_precisions(np.array([[3.0], [2.0], [1.0]]), np.array([[1], [0], [1]])).round(4)
    array([0.8333])
    """
    found = np.full(label.shape[1], np.nan)
    for k, (score, has) in enumerate(zip(scores.T, label.T > 0, strict=True)):
        ascending, of_those = np.sort(score), np.sort(score[has])
        as_high = (len(those) - np.searchsorted(those, of_those) for those in (of_those, ascending))
        if len(of_those):
            found[k] = np.mean(np.divide(*as_high))
    return found


def predict(
    model: Any, normalize: Normalize, image: Any, sharding: NamedSharding | None = None, *, batch_size: int = 500
) -> Float[np.ndarray, "n classes"]:
    """The model's logits for images, float32 `[n, classes]`, in the model's present mode.

    Args:
      model: an NNX model.
      normalize: makes images ready for it.
      image: uint8 or float32 `[n, height, width, channels]`, on the host.
      sharding: of a batch over devices; None: on one.
      batch_size: how many at once.
    """
    return prediction(model, normalize, image, sharding, batch_size=batch_size)()


def prediction(
    model: Any, normalize: Normalize, image: Any, sharding: NamedSharding | None = None, *, batch_size: int = 500
) -> Callable[[], Float[np.ndarray, "n classes"]]:
    """`predict`, begun: what is given waits for the devices, and gives the logits."""
    n = len(image)
    batch_size = min(batch_size, n)
    if sharding is None:
        sharding = devices.split(devices.make_mesh(1))
    batch_size += -batch_size % sharding.mesh.size
    logits = []
    split = is_split(nnx.state(model))
    for start in range(0, n, batch_size):
        # The last batch is filled up, and the filling cut off: one shape, one compilation.
        index = np.minimum(np.arange(start, start + batch_size), n - 1)
        batch = rows_from_host(image, index, sharding)
        logits.append(_logits(model, normalize, batch, devices.everywhere(sharding.mesh), split))
    return lambda: np.concatenate(jax.device_get(logits))[:n]


def _correct(logits: Float[Array, "n classes"], label: Int[Array, " n"]) -> Float[Array, " n"]:
    return (jnp.argmax(logits, axis=-1).astype(label.dtype) == label).astype(jnp.float32)


@nnx.jit(static_argnames=("everywhere", "split"))
def _logits(
    model: Any, normalize: Normalize, image: Any, everywhere: NamedSharding, split: bool
) -> Float[Array, "batch classes"]:
    if split:
        model = gathered(model, everywhere.mesh)
    logits = model(normalize(image)).astype(jnp.float32)
    nnx.pop(model, nnx.Intermediate)  # what layers have sown would make each batch another program
    return jax.lax.with_sharding_constraint(logits, everywhere)  # every process gets all of them


@jax.jit
def _binary_cross_entropy(logits: Float[Array, "n classes"], label: Float[Array, "n classes"]) -> Float[Array, ""]:
    return optax.sigmoid_binary_cross_entropy(logits, label).mean()


@jax.jit
def _measure(logits: Float[Array, "n classes"], label: Int[Array, " n"]) -> dict[str, Float[Array, ""]]:
    return {"accuracy": accuracy(logits, label), "nll": nll(logits, label), "ece": ece(logits, label)}
