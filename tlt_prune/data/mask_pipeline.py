"""`tf.data` pipelines of pictures and masks, which depend on (seed, epoch, index) alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tlt_prune.config import Dataset
from tlt_prune.data.changes import Rows
from tlt_prune.data.masks import MaskSplit
from tlt_prune.data.pipeline import BatchOrder, Pipeline, epochs_of, picture_key, preprocess, unconverted


@dataclasses.dataclass(frozen=True)
class MaskAugmentation:
    """Random changes of pictures and their masks, by the toolkit's names.

    Attributes:
        hflip_probability, vflip_probability: of mirroring.
        crop_and_resize_prob: of cutting a part out and enlarging it.
        crop_and_resize_ratio: largest share that is cut off at each side.
        delta: largest change of brightness, in units of the model's input as the toolkit's preprocessing makes it: -1 to 1 for
            `preprocess_mode: tf`, 0 to 1 for others.
    """

    hflip_probability: float = 0.5
    vflip_probability: float = 0.5
    crop_and_resize_prob: float = 0.5
    crop_and_resize_ratio: float = 0.1
    delta: float = 0.2


@dataclasses.dataclass(frozen=True)
class MaskLayout:
    """How a model takes pictures and masks.

    Attributes:
        channels_first: whether channels come before height and width in pictures.
        outputs_first: the same of its output.
        one_channel: whether its output is one channel, for two classes.
        size: (height, width) of its output, where that is smaller than its input; the middle of masks is taken.
    """

    channels_first: bool
    outputs_first: bool
    one_channel: bool
    size: tuple[int, int]


def mask_training_pipeline(
    split: MaskSplit, dataset: Dataset, layout: MaskLayout, order: BatchOrder, augmentation: MaskAugmentation | None
) -> Pipeline:
    """The epochs of `order`, one after the other, shuffled and, with an augmentation, changed at random."""
    load, unit = _loader(split), 127.5 if dataset.preprocess_mode == "tf" else 255.0

    def examples(epoch: tf.Tensor, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pictures, masks = load(numbers)
        if augmentation is None:
            return pictures, masks

        # Each picture has draws of its own, by its number.
        def changed(example: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            picture, mask, number = example
            draws = _draws(picture_key(order.seed, epoch, number))
            return changed_alike(picture, mask, augmentation, draws, Values(0.0, 255.0, unit))

        found = tf.map_fn(changed, (pictures, masks, numbers), fn_output_signature=(tf.float32, masks.dtype))
        return tf.ensure_shape(found[0], pictures.shape), tf.ensure_shape(found[1], masks.shape)

    def finish(epoch: tf.Tensor, step: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor], rows: Rows) -> tuple[tf.Tensor, tf.Tensor]:
        del epoch, step, rows
        return _finished(split, dataset, layout, *batch)

    return epochs_of(len(split), order, examples, finish)


def mask_evaluation_pipeline(split: MaskSplit, dataset: Dataset, layout: MaskLayout, batch_size: int) -> Pipeline:
    """The split in its order, as it is."""
    batch_size = min(batch_size, len(split))
    load = _loader(split)
    numbers = tf.data.Dataset.range(len(split)).batch(batch_size)
    batches = numbers.map(
        unconverted(lambda numbers: _finished(split, dataset, layout, *load(numbers))),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return Pipeline(batches.prefetch(tf.data.AUTOTUNE), math.ceil(len(split) / batch_size))


def _loader(split: MaskSplit) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Numbers of examples `(n,)` -> (pictures, classes of their pixels)."""
    if split.kept is not None:
        pictures, masks = (tf.constant(x) for x in split.kept)
        return lambda numbers: (tf.gather(pictures, numbers), tf.gather(masks, numbers))

    def read(numbers: np.ndarray[Any, Any]) -> list[Any]:
        return [np.stack(x) for x in zip(*(split.example(int(i)) for i in numbers), strict=True)]

    def load(numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pictures, masks = tf.numpy_function(read, [numbers], (split.fitting.dtype, tf.int32))
        return tf.ensure_shape(pictures, (None, *split.form.size)), tf.ensure_shape(masks, (None, *split.form.size[:2]))

    return load


def _finished(
    split: MaskSplit, dataset: Dataset, layout: MaskLayout, pictures: tf.Tensor, masks: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The model's input, and what its output is compared with: one-hot classes, zeros where there is none; with one channel
    the class, 0 or 1, and -1 where there is none."""
    height, width = layout.size
    top, left = (split.form.height - height) // 2, (split.form.width - width) // 2
    masks = masks[:, top : top + height, left : left + width]
    targets = tf.cast(masks, tf.float32)[..., None] if layout.one_channel else tf.one_hot(masks, len(split.classes.names))
    x = preprocess(pictures, dataset, layout.channels_first, split.form.depth)
    return x, tf.transpose(targets, (0, 3, 1, 2)) if layout.outputs_first else targets


def _draws(key: tf.Tensor) -> dict[str, tf.Tensor]:
    """Random numbers from 0 to 1, and one from -1 to 1 for the brightness."""
    names = ("hflip", "vflip", "crop", "left", "right", "top", "bottom")
    values = tf.random.stateless_uniform((len(names) + 1,), seed=key)
    return {**{name: values[i] for i, name in enumerate(names)}, "brightness": 2 * values[-1] - 1}


@dataclasses.dataclass(frozen=True)
class Values:
    """The values of a picture: the smallest, the largest, and how many are one of the model's."""

    lowest: float
    highest: float
    unit: float


def changed_alike(
    picture: tf.Tensor, mask: tf.Tensor, config: MaskAugmentation, draws: Mapping[str, Any], values: Values
) -> tuple[tf.Tensor, tf.Tensor]:
    """A picture `(h, w, c)` and its mask `(h, w)`, changed as `draws` say."""
    x, y = tf.cast(picture, tf.float32), mask[..., None]
    size = tf.shape(picture)[:2]
    x, y = _if(draws["hflip"] < config.hflip_probability, lambda a: tf.reverse(a, [1]), x, y)
    x, y = _if(draws["vflip"] < config.vflip_probability, lambda a: tf.reverse(a, [0]), x, y)

    ratio = config.crop_and_resize_ratio
    top, left, bottom, right = (draws[side] * ratio for side in ("top", "left", "bottom", "right"))

    def cropped(a: tf.Tensor) -> tf.Tensor:
        method = "bilinear" if a.dtype == tf.float32 else "nearest"
        box = tf.cast(tf.stack([top, left, 1 - bottom, 1 - right]), tf.float32)
        # Classes are below 0 where there is none.
        return tf.cast(tf.image.crop_and_resize(tf.cast(a, tf.float32)[None], box[None], [0], size, method)[0], a.dtype)

    x, y = _if(draws["crop"] < config.crop_and_resize_prob, cropped, x, y)
    x = tf.clip_by_value(x + draws["brightness"] * config.delta * values.unit, values.lowest, values.highest)
    return tf.ensure_shape(x, picture.shape), tf.ensure_shape(y[..., 0], mask.shape)


def _if(
    condition: tf.Tensor, change: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, y: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.cond(condition, lambda: (change(x), change(y)), lambda: (x, y))  # type: ignore[no-any-return]


def scores_said(output: np.ndarray[Any, Any], layout: MaskLayout, classes: int) -> np.ndarray[Any, Any]:
    """What a model's output says of each class `(n, height, width, classes)`: logits or probabilities alike, but for one channel,
    which is a logit; or the class itself `(n, height, width)`, whose score is 1."""
    if output.ndim == 3:
        scores: np.ndarray[Any, Any] = np.eye(classes, dtype=np.float32)[output.astype(np.int64)]
        return scores
    if layout.outputs_first:
        output = np.moveaxis(output, 1, -1)
    if not layout.one_channel:
        return output
    # A tie is the second class.
    return np.concatenate([-output - np.finfo(np.float32).tiny, output], axis=-1)


def classes_said(output: np.ndarray[Any, Any], layout: MaskLayout) -> np.ndarray[Any, Any]:
    """The class of every pixel `(n, height, width)` that a model's output says: see `scores_said`."""
    classes: np.ndarray[Any, Any] = output if output.ndim == 3 else scores_said(output, layout, 0).argmax(-1)
    return np.asarray(classes, np.int64)
