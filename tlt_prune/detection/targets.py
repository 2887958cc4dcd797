"""Training targets: coverage ellipses and boxes, rasterized on the grid of the network.

The toolkit's rule (DetectNet_v2, `bbox_rasterizer_config`). Every box paints an ellipse around its center; cells between the
ellipse and the box, its dead zone, are cleared of what was painted before. Boxes are painted by their lower edge, the one that is
lowest in the picture, and thus nearest, last. Classes never see each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from numpy.typing import NDArray

from tlt_prune.detection.geometry import Grid
from tlt_prune.detection.masks import LossMask
from tlt_prune.errors import SpecError

Targets = dict[str, tf.Tensor | dict[str, tf.Tensor]]
""""cov", "cov_norm" and "bbox", channels first; with a mask also "weights", by objective: see `Rasterizer.__call__`."""

# A cell's coverage is the share of its 4 x 4 sample points inside the ellipse.
_SAMPLES = 4


@dataclasses.dataclass(frozen=True)
class Ellipse:
    """Shape of the coverage ellipse of a class.

    Attributes:
        center_x, center_y: of the ellipse, as a share of the box, 0 to 1.
        radius_x, radius_y: as a share of the way from the center to the nearer side, above 0 and at most 1.
        min_radius: in cells, above 0 and at most 1; the other radius grows in proportion.
    """

    center_x: float = 0.5
    center_y: float = 0.5
    radius_x: float = 0.4
    radius_y: float = 0.4
    min_radius: float = 1.0

    def __post_init__(self) -> None:
        for name, low, closed in (
            ("center_x", 0, True),
            ("center_y", 0, True),
            ("radius_x", 0, False),
            ("radius_y", 0, False),
            ("min_radius", 0, False),
        ):
            value = getattr(self, name)
            if not (low < value <= 1 or (closed and value == low)):
                raise SpecError(f"{name}: expected a number {'from' if closed else 'above'} 0 to 1. Received: {value!r}.")


class Rasterizer:
    """Boxes of a batch of pictures -> targets.

    Args:
        grid: where they are painted.
        ellipses: class name -> how; the order is that of the network's channels.
        deadzone: share of the way from the ellipse to the box that is cleared, 0 to 1.
        mask: where the loss counts less.

    Raises:
        SpecError: a value is out of range.
    """

    def __init__(self, grid: Grid, ellipses: Mapping[str, Ellipse], deadzone: float = 0.67, mask: LossMask | None = None) -> None:
        if not ellipses:
            raise SpecError("target classes: expected at least one. Received none.")
        if not 0 <= deadzone <= 1:
            raise SpecError(f"deadzone_radius: expected a number from 0 to 1. Received: {deadzone!r}.")
        self.grid, self.classes = grid, tuple(ellipses)
        self._deadzone, self._mask = deadzone, mask or LossMask()
        self._mask.check(self.classes)
        self._ellipse = {
            name: tf.constant([getattr(x, name) for x in ellipses.values()], tf.float32)
            for name in (field.name for field in dataclasses.fields(Ellipse))
        }

    def __call__(self, boxes: tf.Tensor | NDArray[Any], classes: tf.Tensor | NDArray[Any]) -> Targets:
        """Paints.

        Args:
            boxes: `(n, k, 4)`: x1, y1, x2, y2 in pixels, of `n` pictures, padded to `k` boxes each.
            classes: `(n, k)`: numbers of their classes, -1 for padding; above the last, what `mask` filters.

        Returns:
            Channels first, `c` classes: "cov" `(n, c, rows, columns)`, 0 to 1; "cov_norm" of that shape, the weight of a cell's
            box in the loss; "bbox" `(n, 4 c, rows, columns)`, what `output_bbox` is to be; with a mask "weights", what cells
            count by objective.
        """
        grid, count = self.grid, len(self.classes)
        boxes, classes = tf.cast(boxes, tf.float32), tf.cast(classes, tf.int32)
        scaled = boxes * tf.constant([grid.columns / grid.width, grid.rows / grid.height] * 2, tf.float32)
        # From the far end of the scene to the near one; boxes that share a lower edge stay in order.
        order = tf.argsort(scaled[..., 3], axis=1, stable=True)
        scaled, classes = tf.gather(scaled, order, batch_dims=1), tf.gather(classes, order, batch_dims=1)
        shapes = self._shapes(scaled, classes)
        mine = tf.equal(classes[..., None], tf.range(count))

        def paint(i: tf.Tensor, best: tf.Tensor, owner: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            place = shapes[:, i]
            cover, dead = self._cover(place, "ellipse"), self._cover(place, "dead zone")
            for_class = mine[:, i, :, None, None]
            clear = for_class & (dead > 0)[:, None] & (dead[:, None] >= best)
            best, owner = tf.where(clear, 0.0, best), tf.where(clear, -1, owner)
            write = for_class & (cover > 0)[:, None] & (cover[:, None] >= best)
            return i + 1, tf.where(write, cover[:, None], best), tf.where(write, i, owner)

        shape = tf.stack([tf.shape(boxes)[0], count, grid.rows, grid.columns])
        _, best, owner = tf.while_loop(
            lambda i, *_: i < tf.shape(boxes)[1],
            paint,
            (tf.constant(0), tf.zeros(shape), tf.fill(shape, -1)),
            shape_invariants=(tf.TensorShape([]), *[tf.TensorShape([None, count, grid.rows, grid.columns])] * 2),
        )
        written = self._written(best, owner, scaled, shapes)
        if self._mask.filters:
            ordered = tf.gather(boxes, order, batch_dims=1)
            written["weights"] = self._mask.weights(grid, self.classes, ordered, classes, written["cov"])
        return written

    def _shapes(self, boxes: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """`(n, k, 6)`: center, radii of the ellipse, radii of the dead zone; in cells."""
        known = tf.clip_by_value(classes, 0, len(self.classes) - 1)
        of = {name: tf.gather(values, known) for name, values in self._ellipse.items()}
        centers, radii, sides = [], [], []
        for low, axis in ((0, "x"), (1, "y")):
            first, last = boxes[..., low], boxes[..., low + 2]
            share = of[f"center_{axis}"]
            center = first + share * (last - first)
            side = tf.where(share < 0.5, center - first, last - center)
            centers.append(center)
            sides.append(side)
            radii.append(tf.maximum(of[f"radius_{axis}"] * side, 0.1))
        a, b = radii
        least = of["min_radius"]
        a, b = tf.where(a < least, least, a), tf.where(a < least, least * b / a, b)
        a, b = tf.where(b < least, least * a / b, a), tf.where(b < least, least, b)
        dead = [tf.maximum(r, (1 - self._deadzone) * r + self._deadzone * s) for r, s in zip((a, b), sides, strict=True)]
        return tf.stack([*centers, a, b, *dead], axis=-1)

    def _cover(self, shapes: tf.Tensor, what: str) -> tf.Tensor:
        """`(n, rows, columns)`: the share of each cell's samples inside an ellipse `(n, 6)`."""
        first = 2 if what == "ellipse" else 4
        squares = []
        for axis, size in ((0, self.grid.columns), (1, self.grid.rows)):
            at = (tf.range(size * _SAMPLES, dtype=tf.float32) + 0.5) / _SAMPLES
            squares.append(((at - shapes[:, None, axis]) / shapes[:, None, first + axis]) ** 2)
        inside = tf.cast(squares[1][:, :, None] + squares[0][:, None, :] < 1, tf.float32)
        by_cell = tf.reshape(inside, (-1, self.grid.rows, _SAMPLES, self.grid.columns, _SAMPLES))
        return tf.reduce_mean(by_cell, axis=(2, 4))

    def _written(self, best: tf.Tensor, owner: tf.Tensor, boxes: tf.Tensor, shapes: tf.Tensor) -> Targets:
        """The targets of each cell, from the box that owns it."""
        grid = self.grid
        # One more row stands for nobody.
        numbers = tf.where(owner < 0, tf.shape(boxes)[1], owner)
        box = tf.gather(_with_a_row(boxes), numbers, batch_dims=1)
        area = tf.gather(_with_a_row(4 * shapes[..., 2] * shapes[..., 3]), numbers, batch_dims=1)
        painted = tf.cast(owner >= 0, tf.float32)
        sides = []
        for axis, size, stride in ((0, grid.columns, grid.stride_x), (1, grid.rows, grid.stride_y)):
            at = tf.range(size, dtype=tf.float32)
            at = at if axis == 0 else at[:, None]
            first, last = box[..., axis], box[..., axis + 2]
            length = last - first
            # A ramp from one side to the other, whose slope is 1 but for boxes under a tenth of a cell.
            slope = length * length / tf.maximum(length * length, 0.01)
            way = (at - first) * slope * stride + grid.offset
            sides += [way / grid.scale, (length * stride - way) / grid.scale]
        bbox = tf.stack([sides[0], sides[2], sides[1], sides[3]], axis=2) * painted[:, :, None]
        shape = tf.shape(owner)
        return {
            "cov": best,
            "cov_norm": best / tf.maximum(1.0, area),
            "bbox": tf.reshape(bbox, (shape[0], 4 * len(self.classes), grid.rows, grid.columns)),
        }


def _with_a_row(values: tf.Tensor) -> tf.Tensor:
    return tf.pad(values, [[0, 0], [0, 1], *[[0, 0]] * (len(values.shape) - 2)])


def padded(pictures: Sequence[Sequence[tuple[str, Sequence[float]]]], classes: Sequence[str]) -> tuple[tf.Tensor, tf.Tensor]:
    """Lists of (class name, box) a picture -> what a `Rasterizer` takes; names that are no class are left out."""
    kept = [[(classes.index(name), box) for name, box in picture if name in classes] for picture in pictures]
    most = max(map(len, kept), default=0)
    boxes = [[*[list(map(float, box)) for _, box in x], *[[0.0] * 4] * (most - len(x))] for x in kept]
    numbers = [[*[number for number, _ in x], *[-1] * (most - len(x))] for x in kept]
    return (
        tf.reshape(tf.constant(boxes, tf.float32), (len(kept), most, 4)),
        tf.reshape(tf.constant(numbers, tf.int32), (len(kept), most)),
    )
