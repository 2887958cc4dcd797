"""Errors of libraries that a user should read as one line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tlt_prune.cli.common import foreseeable
from tlt_prune.io import import_frameworks


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Traceback ...\ntlt_prune.errors.DataError: Cannot read the picture a.png: broken.\n more",
            "Cannot read the picture a.png: broken.",
        ),
        ("first\n/out/x; No space left on device\nlast", "/out/x; No space left on device"),
        ("Unable to write (file too large)", "Unable to write (file too large)"),
        ("shapes (2,) and (3,) do not match", None),
    ],
)
def test_foreseeable(text: str, expected: str | None) -> None:
    assert foreseeable(RuntimeError(text)) == expected


class ResourceExhaustedError(Exception):
    """By this name TensorFlow says that memory, or a disk, is full."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ResourceExhaustedError("failed to allocate"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8589934592 bytes."),
        RuntimeError("OOM when allocating tensor with shape[65536,512,512,64]"),
    ],
)
def test_out_of_memory_is_one_line(error: Exception) -> None:
    assert str(foreseeable(error)).startswith("out of memory. Lower the batch size")


def test_a_full_disk_is_not_called_out_of_memory() -> None:
    line = "/out/variables; No space left on device"
    assert foreseeable(ResourceExhaustedError(f"RESOURCE_EXHAUSTED\n{line}")) == line


@pytest.mark.parametrize(("given", "used"), [(None, "1"), ("0", "0")])
def test_scripts_turn_onednn_on(monkeypatch: pytest.MonkeyPatch, given: str | None, used: str) -> None:
    """Without it an older CPU has no channels-first convolutions, and detectors are channels-first."""
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if given is not None:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", given)
    import_frameworks()
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == used


def test_what_no_script_needs_is_not_imported_with_the_frameworks() -> None:
    """TensorFlow and Keras import it where it is installed. Whoever needs it afterwards gets it."""
    names = ["IPython", "jax", "matplotlib", "sklearn"]
    code = f"""
import importlib, sys
from tlt_prune.io import import_frameworks
import_frameworks()
print([name for name in {names} if name in sys.modules])
print([importlib.import_module(name).__name__ for name in {names}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", str(names)]
