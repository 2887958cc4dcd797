"""Specs of the toolkit in protobuf text, which tasks read as they are. What is not set is 0, "" or false there."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf import text_format

from tlt_prune.config import read_lines
from tlt_prune.config.protobuf_messages import message_classes
from tlt_prune.errors import DataError, SpecError, first_line

if TYPE_CHECKING:
    from google.protobuf.message import Message

MOST_LAYERS = 1000


def fields(**types: str) -> list[dict[str, Any]]:
    """Fields by their names: a scalar, the name of a message, or "[...]" for a list of one."""
    found: list[dict[str, Any]] = []
    for name, kind in types.items():
        one = kind.strip("[]")
        field: dict[str, Any] = {"name": name, "type": one, "repeated": kind.startswith("[")}
        found.append(field | ({"type": "message", "message": one} if one[0].isupper() else {}))
    return found


def enumeration(name: str, *values: str) -> list[dict[str, Any]]:
    """A field that is one of some names."""
    return [{"name": name, "type": "enum", "values": {value: i for i, value in enumerate(values)}}]


def message_of(
    path: pathlib.Path, schema: Mapping[str, list[dict[str, Any]]], package: str, marks: Sequence[str]
) -> Message | None:
    """The message "Experiment" of a file; None where the text has none of `marks`, and is about something else.

    Raises:
        SpecError: it cannot be read as such a spec; the message says in which line.
    """
    try:
        text = "\n".join(read_lines(path))
    except (OSError, DataError):
        return None
    if not any(mark in text for mark in marks):
        return None
    message = message_classes(dict(schema), package)["Experiment"]()
    try:
        text_format.Merge(text, message)
    except text_format.ParseError as error:
        raise SpecError(f"{path}: expected protobuf text of the toolkit's spec. {first_line(error, 200)}") from error
    return message


def backbone(arch: str, layers: int, numbered: Sequence[str], source: str) -> str:
    """Name of a backbone: those of the families `numbered` end in the number of layers.

    Raises:
        SpecError: the number is too large.
    """
    if layers > MOST_LAYERS:
        raise SpecError(f"{source}: model_config: expected at most {MOST_LAYERS} layers. Received: {layers}.")
    return f"{arch}{layers}" if arch in numbered else arch


def regularizer_section(config: Any, source: str, share: float = 1.0) -> dict[str, Any]:
    """`train.reg_config` of a message with type and weight; `share` of the weight is Keras' for L2.

    Raises:
        SpecError: the weight is out of its range.
    """
    if not 0 <= config.weight < 1:
        raise SpecError(f"{source}: regularizer.weight: expected 0 or more, below 1. Received: {config.weight}.")
    kind = ("none", "L1", "L2")[config.type]
    return {"type": kind, "weight_decay": config.weight * (share if kind == "L2" else 1.0)}
