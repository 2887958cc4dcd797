"""Anchor boxes of SSD and RetinaNet: boxes of fixed sizes around every position of a feature map, and the layers that make them.

A box of aspect ratio a and scale s has width s m sqrt(a) and height s m / sqrt(a), with m the shorter side of the picture: Liu et
al., "SSD: Single Shot MultiBox Detector", 2016, arXiv:1512.02325, section 2.2. Importing this module lets Keras load models that
hold these layers.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import keras
import numpy as np
from keras import ops

from tlt_prune.graph import CallTrace
from tlt_prune.graph.labels import Labels
from tlt_prune.graph.rules import register_rule
from tlt_prune.models.blocks import Net

# One number for both axes, or (height, width).
PerAxis = float | Sequence[float]
F = TypeVar("F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class AnchorGrid:
    """Anchor boxes of one feature map.

    Attributes:
        img_height, img_width: of the picture, in pixels.
        this_scale, next_scale: of this map's boxes and of the next smaller map's, as shares of the picture's shorter side.
        aspect_ratios: width / height of each box.
        two_boxes_for_ar1: a second box of aspect ratio 1, right after the first, of scale sqrt(this_scale next_scale).
        clip_boxes: corners outside of the picture are moved to its border.
        variances: what a network's four offsets are multiplied by; they are appended to every box.
        steps: pixels from one position to the next; None spreads the positions over the picture.
        offsets: of the first box's center from the picture's corner, in steps; None means half a step.
        n_anchor_levels: every box is repeated with 2^(1/n), 2^(2/n)... 2^((n-1)/n) times its size.
    """

    img_height: int
    img_width: int
    this_scale: float
    next_scale: float
    aspect_ratios: Sequence[float] = (1.0, 2.0, 0.5)
    two_boxes_for_ar1: bool = True
    clip_boxes: bool = False
    variances: Sequence[float] = (0.1, 0.1, 0.2, 0.2)
    steps: PerAxis | None = None
    offsets: PerAxis | None = None
    n_anchor_levels: int = 1

    def __post_init__(self) -> None:
        _expect(self.img_height > 0 and self.img_width > 0, "a picture of at least one pixel", self, "img_height", "img_width")
        _expect(self.this_scale > 0 and self.next_scale > 0, "scales above 0", self, "this_scale", "next_scale")
        _expect(bool(self.aspect_ratios) and min(self.aspect_ratios) > 0, "aspect ratios above 0", self, "aspect_ratios")
        _expect(len(self.variances) == 4 and min(self.variances) > 0, "four variances above 0", self, "variances")
        _expect(self.n_anchor_levels >= 1, "at least one level", self, "n_anchor_levels")
        for name in ("steps", "offsets"):
            value = getattr(self, name)
            _expect(value is None or len(np.atleast_1d(value)) in (1, 2), "a number, or (height, width)", self, name)

    @property
    def count(self) -> int:
        """Boxes per position."""
        return len(self._sizes())

    def boxes(self, height: int, width: int) -> np.ndarray:
        """All boxes of a map of that size.

        Returns:
            Shape (height width, boxes, 8), float32, positions row by row: xmin, ymin, xmax and ymax as shares of the picture's
            width and height, and the four variances.
        """
        sizes = self._sizes()
        y, x = (
            (offset + np.arange(count)) * step
            for count, offset, step in zip(
                (height, width),
                _pair(0.5 if self.offsets is None else self.offsets),
                _pair((self.img_height / height, self.img_width / width) if self.steps is None else self.steps),
                strict=True,
            )
        )
        centers = np.stack(np.meshgrid(x, y), axis=-1)[:, :, None]
        corners = np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=-1)
        far = np.array([self.img_width, self.img_height] * 2, np.float64)
        if self.clip_boxes:
            # The last pixel, not the border behind it, is how the toolkit clips.
            corners = np.clip(corners, 0, far - 1)
        corners = (corners / far).reshape(-1, len(sizes), 4)
        variances = np.broadcast_to(np.asarray(self.variances, np.float64), corners.shape)
        return np.concatenate([corners, variances], axis=-1).astype(np.float32)

    def _sizes(self) -> np.ndarray:
        """(width, height) of each box in pixels, shape (boxes, 2)."""
        short = min(self.img_height, self.img_width)
        shapes: list[tuple[float, float]] = []
        for ratio in self.aspect_ratios:
            shapes.append((self.this_scale * math.sqrt(ratio), self.this_scale / math.sqrt(ratio)))
            if ratio == 1 and self.two_boxes_for_ar1:
                shapes.append((math.sqrt(self.this_scale * self.next_scale),) * 2)
        levels = 2.0 ** (np.arange(self.n_anchor_levels) / self.n_anchor_levels)
        sizes: np.ndarray = levels[:, None, None] * np.array(shapes) * short
        return sizes.reshape(-1, 2)


@keras.saving.register_keras_serializable(package="tlt_prune")
class AnchorBoxes(keras.layers.Layer):
    """Anchor boxes around every position of the feature map that it is called on, of which it reads nothing but height and width.

    Input: a map of fixed height and width. Output: shape (batch, positions, boxes, 8), see `AnchorGrid.boxes`.

    Args:
        data_format: "channels_last" or "channels_first".
        **options: the fields of `AnchorGrid`, without `n_anchor_levels`; and the arguments of every layer, such as `name`.

    Raises:
        ValueError: an option is out of range, or the map has an open size.
    """

    _levels = False

    def __init__(self, *, data_format: str = "channels_last", **options: Any) -> None:
        own = {name: options.pop(name) for name in self._fields() if name in options}
        super().__init__(**options)
        if data_format not in ("channels_last", "channels_first"):
            raise ValueError(f"data_format: expected 'channels_last' or 'channels_first'. Received: {data_format!r}.")
        self.data_format = data_format
        self.grid = AnchorGrid(**own)

    @classmethod
    def _fields(cls) -> list[str]:
        return [x.name for x in dataclasses.fields(AnchorGrid) if cls._levels or x.name != "n_anchor_levels"]

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        boxes = ops.convert_to_tensor(self.grid.boxes(*self._size(inputs.shape)), self.compute_dtype)
        return ops.broadcast_to(boxes[None], (ops.shape(inputs)[0], *boxes.shape))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        height, width = self._size(input_shape)
        return (input_shape[0], height * width, self.grid.count, 8)

    def _size(self, shape: Sequence[int | None]) -> tuple[int, int]:
        height, width = shape[2:] if self.data_format == "channels_first" else shape[1:3]
        if height is None or width is None:
            raise ValueError(f"'{self.name}' makes the boxes of a map of fixed height and width. Received: shape={tuple(shape)}.")
        return height, width

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self.grid, name) for name in self._fields()}
        plain = {name: list(x) if isinstance(x, Sequence) else x for name, x in own.items()}
        return {**super().get_config(), **plain, "data_format": self.data_format}


@keras.saving.register_keras_serializable(package="tlt_prune")
class RetinaAnchorBoxes(AnchorBoxes):
    """`AnchorBoxes` in several sizes of every box: takes `n_anchor_levels` too."""

    _levels = True


@register_rule(AnchorBoxes, RetinaAnchorBoxes)
def _boxes(call: CallTrace, x: Labels) -> list[Labels]:
    """Freezes what it reads: in these networks the outputs that go with the boxes."""
    return call.freeze_all([x], "anchor boxes, which are made from a map's size")


@dataclasses.dataclass(frozen=True)
class AnchorOptions:
    """Anchor boxes of all feature maps of a network.

    Attributes:
        scales: of the boxes of each map, largest map first, and one more for the second box of the last map. None for
            `min_scale` to `max_scale` in even steps if both are given, else the network's own.
        min_scale, max_scale: see `scales`.
        aspect_ratios: one list for all maps, or a list for each.
        steps, offsets: one entry for each map, a number or (height, width).
        two_boxes_for_ar1, clip_boxes, variances: see `AnchorGrid`.
    """

    scales: Sequence[float] | None = None
    min_scale: float | None = None
    max_scale: float | None = None
    aspect_ratios: Sequence[float] | Sequence[Sequence[float]] = (1.0, 2.0, 0.5)
    two_boxes_for_ar1: bool = True
    steps: Sequence[PerAxis | None] | None = None
    offsets: Sequence[PerAxis | None] | None = None
    clip_boxes: bool = False
    variances: Sequence[float] = (0.1, 0.1, 0.2, 0.2)

    def grids(self, size: Sequence[int | None], default_scales: Sequence[float]) -> list[dict[str, Any]]:
        """Options of `AnchorBoxes` for each map, largest map first.

        Args:
            size: (height, width) of the picture, in pixels.
            default_scales: the network's own; there is one map less.

        Raises:
            ValueError: a list has not as many entries as it should.
        """
        count = len(default_scales) - 1
        scales = list(self._scales(default_scales))
        several = all(isinstance(x, Sequence) for x in self.aspect_ratios)
        ratios: Sequence[Any] = self.aspect_ratios if several else [self.aspect_ratios] * count
        lists = {"aspect_ratios": ratios, "steps": self.steps or [None] * count, "offsets": self.offsets or [None] * count}
        for name, values, wanted in (("scales", scales, count + 1), *((k, v, count) for k, v in lists.items())):
            if len(values) != wanted:
                raise ValueError(f"{name}: expected {wanted} entries, for {count} feature maps. Received: {len(values)}.")
        shared = {"two_boxes_for_ar1": self.two_boxes_for_ar1, "clip_boxes": self.clip_boxes, "variances": self.variances}
        shared |= {"img_height": size[0], "img_width": size[1]}
        return [
            {"this_scale": scales[i], "next_scale": scales[i + 1], **{k: v[i] for k, v in lists.items()}, **shared}
            for i in range(count)
        ]

    def _scales(self, default: Sequence[float]) -> Sequence[float]:
        if self.scales is not None:
            return self.scales
        if self.min_scale is None and self.max_scale is None:
            return default
        if self.min_scale is None or self.max_scale is None:
            raise ValueError(
                "expected both min_scale and max_scale, or scales. "
                f"Received: min_scale={self.min_scale}, max_scale={self.max_scale}."
            )
        return [float(x) for x in np.linspace(self.min_scale, self.max_scale, len(default))]


def of_all_maps(xs: Sequence[keras.KerasTensor], kind: str, values: int) -> keras.KerasTensor:
    """What is said of the boxes of each map, one map after the other.

    Args:
        xs: one per map; `values` numbers per box in the last axis, or boxes and numbers in the last two.
        kind: "conf", "loc" or "anchor", part of the layers' names.
        values: numbers per box.

    Returns:
        Shape (batch, boxes of all maps, 1, values).
    """
    flat = [keras.layers.Reshape((-1, 1, values), name=f"{kind}_reshape_{i}")(x) for i, x in enumerate(xs)]
    name = "mbox_priorbox" if kind == "anchor" else f"mbox_{kind}"
    return keras.layers.Concatenate(axis=1, name=name)(flat)


def predictions(
    net: Net, confidences: keras.KerasTensor, offsets: Sequence[keras.KerasTensor], boxes: Sequence[keras.KerasTensor], name: str
) -> keras.KerasTensor:
    """A network's output: classes, offsets, and anchor boxes with their variances, shape (batch, boxes, classes + 12).

    Args:
        net: makes layers.
        confidences: of all maps, shape (batch, boxes, 1, classes).
        offsets: of each map, channels last.
        boxes: what `AnchorBoxes` made for each map.
        name: of the output.
    """
    parts = [confidences, of_all_maps(offsets, "loc", 4), of_all_maps(boxes, "anchor", 8)]
    x = keras.layers.Concatenate(axis=-1, name=net.name("Concatenate"))(parts)
    return keras.layers.Reshape((-1, x.shape[-1]), name=name)(x)


def fields_spelled_out(options: type) -> Callable[[F], F]:
    """Decorator: the signature of a function that takes the fields of a dataclass as `**own` lists them one by one."""

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        kept = [x for x in signature.parameters.values() if x.kind is not inspect.Parameter.VAR_KEYWORD]
        keyword = inspect.Parameter.KEYWORD_ONLY
        own = [inspect.Parameter(x.name, keyword, default=x.default) for x in dataclasses.fields(options)]
        function.__signature__ = signature.replace(parameters=[*kept, *own])  # type: ignore[attr-defined]
        return function

    return decorate


def checked_classes(classes: int | None) -> int:
    """The number of classes, the background among them.

    Raises:
        ValueError: there are fewer than two.
    """
    if classes is None or classes < 2:
        raise ValueError(f"Expected at least two classes, the background among them. Received: classes={classes}.")
    return classes


def _pair(value: PerAxis) -> tuple[float, float]:
    """(height, width)."""
    height, width = np.broadcast_to(np.asarray(value, np.float64).reshape(-1), (2,))
    return float(height), float(width)


def _expect(holds: bool, what: str, owner: object, *names: str) -> None:
    if not holds:
        received = ", ".join(f"{name}={getattr(owner, name)}" for name in names)
        raise ValueError(f"Expected {what}. Received: {received}.")
