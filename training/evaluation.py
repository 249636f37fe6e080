"""How good predictions are, and how far their confidence can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

from training import devices
from training.data import Dataset, Normalize, from_host

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
    confidence = jnp.max(jax.nn.softmax(logits), axis=-1)
    correct = _correct(logits, label)
    k = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
    gaps = jax.ops.segment_sum(confidence - correct, k, num_segments=bins)  # count times gap
    return jnp.sum(jnp.abs(gaps)) / label.shape[0]


def evaluate(model: Any, data: Dataset, sharding: NamedSharding | None = None) -> dict[str, float]:
    """Accuracy, NLL and ECE of an NNX model on the test images, each of which counts once.

    Args:
      model: is left in training mode.
      data: whose test images.
      sharding: of a batch over devices; None: on one.

    Returns:
      `{"accuracy": ..., "nll": ..., "ece": ...}`.
    """
    model.eval()
    logits = predict(model, data, sharding)
    model.train()
    return {k: float(v) for k, v in _measure(logits, data.test.label).items()}


def predict(
    model: Any, data: Dataset, sharding: NamedSharding | None = None, *, batch_size: int = 500
) -> Float[np.ndarray, "n classes"]:
    """The model's logits for all test images, float32 `[n, classes]`, in the model's present mode."""
    n = len(data.test.label)
    batch_size = min(batch_size, n)
    if sharding is None:
        sharding = devices.split(devices.make_mesh(1))
    batch_size += -batch_size % sharding.mesh.size
    logits = []
    for start in range(0, n, batch_size):
        # The last batch is filled up, and the filling cut off: one shape, one compilation.
        index = np.minimum(np.arange(start, start + batch_size), n - 1)
        image = from_host(data.test.image[index], sharding)
        logits.append(_logits(model, data.normalize, image, devices.everywhere(sharding.mesh)))
    return np.concatenate(jax.device_get(logits))[:n]


def _correct(logits: Float[Array, "n classes"], label: Int[Array, " n"]) -> Float[Array, " n"]:
    return (jnp.argmax(logits, axis=-1).astype(label.dtype) == label).astype(jnp.float32)


@nnx.jit(static_argnames="everywhere")
def _logits(model: Any, normalize: Normalize, image: Any, everywhere: NamedSharding) -> Float[Array, "batch classes"]:
    logits = model(normalize(image)).astype(jnp.float32)
    return jax.lax.with_sharding_constraint(logits, everywhere)  # every process gets all of them


@jax.jit
def _measure(logits: Float[Array, "n classes"], label: Int[Array, " n"]) -> dict[str, Float[Array, ""]]:
    return {"accuracy": accuracy(logits, label), "nll": nll(logits, label), "ece": ece(logits, label)}
