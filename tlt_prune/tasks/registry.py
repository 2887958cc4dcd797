"""The registry of tasks.

A task is one module of this package, or of another one that names it as an entry point of the group "tlt_prune.tasks":

    [options.entry_points]
    tlt_prune.tasks =
        counting = my_package.counting

Importing the module registers it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import pkgutil
from collections.abc import Iterator
from importlib import metadata

from tlt_prune.config import Spec, register_sections, unregister_sections
from tlt_prune.tasks.task import Task

ENTRY_POINTS = "tlt_prune.tasks"
_TASKS: dict[str, type[Task]] = {}


def register(task: type[Task]) -> type[Task]:
    """Class decorator: makes a task available as `task: <name>` in specs.

    Raises:
        ValueError: the name is taken.
    """
    if task.name in _TASKS:
        raise ValueError(f"A task '{task.name}' is registered already: {_TASKS[task.name].__qualname__}. Expected another name.")
    _TASKS[task.name] = task
    register_sections(task.name, task.sections)
    return task


@contextlib.contextmanager
def registered(task: type[Task]) -> Iterator[None]:
    """Registers a task for the length of a block: for tests."""
    register(task)
    try:
        yield
    finally:
        del _TASKS[task.name]
        unregister_sections(task.name)


@functools.cache
def load_tasks() -> None:
    """Imports all tasks: those of this package, and those that installed packages name."""
    package = importlib.import_module("tlt_prune.tasks")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"tlt_prune.tasks.{module.name}")
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        entry.load()


def all_tasks() -> tuple[type[Task], ...]:
    """All registered tasks."""
    load_tasks()
    return tuple(_TASKS.values())


def task_of(spec: Spec, source: str = "the spec") -> Task:
    """The task of a spec.

    Args:
        spec: a valid spec.
        source: its file, for messages.
    """
    load_tasks()
    return _TASKS[spec.task](spec, source)
