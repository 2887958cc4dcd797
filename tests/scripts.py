"""The real scripts, in processes of their own, as a user runs them."""

from __future__ import annotations

import subprocess
import sys


def start(name: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"tlt_prune.cli.{name}", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload, no-any-return]


def run(name: str, *arguments: object, code: int = 0, **options: object) -> tuple[str, str]:
    """(standard output, standard error) of a script that must end with exit code `code`; one that succeeds says nothing there."""
    process = start(name, *arguments, **options)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, f"{name} {arguments}\n{out}\n{err}"
    assert code or err == "", f"{name} {arguments}\n{err}"
    return out, err


def one_line(err: str, script: str) -> str:
    """The error message, if it is one line and the script's own."""
    (line,) = err.strip().splitlines()
    assert line.startswith(f"tlt-{script}: error: ")
    return line
