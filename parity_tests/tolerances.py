"""The one table of tolerances, with a reason each. A test that needs another number adds a row here."""

import numpy as np

from parity_tests import evidence

TOLERANCES = {
    # name: (relative, absolute), reason
    "cutmix batch": (0.0, 0.0),  # pixels are copied, never computed
    "rounded once to float16": (2**-11, 2**-24),  # half a unit of its 11 bits; subnormals below
    "rounded once to bfloat16": (2**-8, 1e-7),  # half a unit of its 8 bits, and the float32 blend's cancellation
    "same program": (1e-6, 1e-7),  # the same operations, fused differently by XLA around a branch
    "another order of summation": (1e-5, 1e-6),  # scanned, vmapped and compiled forms sum in another order
    "cutmix lambda": (0.0, 0.0),  # one division and one subtraction, each rounded once on both sides
    # Keras takes its lambda from its box's ends, in float32: of up to 24 and 16 pixels, each rounded.
    "lambda of a box of fractions": (0.0, 1e-6),
    "box": (0.0, 0.0),  # whole pixels
    "recorded draw": (0.0, 0.0),  # the same numbers, only carried over
    # A training step of a model. Statistics are in units of each array's largest value; gradients are the norm of all
    # differences over that of all gradients.
    "logits float32": (0.0, 3e-6),  # ten layers of sums, which PyTorch and XLA take in different orders; logits below 4
    "loss of a model float32": (2e-6, 2e-6),  # those logits' differences, carried through the loss
    # Differences are near 1e-5, but a ReLU whose input is within rounding of 0 takes either side, and one sample's
    # share of the gradient with it: seen once, 1%. float64 does not come so near 0, and is the sharp comparison.
    "gradients float32": (0.0, 0.05),
    "statistics float32": (0.0, 1e-6),  # means of thousands of values, summed in different orders
    # Full-width ResNets end in BatchNorm over the 6 values of a 1 x 1 image, which divides small differences by others.
    "logits float32, full width": (0.0, 2e-4),
    "loss of a model float32, full width": (0.0, 2e-4),
    "gradients float32, full width": (0.0, 0.05),  # the same
    "statistics float32, full width": (0.0, 5e-6),
    "logits float64": (0.0, 1e-12),  # float64 rounds at 1e-16; logits up to 11, layers up to 20
    "loss of a model float64": (0.0, 1e-12),
    "gradients float64": (0.0, 1e-12),
    "statistics float64": (0.0, 1e-13),
    "loss float32": (1e-6, 0.0),  # a handful of float32 roundings in log-softmax and the blend
    "loss float64": (1e-13, 0.0),  # the same in float64
    "loss of large logits": (1e-6, 2e-6),  # where a class wins, the difference of two numbers near 16: one unit there
    "losses on other devices": (2e-5, 0.0),  # five steps; each device sums a part of the batch
    # Of the array's largest value; sums of up to a hundred products in another order.
    "filter gradient float32": (0.0, 2e-6),
    "filter gradient float64": (0.0, 1e-14),
    "filter gradient bfloat16": (0.0, 0.02),  # 8 bits; XLA rounds its sums in other places
    # Of the largest logit. Compiled as one, some operations keep float32 where each alone rounds to 8 bits.
    "compiled logits float32": (0.0, 1e-6),
    "compiled logits bfloat16": (0.0, 0.02),
    # A pixel in fifty is another by 1 of 255: Pillow scales with whole numbers.
    "probabilities of scaled images": (0.0, 0.01),
    # Of 255. Pillow is given the part's place in float32: values midway between two fall to either, in both its passes.
    "pixels of a part that is scaled alone": (0.0, 2.0),
    # Of 255, of smooth images. JPEG decodes smaller by leaving out the finest waves, which is a mean of squares nearly.
    "pixels of a smaller decoding": (0.0, 4.0),
    "pictures": (1e-6, 1e-6),  # shades from 0 to 1 and shares in percent, of float32
    # Sums of some dozens of products of float32 numbers below 4, whose weights each side rounds in its own way.
    "resampled positions": (0.0, 3e-6),
    "schedule": (1e-13, 0.0),  # a cosine and three operations in float64
    "trajectory float64": (1e-9, 0.0),  # 200 steps, whose roundings training multiplies
    "trajectory parameters float64": (0.0, 1e-8),  # the same
    "early trajectory float32": (1e-4, 0.0),  # 20 steps, float32 roundings multiplied
    # Of the largest number; a training step of small networks gathers roundings to 24 bits, or to 8.
    "far from torch in float32": (0.0, 2e-6),
    "far from torch in bfloat16": (0.0, 0.02),
    "operations of a network": (0.08, 0.0),  # XLA counts none with padding, and more than products
    "optimizer float64": (1e-12, 1e-14),  # 30 steps, each a few roundings in other orders
}


def assert_close(actual: object, desired: object, name: str) -> None:
    """`actual` equals `desired` within the row `name` of the table."""
    rtol, atol = TOLERANCES[name]
    np.testing.assert_allclose(np.asarray(actual), np.asarray(desired), rtol=rtol, atol=atol, err_msg=name)
    evidence.compared(actual, desired, name)


def assert_within_ulp(actual: object, desired: object, scale: object, ulps: int = 1) -> None:
    """`actual` is within `ulps` units in the last place of `desired`, a unit taken at the magnitude `scale`.

    A blend subtracts: where the two samples cancel, a unit of the tiny result would ask for digits that float32
    never had. The inputs' own magnitude, max(|x|, |partner|), is what both sides round at.
    """
    actual, desired = np.asarray(actual), np.asarray(desired)
    assert actual.dtype == desired.dtype
    unit = np.spacing(np.asarray(scale, actual.dtype))
    worst = np.max(np.abs(actual - desired) / unit, initial=0.0)
    assert worst <= ulps, f"{worst} units in the last place, allowed {ulps}"
    evidence.compared(actual, desired, f"{ulps} ulp", float(worst))
