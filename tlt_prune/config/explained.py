"""Specs with every key explained: the meanings and values of keys, from the docstrings and types of the settings classes."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Collection, Iterator, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
import pydantic
from pydantic.fields import FieldInfo

from tlt_prune.config.sections import Spec

# What became of keys that are accepted and ignored; nobody writes it.
_NOT_WRITTEN = "ignored"
_WIDTH = 110
_KINDS: dict[Any, str] = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    type: "class",
}
_BOUNDS = {annotated_types.Ge: ("ge", "≥"), annotated_types.Gt: ("gt", ">")}
_BOUNDS |= {annotated_types.Le: ("le", "≤"), annotated_types.Lt: ("lt", "<")}
# Bounds of integer types say nothing to a reader.
_TOLD = 1e9


def written_fields(kind: type[pydantic.BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a settings class that a spec may have."""
    return {name: field for name, field in kind.model_fields.items() if name != _NOT_WRITTEN}


def section_of(field: FieldInfo) -> type[pydantic.BaseModel] | None:
    """The settings class that a field holds; None where it holds a value."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel) else None


def meanings(kind: type[pydantic.BaseModel]) -> dict[str, str]:
    """Field -> its description, or the first line of the section that it holds."""
    texts = {}
    for name, field in written_fields(kind).items():
        section = section_of(field)
        first = inspect.cleandoc(section.__doc__ or "").partition("\n\n")[0] if section is not None else ""
        meaning = " ".join((field.description or first).split())
        texts[name] = meaning[:1].upper() + meaning[1:]
    return texts


def values(annotation: object, metadata: Sequence[object]) -> list[str]:
    """The values that a key may hold: names and literals as JSON in backticks, kinds in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return values(arguments[0], list(annotation.__metadata__))
    registered = [name for x in metadata if callable(names := getattr(x, "names", None)) for name in names()]
    if registered or origin is Literal:
        return [f"`{json.dumps(x)}`" for x in registered or arguments]
    if origin in (Union, UnionType):
        return list(dict.fromkeys(text for x in arguments for text in values(x, metadata)))
    if origin is tuple:
        return [f"list of {', '.join(values(arguments[0], []))}"]
    if "Callable" in str(origin):
        return ["function"]
    return [_KINDS.get(annotation, "map") + _bounds(metadata)]


def _bounds(metadata: Sequence[object]) -> str:
    """The range of a number, in words."""
    flat = [y for x in metadata for y in (getattr(x, "metadata", None) or [x])]
    told = [x for x in flat if type(x) in _BOUNDS and getattr(x, _BOUNDS[type(x)][0]) < _TOLD]
    bounds = [f"{_BOUNDS[type(x)][1]} {getattr(x, _BOUNDS[type(x)][0]):,}" for x in told]
    return f", {' and '.join(bounds)}" if bounds else ""


def explained(spec: Spec, without: Collection[str] = ()) -> str:
    """A spec as YAML with every key and what it means. Keys that the spec does not set are commented out, as `#key: default`.

    Args:
        spec: the experiment.
        without: keys that are left out, such as "dataset" or "train.num_epochs".
    """
    return "\n".join(_lines(spec, "", without)) + "\n"


def _lines(section: pydantic.BaseModel, path: str, without: Collection[str]) -> Iterator[str]:
    indent = "  " * path.count(".")
    kind = type(section)
    texts = meanings(kind)
    for name, field in written_fields(kind).items():
        if f"{path}{name}" in without:
            continue
        value = getattr(section, name)
        inner = isinstance(value, pydantic.BaseModel)
        offered = "" if inner else f" ({' or '.join(values(field.annotation, field.metadata))})".replace("`", "")
        for line in textwrap.wrap(texts[name] + offered, _WIDTH - len(indent)):
            yield f"{indent}# {line}"
        if inner:
            yield f"{indent}{name}:"
            yield from _lines(value, f"{path}{name}.", without)
        else:
            mark = "" if name in section.model_fields_set else "#"
            yield f"{indent}{mark}{name}: {json.dumps(_plain(value), ensure_ascii=False)}"
    if indent:
        yield ""


def _plain(value: object) -> object:
    """A value without settings in it."""
    if isinstance(value, pydantic.BaseModel):
        return {key: _plain(x) for key, x in value.model_dump(exclude_unset=True).items()}
    return {key: _plain(x) for key, x in value.items()} if isinstance(value, dict) else value
