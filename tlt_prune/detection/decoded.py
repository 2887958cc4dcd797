"""A detector with boxes in pixels as outputs, for users without DetectNet_v2's post-processing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from tlt_prune.detection.geometry import Grid

if TYPE_CHECKING:
    import tensorflow as tf


class Boxes(keras.layers.Layer):
    """`decoding.decode` of `output_bbox`."""

    def __init__(self, grid: Grid, channels_first: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._grid, self._first = grid, channels_first

    def call(self, bbox: tf.Tensor) -> tf.Tensor:
        grid = self._grid
        cells = grid.rows * grid.columns
        bbox = bbox if self._first else ops.transpose(bbox, (0, 3, 1, 2))
        sides = ops.transpose(ops.reshape(bbox, (-1, bbox.shape[1] // 4, 4, cells)), (0, 1, 3, 2)) * grid.scale
        x = np.tile(np.arange(grid.columns) * grid.stride_x + grid.offset, grid.rows)
        y = np.repeat(np.arange(grid.rows) * grid.stride_y + grid.offset, grid.columns)
        at = ops.convert_to_tensor(np.stack([x, y], axis=1)[None, None], "float32")
        limits = ops.convert_to_tensor([grid.width, grid.height], "float32")
        first = ops.minimum(ops.maximum(at - sides[..., :2], 0.0), limits)
        return ops.concatenate([first, ops.maximum(ops.minimum(at + sides[..., 2:], limits), first)], axis=-1)


class Scores(keras.layers.Layer):
    """`output_cov`, a class a row."""

    def __init__(self, channels_first: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._first = channels_first

    def call(self, cov: tf.Tensor) -> tf.Tensor:
        cov = cov if self._first else ops.transpose(cov, (0, 3, 1, 2))
        return ops.reshape(cov, (-1, cov.shape[1], cov.shape[2] * cov.shape[3]))


def with_decoding(model: keras.Model, grid: Grid, channels_first: bool) -> keras.Model:
    """The model with `decoding.decode` in it.

    Args:
        model: with outputs `[output_bbox, output_cov]`.
        grid: that of the model.
        channels_first: of its outputs.

    Returns:
        A model with outputs "boxes" `(n, c, cells, 4)`: x1, y1, x2, y2 in pixels, clipped to the picture; and "scores"
        `(n, c, cells)`: their coverages. What is left to do is non-maximum suppression, or clustering.
    """
    bbox, cov = model.outputs
    outputs = [Boxes(grid, channels_first, name="boxes")(bbox), Scores(channels_first, name="scores")(cov)]
    return keras.Model(model.inputs[0], outputs, name=f"{model.name}_decoded")
