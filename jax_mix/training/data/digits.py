"""scikit-learn's handwritten digits as a TFDS data set: real images that come inside a wheel, no download."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

TEST_SIZE = 360


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 handwritten digits of 8x8 pixels with values 0 to 16, in a fixed, stratified split of 1,437 and 360."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_digits.html",
            disable_shuffling=True,  # the order below is the order read
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # nothing to download
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        image, label = load_digits(return_X_y=True)
        image = image.reshape(-1, 8, 8, 1).astype(np.uint8)
        train, test = train_test_split(np.arange(len(label)), test_size=TEST_SIZE, stratify=label, random_state=0)
        return {
            "train": self._generate_examples(image[train], label[train]),
            "test": self._generate_examples(image[test], label[test]),
        }

    def _generate_examples(self, image: np.ndarray, label: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        for i in range(len(label)):
            # As a PIL image: TFDS would use TensorFlow to encode an array.
            yield i, {"image": PIL.Image.fromarray(image[i, :, :, 0]), "label": int(label[i])}
