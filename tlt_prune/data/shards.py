"""Shards: TFRecord files with the pictures of a classification, which `tlt-convert` makes of a folder of class folders.

`train-00000-of-00016.tfrecord` and its like hold `tf.train.Example`s with `image/encoded` (the picture's file as it was),
`image/class/label`, `image/class/text` and `image/filename`. Beside each there is an index, `train-00000-of-00016.index`, that
says where every picture is, and `shards.json` lists all files with their checksums. Any reader of TFRecords reads the records;
this one finds a picture by its index, so that nothing but what is asked for is in memory, and every picture has its place in the
order of the folder that it came from.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Hashable, Sequence
from typing import Any, Self

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tlt_prune.config import Dataset, shown
from tlt_prune.data.conversion import Listing, read_listing
from tlt_prune.data.formats import PictureFormat, load_picture
from tlt_prune.data.record_files import AFTER
from tlt_prune.data.stored import Stored
from tlt_prune.errors import DataError
from tlt_prune.io import checksums

LISTING = "shards.json"
TRAIN, HELD_OUT = "train", "val"
# Bytes that are read from a shard at once.
_BLOCK = 2**22
# Number: place in the folder that was converted. Checksum: of the encoded picture.
INDEX = np.dtype([("offset", "<u8"), ("length", "<u4"), ("label", "<u4"), ("number", "<u8"), ("checksum", "<u8")])


def is_shards(path: str | pathlib.Path) -> bool:
    """Whether a folder is one of shards."""
    return (pathlib.Path(path) / LISTING).is_file()


def checksum_of(encoded: bytes) -> int:
    """Of an encoded picture, 64 bits."""
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")


def load_shards(folder: pathlib.Path, part: str, dataset: Dataset) -> tuple[Shards, NDArray[np.int64], tuple[str, ...]]:
    """(pictures, labels, names of the classes) of the part "train" or "val", in the order of what was converted.

    Raises:
        DataError: the conversion has not finished, a file is missing or is another one than `shards.json` says, or there are
            files of another conversion.
    """
    listing = read_listing(folder / LISTING)
    if not listing.finished:
        raise DataError(f"{shown(folder)}: the conversion into shards has not finished. Run the same tlt-convert again.")
    strange = sorted(x.name for x in folder.glob("*.tfrecord") if x.name not in listing.files)
    if strange:
        raise DataError(
            f"{shown(folder)}: {shown(strange[0])} is no file of this set: {LISTING} does not list it. Expected the shards of "
            "one conversion in a folder; move it away."
        )
    names = sorted(x for x in listing.files if x.startswith(f"{part}-") and x.endswith(".tfrecord"))
    if not names:
        raise DataError(f"{shown(folder)}: {LISTING} lists no shards of the part '{part}'. Convert again, with pictures for it.")
    entries = [_index(folder, name, listing) for name in names]
    index = np.concatenate(entries)
    shard = np.repeat(np.arange(len(names), dtype=np.int32), [len(x) for x in entries])
    order = np.argsort(index["number"], kind="stable")
    if not np.array_equal(index["number"][order], np.arange(len(index))):
        raise DataError(f"{shown(folder)}: the shards of '{part}' do not hold every picture once. Convert again.")
    pictures = Shards([folder / x for x in names], index[order], shard[order], dataset)
    return pictures, index["label"][order].astype(np.int64), listing.classes


def _index(folder: pathlib.Path, shard: str, listing: Listing) -> NDArray[Any]:
    """Where the pictures of a shard are, held against the list."""
    beside = index_of(shard)
    for name in (shard, beside):
        facts = listing.files.get(name)
        if facts is None or not facts.same_size(folder / name):
            expected = f"{facts.bytes:,} bytes" if facts is not None else "to be listed"
            there = f"{(folder / name).stat().st_size:,} bytes" if (folder / name).is_file() else "no such file"
            raise DataError(
                f"{shown(folder / name)}: expected {expected}, by {LISTING}. Received: {there}. Copy the set again, or run the "
                "same tlt-convert again."
            )
    if not listing.files[beside].whole(folder / beside):
        raise DataError(f"{shown(folder / beside)}: its checksum is not the one in {LISTING}. Copy or convert the set again.")
    content = (folder / beside).read_bytes()
    records = listing.files[shard].records
    if len(content) != records * INDEX.itemsize:
        raise DataError(f"{shown(folder / beside)}: expected {records} entries of {INDEX.itemsize} bytes, by {LISTING}.")
    index = np.frombuffer(content, INDEX)
    # In floating-point numbers, no sum is too large.
    inside = index["offset"].astype(float) + index["length"] + AFTER <= listing.files[shard].bytes
    if not inside.all() or (index["label"] >= len(listing.classes)).any():
        raise DataError(f"{shown(folder / beside)}: an entry is beyond the end of {shown(shard)}, or of no class. Convert again.")
    return index


def index_of(shard: str) -> str:
    """Name of the index beside a shard."""
    return f"{shard.removesuffix('.tfrecord')}.index"


class Shards(Stored):
    """Pictures in shards.

    Args:
        paths: of the shards.
        index: `(n,)` of `INDEX`: where each picture is.
        shard: `(n,)`: the shard of each.
        dataset: how many shards are read at a time, and how many pictures are mixed.
    """

    def __init__(self, paths: Sequence[pathlib.Path], index: NDArray[Any], shard: NDArray[np.int32], dataset: Dataset) -> None:
        self._paths, self._index, self._shard, self._dataset = paths, index, shard, dataset
        self.order = self._order
        # Blocks of shards that the system was asked for, in an epoch; None outside of one.
        self._asked: set[tuple[int, int]] | None = None

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, chosen: Any) -> Self:
        return type(self)(self._paths, self._index[chosen], self._shard[chosen], self._dataset)

    def load(self, number: int, form: PictureFormat) -> NDArray[Any]:
        path, entry = self._paths[self._shard[number]], self._index[number]
        offset = int(entry["offset"])
        with path.open("rb", buffering=0) as file:
            self._ask(file.fileno(), int(self._shard[number]), offset)
            content = os.pread(file.fileno(), int(entry["length"]), offset)
        encoded, name = _encoded(content)
        if encoded is None or checksum_of(encoded) != int(entry["checksum"]):
            raise DataError(
                f"{shown(path)}: the record at byte {offset:,} is damaged, or of another set: its checksum is not "
                "that of the index. Copy the set again, or run the same tlt-convert again."
            )
        return load_picture(f"{path}: {name}", form, encoded)

    def _order(self, key: NDArray[Any]) -> NDArray[np.int32]:
        """See `Stored.order`."""
        self._asked = set()
        said = self._dataset
        return reading_order(
            self._shard, self._index["offset"], key, interleaved=said.interleaved_shards, buffer=said.shuffle_buffer
        )

    def _ask(self, handle: int, shard: int, offset: int) -> None:
        """Lets the system read the whole block that a record of an epoch is in: its neighbors are asked for soon."""
        block = shard, offset // _BLOCK
        if self._asked is None or block in self._asked or not hasattr(os, "posix_fadvise"):
            return
        self._asked.add(block)
        os.posix_fadvise(handle, block[1] * _BLOCK, _BLOCK, os.POSIX_FADV_WILLNEED)

    def identities(self) -> list[Hashable]:
        return list(self._index["checksum"].tolist())

    def checksum(self) -> int:
        return checksums.of_arrays([self._index["checksum"]])


def _encoded(content: bytes) -> tuple[bytes | None, str]:
    """(the picture's file in a record, None where there is none; its name)."""
    from google.protobuf.message import DecodeError

    try:
        features = tf.train.Example.FromString(content).features.feature
    except DecodeError:
        return None, ""
    # Asking for a key makes it.
    found = {key: [*features[key].bytes_list.value][:1] for key in ("image/encoded", "image/filename") if key in features}
    encoded, name = (found.get(key, []) for key in ("image/encoded", "image/filename"))
    return (encoded[0] if encoded else None), (name[0].decode("utf-8", "replace") if name else "")


def reading_order(
    shard: NDArray[np.integer[Any]],
    offset: NDArray[np.integer[Any]],
    key: NDArray[np.integer[Any]],
    *,
    interleaved: int,
    buffer: int,
) -> NDArray[np.int32]:
    """Numbers of all records, each once: some shards at a time in turn, mixed within a window that moves along.

    What is read one after the other lies in few places, so that disks and network file systems can read ahead.

    Args:
        shard: `(n,)`: of each record.
        offset: `(n,)`: where it is in its shard.
        key: `(2,)`: what the order follows from.
        interleaved: how many shards are read at a time.
        buffer: how many records are mixed.
    """
    rng = np.random.default_rng(np.asarray(key).astype(np.uint32))
    rank = rng.permutation(int(shard.max()) + 1)[shard]
    inside = np.lexsort((offset, rank))
    counts = np.bincount(rank)
    turn = np.empty(len(rank), np.int64)
    turn[inside] = np.arange(len(rank)) - np.repeat(np.cumsum(counts) - counts, counts)
    sequence = np.lexsort((rank, turn, rank // interleaved))
    window = (np.arange(len(rank)) + rng.integers(buffer)) // buffer
    return sequence[np.lexsort((rng.random(len(rank)), window))].astype(np.int32)
