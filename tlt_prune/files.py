"""Whole files and folders: written beside their final name, then renamed, so that nobody ever finds half of one."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from tlt_prune.errors import FolderInUseError, NotReplacedError


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A name beside `path` to write to; it becomes `path` when the block ends well, and vanishes when not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays: some writers choose the format by it.
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: pathlib.Path, marker: str) -> Iterator[pathlib.Path]:
    """The same for a folder. An existing one is replaced if it holds a file `marker`, which says that it is of the same kind.

    Raises:
        NotReplacedError: it holds something else.
    """
    if path.exists() and not (path / marker).exists() and (not path.is_dir() or any(path.iterdir())):
        raise NotReplacedError(
            f"{path} is no earlier export (there is no {marker} in it) and stays as it is. Choose another folder."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (path.with_name(f".{path.name}.{kind}") for kind in ("partial", "old"))
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        yield partial
        # At every moment there is a whole folder under one of the names.
        if path.exists():
            os.replace(path, old)
        os.replace(partial, path)
    finally:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, "utf-8")


def write_json(path: pathlib.Path, data: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def output_folder(path: str | pathlib.Path) -> pathlib.Path:
    """A folder that exists and can be written, or an OSError that names it, before hours of work."""
    folder = pathlib.Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return folder


def add_to_zip(path: pathlib.Path, name: str, content: bytes) -> None:
    """Adds a member to a .keras file, which is a zip archive; Keras ignores members it does not know."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)


def read_from_zip(path: pathlib.Path, name: str, limit: int = 2**24) -> bytes | None:
    """A member of a zip archive; None where the file is none, or has none of that name, or one larger than `limit` bytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(name) if archive.getinfo(name).file_size <= limit else None
    except (KeyError, OSError, zipfile.BadZipFile):
        return None


@contextlib.contextmanager
def locked(folder: pathlib.Path, what: str) -> Iterator[None]:
    """Keeps other processes out of a folder; the lock ends with the process, however it ends.

    Raises:
        FolderInUseError: another process holds it; the message says `what` it does.
    """
    import filelock

    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise FolderInUseError(
            f"Another process is {what} in {folder}. Wait for it to end, or choose another folder (-o)."
        ) from error
    try:
        yield
    finally:
        lock.release()
