"""Faces of packages whose names are imported when they are asked for: some rooms are read before a framework may be loaded."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_face(package: str, homes: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package (PEP 562).

    Args:
        package: its `__name__`.
        homes: module of the package -> the names that it defines and the package offers.
    """
    home_of = {name: module for module, names in homes.items() for name in names}
    # Once imported, a module is an attribute of its package: it would hide the name.
    hidden = sorted(set(homes) & set(home_of))
    if hidden:
        raise ValueError(f"{package}: {', '.join(hidden)} would be hidden by a module. Expected another name of one of both.")

    def get(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{home_of[name]}"), name)

    return get, lambda: sorted(home_of)
