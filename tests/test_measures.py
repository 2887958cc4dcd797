"""Sizes of files and functions, arguments, types and names stay within their limits."""

from __future__ import annotations

import pathlib
import subprocess
import sys


def test_the_limits_of_the_code_hold(root: pathlib.Path) -> None:
    command = [sys.executable, root / "tools/dev/measures.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
