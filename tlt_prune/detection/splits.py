"""The pictures that `dataset_config` of a spec names, split into training and validation."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tlt_prune.config import read_json, read_lines, shown
from tlt_prune.data import SUFFIXES, named_pictures, picture_name
from tlt_prune.detection import dataset, experiment
from tlt_prune.detection.dataset import BoxSplit
from tlt_prune.detection.kitti import SampleModifier, parse_labels, random_folds, sequence_folds
from tlt_prune.detection.reading import label_files, load_coco, load_kitti, require_objects
from tlt_prune.detection.records import load_records, of_fold, record_files
from tlt_prune.errors import DataError, SpecError

if TYPE_CHECKING:
    from google.protobuf.message import Message


def read_splits(spec: Message, *, tao: bool = False) -> tuple[BoxSplit, BoxSplit]:
    """(training, validation) of the message of a spec.

    Validation pictures are, the first of these that the spec has: those of `validation_data_source`; those that `val_names_path`
    lists; those of fold `validation_fold` where `dataset_export_config`, the toolkit's converter spec, says how folds are made,
    or where the sources are the toolkit's records; else `val_split` per cent.

    Args:
        spec: see `experiment`.
        tao: divided and resized as the toolkit does it.

    Raises:
        DataError: the data is not as the spec says, or a part is empty.
        SpecError: the spec does not say where the data is, or says it twice.
    """
    experiment.check_canvas(spec)
    config = spec.dataset_config
    converted = [x.kitti_config for x in spec.dataset_export_config]
    if len(converted) > 1:
        raise SpecError(f"dataset_export_config: expected one. Received: {len(converted)}; list them as data_sources.")
    sources = list(config.data_sources)
    records = [_records(x) for x in sources]
    if converted:
        parts = _folds(spec, converted[0], tao)
    elif not config.HasField("validation_data_source") and not config.train_names_path and all(records):
        parts = _by_fold(spec, records, tao)
    else:
        everything = dataset.joined([_source(spec, x, tao) for x in sources], [x.source_weight or 1.0 for x in sources])
        if config.HasField("validation_data_source"):
            parts = everything, _source(spec, config.validation_data_source, tao)
        elif config.train_names_path or config.val_names_path:
            parts = everything.part(_names(config, "train")), everything.part(_names(config, "val"))
        else:
            held_out, own = random_folds(everything.names, config.val_split or 20, int(spec.random_seed), tao=tao)
            parts = everything.part(own), everything.part(held_out)
    for part, what in zip(parts, ("training", "validation"), strict=True):
        if not len(part):
            raise DataError(f"dataset_config: expected pictures for {what}. There are none.")
    require_objects(parts[0], experiment.mapping(spec))
    return parts


def held_out_files(spec: Message, *, tao: bool = False) -> dict[str, pathlib.Path]:
    """Name -> file of the validation pictures: see `read_splits`.

    Raises:
        DataError: as `read_splits`, or a picture is not where the spec's pictures are.
    """
    config = spec.dataset_config
    sources = [config.validation_data_source] if config.HasField("validation_data_source") else config.data_sources
    folders = {pathlib.Path(x.image_directory_path): config.image_extension for x in sources}
    for x in (x.kitti_config for x in spec.dataset_export_config):
        folders[pathlib.Path(x.root_directory_path) / x.image_dir_name] = x.image_extension
    found: dict[str, pathlib.Path] = {}
    for folder, extension in folders.items():
        found |= named_pictures(folder, suffixes_of(extension)) if folder.is_dir() else {}
    names = read_splits(spec, tao=tao)[1].names
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(names)} held-out pictures are not below {', '.join(map(str, folders))}, the first: "
            f"{shown(missing[0])}. Give the pictures by inference.image_dir (-d)."
        )
    return {name: found[name] for name in names}


def _options(spec: Message, tao: bool) -> dict[str, Any]:
    size = spec.augmentation_config.preprocessing
    as_tao = "tf1" if size.enable_auto_resize else "pad"
    return {
        "channels": experiment.channels(spec),
        "classes": experiment.class_names(spec),
        "resize": as_tao if tao else "smooth",
        "filters": experiment.loss_mask(spec).filters,
        "oriented": experiment.oriented(spec, tao=tao),
        # A source may hold pictures without objects alone.
        "needs_objects": False,
    }


def _source(spec: Message, source: Message, tao: bool) -> BoxSplit:
    where, options = (experiment.mapping(spec), experiment.canvas(spec).size), _options(spec, tao)
    files = _records(source)
    if files:
        return _of_records(spec, source, files, tao)
    if source.coco_annotations_path:
        return load_coco(source.coco_annotations_path, source.image_directory_path, *where, **options)
    if source.label_directory_path:
        suffixes = suffixes_of(spec.dataset_config.image_extension)
        folders = source.image_directory_path, source.label_directory_path
        return load_kitti(*folders, *where, **options, suffixes=suffixes)
    raise SpecError(
        "dataset_config.data_sources: expected label_directory_path (KITTI's text files), coco_annotations_path, or "
        "tfrecords_path (the toolkit's records). The converter's spec may be given as dataset_export_config instead."
    )


def _records(source: Message) -> list[pathlib.Path]:
    """The record files of a source; none where it has annotations of COCO, or names no records.

    Raises:
        DataError: there are none where it names some.
    """
    if source.coco_annotations_path or not source.tfrecords_path:
        return []
    found = record_files(source.tfrecords_path)
    if not found:
        raise DataError(f"dataset_config.data_sources.tfrecords_path: there are no records {shown(source.tfrecords_path)!r}.")
    return found


def _of_records(spec: Message, source: Message, files: list[pathlib.Path], tao: bool) -> BoxSplit:
    return load_records(
        files,
        source.image_directory_path,
        experiment.mapping(spec),
        experiment.canvas(spec).size,
        labels=source.label_directory_path,
        suffixes=suffixes_of(spec.dataset_config.image_extension),
        **_options(spec, tao),
    )


def _by_fold(spec: Message, records: list[list[pathlib.Path]], tao: bool) -> tuple[BoxSplit, BoxSplit]:
    """Records, of each source, whose name has the number of the validation fold are for validation, all others for training."""
    number, sources = int(spec.dataset_config.validation_fold), spec.dataset_config.data_sources
    inside, outside = zip(*(of_fold(x, number) for x in records), strict=True)
    for files, what in ((inside, f"called fold-{number:03d}-of-..., for validation"), (outside, "of another fold, for training")):
        if not any(files):
            raise DataError(
                f"dataset_config.validation_fold: there is no record file {what}. Expected the number of a fold, of two or more."
            )
    both = []
    for parts in (outside, inside):
        used = [(x, files) for x, files in zip(sources, parts, strict=True) if files]
        weights = [x.source_weight or 1.0 for x, _ in used]
        both.append(dataset.joined([_of_records(spec, x, files, tao) for x, files in used], weights))
    return both[0], both[1]


def suffixes_of(extension: str) -> tuple[str, ...]:
    """Of pictures: the spec's, with a dot or without; any where it says none."""
    return (f".{extension.lower().removeprefix('.')}",) if extension else tuple(sorted(SUFFIXES))


