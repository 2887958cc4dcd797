"""Plug-ins: packages whose tasks and export formats a spec may name.

They are code of rooms above this one, or of other packages, and are found as entry points of a group. This package lists its own
there, too (see setup.cfg). Loading them imports no framework.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from importlib import metadata

from tlt_prune.errors import MissingPackageError

TASKS = "tlt_prune.tasks"
EXPORT_FORMATS = "tlt_prune.export_formats"

Provider = Callable[[], Mapping[str, tuple[str, ...]]]
"""A function that returns the registered names; for a task with the top-level sections of a spec that only it reads."""
_PROVIDERS: dict[str, Provider] = {}


def provide(group: str, provider: Provider) -> None:
    """Sets the function that knows the names of a group: what a registry does when it is imported."""
    _PROVIDERS[group] = provider


@functools.cache
def load_plugins(group: str) -> None:
    """Imports the modules that installed packages list in a group of entry points; they register what they define.

    Raises:
        MissingPackageError: there is none, not even this package's own: it is not installed.
    """
    entries = metadata.entry_points(group=group)
    for entry in entries:
        entry.load()
    if group not in _PROVIDERS:
        raise MissingPackageError(
            f"No installed package has entry points of the group '{group}', not even tlt_prune: install it (pip install .) "
            "before use, and again after an update."
        )


def names_in(group: str) -> Mapping[str, tuple[str, ...]]:
    """The names of a group: see `Provider`."""
    load_plugins(group)
    return _PROVIDERS[group]()
