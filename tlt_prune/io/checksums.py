"""Checksums, by which what was computed once is known again: of arrays, of settings and of files."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def of_arrays(arrays: Iterable[ArrayLike]) -> int:
    """CRC-32 of the values of arrays, one behind the other."""
    total = 0
    for array in arrays:
        total = zlib.crc32(np.ascontiguousarray(array).tobytes(), total)
    return total


def of_files_on_disk(paths: Iterable[str]) -> int:
    """CRC-32 of the names, sizes and times of files, which are not read."""
    total = 0
    for path in paths:
        found = os.stat(path)
        total = zlib.crc32(repr((path, found.st_size, found.st_mtime_ns)).encode(), total)
    return total


def of_file(path: pathlib.Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_settings(settings: object, *before: bytes) -> str:
    """SHA-256 of bytes and of settings as JSON, in hexadecimal digits; what JSON has no form for counts as text."""
    digest = hashlib.sha256()
    for part in before:
        digest.update(part)
    digest.update(json.dumps(settings, default=str, sort_keys=True).encode())
    return digest.hexdigest()


def of_model_file(path: pathlib.Path) -> Any:
    """Checksums of the parts of a .keras file that hold no time; of another file its size and time."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {x.filename: x.CRC for x in archive.infolist() if x.filename in ("config.json", "model.weights.h5")}
    except zipfile.BadZipFile:
        return [path.stat().st_size, path.stat().st_mtime_ns]
