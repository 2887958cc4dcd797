"""`tf.data` pipelines that depend on (seed, epoch, index) alone, so that a resumed training sees what it would have seen."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tlt_prune.config import Dataset
from tlt_prune.data.changes import Rows, random_changes
from tlt_prune.data.formats import PictureFormat
from tlt_prune.data.splits import Split
from tlt_prune.data.stored import Stored
from tlt_prune.errors import SpecError
from tlt_prune.io import workers

_TORCH_MEAN = (0.485, 0.456, 0.406)
_TORCH_STD = (0.229, 0.224, 0.225)
_CAFFE_MEAN = (103.939, 116.779, 123.68)
_CAFFE_GRAY = 117.3786


@dataclasses.dataclass(frozen=True, eq=False)
class Pipeline:
    """Batches of pictures with targets.

    Attributes:
        batches: (pictures float32, targets float32: see `Split.targets`).
        steps: number of batches in an epoch.
        parts: of several workers, what this one has to read of the same batches: (pictures, targets, number of the first one in
            the batch, size of the batch); None where it reads whole batches.
    """

    batches: tf.data.Dataset
    steps: int
    parts: tf.data.Dataset | None = None

    def skip(self, count: int) -> Pipeline:
        """The same without the first batches."""
        return dataclasses.replace(
            self, batches=self.batches.skip(count), parts=self.parts.skip(count) if self.parts is not None else None
        )


@dataclasses.dataclass(frozen=True)
class BatchOrder:
    """The epochs to read, and what the order and the augmentation of their pictures follow from.

    Attributes:
        batch_size: pictures in a batch, of each of the replicas that train; the last batch of an epoch may have fewer.
        seed: of the order and the augmentation, together with the number of the epoch.
        first_epoch: the first epoch to read, from 0.
        epochs: the end: epochs `first_epoch` to `epochs - 1` are read.
    """

    batch_size: int
    seed: int
    first_epoch: int
    epochs: int


def training_pipeline(
    split: Split, dataset: Dataset, form: PictureFormat, order: BatchOrder, *, channels_first: bool
) -> Pipeline:
    """The epochs of `order`, one after the other, shuffled and augmented.

    The order and the augmentation of an epoch follow from the seed and the epoch's number.
    """
    seed, augmentation = order.seed, dataset.augmentation
    # Training pictures are stretched, never cropped.
    load = _loader(split, dataclasses.replace(form, center_crop=False))

    def finish(epoch: tf.Tensor, step: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor], rows: Rows) -> tuple[tf.Tensor, tf.Tensor]:
        changed = random_changes(batch[0], augmentation, picture_key(seed, epoch, step), rows, form.depth)
        images = preprocess(changed, dataset, channels_first, form.depth)
        labels = split.targets(batch[1])
        if augmentation.mixup_alpha > 0:
            key = tf.stack([seed + 7919 * tf.cast(epoch, tf.int32), tf.cast(step, tf.int32)])
            return _mixed(images, labels, augmentation.mixup_alpha, key)
        return images, labels

    return epochs_of(
        len(split),
        order,
        lambda epoch, numbers: load(numbers),
        finish,
        shuffled=_own_order(split),
        # A mixed picture needs another one of its batch.
        parted=not augmentation.mixup_alpha,
    )


def unconverted(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function for a dataset, traced as it is, with all that it calls and the functions of datasets that it makes.

    AutoGraph would read their source, for seconds, and find no Python `if` over a tensor there.
    """
    return tf.autograph.experimental.do_not_convert(function)  # type: ignore[no-any-return]


def epochs_of(
    count: int,
    order: BatchOrder,
    examples: Callable[[tf.Tensor, tf.Tensor], Any],
    finish: Callable[[tf.Tensor, tf.Tensor, Any, Rows], Any],
    *,
    shuffled: Callable[[tf.Tensor], tf.Tensor] | None = None,
    parted: bool = True,
) -> Pipeline:
    """The epochs of `order` over `count` examples, one after the other, each shuffled by the seed and its number.

    Several replicas share batches of as many times the pictures.

    Args:
        count: how many examples there are.
        order: see `BatchOrder`.
        examples: (epoch, numbers of some examples of a batch) -> these examples.
        finish: (epoch, number of a batch, examples of it, which ones they are) -> what is trained on: pictures and targets.
        shuffled: key of an epoch `(2,)` -> numbers of its examples, in their order; by default each once.
        parted: whether `finish` takes a part of a batch; where not, each of several workers reads whole batches.
    """
    batch_size = min(workers.batch_size(order.batch_size), count)
    numbers_of = shuffled or (lambda key: tf.random.experimental.stateless_shuffle(tf.range(count), seed=key))

    def one_epoch(epoch: tf.Tensor, *, part: bool) -> tf.data.Dataset:
        def batch(step: tf.Tensor, numbers: tf.Tensor) -> Any:
            size = tf.shape(numbers)[0]
            low, high = workers.rows(size) if part else (0, size)
            found = finish(epoch, step, examples(epoch, numbers[low:high]), Rows(low, high - low, size))
            return (*found, low, size) if part else found

        key = tf.stack([order.seed, tf.cast(epoch, tf.int32)])
        numbered = tf.data.Dataset.from_tensor_slices(numbers_of(key)).batch(batch_size).enumerate()
        return numbered.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def epochs(*, part: bool) -> tf.data.Dataset:
        numbers = tf.data.Dataset.range(order.first_epoch, order.epochs)
        return numbers.flat_map(unconverted(functools.partial(one_epoch, part=part))).prefetch(tf.data.AUTOTUNE)

    parts = epochs(part=True) if parted and workers.count() > 1 else None
    return Pipeline(epochs(part=False), math.ceil(count / batch_size), parts)


