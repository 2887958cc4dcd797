"""Pictures with tinted masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Of the classes; the first, mostly the background, has none.
COLORS = ((118, 185, 0), (230, 159, 0), (31, 119, 180), (214, 39, 40), (148, 103, 189), (23, 190, 207))
_SHARE = 0.5


def tinted(picture: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.uint8]:
    """A picture `(h, w, 1 or 3)` of 0 to 255 with each pixel tinted by its class `(h, w)`, as RGB; class 0 and none are not."""
    rgb = np.repeat(picture, 3, axis=-1) if picture.shape[-1] == 1 else picture
    palette = np.array([(0, 0, 0), *(COLORS[i % len(COLORS)] for i in range(max(int(classes.max()), 1)))])
    there = (classes > 0)[..., None]
    mixed = np.where(there, (1 - _SHARE) * rgb + _SHARE * palette[np.maximum(classes, 0)], rgb)
    return mixed.clip(0, 255).astype(np.uint8)
