"""TFRecord files: the examples in them, and where their records are, found without reading them.

A record is the length of its content (8 bytes), a checksum of the length (4), the content, and a checksum of that (4):
https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

from __future__ import annotations

import pathlib
import struct
from collections.abc import Iterator, Mapping, Sequence

import tensorflow as tf

from tlt_prune.config import shown
from tlt_prune.errors import DataError

BEFORE, AFTER = 12, 4
"""Bytes of a record before and after its content."""


def spans(path: pathlib.Path) -> Iterator[tuple[int, int]]:
    """(offset, length) of the content of every record, in bytes; no more than lengths are read.

    Raises:
        DataError: the file ends within a record, or a record says that it is longer than the file.
    """
    size, start, number = path.stat().st_size, 0, 0
    with path.open("rb") as file:
        while start < size:
            file.seek(start)
            head = file.read(BEFORE)
            length = struct.unpack("<Q", head[:8])[0] if len(head) == BEFORE else size
            end = start + BEFORE + length + AFTER
            if end > size:
                raise DataError(
                    f"{shown(path)}: cannot be read as records: record {number} would end at byte {end:,}, and the file has "
                    f"{size:,}. Expected a whole TFRecord file; copy or convert it again."
                )
            yield start + BEFORE, length
            start, number = end, number + 1


def example_of(
    raw: Mapping[str, Sequence[bytes]], whole: Mapping[str, Sequence[int]], real: Mapping[str, Sequence[float]]
) -> bytes:
    """A `tf.train.Example`, serialized: features of bytes, of whole numbers and of real ones, by their names."""
    features = {
        **{key: tf.train.Feature(bytes_list=tf.train.BytesList(value=x)) for key, x in raw.items()},
        **{key: tf.train.Feature(int64_list=tf.train.Int64List(value=x)) for key, x in whole.items()},
        **{key: tf.train.Feature(float_list=tf.train.FloatList(value=x)) for key, x in real.items()},
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    serialized: bytes = example.SerializeToString(deterministic=True)
    return serialized
