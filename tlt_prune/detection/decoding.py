"""Decoding of the network's outputs to boxes in pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlt_prune.detection.geometry import Grid

Array = NDArray[Any]


def decode(bbox: Array, grid: Grid, *, clip: bool = True) -> Array:
    """Boxes of every cell: the inverse of `targets.Rasterizer`.

    Args:
        bbox: `output_bbox`, channels first: `(n, 4 c, rows, columns)`.
        grid: that of the model.
        clip: keep corners inside the picture, and the second corner beyond the first. The toolkit's inference tool does not.

    Returns:
        `(n, c, rows, columns, 4)`: x1, y1, x2, y2 in pixels.
    """
    bbox = np.asarray(bbox, np.float32)
    n, channels, rows, columns = bbox.shape
    sides = np.moveaxis(bbox.reshape(n, channels // 4, 4, rows, columns), 2, -1)
    x = (np.arange(columns, dtype=np.float32) * np.float32(grid.stride_x) + np.float32(grid.offset))[None, :]
    y = (np.arange(rows, dtype=np.float32) * np.float32(grid.stride_y) + np.float32(grid.offset))[:, None]
    scale = np.float32(grid.scale)
    x1, y1 = x - scale * sides[..., 0], y - scale * sides[..., 1]
    x2, y2 = x + scale * sides[..., 2], y + scale * sides[..., 3]
    if clip:
        x1, y1 = np.clip(x1, 0, grid.width), np.clip(y1, 0, grid.height)
        x2, y2 = np.clip(x2, x1, grid.width), np.clip(y2, y1, grid.height)
    return np.stack([x1, y1, x2, y2], axis=-1)


def to_picture(boxes: Array, grid: Grid, factors: tuple[float, float]) -> Array:
    """Boxes of the network's picture -> those of one that is `factors` (x, y) times as large.

    They are clipped to the picture, the second corner not before the first.
    """
    boxes = np.asarray(boxes, np.float64)
    limits = np.array([grid.width, grid.height], np.float64)
    first = np.clip(boxes[..., :2], 0, limits)
    clipped = np.concatenate([first, np.clip(boxes[..., 2:], first, limits)], axis=-1)
    return np.asarray(clipped * np.array([*factors, *factors]))
