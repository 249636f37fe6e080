"""How good predictions are, and how far their confidence can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from training.data import Dataset

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


def evaluate(model: Any, data: Dataset) -> dict[str, float]:
    """Accuracy, NLL and ECE of an NNX model on the test images, each of which counts once.

    Returns:
      `{"accuracy": ..., "nll": ..., "ece": ...}`. The model is left in training mode.
    """
    model.eval()
    logits = predict(model, data)
    model.train()
    return {k: float(v) for k, v in _measure(logits, data.test.label).items()}


def predict(model: Any, data: Dataset, *, batch_size: int = 500) -> Float[Array, "n classes"]:
    """The model's logits for all test images, float32 `[n, classes]`, in the model's present mode."""
    n = len(data.test.label)
    batch_size = min(batch_size, n)
    # The last batch is filled up, and the filling cut off: one shape, one compilation.
    index: Any = np.pad(np.arange(n), (0, -n % batch_size), mode="edge")
    logits = [_logits(model, data, batch) for batch in index.reshape(-1, batch_size)]
    return jnp.concatenate(logits)[:n]


def _correct(logits: Float[Array, "n classes"], label: Int[Array, " n"]) -> Float[Array, " n"]:
    return (jnp.argmax(logits, axis=-1).astype(label.dtype) == label).astype(jnp.float32)


@nnx.jit
def _logits(model: Any, data: Dataset, index: Int[Array, " batch"]) -> Float[Array, "batch classes"]:
    return model(data.normalize(data.test.image[index]))


@jax.jit
def _measure(logits: Float[Array, "n classes"], label: Int[Array, " n"]) -> dict[str, Float[Array, ""]]:
    return {"accuracy": accuracy(logits, label), "nll": nll(logits, label), "ece": ece(logits, label)}
