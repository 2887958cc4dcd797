"""Pictures with boxes at the model's size, and batches of them with targets. `reading` makes them from files."""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tlt_prune.data import BatchOrder, Pipeline, Rows, epochs_of, picture_key, unconverted
from tlt_prune.detection.augmentation import Augmentation, Canvas, clipped, colored, moved_boxes, spatial_matrices, warp
from tlt_prune.detection.targets import Rasterizer, Targets
from tlt_prune.errors import DataError
from tlt_prune.io import checksums

Array = NDArray[Any]
Resize = Literal["smooth", "tf1", "pad"]
"""Ways to bring pictures to the model's size: stretched with averaging; stretched as TensorFlow 1 did it (the toolkit
with `enable_auto_resize`); or with black at the right and below, cut off where they are larger (the toolkit without)."""
# What a `BoxSplit` has of every picture.
_BY_PICTURE = ("pictures", "boxes", "numbers", "factors", "sources", "weights")
# Boxes of less, either way, are left out, in pixels of the model.
_SMALLEST = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class BoxSplit:
    """Pictures of one size with their boxes.

    Attributes:
        names: of the pictures.
        pictures: `(n, height, width, channels)`, 0 to 255: uint8, or float32 where they were resized as TensorFlow 1 did it.
        boxes: `(n, k, 4)`: x1, y1, x2, y2 in pixels of `pictures`, padded to `k` a picture.
        numbers: `(n, k)`: the class of each, -1 for padding; above the last class what is no object but masks the loss (`masks`).
        factors: `(n, 2)`: how many times as wide and high the picture was before.
        classes: names, in the order of the network's channels.
        sources: `(n,)`: number of the folder that a picture is from.
        weights: `(n,)`: what it counts in the loss.
        notes: what its reader has to say: labels that were left out, and why.
    """

    names: tuple[str, ...]
    pictures: Array
    boxes: Array
    numbers: Array
    factors: Array
    classes: tuple[str, ...]
    sources: Array
    weights: Array
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        names: tuple[str, ...],
        pictures: Array,
        rows: Sequence[Sequence[tuple[int, Sequence[float]]]],
        factors: Sequence[tuple[float, float]],
        classes: tuple[str, ...],
        notes: tuple[str, ...] = (),
    ) -> BoxSplit:
        """From one list of (class, box) for each picture."""
        most = max(map(len, rows), default=0)
        boxes, numbers = np.zeros((len(rows), most, 4), np.float32), np.full((len(rows), most), -1, np.int32)
        for i, row in enumerate(rows):
            for j, (number, box) in enumerate(row):
                numbers[i, j], boxes[i, j] = number, box
        sources, weights = np.zeros(len(rows), np.int32), np.ones(len(rows), np.float32)
        return cls(names, pictures, boxes, numbers, np.array(factors), classes, sources, weights, notes)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def is_object(self) -> Array:
        """`(n, k)`: whether it is one."""
        return (self.numbers >= 0) & (self.numbers < len(self.classes))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.pictures.shape[2], self.pictures.shape[1]

    def part(self, names: Iterable[str]) -> BoxSplit:
        """Those pictures, in that order; a name may come several times.

        Raises:
            DataError: there is no picture of a name.
        """
        places = {name: i for i, name in enumerate(self.names)}
        wanted = list(names)
        missing = [name for name in wanted if name not in places]
        if missing:
            raise DataError(f"Expected names of pictures. There is none called {missing[0]!r}.")
        order = [places[name] for name in wanted]
        arrays = {key: getattr(self, key)[order] for key in _BY_PICTURE}
        return dataclasses.replace(self, names=tuple(wanted), **arrays)

    def of_class(self, number: int) -> list[Array]:
        """A picture each: the boxes of a class."""
        return [boxes[own == number] for boxes, own in zip(self.boxes, self.numbers, strict=True)]

    def checksum(self) -> int:
        """Changes with the contents."""
        return checksums.of_arrays(getattr(self, key) for key in _BY_PICTURE)


