"""The registry of tasks.

A task is one module of this package, or of another one that names it as an entry point of the group "tlt_prune.tasks":

    [options.entry_points]
    tlt_prune.tasks =
        counting = my_package.counting

Importing the module registers it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tlt_prune.config import TASKS, Spec, load_plugins, provide
from tlt_prune.tasks.task import Task

_TASKS: dict[str, type[Task]] = {}
provide(TASKS, lambda: {name: task.sections for name, task in _TASKS.items()})


def register(task: type[Task]) -> type[Task]:
    """Class decorator: makes a task available as `task: <name>` in specs.

    Raises:
        ValueError: the name is taken.
    """
    if task.name in _TASKS:
        raise ValueError(f"A task '{task.name}' is registered already: {_TASKS[task.name].__qualname__}. Expected another name.")
    _TASKS[task.name] = task
    return task


@contextlib.contextmanager
def registered(task: type[Task]) -> Iterator[None]:
    """Registers a task for the length of a block: for tests."""
    register(task)
    try:
        yield
    finally:
        del _TASKS[task.name]


def all_tasks() -> tuple[type[Task], ...]:
    """All registered tasks."""
    load_plugins(TASKS)
    return tuple(_TASKS.values())


def task_of(spec: Spec, source: str = "the spec") -> Task:
    """The task of a spec.

    Args:
        spec: a valid spec.
        source: its file, for messages.
    """
    load_plugins(TASKS)
    return _TASKS[spec.task](spec, source)
