"""Random changes of pictures and their boxes, as the toolkit draws them, by batch and seeded.

On the picture the steps are: scale, crop, flip, translate, zoom, rotate. Matrices act on row vectors: `p M` is the point of the
source, `(x, y, 1)` with pixel centers at +.5, that an output pixel `p` shows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tlt_prune.errors import SpecError


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Cropping and scaling of every picture, in training and evaluation alike.

    Attributes:
        width, height: of the result, in pixels.
        crop: (left, top, right, bottom) of the part of the picture that is taken, in its pixels; all 0 is (0, 0, width, height).
        scale: how many times as wide and as high the picture becomes before; 0 leaves it.
    """

    width: int
    height: int
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)
    scale: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        left, top, right, bottom = self.crop
        if any(self.crop) and not (left < right and top < bottom):
            raise SpecError(f"crop: expected crop_left below crop_right and crop_top below crop_bottom. Received: {self.crop}.")

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the result."""
        left, top, right, bottom = self.crop
        return (right - left, bottom - top) if any(self.crop) else (self.width, self.height)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """From points of the result to points of the source, `(3, 3)`."""
        factors = [1 / scale if scale else 1.0 for scale in self.scale]
        return translation(float(self.crop[0]), float(self.crop[1])) @ np.diag([*factors, 1.0])


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes; the names are the toolkit's.

    Attributes:
        hflip_probability, vflip_probability: of a mirrored picture, left to right and upside down.
        zoom_min, zoom_max: contents become 1 / zoom times as large, somewhere in the canvas; above 0.
        translate_max_x, translate_max_y: in whole pixels, either way.
        rotate_rad_max: either way, in radians.
        rotate_probability: 0 means always.
        color_shift_stddev: of brightness, a normal distribution cut at two of them; pictures are 0 to 1.
        hue_rotation_max: either way, in degrees; twice the standard deviation.
        saturation_shift_max: around 1.
        contrast_scale_max: either way, twice the standard deviation.
        contrast_center: the brightness that contrast leaves alone.
        tao: as the toolkit does it: the angle is taken for degrees, pictures are never turned upside down, boxes follow a
            rotation by two of their corners, and are neither clipped nor left out.
    """

    hflip_probability: float = 0.5
    vflip_probability: float = 0.0
    zoom_min: float = 1.0
    zoom_max: float = 1.0
    translate_max_x: float = 8.0
    translate_max_y: float = 8.0
    rotate_rad_max: float = 0.0
    rotate_probability: float = 0.0
    color_shift_stddev: float = 0.0
    hue_rotation_max: float = 25.0
    saturation_shift_max: float = 0.2
    contrast_scale_max: float = 0.1
    contrast_center: float = 0.5
    tao: bool = False

    def __post_init__(self) -> None:
        for name in ("hflip_probability", "vflip_probability", "rotate_probability", "saturation_shift_max"):
            if not 0 <= getattr(self, name) <= 1:
                raise SpecError(f"{name}: expected a number from 0 to 1. Received: {getattr(self, name)!r}.")
        if not 0 < self.zoom_min <= self.zoom_max:
            raise SpecError(f"zoom_min, zoom_max: expected 0 < zoom_min <= zoom_max. Received: {self.zoom_min}, {self.zoom_max}.")

    def draw(self, count: int, seed: tf.Tensor | Sequence[int], size: tuple[int, int]) -> dict[str, tf.Tensor]:
        """Draws for `count` pictures; the same for the same `seed` (two integers).

        Args:
            count: of pictures.
            seed: `(2,)`.
            size: (width, height) of the canvas.

        Returns:
            A vector a quantity: "flip", "vflip", "rotated" (bool), "translate_x", "translate_y", "zoom_ratio", "zoom_x", "zoom_y"
            (pixels), "angle" (radians), "brightness", "hue" (radians), "saturation", "contrast".
        """
        seeds = tf.unstack(tf.random.split(tf.cast(seed, tf.int32), 14))

        def uniform(low: float = 0.0, high: float = 1.0) -> tf.Tensor:
            return low + (high - low) * tf.random.stateless_uniform([count], seeds.pop())

        def normal(deviation: float) -> tf.Tensor:
            return deviation * tf.random.stateless_truncated_normal([count], seeds.pop())

        def whole(most: float) -> tf.Tensor:
            most = int(most)
            return tf.cast(tf.random.stateless_uniform([count], seeds.pop(), -most, most + 1, tf.int32), tf.float32)

        ratio = uniform(self.zoom_min, self.zoom_max)
        degrees = math.pi / 180
        angle = uniform(-self.rotate_rad_max, self.rotate_rad_max) * (degrees if self.tao else 1.0)
        return {
            "flip": uniform() < self.hflip_probability,
            "vflip": uniform() < (0.0 if self.tao else self.vflip_probability),
            "translate_x": whole(self.translate_max_x),
            "translate_y": whole(self.translate_max_y),
            "zoom_ratio": ratio,
            "zoom_x": uniform() * (size[0] - size[0] / ratio),
            "zoom_y": uniform() * (size[1] - size[1] / ratio),
            "angle": angle,
            "rotated": uniform() < (self.rotate_probability or 1.0),
            "brightness": normal(self.color_shift_stddev),
            "hue": normal(self.hue_rotation_max / 2) * degrees,
            "saturation": uniform(1 - self.saturation_shift_max, 1 + self.saturation_shift_max),
            "contrast": normal(self.contrast_scale_max / 2),
        }

    def color_matrices(self, draws: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """`(n, 4, 4)`: contrast, then hue and saturation, then brightness, of `(r, g, b, 1)`."""
        gain = 1 + draws["contrast"]
        shift = -draws["contrast"] * self.contrast_center
        contrast = _rows([gain, 0, 0, 0], [0, gain, 0, 0], [0, 0, gain, 0], [shift, shift, shift, 1])
        turned = tf.pad(_hue_and_saturation(draws["hue"], draws["saturation"]), [[0, 0], [0, 1], [0, 1]])
        turned += tf.constant(np.diag([0.0, 0, 0, 1]), tf.float32)
        light = draws["brightness"]
        return contrast @ turned @ _rows([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [light, light, light, 1])


def spatial_matrices(draws: Mapping[str, tf.Tensor], canvas: tf.Tensor | NDArray[Any], size: tuple[int, int]) -> tf.Tensor:
    """`(n, 3, 3)`.

    Args:
        draws: see `Augmentation.draw`.
        canvas: `(3, 3)` or `(n, 3, 3)`: see `Canvas.matrix`.
        size: (width, height) of the canvas.
    """
    width, height = float(size[0]), float(size[1])
    angle = tf.where(draws["rotated"], draws["angle"], 0.0)
    cos, sin = tf.cos(angle), tf.sin(angle)
    x, y = width / 2, height / 2
    rotation = _rows([cos, sin, 0], [-sin, cos, 0], [x - x * cos + y * sin, y - x * sin - y * cos, 1])
    ratio = draws["zoom_ratio"]
    zoom = _rows([ratio, 0, 0], [0, ratio, 0], [-draws["zoom_x"] * ratio, -draws["zoom_y"] * ratio, 1])
    shift = _rows([1, 0, 0], [0, 1, 0], [draws["translate_x"], draws["translate_y"], 1])
    flip_x, flip_y = tf.cast(draws["flip"], tf.float32), tf.cast(draws["vflip"], tf.float32)
    flip = _rows([1 - 2 * flip_x, 0, 0], [0, 1 - 2 * flip_y, 0], [flip_x * width, flip_y * height, 1])
    return rotation @ zoom @ shift @ flip @ tf.cast(canvas, tf.float32)


def translation(x: float, y: float) -> NDArray[np.float64]:
    """Matrix that moves by (x, y) pixels, `(3, 3)`, for points as rows."""
    return np.array([[1.0, 0, 0], [0, 1, 0], [x, y, 1]])


def _rows(*rows: Sequence[tf.Tensor | float]) -> tf.Tensor:
    """Matrices `(n, k, k)` of rows whose entries are vectors `(n,)` or numbers."""
    flat = [x for row in rows for x in row]
    count = next(tf.shape(x)[0] for x in flat if not isinstance(x, (int, float)))
    filled = [tf.fill([count], float(x)) if isinstance(x, (int, float)) else x for x in flat]
    return tf.reshape(tf.stack(filled, axis=1), (-1, len(rows), len(rows[0])))


# The luminance of a color, and the two directions around it.
_GRAY = np.repeat([[0.299], [0.587], [0.114]], 3, axis=1)
_COLOR = np.array([[0.701, -0.299, -0.299], [-0.587, 0.413, -0.587], [-0.114, -0.114, 0.886]])
_ACROSS = np.array([[0.168, -0.328, 1.25], [0.33, 0.035, -1.05], [-0.497, 0.292, -0.203]])


def _hue_and_saturation(angle: tf.Tensor, saturation: tf.Tensor) -> tf.Tensor:
    along, across = (saturation * tf.cos(angle))[:, None, None], (saturation * tf.sin(angle))[:, None, None]
    gray, color, turned = (tf.constant(x, tf.float32) for x in (_GRAY, _COLOR, _ACROSS))
    return gray + along * color + across * turned


def warp(pictures: tf.Tensor, matrices: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Pictures `(n, height, width, channels)`, 0 to 1, as `size` (width, height) of the result shows them; gray outside."""
    moved = tf.constant(translation(0.5, 0.5), tf.float32) @ matrices @ tf.constant(translation(-0.5, -0.5), tf.float32)
    # TensorFlow wants columns, without the last entry.
    flat = tf.reshape(tf.transpose(moved, (0, 2, 1)), (-1, 9))[:, :8]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=pictures,
        transforms=flat,
        output_shape=(size[1], size[0]),
        fill_value=0.5,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


def colored(pictures: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """Pictures `(n, height, width, 3)` by color matrices `(n, 4, 4)`, clipped to 0 to 1."""
    result = tf.einsum("nhwi,nij->nhwj", pictures, matrices[:, :3, :3]) + matrices[:, None, None, 3, :3]
    return tf.clip_by_value(result, 0.0, 1.0)


def moved_boxes(boxes: tf.Tensor, matrices: tf.Tensor, *, tao: bool = False) -> tf.Tensor:
    """Boxes `(n, k, 4)` of the sources in the results: around what becomes of their corners, of two of them with `tao`."""
    inverse = tf.linalg.inv(matrices)
    x1, y1, x2, y2 = tf.unstack(boxes, axis=-1)
    corners = [(x1, y1), (x2, y2)] if tao else [(x1, y1), (x2, y2), (x1, y2), (x2, y1)]
    points = tf.stack([tf.stack([x, y, tf.ones_like(x)], axis=-1) for x, y in corners], axis=2)
    found = tf.einsum("nkci,nij->nkcj", points, inverse)[..., :2]
    return tf.concat([tf.reduce_min(found, axis=2), tf.reduce_max(found, axis=2)], axis=-1)


def clipped(boxes: tf.Tensor, limits: tuple[float, float, float, float], smallest: float = 0.0) -> tuple[tf.Tensor, tf.Tensor]:
    """Boxes `(n, k, 4)` clipped to (left, top, right, bottom), and which of them are still there `(n, k)`.

    One that only touches the limits is not, nor is one that `smallest` pixels or more do not remain of, either way.
    """
    left, top, right, bottom = limits
    inside = tf.stack(
        [
            tf.clip_by_value(boxes[..., i], low, high)
            for i, (low, high) in enumerate(((left, right), (top, bottom), (left, right), (top, bottom)))
        ],
        axis=-1,
    )
    width, height = inside[..., 2] - inside[..., 0], inside[..., 3] - inside[..., 1]
    return inside, (width > 0) & (height > 0) & (width >= smallest) & (height >= smallest)
