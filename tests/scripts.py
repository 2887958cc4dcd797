"""The real scripts, in processes of their own, as a user runs them."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence


def start(name: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    """A script in a process that begins from nothing."""
    command = [sys.executable, "-m", f"tlt_prune.cli.{name}", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload, no-any-return]


def begun(name: str, *arguments: object, prelude: str = "", **options: object) -> subprocess.Popen[str]:
    """An installed script, from its first moment; `prelude` is code that comes before."""
    code = f"import sys\nsys.argv[0] = 'tlt-{name}'\n{prelude}\nfrom tlt_prune.cli import scripts\nscripts.{name}()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload, no-any-return]


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """(standard output, standard error) of a process that must end with exit code `code`; success says nothing there."""
    out, err = process.communicate(timeout=300)
    return _checked(process.returncode, out, err, code, " ".join(map(str, process.args)))  # type: ignore[arg-type]


def run(name: str, *arguments: object, code: int = 0, cwd: str | os.PathLike[str] = ".", packages: str = "") -> tuple[str, str]:
    """The same of a script, run in a fork of a process that has imported the frameworks: that takes longer than most scripts.

    `packages` is a folder of further packages.
    """
    words = [str(x) for x in arguments]
    with tempfile.TemporaryDirectory() as folder:
        out, err = (pathlib.Path(folder) / x for x in ("out", "err"))
        request = {"name": name, "arguments": words, "cwd": os.path.abspath(cwd), "packages": packages}
        request |= {"out": str(out), "err": str(err)}
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        received = int(server.stdout.readline())
        return _checked(received, out.read_text("utf-8"), err.read_text("utf-8"), code, f"{name} {words}")


def with_overrides(overrides: Sequence[str]) -> Callable[..., tuple[str, str]]:
    """`run` with the spec.txt of a folder and overrides, in which {folder} is that folder; of two, the later one counts."""

    def tlt(name: str, folder: pathlib.Path, *arguments: object, code: int = 0) -> tuple[str, str]:
        return run(name, "-e", folder / "spec.txt", *(x.format(folder=folder) for x in overrides), *arguments, code=code)

    return tlt


def _checked(received: int, out: str, err: str, code: int, what: str) -> tuple[str, str]:
    assert received == code, f"{what}\n{out}\n{err}"
    assert code or err == "", f"{what}\n{err}"
    return out, err


@functools.cache
def _server() -> subprocess.Popen[str]:
    """One for each process that tests run in; it ends with that, as its standard input does."""
    command = [sys.executable, str(pathlib.Path(__file__).with_name("script_server.py"))]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    return server


def one_line(err: str, script: str) -> str:
    """The error message, if it is one line and the script's own."""
    (line,) = err.strip().splitlines()
    assert line.startswith(f"tlt-{script}: error: ")
    return line
