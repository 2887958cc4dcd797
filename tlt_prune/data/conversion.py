"""Files that a conversion writes one after the other, with a list of their checksums; a conversion that was ended goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from tlt_prune.config import Settings, checked, read_json, shown
from tlt_prune.errors import DataError, NotReplacedError
from tlt_prune.io import checksums, files

# Of the list, in bytes.
_MOST = 2**26


class FileFacts(Settings):
    """What the list says of a file.

    Attributes:
        records: how many are in it.
        bytes: its size.
        sha256: of its contents, in hexadecimal digits.
    """

    records: int
    bytes: int
    sha256: str

    def same_size(self, path: pathlib.Path) -> bool:
        return path.is_file() and path.stat().st_size == self.bytes

    def whole(self, path: pathlib.Path) -> bool:
        """Whether a file is what the list says; it is read."""
        return self.same_size(path) and checksums.of_file(path) == self.sha256


class Listing(Settings):
    """The list of a conversion, a JSON file.

    Attributes:
        identity: checksum of what is converted, and how.
        finished: whether all files are written.
        classes: names of the classes by their numbers; empty where the records have names.
        files: name -> what it holds.
    """

    identity: str
    finished: bool
    classes: tuple[str, ...] = ()
    files: Mapping[str, FileFacts]


def read_listing(path: pathlib.Path) -> Listing:
    """Reads the list of a conversion.

    Raises:
        DataError: it is none, or names files outside of its folder.
    """
    what = "the list of files that tlt-convert writes"
    listing = checked(Listing, read_json(path, what, _MOST), f"{shown(path)}: expected {what}", DataError)
    outside = [name for name in listing.files if pathlib.PurePath(name).name != name]
    if outside:
        raise DataError(f"{shown(path)}: expected names of files beside it. Received: {shown(outside[0])}.")
    return listing


@dataclasses.dataclass
class Conversion:
    """Files that are written beside their list.

    Attributes:
        path: of the list.
        listing: so far.
        kept: how many files were there, whole, and were not written again.
    """

    path: pathlib.Path
    listing: Listing
    kept: int = 0

    @classmethod
    def begun(cls, path: pathlib.Path, identity: str, classes: tuple[str, ...] = ()) -> Conversion:
        """A new one, or one that goes on.

        Raises:
            NotReplacedError: the list is that of other data or settings.
        """
        if not path.exists():
            return cls(path, Listing(identity=identity, finished=False, classes=classes, files={}))
        try:
            there = read_listing(path)
        except DataError as error:
            raise NotReplacedError(f"{error} Remove it, or choose another place (-o).") from error
        if there.identity != identity:
            raise NotReplacedError(
                f"{shown(path)} is the list of another conversion: other data or other settings. Choose another place (-o), or "
                "remove its files."
            )
        return cls(path, there.model_copy(update={"finished": False}))

    def has(self, *names: str) -> bool:
        """Whether files are written and whole; they are read."""
        listed = all(name in self.listing.files for name in names)
        whole = listed and all(self.listing.files[name].whole(self.path.parent / name) for name in names)
        self.kept += len(names) * whole
        return whole

    @contextlib.contextmanager
    def writing(self, records: int, *names: str) -> Iterator[list[pathlib.Path]]:
        """Paths to write some files of `records` records to: with the end of the block, all of them are there and in the list."""
        with files.together(), contextlib.ExitStack() as stack:
            staged = [stack.enter_context(files.whole_file(self.path.parent / name)) for name in names]
            yield staged
            facts = {
                name: FileFacts(records=records, bytes=path.stat().st_size, sha256=checksums.of_file(path))
                for name, path in zip(names, staged, strict=True)
            }
            self._write(files={**self.listing.files, **facts})

    def finish(self) -> None:
        """Marks the list as complete."""
        self._write(finished=True)

    def _write(self, **changed: Any) -> None:
        self.listing = self.listing.model_copy(update=changed)
        files.write_text(self.path, json.dumps(self.listing.model_dump(), indent=1) + "\n")
