"""Pictures with boxes from files: folders in KITTI's format, or COCO's annotations.

Nothing is dropped without a word: labels that are left out are counted by reason, and the reader's notes say how many, of which
classes, and where the first one is.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlt_prune.config import nfc, read_json, read_lines, shown
from tlt_prune.data import SUFFIXES, by_name, files_below, named_pictures, open_picture, picture_name
from tlt_prune.detection.dataset import Array, BoxSplit, Resize, check_size, large_enough, stretched_as_tf1
from tlt_prune.detection.kitti import Label, parse_labels
from tlt_prune.detection.masks import LabelFilter
from tlt_prune.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

# Beyond it, a coordinate is no pixel of any picture, and float32 would round it.
_LARGEST = 2.0**24


class LeftOut:
    """The labels that are not used, by reason."""

    def __init__(self, source: object) -> None:
        self._source = source
        self._counts: dict[str, collections.Counter[str]] = {}
        self._first: dict[str, str] = {}

    def add(self, reason: str, label: str, where: str) -> None:
        self._counts.setdefault(reason, collections.Counter())[label] += 1
        self._first.setdefault(reason, where)

    def notes(self) -> tuple[str, ...]:
        """One line a reason."""
        return tuple(
            f"{self._source}: {counts.total()} labels {reason} ({_counted(counts)}), the first in {shown(self._first[reason])}."
            for reason, counts in self._counts.items()
        )


def _counted(counts: collections.Counter[str]) -> str:
    most = [f"{shown(name)} {count}" for name, count in counts.most_common(10)]
    return ", ".join(most) + (", ..." if len(counts) > 10 else "")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The classes, size and format that pictures and labels are read for.

    Attributes:
        mapping: class in the files, in lower case -> class of the model; others are left out.
        size: (width, height) of the model, multiples of 16; pictures are brought to it, and boxes with them.
        channels: 1 or 3.
        classes: those of the model, in the order of its channels; None for the order in which `mapping` names them.
        resize: see `Resize`. As the toolkit resizes, boxes whose corners are swapped are left out, as there, and not put right.
        filters: of labels, whatever their class, that mask the loss.
        oriented: pictures are turned as their EXIF entry says; boxes are in pixels of the turned picture.
        needs_objects: whether it is an error if no object is left.
    """

    mapping: Mapping[str, str]
    size: tuple[int, int]
    channels: int = 3
    classes: Sequence[str] | None = None
    resize: Resize = "smooth"
    filters: Sequence[LabelFilter] = ()
    oriented: bool = True
    needs_objects: bool = True

    def __post_init__(self) -> None:
        check_size(self.size)
        loud = [name for name in self.mapping if name != name.lower()]
        if loud:
            raise DataError(
                f"target_class_mapping: expected keys in lower case, as labels are read. Received: {shown(loud[0])!r}."
            )
        object.__setattr__(self, "mapping", {nfc(key): value for key, value in self.mapping.items()})

    @property
    def names(self) -> tuple[str, ...]:
        """The model's classes."""
        return tuple(self.classes or dict.fromkeys(self.mapping.values()))


