"""The toolkit's records: TFRecord files that its `dataset_convert` makes of KITTI's labels.

An example is a picture: `frame/id`, its path below the source's folder without a suffix; `frame/width` and `frame/height`;
`target/object_class`, `target/coordinates_x1` to `y2`, `target/truncation`, `target/occlusion` and others, a value for each
object. Files are called NAME-fold-000-of-002-shard-00000-of-00003.
"""

from __future__ import annotations

import dataclasses
import glob
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlt_prune.config import nfc, read_lines, shown
from tlt_prune.data import SUFFIXES, named_pictures, spans
from tlt_prune.detection.kitti import Label, parse_labels
from tlt_prune.detection.reading import Wanted, labeled_split
from tlt_prune.errors import DataError, first_line

if TYPE_CHECKING:
    import tensorflow as tf

    from tlt_prune.detection.dataset import BoxSplit

_FOLD = re.compile(r"fold-(\d+)-of-")
_NAME = re.compile(r"(?P<name>.*)-fold-\d+-of-(?P<folds>\d+)(-shard-(?P<shard>\d+)-of-(?P<shards>\d{1,5}))?")
_CORNERS = ("x1", "y1", "x2", "y2")
_WORLD = ("bbox_h", "bbox_w", "bbox_l", "bbox_x", "bbox_y", "bbox_z", "bbox_rot_y")
# What the converter writes beside its records, and a pattern such as tf/* finds too.
_NO_RECORDS = "_warning.json"


@dataclasses.dataclass(frozen=True)
class Frame:
    """A picture in a record.

    Attributes:
        name: its path below the source's folder, without a suffix.
        size: (width, height) of the picture.
        labels: its objects.
    """

    name: str
    size: tuple[int, int]
    labels: tuple[Label, ...]


def record_files(pattern: str) -> list[pathlib.Path]:
    """The record files that a path with wildcards finds, in the order of their names."""
    found = sorted(pathlib.Path(x) for x in glob.glob(pattern, recursive=True))
    files = [x for x in found if x.is_file() and not x.name.endswith(_NO_RECORDS)]
    _check_sets(files)
    return files


def _check_sets(files: Iterable[pathlib.Path]) -> None:
    """Raises DataError where files are of two conversions of one name, or shards are missing on the disk."""
    sets: dict[tuple[pathlib.Path, str], tuple[set[str], set[str]]] = {}
    for path in files:
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        folds, shards = sets.setdefault((path.parent, match["name"]), (set(), set()))
        folds.add(match["folds"])
        shards.add(match["shards"] or "")
        if len(folds) > 1 or len(shards) > 1:
            raise DataError(
                f"{shown(path)}: there are shards of two conversions called '{shown(match['name'])}' in this folder. Expected "
                "those of one: move the others away."
            )
        for i in range(int(match["shards"] or 0)):
            other = path.with_name(f"{path.name[: match.start('shard')]}{i:05d}-of-{match['shards']}")
            if not other.exists():
                raise DataError(
                    f"{shown(path.parent)}: expected {int(match['shards'])} files of a fold, by their names. "
                    f"{shown(other.name)} is missing: copy or convert the set again."
                )


def of_fold(files: Iterable[pathlib.Path], number: int) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """(the files of a fold, all others), by their names."""
    files = list(files)
    folds = {x: _FOLD.search(x.name) for x in files}
    inside = [x for x in files if (found := folds[x]) is not None and int(found[1]) == number]
    return inside, [x for x in files if x not in inside]


def read_frames(path: pathlib.Path) -> list[Frame]:
    """The pictures of one record file, in its order.

    Raises:
        DataError: it is no TFRecord file, is broken, or its examples are no pictures with boxes.
    """
    import tensorflow as tf

    # TensorFlow would make room for whatever a length says, and takes a file that ends within one for one that ends before it.
    for _ in spans(path):
        pass
    try:
        raw = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
        examples = [tf.train.Example.FromString(x) for x in raw]
    # TensorFlow's errors and protobuf's have no class in common.
    except Exception as error:
        raise DataError(f"{path}: cannot be read as records: {first_line(error, 120)}") from error
    return [_frame(example.features.feature, f"{path}, example {i}") for i, example in enumerate(examples)]


