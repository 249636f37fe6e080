"""Small models of the kinds that people publish, and at which of their layers Manifold Mixup is exact."""

from parity_tests.library.zoo import convolutional, language, others, recurrent, residual, vision
from parity_tests.library.zoo._kind import Kind, in_evaluation

__all__ = ["ZOO", "Kind", "in_evaluation"]

ZOO = (
    *residual.KINDS,
    *convolutional.KINDS,
    *vision.KINDS,
    *language.KINDS,
    *recurrent.KINDS,
    *others.KINDS,
)
