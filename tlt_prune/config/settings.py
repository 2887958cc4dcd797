"""Base class of all settings, and how a mistake in them is reported."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin

import numpy as np
import pydantic
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, core_schema

from tlt_prune.errors import TltPruneError

S = TypeVar("S", bound="Settings")


class Settings(pydantic.BaseModel):
    """Frozen, typed, validated values. Lists become tuples, NumPy scalars numbers; nothing else is converted."""

    model_config = pydantic.ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Fields without a docstring of their own are described by the `Attributes:` of the class."""
        described = attribute_descriptions(cls.__doc__ or "")
        for name, field in cls.model_fields.items():
            field.description = field.description or described.get(name)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _plain(cls, data: object) -> object:
        if not isinstance(data, Mapping):
            return data
        return {key: cls._normalized(str(key), _as_plain(value, str(key))) for key, value in data.items()}

    @classmethod
    def _normalized(cls, key: str, value: object) -> object:
        """The spelling that a field has: names in any case ("l2", "SGD"), and for true and false the words of YAML 1.1, which
        the toolkit's specs may use."""
        if isinstance(value, tuple):
            return tuple(cls._normalized(key, x) for x in value)
        if not isinstance(value, str) or key not in cls.model_fields:
            return value
        if cls.model_fields[key].annotation is bool:
            return _YAML_1_1_BOOLEANS.get(value.lower(), value)
        names = [x for x in _literals(cls.model_fields[key].annotation) if isinstance(x, str)]
        return next((name for name in names if name.lower() == value.lower()), value)


# Text in YAML 1.2, so that a class may be called "no" and `normalizer: off` is the name it looks like.
_YAML_1_1_BOOLEANS = {"yes": True, "no": False, "on": True, "off": False}


def attribute_descriptions(docstring: str) -> dict[str, str]:
    """Field -> its entry under `Attributes:` in the docstring of a class."""
    _, _, text = inspect.cleandoc(docstring).partition("Attributes:\n")
    entries = re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
    return {name.strip(): " ".join(meaning.split()) for names, meaning in entries for name in names.split(",")}


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Annotation of a text that is one of some names, in any case: `Annotated[str, OneOf(names)]`.

    Attributes:
        names: called whenever a value is checked.
    """

    names: Callable[[], Sequence[str]]

    def __get_pydantic_core_schema__(self, source: object, handler: pydantic.GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._checked)

    def _checked(self, value: object) -> str:
        names = self.names()
        for name in names:
            if isinstance(value, str) and name.lower() == value.lower():
                return name
        quoted = [repr(x) for x in names]
        text = " or ".join(x for x in (", ".join(quoted[:-1]), quoted[-1]) if x)
        raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": text})


def names_of(field: FieldInfo) -> tuple[list[str], bool]:
    """(names that a field offers, whether it takes nothing else). Of a field that takes more, registered names only."""
    registered = [x for x in (*field.metadata, *_metadata(field.annotation)) if isinstance(x, OneOf)]
    literals = [x for x in get_args(field.annotation) if isinstance(x, str)]
    if registered:
        return list(registered[0].names()), field.annotation is str
    only = bool(literals) and len(literals) == len(get_args(field.annotation))
    return literals if only else [], only


def _metadata(annotation: object) -> list[object]:
    """What every Annotated in a type is annotated with."""
    return [*getattr(annotation, "__metadata__", ()), *(x for part in get_args(annotation) for x in _metadata(part))]


def _literals(annotation: object) -> list[object]:
    """The values of every Literal in a type."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [x for part in get_args(annotation) for x in _literals(part)]


# Of float32, which is what is computed with.
_LARGEST_NUMBER = 3.4e38


