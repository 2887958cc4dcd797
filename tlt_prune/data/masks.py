"""Pictures with masks: a class for every pixel."""

from __future__ import annotations

import collections
import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tlt_prune.config import read_lines, shown
from tlt_prune.data.formats import PictureFormat
from tlt_prune.data.mask_fitting import MaskFitting, Tile
from tlt_prune.data.pictures import named_pictures, open_picture
from tlt_prune.errors import DataError, first_line
from tlt_prune.io import checksums

# The class of a pixel that has none: it has no loss and does not count in scores.
VOID = -1
# Sets up to this size are decoded once and kept; larger ones are read again in every epoch.
_MEMORY_BYTES = 2**30
_LARGEST_ID = 65_535


@dataclasses.dataclass(frozen=True)
class MaskClasses:
    """The classes of a segmentation, and which values of a mask they are.

    Attributes:
        names: in the order of the model's channels.
        ids: value in a mask -> index of its class.
        others: index of the class of all other values; -1 for none.
        values: for each class the value that stands for it in a mask that is written; of those that belong to it, the one of the
            entry that names it.
    """

    names: tuple[str, ...]
    ids: Mapping[int, int]
    others: int = VOID
    values: tuple[int, ...] = ()

    def indices(self, mask: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
        """The class of every pixel."""
        table = np.full(_LARGEST_ID + 1, self.others, np.int32)
        for value, index in self.ids.items():
            # No pixel has a value below 0.
            if value >= 0:
                table[value] = index
        found: NDArray[np.int32] = table[mask]
        return found


def mask_classes(targets: Sequence[Mapping[str, Any]]) -> MaskClasses:
    """The classes of the toolkit's `target_classes`: entries with name, label_id and mapping_class.

    A class is named by the entry that others map to, in one step; classes are numbered in the order of those entries' label_id.

    Raises:
        DataError: a name is given twice, an entry maps to a name that there is not, a label_id belongs to two classes, or there
            is one class alone.
    """
    ids = {str(x["name"]): int(x["label_id"]) for x in targets}
    if len(ids) < len(targets):
        raise DataError("target_classes: expected a name of its own for each entry. Some are given twice.")
    wanted = {str(x["name"]): str(x.get("mapping_class") or x["name"]) for x in targets}
    strange = sorted(set(wanted.values()) - set(ids))
    if strange:
        raise DataError(
            f"target_classes: mapping_class {shown(strange[0])} is no entry's name. Expected one of {', '.join(ids)}."
        )
    # Names of one label_id are one class, and the first is its name.
    first = {ids[name]: name for name in sorted(set(wanted.values()), reverse=True)}
    names = [first[value] for value in sorted(first)]
    if len(names) < 2:
        raise DataError(f"target_classes: expected two classes or more after mapping. Received: {', '.join(names) or 'none'}.")
    found: dict[int, int] = {}
    for name, target in wanted.items():
        index = names.index(first[ids[target]])
        if found.setdefault(ids[name], index) != index:
            raise DataError(f"target_classes: label_id {ids[name]} belongs to {names[found[ids[name]]]} and to {names[index]}.")
    return MaskClasses(tuple(names), found, values=tuple(_written(ids[name], i, found) for i, name in enumerate(names)))


def _written(own: int, index: int, found: Mapping[int, int]) -> int:
    # A value below 0 is no pixel's: then one that another entry has for the class, or else one that no entry has.
    if own >= 0:
        return own
    others = [value for value, i in found.items() if i == index and value >= 0]
    return min(others) if others else next(x for x in (255, *range(_LARGEST_ID + 1)) if x not in found)


@dataclasses.dataclass(frozen=True)
class MaskExample:
    """Files of an example: a picture and its mask, or a tile of them."""

    name: str
    picture: pathlib.Path
    mask: pathlib.Path
    tile: Tile | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class MaskSplit:
    """Pictures with masks.

    Attributes:
        files: of the examples.
        classes: see `MaskClasses`.
        fitting: how they get the model's size.
        kept: decoded pictures `(n, height, width, channels)` and classes int32 `(n, height, width)`; None for a set that is read
            when needed.
    """

    files: tuple[MaskExample, ...]
    classes: MaskClasses
    fitting: MaskFitting
    kept: tuple[NDArray[Any], NDArray[np.int32]] | None = None

    def __len__(self) -> int:
        return len(self.files)

    @property
    def form(self) -> PictureFormat:
        """The format of fitted pictures."""
        return self.fitting.form

    @property
    def counted(self) -> str:
        """How many there are of what."""
        return f"{len(self)} {'tiles of pictures' if self.fitting.tiles else 'pictures'}"

    def example(self, index: int) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """(picture `(height, width, channels)`, class of every pixel `(height, width)`)."""
        if self.kept is not None:
            return self.kept[0][index], self.kept[1][index]
        file = self.files[index]
        return self._fitted(_opened(file.picture, self.form), read_mask(file.mask), file.tile)

    def _fitted(
        self, picture: Image.Image, mask: NDArray[np.integer[Any]], tile: Tile | None
    ) -> tuple[NDArray[Any], NDArray[np.int32]]:
        fitting = self.fitting
        return fitting.picture(picture, tile), fitting.mask(self.classes.indices(mask), self.classes.others, tile)

    def part(self, chosen: Sequence[int]) -> MaskSplit:
        """The examples with these numbers."""
        kept = None if self.kept is None else (self.kept[0][list(chosen)], self.kept[1][list(chosen)])
        return dataclasses.replace(self, files=tuple(self.files[i] for i in chosen), kept=kept)

    def sample(self, count: int, seed: int) -> MaskSplit:
        """`count` examples of all, drawn by chance, or all where there are no more."""
        return self.part(np.sort(np.random.default_rng(seed).permutation(len(self))[:count]).tolist())

    def checksum(self) -> int:
        """Of the names, sizes and times of all files."""
        named = dict.fromkeys(str(path) for file in self.files for path in (file.picture, file.mask))
        return checksums.of_files_on_disk(list(named))


def load_masks(
    sources: Sequence[tuple[str | pathlib.Path, str | pathlib.Path]],
    classes: MaskClasses,
    fitting: MaskFitting,
    *,
    leave_out_missing: bool = False,
) -> tuple[MaskSplit, tuple[str, ...]]:
    """Pictures and masks of one or more sources: two folders whose files have the same names, or two text files that list files.

    Args:
        sources: (pictures, masks) of each.
        classes: see `MaskClasses`.
        fitting: see `MaskFitting`.
        leave_out_missing: listed files that are not there are left out with their partners.

    Returns:
        The split, and notes: how many pixels have a value that no class names, how many files were left out.

    Raises:
        DataError: something is missing or broken, or a mask has another size than its picture.
    """
    counts: collections.Counter[int] = collections.Counter()
    files: list[MaskExample] = []
    kept: list[tuple[NDArray[Any], NDArray[np.int32]]] = []
    bytes_each = math.prod(fitting.form.size) * np.dtype(fitting.dtype).itemsize + 4 * fitting.form.height * fitting.form.width
    pairs, notes = _pairs(sources, leave_out_missing)
    for name, (picture, mask) in pairs.items():
        values, opened = read_mask(mask), _opened(picture, fitting.form)
        if opened.size != (values.shape[1], values.shape[0]):
            raise DataError(
                f"The mask {shown(mask)} has {values.shape[1]} x {values.shape[0]} pixels, and its picture "
                f"{opened.size[0]} x {opened.size[1]}. Expected the same."
            )
        counts.update(dict(zip(*(x.tolist() for x in np.unique(values, return_counts=True)), strict=True)))
        tiles = fitting.tiles_of(values.shape) if fitting.tiles else [None]  # type: ignore[arg-type]
        new = [MaskExample(f"{name}@{x.top},{x.left}" if x else name, picture, mask, x) for x in tiles]
        files += new
        if len(files) * bytes_each <= _MEMORY_BYTES:
            one = MaskSplit(tuple(new), classes, fitting)
            kept += [one._fitted(opened, values, x.tile) for x in new]
        else:
            kept = []
    notes += _notes(", ".join(str(x) for _, x in sources), classes, counts)
    if len(kept) < len(files):
        return MaskSplit(tuple(files), classes, fitting), notes
    return MaskSplit(tuple(files), classes, fitting, (np.stack([x for x, _ in kept]), np.stack([y for _, y in kept]))), notes


def _notes(masks: object, classes: MaskClasses, counts: collections.Counter[int]) -> tuple[str, ...]:
    """What is not as it may be expected, of how many pixels have which value."""
    unnamed = collections.Counter({value: count for value, count in counts.items() if value not in classes.ids})
    most = ", ".join(str(x) for x, _ in unnamed.most_common(5))
    if len(unnamed) == len(counts):
        named = ", ".join(map(str, sorted(classes.ids)))
        raise DataError(f"{masks}: no mask has a value that a class names ({named}). Found: {most}.")
    if not unnamed:
        return ()
    share = unnamed.total() / counts.total()
    then = "they do not count" if classes.others == VOID else f"they are {classes.names[classes.others]}"
    return (f"{masks}: {100 * share:.2g} % of the pixels have values that no class names ({most}): {then}.",)


def _opened(path: pathlib.Path, form: PictureFormat) -> Image.Image:
    return open_picture(path, form.channels, depth=form.depth, oriented=form.oriented)


Pairs = dict[str, tuple[pathlib.Path, pathlib.Path]]
"""Name -> (picture, mask)."""


def _pairs(sources: Sequence[tuple[str | pathlib.Path, str | pathlib.Path]], leave_out: bool) -> tuple[Pairs, tuple[str, ...]]:
    found: Pairs = {}
    notes: list[str] = []
    for source in sources:
        pictures, masks = (pathlib.Path(x) for x in source)
        if pictures.is_dir() and masks.is_dir():
            pairs = _in_folders(pictures, masks)
        elif pictures.is_file() and masks.is_file():
            pairs, missing = _in_lists(pictures, masks)
            if missing and not leave_out:
                raise DataError(
                    f"{pictures}: {len(missing)} files are not there, the first: {shown(missing[0])}. Remove their lines from "
                    "both lists, or say filter_data: true."
                )
            if missing:
                notes.append(f"{pictures}: left out {len(missing)} files that are not there, the first: {shown(missing[0])}.")
        else:
            raise DataError(
                f"Expected two folders, or two text files that list pictures and masks. Received: {pictures} and {masks}."
            )
        if not pairs:
            raise DataError(f"{pictures}: expected pictures. There are none.")
        twice = found.keys() & pairs.keys()
        if twice:
            raise DataError(f"{pictures}: {shown(min(twice))} is in another source too. Expected each picture once.")
        found |= pairs
    return found, tuple(notes)


def _in_folders(pictures: pathlib.Path, masks: pathlib.Path) -> Pairs:
    """By their names."""
    found = [named_pictures(folder) for folder in (pictures, masks)]
    alone = sorted(set(found[0]) ^ set(found[1]))
    if alone:
        where, other = (pictures, masks) if alone[0] in found[0] else (masks, pictures)
        raise DataError(
            f"{shown(alone[0])} in {where} has no file of the same name in {other}. Expected a mask for each picture "
            f"({len(alone)} are alone)."
        )
    return {name: (found[0][name], found[1][name]) for name in sorted(found[0])}


def _in_lists(pictures: pathlib.Path, masks: pathlib.Path) -> tuple[Pairs, list[pathlib.Path]]:
    """By their lines; those of which a file is missing, apart."""
    lists = [listed_pictures(path) for path in (pictures, masks)]
    if len(lists[0]) != len(lists[1]):
        raise DataError(f"{pictures} lists {len(lists[0])} pictures, and {masks} {len(lists[1])} masks. Expected one for each.")
    pairs = {x: (pathlib.Path(x), pathlib.Path(y)) for x, y in zip(*lists, strict=True)}
    if len(pairs) < len(lists[0]):
        raise DataError(f"{pictures} lists {len(lists[0]) - len(pairs)} pictures twice. Expected each once.")
    missing = [path for pair in pairs.values() for path in pair if not path.is_file()]
    return {name: pair for name, pair in pairs.items() if pair[0].is_file() and pair[1].is_file()}, missing


def listed_pictures(path: pathlib.Path) -> list[str]:
    """The lines of a text file that lists pictures."""
    return [x.strip() for x in read_lines(path) if x.strip()]


def read_mask(path: pathlib.Path) -> NDArray[np.integer[Any]]:
    """The values of a mask `(height, width)`; those of a palette are its numbers.

    Raises:
        DataError: the file cannot be decoded, or has colors.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("L", "P", "1", "I", "I;16"):
                raise DataError(
                    f"The mask {shown(path)} has the mode {picture.mode}. Expected one channel with a number for each class, or "
                    "a palette."
                )
            values = np.asarray(picture).astype(np.int64)
    except DataError:
        raise
    # Pillow's readers raise whatever a broken file leads them to.
    except Exception as error:
        reason = first_line(error, 150) or type(error).__name__
        raise DataError(f"Cannot read the mask {shown(path)}: {reason}. Remove it or replace it.") from error
    if values.min(initial=0) < 0 or values.max(initial=0) > _LARGEST_ID:
        raise DataError(f"The mask {shown(path)} has values up to {values.max()}. Expected 0 to {_LARGEST_ID}.")
    return values
