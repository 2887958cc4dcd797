"""The toolkit's records made of KITTI's pictures and labels, as its `dataset_convert` makes them: see `records`."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import tensorflow as tf

from tlt_prune.config import nfc, read_lines, shown
from tlt_prune.data import Conversion, example_of, named_pictures, open_picture
from tlt_prune.detection.kitti import Label, parse_labels, shards
from tlt_prune.detection.reading import label_files
from tlt_prune.detection.splits import folds_of, sample_modifier, suffixes_of
from tlt_prune.errors import DataError, SpecError
from tlt_prune.io import checksums, files, progress

if TYPE_CHECKING:
    from google.protobuf.message import Message


@dataclasses.dataclass(frozen=True)
class ConvertedBoxes:
    """What a conversion came to.

    Attributes:
        pictures: number of the pictures of each fold.
        objects: class -> number of objects in all folds.
        dropped: number of boxes that were left out, since they do not reach from one pixel into a later one.
        files: number of record files.
        kept: of them, how many were there already.
    """

    pictures: tuple[int, ...]
    objects: Mapping[str, int]
    dropped: int
    files: int
    kept: int


def listing_of(output: pathlib.Path) -> pathlib.Path:
    """The list of checksums beside the records; hidden, since whoever reads records takes all files of a folder for some."""
    return output.parent / f".{output.name}-checksums.json"


def convert_kitti(
    config: Message, output: pathlib.Path, *, seed: int = 42, validation_fold: int | None = None, tao: bool = False
) -> ConvertedBoxes:
    """Writes OUTPUT-fold-000-of-002-shard-00000-of-00010 and its like; a conversion that was ended goes on.

    Args:
        config: `dataset_export_config` of a spec, with a `kitti_config`.
        output: the beginning of the files' names.
        seed: of random folds.
        validation_fold: the fold that `sample_modifier_config` leaves as it is; None for no fold.
        tao: folds as the toolkit makes them, and pictures as they are stored, not turned as their EXIF entry says.

    Raises:
        SpecError: something in `config` is missing or unknown.
        DataError: a picture or a label file is missing or broken.
        NotReplacedError: there are records of other data or settings.
        FolderInUseError: another process converts to the same place.
    """
    kitti = config.kitti_config
    if not config.HasField("kitti_config"):
        raise SpecError(
            "dataset_export_config: expected kitti_config. COCO's annotations need no conversion: give them as "
            "dataset_config.data_sources.coco_annotations_path."
        )
    root = pathlib.Path(kitti.root_directory_path)
    images, texts = root / kitti.image_dir_name, root / kitti.label_dir_name
    pictures = named_pictures(images, suffixes_of(kitti.image_extension or ".png")) if images.is_dir() else {}
    if not pictures:
        raise DataError(f"{shown(images)}: expected pictures ({kitti.image_extension or '.png'}). There are none.")
    labels, dropped = _labels(pictures, texts)
    folds = folds_of(kitti, sorted(pictures), seed, tao=tao)
    strange = [name for fold in folds for name in fold if name not in pictures]
    if strange:
        raise DataError(f"{shown(images)}: there is no picture '{shown(strange[0])}', which a recording names.")
    if config.HasField("sample_modifier_config"):
        modifier = sample_modifier(config.sample_modifier_config)
        modified = len([i for i in range(len(folds)) if i != validation_fold])
        folds = [fold if i == validation_fold else modifier(fold, labels, modified) for i, fold in enumerate(folds)]
    plan = dict(_planned(kitti, output.name, folds))
    listing = listing_of(output)
    written = label_files(texts)
    sources = [pictures.values(), [written[name] for name in pictures]]
    identity = {"plan": plan, "tao": tao, "files": [checksums.of_files_on_disk(map(str, x)) for x in sources]}
    with files.claimed([listing], "converting to"):
        conversion = Conversion.begun(listing, checksums.of_settings(identity))
        with progress(len(plan), "Writing records") as advance:
            for file, names in plan.items():
                if not conversion.has(file):
                    with conversion.writing(len(names), file) as (staged,), tf.io.TFRecordWriter(str(staged)) as writer:
                        for name in names:
                            writer.write(_example(f"{kitti.image_dir_name}/{name}", pictures[name], labels[name], not tao))
                advance()
        conversion.finish()
    objects = collections.Counter(x.name for names in plan.values() for name in names for x in labels[name])
    return ConvertedBoxes(tuple(map(len, folds)), objects, dropped, len(plan), conversion.kept)


def _labels(pictures: Mapping[str, pathlib.Path], folder: pathlib.Path) -> tuple[dict[str, list[Label]], int]:
    """(name of a picture -> its objects, number of boxes that were left out)."""
    found, dropped, written = {}, 0, label_files(folder)
    for name in pictures:
        path = written.get(name)
        if path is None:
            missing = f"{shown(folder / name)}.txt"
            raise DataError(f"{missing}: expected a label file for every picture (empty where there is no object).")
        found[name], others = parse_labels("\n".join(read_lines(path)), str(path))
        dropped += len(others)
    return found, dropped


def _planned(kitti: Message, name: str, folds: Sequence[Sequence[str]]) -> Iterator[tuple[str, list[str]]]:
    """(name of a file, names of its pictures). A fold without pictures has none, as in the toolkit, but counts in the names."""
    for i, fold in enumerate(folds):
        begin = f"{name}-fold-{i:03d}-of-{kitti.num_partitions or 2:03d}"
        if not kitti.num_shards:
            yield begin, list(fold)
            continue
        for k, names in enumerate(shards(fold, kitti.num_shards)):
            yield f"{begin}-shard-{k:05d}-of-{kitti.num_shards:05d}", names


def _example(frame: str, path: pathlib.Path, labels: Sequence[Label], oriented: bool) -> bytes:
    width, height = open_picture(path, 3, oriented=oriented).size
    raw = {"frame/id": [nfc(frame).encode()], "target/object_class": [x.name.encode() for x in labels]}
    whole = {"frame/width": [width], "frame/height": [height], "target/occlusion": [x.occluded for x in labels]}
    real = {
        "target/truncation": [float(x.truncated) for x in labels],
        "target/observation_angle": [float(x.alpha) for x in labels],
    }
    for i, key in enumerate(("x1", "y1", "x2", "y2")):
        real[f"target/coordinates_{key}"] = [float(x.box[i]) for x in labels]
    for i, key in enumerate(("h", "w", "l", "x", "y", "z", "rot_y")):
        real[f"target/world_bbox_{key}"] = [float(x.rest[i]) for x in labels]
    return example_of(raw, whole, real)
