"""Which tasks a spec may name, and which of its sections belong to them.

A task is code of a room above this one (`tlt_prune.tasks`), which registers its sections here. Tasks are loaded when
the first spec is read; neither that nor the registration imports a framework.
"""

from __future__ import annotations

import importlib

_SECTIONS: dict[str, tuple[str, ...]] = {}


def register_sections(task: str, sections: tuple[str, ...]) -> None:
    """Makes `task` a value of a spec's key `task`, with top-level sections that no other task reads."""
    _SECTIONS[task] = sections


def unregister_sections(task: str) -> None:
    """Takes back `register_sections`."""
    del _SECTIONS[task]


def task_sections() -> dict[str, tuple[str, ...]]:
    """Task -> its top-level sections."""
    importlib.import_module("tlt_prune.tasks").load_tasks()
    return dict(_SECTIONS)
