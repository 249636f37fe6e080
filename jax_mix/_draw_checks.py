"""Checks of a draw's own numbers, which a user may have made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jax_mix._checks import CORNERS, check_arrays, check_box_form, check_divides, check_groups, is_concrete, shown

if TYPE_CHECKING:
    from jax_mix._mix import Mix


def check_draw(mix: Mix) -> None:
    """Everything but the box, which is looked at where it cuts."""
    check_arrays(mix.lam, "lam")
    check_arrays(mix.partner, "partner")
    if np.ndim(mix.partner) != 1 or np.shape(mix.lam) not in ((), np.shape(mix.partner)):
        raise ValueError(
            "partner must be one int a sample, [batch], and lam as many floats or one for all; got shapes "
            f"{np.shape(mix.partner)} and {np.shape(mix.lam)}."
        )
    n = np.shape(mix.partner)[0]
    check_groups(mix.groups)
    check_divides(mix.groups, n)
    if is_concrete(mix.partner):
        partner = np.asarray(mix.partner)
        if not np.issubdtype(partner.dtype, np.integer) or np.any((partner < 0) | (partner >= n)):
            raise ValueError(f"partner must be whole numbers from 0 to {n - 1}, got {shown(partner.tolist())}.")
        size = n // mix.groups
        if mix.groups > 1 and np.any(partner // size != np.arange(n) // size):
            raise ValueError(
                f"partner must be of the same of {mix.groups} groups of {size}, got {shown(partner.tolist())}."
            )
    if mix.outside is not None:
        check_arrays(mix.outside, "outside")
        if np.shape(mix.outside) not in ((), np.shape(mix.partner)):
            raise ValueError(f"outside must be one float a sample, [{n}], got shape {np.shape(mix.outside)}.")
    for name, value in (("lam", mix.lam), ("outside", mix.outside)):
        if value is None or not is_concrete(value):
            continue
        if not np.all((np.asarray(value) >= 0) & (np.asarray(value) <= 1)):
            raise ValueError(f"{name} must be from 0 to 1, got {shown(np.asarray(value).tolist())}.")
    if len(set(mix.layers)) < len(mix.layers):
        raise ValueError(f"layers must be different names, got {mix.layers}.")
    if not isinstance(mix.layer, str) and is_concrete(mix.layer):
        index = int(np.asarray(mix.layer))  # an operation of jax.numpy would be traced inside jit
        if not 0 <= index < len(mix.layers):
            raise ValueError(f"layer must be a name or an index into layers, {mix.layers}, got {index}.")


def check_box(mix: Mix, size: tuple[int, ...]) -> None:
    """The box must be one of these images, `size` in pixels."""
    check_box_form(mix.box, mix.partner, len(mix.spatial_axes))
    if mix.image_size is not None and tuple(mix.image_size) != size:
        raise ValueError(f"the box was drawn for images of {mix.image_size} pixels, got x of {size} pixels.")
    if is_concrete(mix.box):
        starts, ends = np.split(np.asarray(mix.box), 2, axis=-1)
        if np.any((starts < 0) | (ends > np.array(size)) | (starts > ends)):
            box, corners = np.asarray(mix.box).tolist(), CORNERS[len(size)]
            raise ValueError(f"box must be {corners} inside the image of {size} pixels, got {box}.")
