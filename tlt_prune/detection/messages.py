"""Specs of DetectNet_v2 as protobuf messages: read from the toolkit's protobuf text, or from YAML with the same keys.

Beside the toolkit's keys there are ours: `compatibility` ("" or "tao", which computes what the toolkit does, defects included);
`dataset_config.data_sources.label_directory_path` or `coco_annotations_path` in the place of records, `dataset_config.val_split`
(per cent) or `train_names_path` and `val_names_path`, files with a name a line; `dataset_config.ignore_exif_orientation`;
`model_config.width`, `data_format`, `padding`.

protobuf itself reads the text; messages are made from `experiment_schema.json`, the names and types of the toolkit's own. What is
not set is 0, "" or the first value of an enumeration, as there. Its checks go by the name of a field, wherever it is.
"""

from __future__ import annotations

import difflib
import functools
import importlib.resources
import json
import operator
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf import json_format, text_format

from tlt_prune.config import read_lines, read_yaml
from tlt_prune.config.protobuf_messages import message_classes, message_name
from tlt_prune.errors import DataError, SpecError, first_line

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

T = TypeVar("T")
# Fields that the toolkit does not have: message -> field -> type.
_OURS = {
    "Experiment": {"compatibility": "string"},
    "DatasetConfig": {
        "val_split": "float",
        "train_names_path": "string",
        "val_names_path": "string",
        "ignore_exif_orientation": "bool",
    },
    "DataSource": {"label_directory_path": "string", "coco_annotations_path": "string"},
    "ModelConfig": {"width": "float", "data_format": "string", "padding": "string"},
}
_CHECKS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    ">": ("above {}", operator.gt),
    ">=": ("{} or more", operator.ge),
    "<": ("below {}", operator.lt),
    "<=": ("{} or less", operator.le),
    "!=": ("other than {!r}", operator.ne),
    "in": ("one of {}", lambda value, allowed: value in allowed),
    "%": ("a multiple of {}", lambda value, step: value % step == 0),
}
# Sizes that no machine holds, by the name of a field: as in `tlt_prune.config.sections`.
_LIMITS = {
    "batch_size_per_gpu": 65_536,
    "num_epochs": 1_000_000,
    "output_image_width": 16_384,
    "output_image_height": 16_384,
}
# Messages and maps that the toolkit misses when they are not there, by the message they belong to.
_REQUIRED = {
    "DatasetConfig": ("data_sources", "target_class_mapping"),
    "AugmentationConfig": ("preprocessing", "spatial_augmentation", "color_augmentation"),
    "ModelConfig": ("objective_set",),
    "ModelConfig.ObjectiveSet": ("bbox", "cov"),
    "TrainingConfig": ("learning_rate", "regularizer", "optimizer", "cost_scaling"),
    "OptimizerConfig": ("adam",),
    "BboxRasterizerConfig": ("target_class_config",),
    "CostFunctionConfig": ("target_classes",),
    "EvaluationConfig": ("minimum_detection_ground_truth_overlap", "evaluation_box_config"),
    "PostProcessingConfig": ("target_class_config",),
}


def from_text(text: str, source: str, kind: str = "train") -> Message:
    """A protobuf message of a spec.

    Args:
        text: protobuf text.
        source: its name, for messages.
        kind: "train", "inference" or "dataset_convert".

    Raises:
        SpecError: the text cannot be read (with line and column), or a value is out of range.
    """
    return _parsed(text_format.Merge, text, text_format.ParseError, "protobuf text", source, kind)


def from_dict(data: Mapping[str, object], source: str, kind: str = "train") -> Message:
    """The message of a nested dictionary, as a YAML file holds it.

    Raises:
        SpecError: a key or a type is unknown, or a value is out of range.
    """
    root = _messages()[_schema()["roots"][kind]].DESCRIPTOR
    unknown = list(_unknown_keys(data, root, ""))
    if unknown:
        raise SpecError(f"{source}: {' '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}")
    return _parsed(json_format.ParseDict, dict(data), json_format.ParseError, "the keys", source, kind)


def _unknown_keys(data: object, descriptor: Descriptor, path: str) -> Iterator[str]:
    """A sentence for each key that a message does not have."""
    if not isinstance(data, Mapping):
        return
    fields = {x.name: x for x in descriptor.fields}
    camel = {x.json_name: x for x in descriptor.fields}
    for key, value in data.items():
        field = fields.get(key) or camel.get(key)
        if field is None:
            near = difflib.get_close_matches(str(key), list(fields), n=1, cutoff=0.5)
            hint = f"Did you mean '{path}{near[0]}'?" if near else f"Expected one of: {', '.join(fields)}."
            yield f"unknown key '{path}{key}'. {hint}"
        elif field.message_type is not None:
            is_map = field.message_type.GetOptions().map_entry
            inner = field.message_type.fields_by_name["value"].message_type if is_map else field.message_type
            several: Any = None
            if is_map and isinstance(value, Mapping):
                several = value.items()
            elif isinstance(value, list):
                several = enumerate(value)
            for name, each in [("", value)] if several is None else several:
                where = f"{path}{field.name}." if several is None else f"{path}{field.name}[{name}]."
                yield from _unknown_keys(each, inner, where) if inner is not None else ()


