"""Shards made of folders of class folders: see `shards`."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tlt_prune.config import Dataset, shown
from tlt_prune.data.conversion import Conversion
from tlt_prune.data.folders import class_pictures
from tlt_prune.data.pictures import open_picture
from tlt_prune.data.record_files import AFTER, BEFORE, example_of
from tlt_prune.data.shards import HELD_OUT, INDEX, LISTING, TRAIN, checksum_of, index_of
from tlt_prune.data.splits import held_out, matched_labels
from tlt_prune.errors import DataError
from tlt_prune.io import checksums, files, progress

# Pictures in memory at a time.
_CHUNK = 256


@dataclasses.dataclass(frozen=True)
class Converted:
    """What a conversion came to.

    Attributes:
        pictures: part -> number of pictures.
        classes: names.
        shards: number of shards.
        kept: of them, how many were there already.
    """

    pictures: dict[str, int]
    classes: tuple[str, ...]
    shards: int
    kept: int


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """Pictures that go into the shards of one part, in their order."""

    name: str
    folder: pathlib.Path
    paths: Sequence[str]
    labels: NDArray[np.int64]

    def said(self, number: int) -> str:
        """Name of a picture: its path below the folder."""
        return pathlib.PurePath(self.paths[number]).relative_to(self.folder).as_posix()


def convert_folders(dataset: Dataset, folder: str | pathlib.Path, shards: int = 0, shard_mb: float = 128.0) -> Converted:
    """Writes shards of the pictures of a dataset; a conversion that was ended goes on, and files that are whole stay.

    Every picture is decoded once, to find broken ones. Training pictures are written in a random order.

    Args:
        dataset: `train_dataset_path` is a folder of class folders; so is `val_dataset_path`, or a share of every class is held
            out (`test_fraction`, by `split_seed`).
        folder: for the shards.
        shards: how many training shards; 0 for as many as have about `shard_mb` megabytes each.
        shard_mb: see `shards`; held-out shards have that size in any case.

    Raises:
        DataError: a picture cannot be read, or there are none.
        NotReplacedError: `folder` has the shards of other data or settings.
        FolderInUseError: another process converts into it.
    """
    folder = pathlib.Path(folder)
    parts, classes = _parts(dataset)
    sizes = {part.name: np.array([os.path.getsize(x) for x in part.paths]) for part in parts}
    settings = {
        "classes": classes,
        "files": [checksums.of_files_on_disk(part.paths) for part in parts],
        "labels": [checksums.of_arrays([part.labels]) for part in parts],
        "shards": [shards, shard_mb, INDEX.descr],
    }
    with files.locked(folder, "converting"):
        conversion = Conversion.begun(folder / LISTING, checksums.of_settings(settings), classes)
        plans = []
        for part in parts:
            count = shards if shards and part.name == TRAIN else max(1, round(float(sizes[part.name].sum()) / 1e6 / shard_mb))
            plans += list(_planned(part, min(count, len(part.paths))))
        with progress(len(plans), "Writing shards") as advance, concurrent.futures.ThreadPoolExecutor() as threads:
            for part, name, numbers in plans:
                if not conversion.has(name, index_of(name)):
                    _write(conversion, part, name, numbers, classes, threads)
                advance()
        conversion.finish()
    return Converted({x.name: len(x.paths) for x in parts}, classes, len(plans), conversion.kept // 2)


def _parts(dataset: Dataset) -> tuple[list[_Part], tuple[str, ...]]:
    source = pathlib.Path(dataset.train_dataset_path)
    paths, labels, classes = class_pictures(source, training=True)
    if dataset.val_dataset_path:
        beside = pathlib.Path(dataset.val_dataset_path)
        others, other_labels, other_classes = class_pictures(beside)
        numbers = matched_labels(other_labels, other_classes, classes, repr(dataset.val_dataset_path))
        return [_Part(TRAIN, source, paths, labels), _Part(HELD_OUT, beside, others, numbers)], classes
    test = held_out(labels, dataset)
    parts = []
    for name, inside in ((TRAIN, ~test), (HELD_OUT, test)):
        chosen = np.flatnonzero(inside)
        if not len(chosen):
            raise DataError(
                f"{shown(source)}: no pictures are left for the part '{name}'. Expected another dataset.test_fraction, or "
                "dataset.val_dataset_path."
            )
        parts.append(_Part(name, source, [paths[i] for i in chosen], labels[chosen]))
    return parts, classes


def _planned(part: _Part, count: int) -> Iterator[tuple[_Part, str, NDArray[np.int64]]]:
    """(part, name of a shard, numbers of its pictures), `count` shards."""
    numbers = np.arange(len(part.paths))
    if part.name == TRAIN:
        # Neighbors in a folder are of one class.
        numbers = np.random.default_rng(0).permutation(numbers)
    for i, chosen in enumerate(np.array_split(numbers, count)):
        yield part, f"{part.name}-{i:05d}-of-{count:05d}.tfrecord", chosen


def _write(
    conversion: Conversion,
    part: _Part,
    name: str,
    numbers: NDArray[np.int64],
    classes: Sequence[str],
    threads: concurrent.futures.Executor,
) -> None:
    index = np.zeros(len(numbers), INDEX)
    with conversion.writing(len(numbers), name, index_of(name)) as (records, beside):
        end = 0
        with tf.io.TFRecordWriter(str(records)) as writer:
            for start in range(0, len(numbers), _CHUNK):
                chunk = numbers[start : start + _CHUNK]
                contents = threads.map(_whole_picture, [part.paths[i] for i in chunk])
                for i, (number, content) in enumerate(zip(chunk.tolist(), contents, strict=True), start):
                    label = int(part.labels[number])
                    texts = {"image/class/text": classes[label], "image/filename": part.said(number)}
                    raw = {"image/encoded": [content], **{key: [x.encode()] for key, x in texts.items()}}
                    example = example_of(raw, {"image/class/label": [label]}, {})
                    writer.write(example)
                    index[i] = (end + BEFORE, len(example), label, number, checksum_of(content))
                    end += BEFORE + len(example) + AFTER
        beside.write_bytes(index.tobytes())


def _whole_picture(path: str) -> bytes:
    """The content of a picture file that can be decoded."""
    content = pathlib.Path(path).read_bytes()
    open_picture(path, 3, content=content)
    return content