def load_kitti(
    images: str | pathlib.Path,
    labels: str | pathlib.Path,
    mapping: Mapping[str, str],
    size: tuple[int, int],
    *,
    names: Sequence[str] | None = None,
    suffixes: Iterable[str] = SUFFIXES,
    **options: Any,
) -> BoxSplit:
    """Pictures below one folder, a text file in KITTI's format of the same name for each below another.

    Args:
        images, labels: the two folders.
        mapping, size, **options: the fields of `Wanted`.
        names: of the pictures to take, relative to the folder, with their suffix or without; None for all.
        suffixes: of pictures, in lower case.

    Raises:
        DataError: a folder or a file is missing or empty, a line is broken, a box is outside of its picture, a class of `mapping`
            is not in lower case, no object is left.
    """
    folder, texts, suffixes = pathlib.Path(images), pathlib.Path(labels), frozenset(suffixes)
    wanted = Wanted(mapping, size, **options)
    found = named_pictures(folder, suffixes)
    if not found:
        raise DataError(f"{folder}: expected pictures ({', '.join(sorted(suffixes))}). There are none.")
    chosen = sorted(found) if names is None else [picture_name(x, suffixes) for x in names]
    missing = [name for name in chosen if name not in found]
    if missing:
        raise DataError(f"{folder}: there is no picture '{shown(missing[0])}', which was asked for.")
    written = label_files(texts)
    objects: dict[str, list[Label]] = {}
    for name in chosen:
        path = written.get(name)
        if path is None:
            raise DataError(
                f"{texts / name}.txt: expected a label file for every picture (an empty one where there is no object). "
                "There is none."
            )
        kept, dropped = parse_labels("\n".join(read_lines(path)), str(path), needed=wanted.mapping.keys())
        objects[name] = [*kept, *dropped]
    split = _Reader(wanted, texts).split({name: found[name] for name in chosen}, objects)
    alone = sorted(set(written) - set(found))
    if not alone or names is not None:
        return split
    note = f"{texts}: {len(alone)} label files have no picture in {folder} and are left out, the first: {shown(alone[0])}.txt."
    return dataclasses.replace(split, notes=(*split.notes, note))


def label_files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Name of a picture -> its label file, below a folder."""
    found = sorted(x for x in files_below(folder) if x.suffix == ".txt")
    return {nfc(x.relative_to(folder).with_suffix("").as_posix()): x for x in found}


def load_coco(
    annotations: str | pathlib.Path,
    images: str | pathlib.Path,
    mapping: Mapping[str, str],
    size: tuple[int, int],
    **options: Any,
) -> BoxSplit:
    """Pictures with an annotation file in COCO's format; crowds are left out.

    Args:
        annotations: the file.
        images: the folder that its file names begin in.
        mapping, size, **options: the fields of `Wanted`.

    Raises:
        DataError: the file cannot be read or lacks a part, a picture is missing or named twice, no object is left.
    """
    path, folder = pathlib.Path(annotations), pathlib.Path(images)
    wanted = Wanted(mapping, size, **options)
    content = read_json(path, "annotations in COCO's format (images, categories, annotations)", most=2**30)
    parts: dict[str, Any] = {part: content.get(part) for part in ("images", "categories", "annotations")}
    for part, rows in parts.items():
        if not isinstance(rows, list) or not all(isinstance(x, dict) for x in rows):
            raise DataError(f"{path}: expected annotations in COCO's format: a list of objects called '{part}'. There is none.")
    rows_of = _by_id(parts["images"], f"{path}: images")
    files = {key: _text(x, "file_name", path) for key, x in rows_of.items()}
    found = by_name(((name, folder / name) for name in files.values()), path)
    missing = [file for file in found.values() if not file.is_file()]
    if missing:
        raise DataError(f"{path} names {shown(missing[0])}, which does not exist.")
    categories = {
        key: nfc(_text(x, "name", path)).lower().replace(" ", "")
        for key, x in _by_id(parts["categories"], f"{path}: categories").items()
    }
    reader = _Reader(wanted, path)
    objects: dict[str, list[Label]] = {name: [] for name in found}
    for i, x in enumerate(parts["annotations"] or ()):
        where = f"annotation {i}"
        picture = _known(x, "image_id", files, f"{path}: {where}")
        category = _known(x, "category_id", categories, f"{path}: {where}")
        if x.get("iscrowd"):
            reader.left_out.add("are crowds and left out", category, where)
            continue
        left, top, width, height = _numbers(x.get("bbox"), f"{path}: {where}")
        objects[picture_name(picture)].append(Label(category, (left, top, left + width, top + height), place=where))
    split = reader.split(found, objects)
    if wanted.resize != "pad":
        _check_sizes(split, {picture_name(files[key]): x for key, x in rows_of.items()}, path)
    return split


def _known(row: Mapping[str, object], key: str, known: Mapping[Any, str], where: str) -> str:
    value = row.get(key)
    if isinstance(value, (list, dict)) or value not in known:
        raise DataError(f"{where}: expected the {key} of something that the file has. Received: {_brief(value)}.")
    return known[value]


def _by_id(rows: Iterable[Mapping[str, Any]], what: str) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for row in rows:
        key = row.get("id")
        if not isinstance(key, (int, str)) or isinstance(key, bool):
            raise DataError(f"{what}: expected an id, a whole number, for each. Received: {_brief(key)}.")
        if key in found:
            raise DataError(f"{what}: expected different ids. {_brief(key)} comes twice.")
        found[key] = row
    return found


def _text(row: Mapping[str, object], key: str, source: object) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value or not value.isprintable():
        raise DataError(f"{source}: expected annotations in COCO's format: a text '{key}'. Received: {_brief(value)}.")
    return value


def _numbers(value: object, where: str) -> list[float]:
    numbers = value if isinstance(value, list) else []
    if len(numbers) != 4 or not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in numbers):
        raise DataError(f"{where}: expected bbox as four numbers (left, top, width, height). Received: {_brief(value)}.")
    # Whole numbers may be beyond a float's range, which is beyond any picture too.
    return [float(x) if abs(x) < 1e300 else math.inf for x in numbers]


def _brief(value: object) -> str:
    return shown(repr(value))[:60]


def _check_sizes(split: BoxSplit, rows: Mapping[str, Mapping[str, object]], source: object) -> None:
    """Width and height that a file states must be the picture's: else its boxes are those of another picture."""
    for name, factor in zip(split.names, split.factors, strict=True):
        stated = rows[name].get("width"), rows[name].get("height")
        real = tuple(round(a * b) for a, b in zip(split.size, factor, strict=True))
        if all(isinstance(x, (int, float)) for x in stated) and stated != real:
            turned = " It is turned by its EXIF entry: see ignore_exif_orientation." if stated == real[::-1] else ""
            raise DataError(
                f"{source}: '{shown(name)}' is said to be {stated[0]} x {stated[1]}, but has {real[0]} x {real[1]} pixels."
                f"{turned} Expected the annotations of these very pictures."
            )


