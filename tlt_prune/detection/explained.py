"""The toolkit's sections of a DetectNet_v2 spec with every key explained."""

from __future__ import annotations

import functools
import importlib.resources
import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from tlt_prune.detection.messages import message_fields

_WIDTH = 110


@functools.cache
def key_meanings() -> Mapping[str, Mapping[str, str]]:
    """Message -> field -> what it means."""
    text = importlib.resources.files("tlt_prune.detection").joinpath("key_meanings.json").read_text("utf-8")
    meanings: dict[str, dict[str, str]] = json.loads(text)
    return meanings


def explained_sections(values: Mapping[str, Any]) -> str:
    """YAML of the toolkit's sections; keys that `values` does not set are commented out.

    Args:
        values: the sections of a spec, as nested dictionaries; may be empty.
    """
    return "\n".join(_lines("Experiment", values, "")) + "\n"


def _lines(message: str, values: Mapping[str, Any], indent: str) -> Iterator[str]:
    for field in message_fields(message):
        name, meaning = field["name"], key_meanings()[message].get(field["name"], "")
        for line in textwrap.wrap(f"{meaning[:1].upper()}{meaning[1:]} ({_kind(field)})", _WIDTH - len(indent)):
            yield f"{indent}# {line}"
        value, inner = values.get(name), _inner(field)
        several = bool(field.get("repeated")) or field["type"] == "map"
        if inner is None or several or value == {}:
            for line in _lines(inner, {}, "") if inner is not None else ():
                yield f"{indent}#   {line}"
            text = json.dumps(value, ensure_ascii=False) if value is not None else _empty(field)
            yield f"{indent}{'' if value is not None else '#'}{name}: {text}"
        elif isinstance(value, Mapping):
            yield f"{indent}{name}:"
            yield from _lines(inner, value, f"{indent}  ")
        else:
            yield f"{indent}#{name}:"
            yield from (f"{indent}#{line.removeprefix(indent)}" for line in _lines(inner, {}, f"{indent}  "))


def _inner(field: Mapping[str, Any]) -> str | None:
    """The message that a field holds, or several of, if its keys are explained."""
    name = field.get("message") or field.get("value")
    return str(name) if name in key_meanings() else None


def _kind(field: Mapping[str, Any]) -> str:
    """The values that a field may have, in words."""
    kind: str = field["type"]
    if kind == "enum":
        kind = " or ".join(field["values"])
    elif kind == "map":
        kind = f"{field['key']} -> {field['value']}"
    elif "message" in field:
        kind = field["message"]
    words = {"uint32": "whole number, 0 or more", "int32": "whole number", "float": "number", "double": "number"}
    kind = {**words, "bool": "true or false", "string": "text"}.get(kind, kind)
    return f"list of {kind}" if field.get("repeated") else kind


def _empty(field: Mapping[str, Any]) -> str:
    """The value of a field that is not set."""
    if field.get("repeated"):
        return "[]"
    if field["type"] in ("map", "message") or "message" in field:
        return "{}"
    if field["type"] == "enum":
        return str(next(iter(field["values"])))
    empty: dict[str, str] = {"bool": "false", "string": '""'}
    return empty.get(field["type"], "0")
