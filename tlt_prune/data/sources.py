"""The training and test split that a spec names, wherever their pictures are."""

from __future__ import annotations

import dataclasses
import pathlib

from tlt_prune.config import Dataset
from tlt_prune.data.arrays import NAMED, load_keras_dataset, load_named, load_npz
from tlt_prune.data.folders import kept_or_stored, load_folder
from tlt_prune.data.formats import PictureFormat
from tlt_prune.data.shards import HELD_OUT, TRAIN, is_shards, load_shards
from tlt_prune.data.splits import Split, matched
from tlt_prune.errors import DataError


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
    """The split to score on: the test split, or at `path` all of a folder, the test half of an .npz, or the held-out shards.

    Raises:
        DataError: as `load_splits`.
    """
    if not path:
        return load_splits(dataset, form)[1]
    if is_shards(path):
        return _of_shards(pathlib.Path(path), HELD_OUT, form, dataset)
    if pathlib.Path(path).is_dir():
        return load_folder(pathlib.Path(path), form)
    return load_splits(dataset.model_copy(update={"train_dataset_path": path, "val_dataset_path": ""}), form)[1]


def _of_shards(folder: pathlib.Path, part: str, form: PictureFormat, dataset: Dataset) -> Split:
    pictures, labels, classes = load_shards(folder, part, dataset)
    return Split(kept_or_stored(pictures, form), labels, classes)


def _load(dataset: Dataset, form: PictureFormat) -> tuple[Split, Split]:
    source = dataset.train_dataset_path
    if source in NAMED:
        return load_named(dataset, form)
    if source.startswith("keras:"):
        return load_keras_dataset(source, form)
    path = pathlib.Path(source)
    stretched = dataclasses.replace(form, center_crop=False)
    if is_shards(path):
        train = _of_shards(path, TRAIN, stretched, dataset)
        beside = pathlib.Path(dataset.val_dataset_path or source)
        return train, _of_shards(beside, HELD_OUT, form, dataset) if is_shards(beside) else load_folder(beside, form)
    if path.is_dir():
        if not dataset.val_dataset_path:
            raise DataError(
                f"dataset.train_dataset_path is the folder {source!r}: expected dataset.val_dataset_path as well, "
                "a folder with the same class folders."
            )
        return load_folder(path, stretched, training=True), load_folder(pathlib.Path(dataset.val_dataset_path), form)
    if path.suffix == ".npz":
        return load_npz(path, form)
    names = ", ".join([*NAMED, "keras:mnist", "keras:fashion_mnist", "keras:cifar10", "keras:cifar100"])
    raise DataError(f"Expected a folder of class folders or of shards, a .npz file or one of {names}. Received: {source!r}.")
