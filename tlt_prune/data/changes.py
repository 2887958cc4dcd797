"""Random changes of training pictures, a batch at a time; draws follow from one key alone."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tlt_prune.config import AugmentationConfig


@dataclasses.dataclass(frozen=True)
class Rows:
    """Examples of a batch that are read here.

    Attributes:
        first: number of the first one in the batch.
        count: how many there are.
        size: of the batch.
    """

    first: tf.Tensor | int
    count: tf.Tensor | int
    size: tf.Tensor | int

    @classmethod
    def all(cls, size: tf.Tensor | int) -> Rows:
        """The whole batch."""
        return cls(0, size, size)

    def of(self, values: tf.Tensor) -> tf.Tensor:
        """Theirs of values `(size, ...)` of the batch."""
        return values[self.first : self.first + self.count]

    def uniform(
        self, shape: tuple[int, ...], key: tf.Tensor, low: float = 0.0, high: float = 1.0, dtype: tf.DType = tf.float32
    ) -> tf.Tensor:
        """Random numbers of these examples `(count, *shape)`: the same wherever the batch is cut."""
        return self.of(tf.random.stateless_uniform((self.size, *shape), key, low, high, dtype))


def random_changes(images: tf.Tensor, augmentation: AugmentationConfig, key: tf.Tensor, rows: Rows, depth: int = 8) -> tf.Tensor:
    """Pictures as a spec's augmentation changes them, each by draws of its own.

    Args:
        images: `(n, height, width, channels)`, 0 to 2^depth - 1.
        augmentation: what may change.
        key: `(2,)`: what the draws of the batch follow from.
        rows: which of the batch they are.
        depth: bits of a value.
    """
    height, width = images.shape[1:3]
    if augmentation.enable_random_crop:
        images = _cropped(images, augmentation.crop_fraction, key, rows)
    if augmentation.shift > 0 or augmentation.zoom > 0:
        shift, zoom = (rows.uniform((2,), key + i, -x, x) for i, x in ((4, augmentation.shift), (5, augmentation.zoom)))
        images = moved(images, shift * tf.constant([height, width], tf.float32), 1.0 + zoom)
    if not augmentation.disable_horizontal_flip:
        flipped = rows.uniform((1, 1, 1), key + 1) < 0.5
        images = tf.where(flipped, tf.reverse(images, [2]), images)
    if augmentation.enable_color_augmentation:
        images = _colored(images, 2**depth - 1, key, rows)
    return images


def _cropped(images: tf.Tensor, fraction: float, key: tf.Tensor, rows: Rows) -> tf.Tensor:
    """Padded with zeros by a share of their size and cut to it again, anywhere."""
    if not fraction:
        return images
    sizes = images.shape[1:3]
    margins = [max(1, round(size * fraction)) for size in sizes]
    padded = tf.pad(images, ((0, 0), *((m, m) for m in margins), (0, 0)))
    for axis, (size, margin) in enumerate(zip(sizes, margins, strict=True), 1):
        first = rows.uniform((1,), key + 5 + axis, 0, 2 * margin + 1, tf.int32)
        padded = tf.gather(padded, first + tf.range(size), axis=axis, batch_dims=1)
    return tf.ensure_shape(padded, images.shape)


def _colored(images: tf.Tensor, top: int, key: tf.Tensor, rows: Rows) -> tf.Tensor:
    """Brighter or darker by at most a fifth, with a contrast of 0.8 to 1.2 times."""
    brightness = rows.uniform((1, 1, 1), key + 2, -0.2 * top, 0.2 * top)
    contrast = rows.uniform((1, 1, 1), key + 3, 0.8, 1.2)
    bright = tf.cast(images, tf.float32) + brightness
    middle = tf.reduce_mean(bright, axis=(1, 2), keepdims=True)
    return tf.clip_by_value((bright - middle) * contrast + middle, 0, top)


def moved(images: tf.Tensor, shift: tf.Tensor, zoom: tf.Tensor) -> tf.Tensor:
    """Pictures shifted and zoomed, as float32, with their border carried on.

    Args:
        images: `(n, height, width, channels)`.
        shift: `(n, 2)`: what is added to the row and the column that a pixel is taken from.
        zoom: `(n, 2)`: what their distance from the middle is multiplied with; above 1 makes things smaller.
    """
    size = tf.cast(tf.shape(images)[1:3], tf.float32)
    offset = (size / 2 - 0.5) * (1 - zoom) + shift
    none = tf.zeros_like(zoom[:, 0])
    transforms = tf.stack([zoom[:, 1], none, offset[:, 1], none, zoom[:, 0], offset[:, 0], none, none], axis=1)
    found = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32), transforms=transforms, output_shape=tf.shape(images)[1:3], fill_value=0.0,
        interpolation="BILINEAR", fill_mode="NEAREST",
    )  # fmt: skip
    return tf.ensure_shape(found, images.shape)
