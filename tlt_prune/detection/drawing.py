"""Pictures with boxes drawn on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from PIL.Image import Image

# Of the boxes of the first classes; others begin again.
COLORS = ("#76b900", "#e69f00", "#1f77b4", "#d62728", "#9467bd", "#17becf")


def annotated(
    pixels: ArrayLike, boxes: Sequence[tuple[str | None, Iterable[float], float | None]], classes: Sequence[str]
) -> Image:
    """A picture `(h, w, c)` of 0 to 255 with boxes (class, corners, confidence); those without a class are white."""
    from PIL import Image, ImageDraw

    pixels = np.asarray(pixels).astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
    # Small pictures are enlarged: a line is a pixel wide at least.
    times = max(1, round(512 / max(picture.size)))
    picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    for name, box, confidence in boxes:
        color = "white" if name is None else COLORS[classes.index(name) % len(COLORS)]
        corners = [float(value) * times for value in box]
        draw.rectangle(corners, outline=color, width=2)
        if name is not None:
            draw.text((corners[0] + 3, corners[1] + 1), f"{name} {confidence:.2f}", fill=color)
    return picture
