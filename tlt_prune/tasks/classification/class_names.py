"""Class names by index: classmap.json, as the toolkit writes it."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from tlt_prune.config import Settings, checked, read_json
from tlt_prune.errors import DataError, SpecError


def classmap(classes: tuple[str, ...]) -> str:
    """JSON text {class name: index}, as the toolkit writes it."""
    return json.dumps({name: i for i, name in enumerate(classes)}, indent=1) + "\n"


class _ClassMap(Settings):
    names: Mapping[str, Annotated[int, Field(ge=0, lt=2**31)]]


def read_classmap(path: str) -> tuple[str, ...]:
    """Class names by index.

    Raises:
        SpecError: the file is no JSON object of names with the indices 0, 1, 2...
    """
    try:
        found = checked(_ClassMap, {"names": read_json(pathlib.Path(path), "JSON {class name: index}")}, path, SpecError).names
    except (DataError, SpecError) as error:
        raise SpecError(f"Cannot read the class map: {error}") from error
    if sorted(found.values()) != list(range(len(found))):
        raise SpecError(f"Cannot read the class map {path}: expected the indices 0 to {len(found) - 1}, each once.")
    return tuple(sorted(found, key=lambda name: found[name]))