def labeled_split(
    wanted: Wanted,
    source: object,
    files: Mapping[str, pathlib.Path],
    objects: Mapping[str, Sequence[Label]],
    stated: Mapping[str, Mapping[str, object]],
) -> BoxSplit:
    """Pictures with labels that another file has of them.

    Args:
        wanted: what is to be made of them.
        source: that file, for errors and notes.
        files: name -> picture.
        objects: name -> labels.
        stated: name -> "width" and "height" that the file says the picture has.

    Raises:
        DataError: a picture cannot be read or has another size, a box is outside of it, no object is left.
    """
    split = _Reader(wanted, source).split(files, objects)
    if wanted.resize != "pad":
        _check_sizes(split, stated, source)
    return split


class _Reader:
    """Labels held against their pictures.

    Args:
        wanted: what is to be made of them.
        source: where labels are from, for errors and notes.
    """

    def __init__(self, wanted: Wanted, source: object) -> None:
        self._wanted, self._source = wanted, source
        self.left_out = LeftOut(source)

    def split(self, files: Mapping[str, pathlib.Path], objects: Mapping[str, Sequence[Label]]) -> BoxSplit:
        w = self._wanted
        pictures, factors, rows = [], [], []
        for name, path in files.items():
            picture, factor = read_picture(path, w.size, w.channels, w.resize, oriented=w.oriented)
            rows.append([number_and_box for x in objects[name] for number_and_box in self._used(x, factor, x.place or name)])
            pictures.append(picture)
            factors.append(factor)
        split = BoxSplit.of(tuple(files), np.stack(pictures), rows, factors, w.names, self.left_out.notes())
        if w.needs_objects:
            require_objects(split, w.mapping)
        return split

    def _used(self, label: Label, factor: tuple[float, float], where: str) -> list[tuple[int, list[float]]]:
        """(class, box in pixels of the model) of what a label is used for: an object, masks of the loss, or nothing."""
        w = self._wanted
        box = self._box(label, factor, where)
        if box is None:
            return []
        used = [(len(w.names) + i, box) for i, one in enumerate(w.filters) if one.holds(label.name, box)]
        if label.name not in w.mapping:
            if not used:
                self.left_out.add("are of classes that target_class_mapping does not name and are left out", label.name, where)
            return used
        if not large_enough(box):
            self.left_out.add("are less than a pixel wide or high at the model's size and are left out", label.name, where)
            return used
        return [(w.names.index(w.mapping[label.name]), box), *used]

    def _box(self, label: Label, factor: tuple[float, float], where: str) -> list[float] | None:
        """A label's box in pixels of the model; None, and counted, where it is none.

        Raises:
            DataError: that of a class of the model is not finite or outside of its picture: the whole data set must be doubted.
        """
        w, wanted = self._wanted, label.name in self._wanted.mapping
        if not all(math.isfinite(x) and abs(x) <= _LARGEST for x in label.box):
            if wanted:
                raise DataError(f"{self._source}: expected finite boxes in pixels. '{shown(where)}' has {list(label.box)}.")
            self.left_out.add("of other classes have no usable box and are left out", label.name, where)
            return None
        box = self._straight(label, where)
        if box is None:
            return None
        if w.resize == "smooth" and min(box) >= 0 and max(box) <= 1:
            self.left_out.add("have coordinates from 0 to 1, where pixels are expected, and are left out", label.name, where)
            return None
        if not (int(box[0]) < int(box[2]) and int(box[1]) < int(box[3])):
            self.left_out.add("are less than a pixel wide or high and are left out", label.name, where)
            return None
        scaled = [value / factor[i % 2] for i, value in enumerate(box)]
        outside = scaled[0] >= w.size[0] or scaled[1] >= w.size[1] or scaled[2] <= 0 or scaled[3] <= 0
        if w.resize == "smooth" and not outside:
            # As detections and training end there: what lies beyond cannot be found.
            return [min(max(value, 0.0), float(w.size[i % 2])) for i, value in enumerate(scaled)]
        if not outside or w.resize == "pad":
            return scaled
        if wanted:
            raise DataError(
                f"{self._source}: a {label.name} of '{shown(where)}' at {[round(x, 1) for x in box]} is outside of its picture "
                f"of {round(w.size[0] * factor[0])} x {round(w.size[1] * factor[1])}. Expected boxes in pixels of the file."
            )
        self.left_out.add("of other classes lie outside of their picture and are left out", label.name, where)
        return None

    def _straight(self, label: Label, where: str) -> Sequence[float] | None:
        """Corners in order; None where the toolkit leaves such a box out."""
        x1, y1, x2, y2 = label.box
        if x1 <= x2 and y1 <= y2:
            return label.box
        if self._wanted.resize != "smooth":
            self.left_out.add("have their corners swapped and are left out, as in the toolkit", label.name, where)
            return None
        self.left_out.add("had their corners swapped and were put right", label.name, where)
        return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def require_objects(split: BoxSplit, mapping: Mapping[str, str]) -> None:
    """Raises a DataError where no picture has an object of a class of the model; it says what the labels have instead."""
    if not split.is_object.any():
        notes = " ".join(split.notes) or "There are no labels."
        raise DataError(f"No object of a class in target_class_mapping ({', '.join(map(shown, mapping))}) is left. {notes}")


def read_picture(
    path: pathlib.Path, size: tuple[int, int], channels: int, resize: Resize = "smooth", *, oriented: bool = True
) -> tuple[Array, tuple[float, float]]:
    """A picture file brought to `size` (width, height), `(height, width, channels)`; and how many times as large it was, (x, y).

    Raises:
        DataError: it cannot be read.
    """
    return fitted(open_picture(path, channels, oriented=oriented), size, channels, resize)


def fitted(picture: Image, size: tuple[int, int], channels: int, resize: Resize) -> tuple[Array, tuple[float, float]]:
    """The same of a decoded picture."""
    from PIL import Image

    factor = picture.width / size[0], picture.height / size[1]
    if resize == "pad":
        pixels = np.zeros((size[1], size[0], channels), np.uint8)
        part = np.asarray(picture, np.uint8).reshape(picture.height, picture.width, channels)[: size[1], : size[0]]
        pixels[: part.shape[0], : part.shape[1]] = part
        return pixels, (1.0, 1.0)
    if resize == "tf1":
        return stretched_as_tf1(np.asarray(picture, np.float32).reshape(picture.height, picture.width, channels), size), factor
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8).reshape(size[1], size[0], channels), factor