def _as_plain(value: object, key: str) -> object:
    if isinstance(value, (list, tuple)):
        return tuple(_as_plain(x, key) for x in value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, str) and ("\0" in value or not _is_utf8(value)):
        raise ValueError(f"'{key[:60]}': expected text in UTF-8 without NUL. Received: {value[:60]!r}")
    if isinstance(value, (int, float)) and math.isfinite(value) and abs(value) > _LARGEST_NUMBER:
        raise ValueError(f"'{key[:60]}': expected a number below {_LARGEST_NUMBER:.1e}. Received: {str(value)[:60]}")
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def at_most(limit: float, why: str) -> pydantic.AfterValidator:
    """A bound that says what it is for."""

    def check(value: float) -> float:
        if value > limit:
            raise ValueError(f"expected at most {limit:,}: {why}. Received: {str(value)[:40]}")
        return value

    return pydantic.AfterValidator(check)


def checked(kind: type[S], data: Mapping[str, object], what: str, error: type[TltPruneError]) -> S:
    """Validates data that was read from a file.

    Raises:
        TltPruneError: of the type `error`, where it is something else; `what` begins the message.
    """
    try:
        return kind.model_validate(data)
    except pydantic.ValidationError as invalid:
        raise error(f"{what}: {'; '.join(problems(invalid, kind))}") from invalid


# Told of at once.
_MOST_PROBLEMS = 5
# In a user's words; pydantic's own where they do.
_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "model_type": "a section with keys",
    "string_too_short": "a text that is not empty",
}


def problems(
    error: pydantic.ValidationError,
    model: type[pydantic.BaseModel],
    also: Sequence[str] = (),
    meant: Mapping[str, str] | None = None,
) -> list[str]:
    """One line for each mistake: where, what was expected, what was received; the nearest known name for an unknown one.

    Args:
        error: what `model` says of the data.
        also: further names that are known at the top.
        meant: unknown name -> what is meant by it, where that is no question of spelling.
    """
    messages: dict[str, list[str]] = {}
    received: dict[str, Any] = {}
    for item in error.errors():
        where, fields = _located(item["loc"], model)
        if item["type"] == "extra_forbidden":
            keys = [*fields, *also] if "." not in where else fields
            hint = f" Did you mean '{meant[where]}'?" if meant and where in meant else _nearest(where, keys)
            messages[where] = [f"unknown key '{where}'.{hint}"]
        elif item["type"] == "value_error":
            text = str(item["ctx"]["error"])
            messages[where] = [f"'{where}': {text}." if where else f"{text[0].upper()}{text[1:]}."]
        else:
            received[where] = item["input"]
            messages.setdefault(where, []).append(
                _EXPECTED.get(item["type"]) or item["msg"].removeprefix("Input should be ").removeprefix("String should have ")
            )
    for where, value in received.items():
        messages[where] = [f"'{where}' must be {' or '.join(dict.fromkeys(messages[where]))}. Received: {_shown(value)}."]
    texts = [texts[0] for texts in messages.values()]
    return texts if len(texts) <= _MOST_PROBLEMS else [*texts[:_MOST_PROBLEMS], f"And {len(texts) - _MOST_PROBLEMS} more."]


def _located(location: Sequence[int | str], model: type[pydantic.BaseModel]) -> tuple[str, list[str]]:
    """The dotted name of a key, and its section's known keys. What pydantic adds for the branches of a union is left out."""
    names, fields = [], _keys(model)
    current: Any = model
    for part in location:
        if isinstance(part, int):
            names.append(str(part))
            break
        if _is_section(current):
            fields = _keys(current)
            names.append(part)
            current = current.model_fields[part].annotation if part in current.model_fields else None
        elif get_origin(current) is Mapping:
            names.append(part)
            current = get_args(current)[1]
        else:
            break
    return ".".join(str(name)[:60] for name in names), fields


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def _keys(model: type[pydantic.BaseModel]) -> list[str]:
    """Keys that a user may write: all but `ignored`, which collects some of them."""
    return [name for name in model.model_fields if name != "ignored"]


def _nearest(where: str, fields: Sequence[str]) -> str:
    section, _, key = where.rpartition(".")
    near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
    if near:
        return f" Did you mean '{section}.{near[0]}'?" if section else f" Did you mean '{near[0]}'?"
    return f" Expected one of: {', '.join(fields)}."


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"


def is_count(value: object, least: int = 1) -> bool:
    """Whether a value is a whole number, NumPy's included, of at least `least`; True and False are none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= least