def _parsed(
    parse: Callable[[T, Message], object], data: T, refused: type[Exception], form: str, source: str, kind: str
) -> Message:
    message = _messages()[_schema()["roots"][kind]]()
    try:
        parse(data, message)
    except refused as error:
        raise SpecError(f"{source}: expected {form} of the toolkit's {kind} spec. {first_line(error, 200)}") from error
    _check_values(message, source, kind)
    return message


def from_file(path: str | pathlib.Path, kind: str = "train") -> Message:
    """Reads a file: YAML where its name says so, protobuf text otherwise.

    Raises:
        SpecError: there is no such file, or it does not hold such a spec.
    """
    path = pathlib.Path(path)
    if path.suffix in (".yaml", ".yml"):
        return from_dict(read_yaml(path), str(path), kind)
    try:
        text = "\n".join(read_lines(path))
    except (OSError, DataError) as error:
        raise SpecError(f"Cannot read the spec {path}: {error}") from error
    return from_text(text, str(path), kind)


def is_of_converter(path: pathlib.Path) -> bool:
    """Whether a file is the spec of the toolkit's converter, by its text."""
    try:
        # Elsewhere it is a part of a whole spec: dataset_export_config { kitti_config { ... } }.
        depth = 0
        for line in read_lines(path):
            text = line.partition("#")[0]
            if depth == 0 and re.match(r"\s*(kitti|coco)_config\b", text):
                return True
            depth += text.count("{") - text.count("}")
        return False
    except (OSError, DataError):
        return False


def to_dict(message: Message) -> dict[str, Any]:
    """The fields that are set, by the names of the spec."""
    fields: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return fields


def message_fields(message: str) -> list[dict[str, Any]]:
    """The fields of a message by its name in the schema: the toolkit's, then those of this package."""
    own = [{"name": key, "type": kind} for key, kind in _OURS.get(message, {}).items()]
    return [*_schema()["messages"][message], *own]


@functools.cache
def _schema() -> dict[str, Any]:
    text = importlib.resources.files("tlt_prune.detection").joinpath("experiment_schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@functools.cache
def _messages() -> dict[str, type[Message]]:
    """Message classes by the schema's names."""
    return message_classes({name: message_fields(name) for name in _schema()["messages"]}, "detectnet_v2")


def _check_values(message: Message, source: str, kind: str) -> None:
    schema = _schema()
    problems = [
        f"{name}: expected this section" for name in schema.get(f"{kind}_required_messages", ()) if not message.HasField(name)
    ]
    required = {message_name(name): fields for name, fields in _REQUIRED.items()} if kind == "train" else {}
    checks = schema.get(f"{kind}_checks_by_field_name", {})
    for path, part in _messages_in(message, ""):
        for name in required.get(part.DESCRIPTOR.name, ()):
            field = part.DESCRIPTOR.fields_by_name[name]
            there = len(getattr(part, name)) if field.is_repeated else part.HasField(name)
            if not there:
                problems.append(f"{path}{name}: expected it to be set")
        for field in part.DESCRIPTOR.fields:
            if field.message_type is not None or field.is_repeated:
                continue
            value = getattr(part, field.name)
            # Pictures with labels beside them, or what makes records of them, need no records.
            if field.name == "tfrecords_path" and (
                part.label_directory_path or part.coco_annotations_path or message.dataset_export_config
            ):
                continue
            if field.containing_oneof is not None and not part.HasField(field.name):
                continue
            failed = [
                _CHECKS[sign][0].format(limit) for sign, limit in checks.get(field.name, ()) if not _CHECKS[sign][1](value, limit)
            ]
            if failed:
                problems.append(f"{path}{field.name}: expected {' and '.join(failed)}. Received: {value!r}")
            if field.name in _LIMITS and value > _LIMITS[field.name]:
                problems.append(f"{path}{field.name}: expected at most {_LIMITS[field.name]:,}. Received: {value!r}")
    if problems:
        raise SpecError(f"{source}: {'; '.join(problems[:5])}{'; ...' if len(problems) > 5 else '.'}")


def _messages_in(message: Message, path: str) -> Iterator[tuple[str, Message]]:
    """Every message that is set, with its path."""
    yield path, message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for key in value:
                    yield from _messages_in(value[key], f"{path}{field.name}[{key}].")
        elif field.is_repeated:
            for i, each in enumerate(value):
                yield from _messages_in(each, f"{path}{field.name}[{i}].")
        else:
            yield from _messages_in(value, f"{path}{field.name}.")
