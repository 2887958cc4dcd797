"""The memory limit of this process."""

from __future__ import annotations

import functools
import os
import pathlib

_GROUP = pathlib.Path("/sys/fs/cgroup/memory.max")


@functools.cache
def limit() -> int:
    """Bytes: of the machine, or of the container where that has less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(_GROUP.read_text("ascii")))
    # No such file outside of a container, and "max" in one without a limit.
    except (OSError, ValueError):
        return machine


def readable(size: float) -> str:
    """A number of bytes, for people."""
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"