def _frame(features: Mapping[str, tf.train.Feature], where: str) -> Frame:
    def values(key: str, kind: str) -> list[Any]:
        if key not in features:
            raise DataError(
                f"{where}: expected {key}, as the toolkit's dataset_convert writes it. There are {len(features)} keys."
            )
        return list(getattr(features[key], f"{kind}_list").value)

    ids, width, height = values("frame/id", "bytes"), values("frame/width", "int64"), values("frame/height", "int64")
    if not len(ids) == len(width) == len(height) == 1:
        raise DataError(f"{where}: expected one frame/id, frame/width and frame/height.")
    names = [nfc(x.decode("utf-8", "replace")).lower() for x in values("target/object_class", "bytes")]
    columns: dict[str, Sequence[Any]] = {key: values(f"target/coordinates_{key}", "float") for key in _CORNERS}
    columns["truncated"] = values("target/truncation", "float")
    columns["occluded"] = values("target/occlusion", "int64")
    columns["alpha"] = values("target/observation_angle", "float")
    columns |= {key: values(f"target/world_{key}", "float") for key in _WORLD}
    uneven = [key for key, column in columns.items() if len(column) != len(names)]
    if uneven:
        count = len(columns[uneven[0]])
        raise DataError(f"{where}: expected {len(names)} values of {uneven[0]}, one for each object. Received: {count}.")
    labels = tuple(
        Label(
            name,
            tuple(columns[key][i] for key in _CORNERS),
            columns["truncated"][i],
            columns["occluded"][i],
            columns["alpha"][i],
            tuple(columns[key][i] for key in _WORLD),
            where,
        )
        for i, name in enumerate(names)
    )
    return Frame(nfc(ids[0].decode("utf-8", "replace")), (width[0], height[0]), labels)


def load_records(
    files: Sequence[pathlib.Path],
    images: str | pathlib.Path,
    mapping: Mapping[str, str],
    size: tuple[int, int],
    *,
    labels: str | pathlib.Path = "",
    suffixes: Iterable[str] = tuple(sorted(SUFFIXES)),
    **options: Any,
) -> BoxSplit:
    """Pictures with the boxes that records have of them, in the order of the records; one that comes twice is there twice.

    Args:
        files: record files.
        images: the folder that the names in them begin in.
        mapping, size, **options: the fields of `Wanted`.
        labels: folder of KITTI's label files that the records were made of; each must say the same. "" for none.
        suffixes: of pictures, with a dot.

    Raises:
        DataError: a record or a picture is missing or broken, a picture has another size than its record says, a label file says
            otherwise.
    """
    frames = [frame for path in files for frame in read_frames(path)]
    if not frames:
        raise DataError(f"{', '.join(map(str, files)) or 'The records'}: expected pictures. There are none.")
    once: dict[str, Frame] = {}
    for frame in frames:
        if not _same(once.setdefault(frame.name, frame).labels, frame.labels):
            raise DataError(f"The records have {shown(frame.name)} twice, with different objects. Expected the same.")
    pictures = _pictures(pathlib.Path(images), once, suffixes)
    if labels:
        _check_labels(once, pathlib.Path(labels))
    source = files[0].parent
    split = labeled_split(
        Wanted(mapping, size, **options),
        source,
        pictures,
        {name: frame.labels for name, frame in once.items()},
        {name: {"width": frame.size[0], "height": frame.size[1]} for name, frame in once.items()},
    )
    return split.part(frame.name for frame in frames)


def _pictures(folder: pathlib.Path, names: Iterable[str], suffixes: Iterable[str]) -> dict[str, pathlib.Path]:
    """Name -> file."""
    suffixes = frozenset(suffixes)
    found = named_pictures(folder, suffixes)
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(
            f"{folder}: expected the pictures that the records name. {len(missing)} of them are not there, the first: "
            f"{shown(missing[0])} ({', '.join(sorted(suffixes))}). image_directory_path is the folder that these names begin in."
        )
    return {name: found[name] for name in names}


def _check_labels(frames: Mapping[str, Frame], folder: pathlib.Path) -> None:
    for name, frame in frames.items():
        path = folder / f"{pathlib.PurePath(name).name}.txt"
        if not path.is_file():
            raise DataError(f"{path}: expected the label file of a picture in the records. There is none.")
        kept, _ = parse_labels("\n".join(read_lines(path)), str(path), needed=())
        if not _same(kept, frame.labels):
            raise DataError(
                f"{path} has {len(kept)} objects, and the records have {len(frame.labels)} of this picture, or others. Expected "
                "the same: convert again, or leave out one of label_directory_path and tfrecords_path."
            )


def _same(one: Sequence[Label], other: Sequence[Label]) -> bool:
    """Whether classes and boxes are, as float32 holds them."""
    return [x.name for x in one] == [x.name for x in other] and all(
        np.array_equal(np.asarray(a.box, np.float32), np.asarray(b.box, np.float32)) for a, b in zip(one, other, strict=True)
    )
