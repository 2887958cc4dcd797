"""Inputs and outputs of a script: no output replaces an input, and all outputs appear together."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tlt_prune.errors import NotReplacedError, SpecError
from tlt_prune.io import files

Path = str | pathlib.Path

# What the readers of a folder would take for pictures or labels of it.
_READ_FROM_FOLDERS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff", ".txt"))


@dataclasses.dataclass(frozen=True)
class Output:
    """One file or folder that a script writes.

    Attributes:
        said: where its name comes from, for messages: "export.onnx_file (-o)".
        path: its name.
        suffixes: what the name may end in; empty for anything.
        folder: whether it is a folder, which is replaced as a whole.
    """

    said: str
    path: pathlib.Path
    suffixes: tuple[str, ...] = ()
    folder: bool = False


def check(inputs: Mapping[str, Path | None], outputs: Iterable[Output]) -> None:
    """Holds outputs against inputs, by what the names lead to.

    Args:
        inputs: where a name comes from -> the file or folder; what is empty or does not exist is left aside.
        outputs: what will be written.

    Raises:
        SpecError: a suffix is another format's, two outputs are one, or an output would replace an input or be read with one.
        NotReplacedError: there is a folder where a file is to be written.
    """
    read = {said: pathlib.Path(path) for said, path in inputs.items() if path and _exists(path)}
    by_identity = {_identity(path): (said, path) for said, path in read.items()}
    folders = {said: files.place_of(path) for said, path in read.items() if path.is_dir()}
    seen: dict[Any, Output] = {}
    for output in outputs:
        _check_suffix(output)
        if _identity(output.path) in by_identity:
            said, path = by_identity[_identity(output.path)]
            raise SpecError(
                f"{output.said}: {output.path} is the file that {said} reads ({path}). Expected another name: an output never "
                "replaces an input."
            )
        if not output.folder and output.path.exists() and not output.path.is_file():
            raise NotReplacedError(f"{output.said}: {output.path} is a folder or a device, and stays. Expected a file's name.")
        place = files.place_of(output.path)
        for said, path in read.items():
            if output.folder and files.place_of(path).is_relative_to(place):
                raise SpecError(
                    f"{output.said}: the folder {output.path} holds what {said} reads ({path}). Expected another folder: an "
                    "output never replaces an input."
                )
        for said, folder in folders.items():
            if place.suffix.lower() in _READ_FROM_FOLDERS and place.is_relative_to(folder):
                raise SpecError(
                    f"{output.said}: {output.path} lies in {folder}, whose files {said} reads, and would be taken for one. "
                    "Expected another folder."
                )
        twin = seen.setdefault(_identity(output.path), output)
        if twin is not output:
            raise SpecError(f"{output.said} and {twin.said} name one file: {output.path}. Expected two names.")


@contextlib.contextmanager
def claiming(inputs: Mapping[str, Path | None], outputs: Iterable[Output], what: str) -> Iterator[None]:
    """`check`, then keeps other processes from the same outputs.

    Args:
        inputs, outputs: as for `check`.
        what: the script does, for another process: "exporting to".

    Raises:
        FolderInUseError: another process writes one of the outputs.
        OSError: one of them cannot be written.
    """
    outputs = list(outputs)
    check(inputs, outputs)
    for output in outputs:
        files.output_file(output.path)
    with files.claimed([x.path for x in outputs], what):
        yield


@contextlib.contextmanager
def writing(inputs: Mapping[str, Path | None], outputs: Iterable[Output], what: str) -> Iterator[None]:
    """`claiming`, and what the block writes appears together when it ends well."""
    with claiming(inputs, outputs, what), files.together():
        yield


def _check_suffix(output: Output) -> None:
    if output.folder and output.path.suffix in (".keras", ".onnx", ".h5", ".tflite", ".engine"):
        raise SpecError(f"{output.said}: expected the name of a folder. Received: {output.path}.")
    if output.suffixes and output.path.suffix not in output.suffixes:
        expected = " or ".join(output.suffixes)
        raise SpecError(f"{output.said}: expected a name that ends in {expected}. Received: {output.path}.")


def _exists(path: Path) -> bool:
    try:
        return os.path.exists(path)
    # A NUL in the name.
    except ValueError:
        return False


def _identity(path: Path) -> Any:
    """Equal for two names of one thing."""
    try:
        found = os.stat(path)
    except OSError:
        return files.place_of(path)
    return found.st_dev, found.st_ino