def _names(config: Message, part: str) -> list[str]:
    """Names in a file, one a line: they may hold blanks."""
    path = getattr(config, f"{part}_names_path")
    try:
        lines = read_lines(pathlib.Path(path))
    except OSError as error:
        raise DataError(f"dataset_config.{part}_names_path: cannot read {path!r}: {error.strerror}.") from error
    return [picture_name(line.strip()) for line in lines if line.strip()]


def _folds(spec: Message, config: Message, tao: bool) -> tuple[BoxSplit, BoxSplit]:
    """As the toolkit's converter makes them of a folder in KITTI's format: by chance, or by recording."""
    root = pathlib.Path(config.root_directory_path)
    images, labels = root / config.image_dir_name, root / config.label_dir_name
    where, options = (experiment.mapping(spec), experiment.canvas(spec).size), _options(spec, tao)
    everything = load_kitti(images, labels, *where, **options, suffixes=suffixes_of(config.image_extension))
    folds = folds_of(config, everything.names, int(spec.random_seed), tao=tao)
    number = int(spec.dataset_config.validation_fold)
    if not number < len(folds):
        raise SpecError(f"dataset_config.validation_fold: expected 0 to {len(folds) - 1}. Received: {number}.")
    training = [fold for i, fold in enumerate(folds) if i != number]
    if spec.dataset_export_config[0].HasField("sample_modifier_config"):
        # By the classes of the files, which a split no longer has.
        modifier = sample_modifier(spec.dataset_export_config[0].sample_modifier_config)
        written = label_files(labels)
        texts = {name: "\n".join(read_lines(written[name])) for name in everything.names}
        objects = {name: parse_labels(text, str(written[name]), needed=())[0] for name, text in texts.items()}
        training = [modifier(fold, objects, len(training)) for fold in training]
    return everything.part(itertools.chain(*training)), everything.part(folds[number])


def folds_of(config: Message, names: Sequence[str], seed: int, *, tao: bool) -> list[list[str]]:
    """Names of pictures by folds, as `kitti_config` says: by chance, or by recording.

    Args:
        config: the message.
        names: of the pictures, without suffix.
        seed: see `random_folds`.
        tao: as the toolkit does it.

    Raises:
        SpecError: it says neither.
        DataError: there are too few recordings, or one has a picture that is not among `names`.
    """
    if config.partition_mode == "random":
        return random_folds(names, config.val_split if config.val_split or tao else 20, seed, tao=tao)
    if config.partition_mode != "sequence":
        raise SpecError(
            f"dataset_export_config.kitti_config.partition_mode: expected 'random' or 'sequence'. Received: "
            f"{config.partition_mode!r}."
        )
    if not config.kitti_sequence_to_frames_file:
        raise SpecError("dataset_export_config.kitti_config: expected kitti_sequence_to_frames_file with 'sequence'.")
    path = pathlib.Path(config.root_directory_path) / config.kitti_sequence_to_frames_file
    return sequence_folds(_sequences(path), config.num_partitions or 2)


def _sequences(path: pathlib.Path) -> Mapping[str, list[str]]:
    found = read_json(path, "JSON, recording -> names of pictures", most=2**30)
    if not all(isinstance(x, list) for x in found.values()):
        raise DataError(f"{path}: expected JSON, recording -> names of pictures.")
    return found


def sample_modifier(config: Message) -> SampleModifier:
    """The changes that `sample_modifier_config` describes."""
    return SampleModifier(
        dict(config.source_to_target_class_mapping),
        tuple(config.filter_samples_containing_only),
        tuple(config.dominant_target_classes),
        config.num_duplicates,
        dict(config.minimum_target_class_imbalance),
        config.max_training_samples,
    )