def joined(parts: Sequence[BoxSplit], weights: Sequence[float]) -> BoxSplit:
    """The pictures of several sources, with what each source's count in the loss.

    Raises:
        DataError: two have a name in common.
    """
    names = tuple(name for part in parts for name in part.names)
    # Within a source, records may have one several times.
    twice = [name for name, count in collections.Counter(x for part in parts for x in set(part.names)).items() if count > 1]
    if twice:
        raise DataError(f"dataset_config.data_sources: expected different names of pictures. '{twice[0]}' is in several.")
    most = max(part.numbers.shape[1] for part in parts)
    filled = [
        dataclasses.replace(
            part,
            boxes=np.pad(part.boxes, [(0, 0), (0, most - part.boxes.shape[1]), (0, 0)]),
            numbers=np.pad(part.numbers, [(0, 0), (0, most - part.numbers.shape[1])], constant_values=-1),
            sources=np.full(len(part), i, np.int32),
            weights=np.full(len(part), weight, np.float32),
        )
        for i, (part, weight) in enumerate(zip(parts, weights, strict=True))
    ]
    arrays = {key: np.concatenate([getattr(part, key) for part in filled]) for key in _BY_PICTURE}
    notes = tuple(note for part in parts for note in part.notes)
    return BoxSplit(names=names, classes=parts[0].classes, notes=notes, **arrays)


def large_enough(box: Sequence[float]) -> bool:
    """Whether a box, in pixels of the model, is large enough to be used."""
    return box[2] - box[0] >= _SMALLEST and box[3] - box[1] >= _SMALLEST


def check_size(size: tuple[int, int]) -> None:
    """Raises DataError where (width, height) are no multiples of 16."""
    for name, value in zip(("width", "height"), size, strict=True):
        if value < 16 or value % 16:
            raise DataError(f"model.input_{name}: expected a multiple of 16, the network's stride. Received: {value}.")


def stretched_as_tf1(picture: Array, size: tuple[int, int]) -> Array:
    """A picture `(height, width, channels)` at `size` (width, height): bilinear from corner to corner, nothing averaged."""
    (stretched,) = tf.compat.v1.image.resize_bilinear(picture[None], (size[1], size[0])).numpy()
    return np.asarray(stretched)


