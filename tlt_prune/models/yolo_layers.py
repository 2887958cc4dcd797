"""Layers of YOLOv3 (arXiv:1804.02767) and YOLOv4 (arXiv:2004.10934) that have no weights: anchor boxes and bounded offsets."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tlt_prune.graph.call_trace import CallTrace
from tlt_prune.graph.labels import Labels
from tlt_prune.graph.rules.registry import register_rule

# Heights and widths above exp(8) times the anchor's are cut: exp of a wild prediction overflows float16 and ends training.
_MOST_LOG_SIZE = 8.0


@keras.saving.register_keras_serializable(package="tlt_prune")
class YOLOAnchorBox(keras.layers.Layer):
    """The cells and anchor boxes of a feature map, of which only height and width are read.

    Input (batch, channels, height, width), or channels last; either size may be open. Output (batch, height * width * boxes, 6)
    in shares of the picture: top of the cell, left of the cell, height of the box, width of the box, height of a cell, width of
    a cell. Positions are in rows from the top left, the boxes of one cell beside each other.
    """

    def __init__(self, anchor_size: Sequence[Sequence[float]], data_format: str | None = None, **kwargs: Any) -> None:
        """Keeps the boxes.

        Args:
            anchor_size: (width, height) of each box, in shares of the picture.
            data_format: "channels_first" or "channels_last"; None is Keras' default.
            **kwargs: of a Keras layer.

        Raises:
            ValueError: `anchor_size` is not a list of pairs of positive numbers, or there is no such format.
        """
        super().__init__(**kwargs)
        self.anchor_size = checked_boxes(anchor_size, "anchor_size")
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        if self.data_format not in ("channels_first", "channels_last"):
            raise ValueError(f"data_format: expected 'channels_first' or 'channels_last'. Received: {data_format!r}.")

    def call(self, x: Any) -> Any:
        """Makes the boxes anew in every call: the size of the map may change."""
        sizes, dtype = ops.shape(x), "float32"
        batch, (height, width), boxes = sizes[0], self._spatial(sizes), len(self.anchor_size)
        anchors = ops.convert_to_tensor(self.anchor_size, dtype)
        rows, columns = ops.cast(height, dtype), ops.cast(width, dtype)
        values = (
            ops.reshape(ops.arange(height, dtype=dtype) / rows, (-1, 1, 1)),
            ops.reshape(ops.arange(width, dtype=dtype) / columns, (1, -1, 1)),
            anchors[:, 1],
            anchors[:, 0],
            1 / rows,
            1 / columns,
        )
        zeros = ops.zeros((height, width, boxes), dtype)
        grid = ops.reshape(ops.stack([zeros + value for value in values], axis=-1), (1, height * width * boxes, 6))
        return ops.cast(ops.broadcast_to(grid, (batch, height * width * boxes, 6)), self.compute_dtype)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, int | None, int]:
        """(batch, boxes of the whole map, 6); the second is None where the map's size is open."""
        height, width = self._spatial(input_shape)
        positions = None if height is None or width is None else height * width * len(self.anchor_size)
        return input_shape[0], positions, 6

    def _spatial(self, shape: Sequence[Any]) -> tuple[Any, Any]:
        first = 2 if self.data_format == "channels_first" else 1
        return shape[first], shape[first + 1]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "anchor_size": self.anchor_size, "data_format": self.data_format}


@keras.saving.register_keras_serializable(package="tlt_prune")
class BBoxPostProcessingLayer(keras.layers.Layer):
    """Bounds the position of each box to its cell and makes factors of the logarithms of its size.

    Input and output (..., 4 + n): y, x, height, width and n values that pass unchanged. y and x become
    `sigmoid(v) * s - (s - 1) / 2`, which reaches the cell's borders for `s > 1`; height and width become `exp(min(v, 8))`.
    """

    def __init__(self, grid_scale_xy: float = 1.0, **kwargs: Any) -> None:
        """Keeps the scale.

        Args:
            grid_scale_xy: `s`; 1.05 lets a center lie up to 2.5 % of a cell outside of it.
            **kwargs: of a Keras layer.

        Raises:
            ValueError: `grid_scale_xy` is not a positive number.
        """
        super().__init__(**kwargs)
        if not _is_positive(grid_scale_xy):
            raise ValueError(f"grid_scale_xy: expected a positive number. Received: {grid_scale_xy!r}.")
        self.grid_scale_xy = float(grid_scale_xy)

    def call(self, x: Any) -> Any:
        """The values of all boxes at once."""
        scale = self.grid_scale_xy
        center = ops.sigmoid(x[..., :2]) * scale - (scale - 1) / 2
        size = ops.exp(ops.minimum(x[..., 2:4], _MOST_LOG_SIZE))
        return ops.concatenate([center, size, x[..., 4:]], axis=-1)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """That of the input."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "grid_scale_xy": self.grid_scale_xy}


@register_rule(YOLOAnchorBox)
def anchor_box(call: CallTrace, *xs: Labels) -> Any:
    """No channel of the map may go: it makes outputs, one for each value of each box."""
    return call.freeze_all(xs, "anchor boxes")


@register_rule(BBoxPostProcessingLayer)
def bbox_post_processing(call: CallTrace, *xs: Labels) -> Any:
    """Each position of the last axis has a meaning of its own."""
    return call.freeze_all(xs, "decoded boxes")


def checked_boxes(boxes: Any, name: str) -> list[list[float]]:
    """Pairs (width, height) of positive numbers.

    Raises:
        ValueError: they are something else, or there are none.
    """
    pairs = isinstance(boxes, Sequence) and not isinstance(boxes, str) and len(boxes) > 0
    if not pairs or not all(isinstance(box, Sequence) and len(box) == 2 and all(map(_is_positive, box)) for box in boxes):
        raise ValueError(
            f"{name}: expected a list of (width, height), positive and in shares of the picture. Received: {boxes!r}."
        )
    return [[float(x) for x in box] for box in boxes]


def _is_positive(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and 0 < float(value) < math.inf