def picture_key(seed: int, epoch: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """`(2,)`: what the random changes of a picture, or of a batch, in an epoch follow from."""
    return tf.stack([seed * 1_000_003 + tf.cast(epoch, tf.int32), tf.cast(index, tf.int32)])


def evaluation_pipeline(
    split: Split, dataset: Dataset, form: PictureFormat, *, batch_size: int, channels_first: bool
) -> Pipeline:
    """The split in its order, without augmentation, cached when it is in memory."""
    load = _loader(split, form)
    batch_size = min(batch_size, len(split))

    def finish(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return preprocess(images, dataset, channels_first, form.depth), split.targets(labels)

    numbers = tf.data.Dataset.range(len(split)).batch(batch_size)
    batches = numbers.map(
        unconverted(lambda numbers: finish(*load(numbers))), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    if not isinstance(split.images, Stored):
        batches = batches.cache()
    return Pipeline(batches.prefetch(tf.data.AUTOTUNE), math.ceil(len(split) / batch_size))


def _own_order(split: Split) -> Callable[[tf.Tensor], tf.Tensor] | None:
    """Key of an epoch `(2,)` -> the order in which pictures on a disk are read; None for any."""
    order = split.images.order if isinstance(split.images, Stored) else None
    if order is None:
        return None
    return lambda key: tf.ensure_shape(tf.numpy_function(order, [key], tf.int32), [len(split)])


def _loader(split: Split, form: PictureFormat) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Numbers of pictures `(n,)` -> (pictures, labels)."""
    labels, images = tf.constant(split.labels), split.images
    if not isinstance(images, Stored):
        kept = tf.constant(images)
        return lambda numbers: (tf.gather(kept, numbers), tf.gather(labels, numbers))

    def read(numbers: NDArray[np.integer[Any]]) -> NDArray[Any]:
        return np.stack([images.load(int(i), form) for i in numbers])

    def load(numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pictures = tf.numpy_function(read, [numbers], form.dtype)
        return tf.ensure_shape(pictures, (None, *form.size)), tf.gather(labels, numbers)

    return load


def preprocess(images: tf.Tensor | NDArray[Any], dataset: Dataset, channels_first: bool, depth: int = 8) -> tf.Tensor:
    """Pictures `(n, h, w, c)` of 8 or 16 bits -> the model's input, float32.

    Modes as in keras.applications, "unit" for 0..1; for 16 bits and for one channel as in the toolkit.
    """
    x = tf.cast(images, tf.float32)
    channels = x.shape[-1]
    top = float(2**depth - 1)
    if dataset.preprocess_mode == "unit":
        x = x / top
    elif dataset.preprocess_mode == "tf":
        x = x / (top / 2) - 1.0
    elif dataset.preprocess_mode == "torch":
        mean, std = (tf.constant(v if channels == 3 else [float(np.mean(v))]) for v in (_TORCH_MEAN, _TORCH_STD))
        x = (x / top - mean) / std
    else:
        x = (x[..., ::-1] if channels == 3 else x) - tf.constant(_caffe_mean(dataset, channels, depth))
    return tf.transpose(x, (0, 3, 1, 2)) if channels_first else x


def _caffe_mean(dataset: Dataset, channels: int, depth: int) -> list[float]:
    """ImageNet's BGR means, or the gray one in the depth's own scale, unless the spec gives others."""
    if not dataset.image_mean:
        return list(_CAFFE_MEAN) if channels == 3 else [_CAFFE_GRAY * 2 ** (depth - 8)]
    if len(dataset.image_mean) != channels:
        raise SpecError(
            f"dataset.image_mean: expected {channels} values, one for each channel of the pictures. "
            f"Received: {list(dataset.image_mean)}."
        )
    return list(dataset.image_mean)


def _mixed(images: tf.Tensor, labels: Any, alpha: float, key: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Mixup: Zhang et al., 2018, arXiv:1710.09412; one weight per picture."""
    n = tf.shape(images)[0]
    a = tf.random.stateless_gamma([n], seed=key, alpha=alpha)
    b = tf.random.stateless_gamma([n], seed=key + 1, alpha=alpha)
    weight = a / (a + b)
    order = tf.random.experimental.stateless_shuffle(tf.range(n), seed=key + 2)
    w_image, w_label = tf.reshape(weight, (-1, 1, 1, 1)), tf.reshape(weight, (-1, 1))
    mixed_images = w_image * images + (1 - w_image) * tf.gather(images, order)
    return mixed_images, tf.nest.map_structure(lambda y: w_label * y + (1 - w_label) * tf.gather(y, order), labels)
