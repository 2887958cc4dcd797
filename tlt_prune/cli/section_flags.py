"""Flags made from a section of the spec: one for each key, with its description, its values and its default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_origin

from absl import flags
from pydantic.fields import FieldInfo

from tlt_prune.config import Settings, Spec, names_of, parse_value

FLAGS = flags.FLAGS
# They are the script's own: `--help` shows those.
flags.disclaim_key_flags()


class SectionFlags:
    """The flags of one section.

    Args:
        section: its name, such as "prune".
        renamed: key -> name of its flag, where that is another one: the toolkit's.
        short: key -> short name.
    """

    def __init__(self, section: str, *, renamed: Mapping[str, str] | None = None, short: Mapping[str, str] | None = None) -> None:
        self._section, self._renamed, self._short = section, renamed or {}, short or {}
        self.fields: dict[str, FieldInfo] = dict(type(getattr(Spec(), section)).model_fields)

    def define(self) -> None:
        """Defines the flags."""
        for key, field in self.fields.items():
            name, text = self._name(key), _description(field)
            names, only_names = names_of(field)
            if only_names:
                flags.DEFINE_enum(name, None, names, text, case_sensitive=False)
            elif _holds_list(field) and not names:
                flags.DEFINE_multi_string(name, None, f"{text} Repeatable.")
            elif field.annotation is bool:
                flags.DEFINE_bool(name, None, text)
            else:
                flags.DEFINE_string(name, None, text + (f" Names: {', '.join(names)}." if names else ""))
            if key in self._short:
                flags.DEFINE_alias(self._short[key], name)

    def given(self) -> dict[str, Any]:
        """Key -> value of each flag on the command line, in the type that its key has; None where it is not there."""
        return {key: self._value(key, field) for key, field in self.fields.items()}

    def overrides(self) -> dict[str, Any]:
        """The same by spec keys: "prune.ratio"."""
        return {f"{self._section}.{key}": value for key, value in self.given().items()}

    def _name(self, key: str) -> str:
        return self._renamed.get(key, key)

    def _value(self, key: str, field: FieldInfo) -> Any:
        value = getattr(FLAGS, self._name(key))
        if not isinstance(value, str):
            return value
        if _is_structure(field):
            if value.startswith(("[", "{")):
                return parse_value(value, f"--{self._name(key)}")
            if _holds_list(field):
                return [x.strip() for x in value.split(",")]
            return parse_value(value, f"--{self._name(key)}")
        return _number(value) if _takes_numbers(field) else value


def _number(value: str) -> int | float | str:
    """The number that a text is; a text that is none stays."""
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _description(field: FieldInfo) -> str:
    default = (
        "" if field.default in (None, "", ()) or isinstance(field.default, Settings) else f" Default: {_plain(field.default)}."
    )
    text = " ".join(str(field.description).split())
    return f"{text[0].upper()}{text[1:]}{default}"


def _plain(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _holds_list(field: FieldInfo) -> bool:
    return "tuple" in str(field.annotation)


def _is_structure(field: FieldInfo) -> bool:
    """Whether a key holds a list, a map or a section."""
    mapping = get_origin(field.annotation) is Mapping
    return mapping or _holds_list(field) or isinstance(field.default, Settings)


def _takes_numbers(field: FieldInfo) -> bool:
    """Whether a number may stand for a key; where only text may, `2024` is the name of a folder."""
    return any(kind in (int, float) or type(kind) in (int, float) for kind in _parts(field.annotation))


def _parts(annotation: object) -> list[object]:
    """The types and literal values that a type is made of."""
    return [x for part in get_args(annotation) for x in _parts(part)] or [annotation]
