"""Pictures that are read when they are needed: as many as a disk holds."""

from __future__ import annotations

import abc
import os
import pathlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tlt_prune.data.formats import PictureFormat, load_picture
from tlt_prune.io import checksums


class Stored(abc.ABC):
    """Pictures of a `Split`, somewhere on a disk. Takes the place of an array `(n, height, width, channels)`.

    Attributes:
        order: function (key `(2,)`) -> numbers of all pictures, int32 `(n,)`, in the order that an epoch reads them in; None
            where any order is as fast.
    """

    order: Callable[[NDArray[Any]], NDArray[np.int32]] | None = None

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, chosen: Any) -> Self:
        """The pictures with the numbers `chosen`, or of a slice."""

    @abc.abstractmethod
    def load(self, number: int, form: PictureFormat) -> NDArray[Any]:
        """One picture, in `form`.

        Raises:
            DataError: it cannot be read.
        """

    @abc.abstractmethod
    def identities(self) -> list[Hashable]:
        """Equal for pictures that are the same."""

    @abc.abstractmethod
    def checksum(self) -> int:
        """Changes where a picture does."""


class PictureFiles(Stored):
    """A file for each picture."""

    def __init__(self, paths: Sequence[str | pathlib.Path] | NDArray[np.object_]) -> None:
        self._paths = paths if isinstance(paths, np.ndarray) else np.array([str(x) for x in paths], object)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, chosen: Any) -> Self:
        return type(self)(self._paths[chosen])

    def load(self, number: int, form: PictureFormat) -> NDArray[Any]:
        return load_picture(self._paths[number], form)

    def identities(self) -> list[Hashable]:
        return [(x.st_dev, x.st_ino) for x in map(os.stat, self._paths.tolist())]

    def checksum(self) -> int:
        """Of names, sizes and times: the files are not read."""
        return checksums.of_files_on_disk(self._paths.tolist())