def training_batches(
    split: BoxSplit,
    raster: Rasterizer,
    augmentation: Augmentation | None,
    order: BatchOrder,
    *,
    channels_first: bool,
    uniform: bool = False,
) -> Pipeline:
    """The epochs of `order`, one after the other, shuffled and augmented.

    The order and the augmentation of an epoch follow from the seed and the epoch's number. A batch is (pictures, [target of
    output_bbox, target of output_cov]): see `packed`. Every picture comes once an epoch; with `uniform`, an epoch has as many
    pictures, and every source is drawn from as often as the others.
    """
    load = _loader(split)

    def finish(
        epoch: tf.Tensor, step: tf.Tensor, batch: tuple[tf.Tensor, ...], rows: Rows
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        pictures, boxes, numbers, weights = batch
        if augmentation is not None:
            key = picture_key(order.seed, epoch, step)
            pictures, boxes, numbers = augmented(pictures, boxes, numbers, augmentation, key, rows)
        return _example(pictures, raster(boxes, numbers), weights, channels_first)

    shuffled = functools.partial(_uniform_order, split) if uniform else None
    return epochs_of(len(split), order, lambda epoch, numbers: load(numbers), finish, shuffled=shuffled)


def _uniform_order(split: BoxSplit, seed: tf.Tensor) -> tf.Tensor:
    """As many places as there are pictures: a source drawn for each, and its pictures in a random order, over and over."""
    # A source may have no picture here.
    n, present = len(split), np.unique(split.sources)
    drawn = tf.random.stateless_uniform([n], seed, 0, len(present), tf.int32)
    order = tf.zeros([n], tf.int32)
    for place, source in enumerate(present.tolist()):
        members = np.flatnonzero(split.sources == source).astype(np.int32)
        keys = tf.random.stateless_uniform([math.ceil(n / len(members)), len(members)], tf.stack([seed[0] + source + 1, seed[1]]))
        line = tf.gather(members, tf.reshape(tf.argsort(keys, axis=1), [-1]))
        mine = tf.equal(drawn, place)
        order = tf.where(mine, tf.gather(line, tf.maximum(tf.cumsum(tf.cast(mine, tf.int32)) - 1, 0)), order)
    return order


def evaluation_batches(split: BoxSplit, raster: Rasterizer, *, batch_size: int, channels_first: bool) -> tf.data.Dataset:
    """The split in its order, as it is; batches as in `training_batches`."""
    load = _loader(split)

    def finish(indices: tf.Tensor) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        pictures, boxes, numbers, weights = load(indices)
        return _example(pictures, raster(boxes, numbers), weights, channels_first)

    batches = tf.data.Dataset.range(len(split)).batch(batch_size)
    return batches.map(unconverted(finish), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)


def augmented(
    pictures: tf.Tensor,
    boxes: tf.Tensor,
    numbers: tf.Tensor,
    augmentation: Augmentation,
    seed: tf.Tensor,
    rows: Rows | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """A batch with its draws applied: pictures `(n, h, w, c)`, 0 to 1; boxes `(n, k, 4)`; classes `(n, k)`.

    Where they are some of a batch, `rows` says which.
    """
    height, width = pictures.shape[1:3]
    rows = rows if rows is not None else Rows.all(tf.shape(pictures)[0])
    draws = {name: rows.of(x) for name, x in augmentation.draw(rows.size, seed, (width, height)).items()}
    matrices = spatial_matrices(draws, Canvas(width, height).matrix, (width, height))
    pictures = warp(pictures, matrices, (width, height))
    if pictures.shape[-1] == 3:
        pictures = colored(pictures, augmentation.color_matrices(draws))
    boxes = moved_boxes(boxes, matrices, tao=augmentation.tao)
    if not augmentation.tao:
        boxes, there = clipped(boxes, (0.0, 0.0, float(width), float(height)), _SMALLEST)
        numbers = tf.where(there, numbers, -1)
    return pictures, boxes, numbers


def packed(targets: Targets, weights: tf.Tensor, channels_first: bool) -> list[tf.Tensor]:
    """Targets of a `Rasterizer` as the model's two outputs are held against, by channels.

    `[bbox and what a cell's box counts, cov and what a cell's coverage counts]`; `weights` `(n,)` are those of the pictures.
    """
    by_picture = tf.broadcast_to(weights[:, None, None, None], tf.shape(targets["cov"]))
    masks = targets.get("weights", {"bbox": 1.0, "cov": 1.0})
    both = [
        tf.concat([targets["bbox"], targets["cov_norm"] * by_picture * masks["bbox"]], axis=1),
        tf.concat([targets["cov"], by_picture * masks["cov"]], axis=1),
    ]
    return both if channels_first else [tf.transpose(x, (0, 2, 3, 1)) for x in both]


def _example(
    pictures: tf.Tensor, targets: Targets, weights: tf.Tensor, channels_first: bool
) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
    pictures = tf.transpose(pictures, (0, 3, 1, 2)) if channels_first else pictures
    return pictures, tuple(packed(targets, weights, channels_first))


def _loader(split: BoxSplit) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]]:
    pictures, *others = map(tf.constant, (split.pictures, split.boxes, split.numbers, split.weights))
    shape = split.pictures.shape[1:]

    def load(indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        taken = tf.cast(tf.gather(pictures, indices), tf.float32) / 255
        boxes, numbers, weights = (tf.gather(x, indices) for x in others)
        return tf.ensure_shape(taken, (None, *shape)), boxes, numbers, weights

    return load
