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
from tlt_prune.data.formats import PictureFormat, load_picture
from tlt_prune.data.pictures import SUFFIXES, by_name, list_pictures
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
    """

    names: tuple[str, ...]
    ids: Mapping[int, int]

    def indices(self, mask: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
        """The class of every pixel; -1 for values that are not named."""
        table = np.full(_LARGEST_ID + 1, VOID, np.int32)
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
    return MaskClasses(tuple(names), found)


@dataclasses.dataclass(frozen=True, eq=False)
class MaskSplit:
    """Pictures and their masks.

    Attributes:
        names: of the pictures.
        pictures: their files.
        masks: the masks' files, beside them.
        classes: see `MaskClasses`.
        form: of the pictures; masks get its height and width, by the nearest pixel.
        kept: decoded pictures uint8 `(n, height, width, channels)` and classes int32 `(n, height, width)`; None for a set that is
            read when needed.
    """

    names: tuple[str, ...]
    pictures: tuple[pathlib.Path, ...]
    masks: tuple[pathlib.Path, ...]
    classes: MaskClasses
    form: PictureFormat
    kept: tuple[NDArray[Any], NDArray[np.int32]] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def example(self, index: int) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """(picture `(height, width, channels)`, class of every pixel `(height, width)`)."""
        if self.kept is not None:
            return self.kept[0][index], self.kept[1][index]
        return load_picture(self.pictures[index], self.form), load_mask(self.masks[index], self.classes, self.form)

    def part(self, chosen: Sequence[int]) -> MaskSplit:
        """The pictures with these numbers."""
        picked = [tuple(values[i] for i in chosen) for values in (self.names, self.pictures, self.masks)]
        kept = None if self.kept is None else (self.kept[0][list(chosen)], self.kept[1][list(chosen)])
        return MaskSplit(picked[0], picked[1], picked[2], self.classes, self.form, kept)  # type: ignore[arg-type]

    def sample(self, count: int, seed: int) -> MaskSplit:
        """`count` pictures of all, drawn by chance, or all where there are no more."""
        return self.part(np.sort(np.random.default_rng(seed).permutation(len(self))[:count]).tolist())

    def checksum(self) -> int:
        """Of the names, sizes and times of all files."""
        return checksums.of_files_on_disk([str(x) for x in (*self.pictures, *self.masks)])


def load_masks(
    pictures: str | pathlib.Path, masks: str | pathlib.Path, classes: MaskClasses, form: PictureFormat
) -> tuple[MaskSplit, tuple[str, ...]]:
    """Pictures and masks: two folders whose files have the same names, or two text files that list them line by line.

    Returns:
        The split, and notes: how many pixels have a value that no class names.

    Raises:
        DataError: something is missing or broken, or a mask has another size than its picture.
    """
    pairs = _listed(pathlib.Path(pictures), pathlib.Path(masks))
    split = MaskSplit(tuple(pairs), tuple(x for x, _ in pairs.values()), tuple(y for _, y in pairs.values()), classes, form)
    unnamed: collections.Counter[int] = collections.Counter()
    found = collections.Counter[int]()
    for picture, mask in pairs.values():
        values = read_mask(mask)
        with Image.open(picture) as opened:
            size = opened.size
        if size != (values.shape[1], values.shape[0]):
            raise DataError(
                f"The mask {shown(mask)} has {values.shape[1]} x {values.shape[0]} pixels, and its picture "
                f"{size[0]} x {size[1]}. Expected the same."
            )
        for value, count in zip(*np.unique(values, return_counts=True), strict=True):
            (found if int(value) in classes.ids else unnamed)[int(value)] += int(count)
    if not found:
        raise DataError(
            f"{masks}: no mask has a value that a class names ({', '.join(map(str, sorted(classes.ids)))}). Found: "
            f"{', '.join(str(x) for x, _ in unnamed.most_common(5))}."
        )
    notes = []
    if unnamed:
        share = unnamed.total() / (unnamed.total() + found.total())
        most = ", ".join(str(x) for x, _ in unnamed.most_common(5))
        notes.append(f"{masks}: {100 * share:.2g} % of the pixels have values that no class names ({most}): they do not count.")
    bytes_each = math.prod(form.size) + 4 * form.height * form.width
    if len(split) * bytes_each <= _MEMORY_BYTES:
        examples = [split.example(i) for i in range(len(split))]
        kept = (np.stack([x for x, _ in examples]), np.stack([y for _, y in examples]))
        split = dataclasses.replace(split, kept=kept)
    return split, tuple(notes)


def _listed(pictures: pathlib.Path, masks: pathlib.Path) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
    """Name -> (picture, mask)."""
    if pictures.is_dir() and masks.is_dir():
        found = []
        for folder in (pictures, masks):
            files = list_pictures(folder)
            found.append(by_name(((x.relative_to(folder).as_posix(), x) for x in files), folder, SUFFIXES))
        alone = sorted(set(found[0]) ^ set(found[1]))
        if alone:
            where, other = (pictures, masks) if alone[0] in found[0] else (masks, pictures)
            raise DataError(
                f"{shown(alone[0])} in {where} has no file of the same name in {other}. Expected a mask for each picture "
                f"({len(alone)} are alone)."
            )
        pairs = {name: (found[0][name], found[1][name]) for name in sorted(found[0])}
    elif pictures.is_file() and masks.is_file():
        lists = [[x.strip() for x in read_lines(path) if x.strip()] for path in (pictures, masks)]
        if len(lists[0]) != len(lists[1]):
            raise DataError(
                f"{pictures} lists {len(lists[0])} pictures, and {masks} {len(lists[1])} masks. Expected one for each."
            )
        pairs = {x: (pathlib.Path(x), pathlib.Path(y)) for x, y in zip(*lists, strict=True)}
        missing = [path for pair in pairs.values() for path in pair if not path.is_file()]
        if missing:
            raise DataError(f"{pictures}: {len(missing)} files are not there, the first: {shown(missing[0])}.")
    else:
        raise DataError(
            f"Expected two folders, or two text files that list pictures and masks. Received: {pictures} and {masks}."
        )
    if not pairs:
        raise DataError(f"{pictures}: expected pictures. There are none.")
    return pairs


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


def load_mask(path: pathlib.Path, classes: MaskClasses, form: PictureFormat) -> NDArray[np.int32]:
    """The class of every pixel `(height, width)` at the form's size, by the nearest pixel."""
    indices = classes.indices(read_mask(path))
    scaled = Image.fromarray(indices).resize((form.width, form.height), Image.Resampling.NEAREST)
    return np.asarray(scaled).astype(np.int32)
