"""Pictures in class folders, and pictures read a batch at a time."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlt_prune.config import check_name, nfc, shown
from tlt_prune.data.formats import PictureFormat, load_picture
from tlt_prune.data.pictures import SUFFIXES, list_pictures
from tlt_prune.data.splits import Split
from tlt_prune.data.stored import PictureFiles, Stored
from tlt_prune.errors import DataError

# Folders up to this size are decoded once and kept; larger ones are read again in every epoch.
_MEMORY_BYTES = 2**30


def load_folder(path: pathlib.Path, form: PictureFormat, *, training: bool = False) -> Split:
    """Reads a folder of class folders. For training there must be several, and none of them empty.

    Raises:
        DataError: there are no such folders, or a picture cannot be read.
    """
    files, labels, classes = class_pictures(path, training=training)
    return Split(kept_or_stored(PictureFiles(files), form), labels, classes)


def class_pictures(path: pathlib.Path, *, training: bool = False) -> tuple[list[str], NDArray[np.int64], tuple[str, ...]]:
    """(names of picture files, number of the class of each, names of the classes) of a folder of class folders.

    Raises:
        DataError: there are no such folders.
    """
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
    files: list[str] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        pictures = list_pictures(folder)
        if training and not pictures:
            raise DataError(f"The class folder {folder} holds no pictures ({', '.join(sorted(SUFFIXES))}).")
        # A path as an object takes five times the memory of its text: there may be millions.
        files += map(str, pictures)
        labels += [label] * len(pictures)
    if not files:
        raise DataError(f"{path}: expected class folders with pictures ({', '.join(sorted(SUFFIXES))}). There are none.")
    return files, np.array(labels, np.int64), classes


def kept_or_stored(pictures: Stored, form: PictureFormat) -> NDArray[Any] | Stored:
    """Pictures as a `Split` has them: decoded, where they are few enough to be kept; otherwise as they are stored.

    Raises:
        DataError: one cannot be read.
    """
    if len(pictures) * math.prod(form.size) * form.depth // 8 <= _MEMORY_BYTES:
        return np.stack([pictures.load(i, form) for i in range(len(pictures))])
    return pictures


def picture_batches(paths: Sequence[pathlib.Path], form: PictureFormat, size: int) -> Iterator[NDArray[Any]]:
    """Pictures in `form`, `size` at a time, read when asked for.

    Raises:
        DataError: one cannot be read.
    """
    for start in range(0, len(paths), size):
        yield np.stack([load_picture(x, form) for x in paths[start : start + size]])


def pictures_of(split: Split, form: PictureFormat, size: int) -> Iterator[NDArray[Any]]:
    """The pictures of a split in `form`, `size` at a time."""
    images = split.images
    for start in range(0, len(split), size):
        if isinstance(images, Stored):
            yield np.stack([images.load(i, form) for i in range(start, min(start + size, len(split)))])
        else:
            yield images[start : start + size]
