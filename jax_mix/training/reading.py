"""Files of images for the network of a run, some at a time."""

from __future__ import annotations

import concurrent.futures
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_mix.training.data import BrokenImages
from jax_mix.training.data.listing import several
from jax_mix.training.data.pixels import Decoded, reason
from jax_mix.training.errors import UserError
from jax_mix.training.trained import Trained


def read_images(
    trained: Trained, files: Sequence[Path], *, batch_size: int, broken: BrokenImages
) -> Iterator[tuple[list[int], Any]]:
    """The images of files in the form the network takes, at most `batch_size` at a time.

    stderr names what is left out, and tells of colours that the network was not trained on.

    Yields:
      Which files, by number; and their images, uint8 `[n, height, width, channels]`.

    Raises:
      UserError: a file cannot be read as an image, and `broken` is "stop".
    """
    coloured = 0
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for start in range(0, len(files), batch_size):
            chunk = files[start : start + batch_size]
            coloured += sum(pool.map(trained.loses_colour, chunk)) if trained.image_shape[2] == 1 else 0
            numbers, images = [], []
            for i, (file, decoded) in enumerate(zip(chunk, pool.map(trained.decode, chunk), strict=True), start):
                if isinstance(decoded, Decoded):
                    numbers.append(i)
                    images.append(decoded.image)
                elif broken == "stop":
                    told = f"{reason(file, decoded)} cannot be read as an image"
                    raise UserError(f"{told}; go on without such: --broken-images skip.")
                else:
                    print(f"left out: {reason(file, decoded)}", file=sys.stderr)
            if images:
                yield numbers, np.stack(images)
    if coloured:
        told = f"{several(coloured, 'image')} with colours, of which only the grey is used, as the run had no other"
        print(told, file=sys.stderr)
