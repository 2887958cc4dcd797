"""Ending a script at once, with its exit code, whatever threads and callbacks of libraries are doing.

A KeyboardInterrupt is an exception, which callbacks from C++ and finalizers swallow; a training then goes on and ends with exit
code 0. And an interpreter that shuts down waits for reader threads that never report back. So the handler ends the process
itself: all files are whole at any moment, and what is unfinished is removed first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from types import FrameType

_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
_GRACE = 25
"""Seconds that a terminated process takes to keep what it has: SLURM and Kubernetes give 30."""

errors = 2
"""The descriptor that a last line is written to, while standard error is somewhere else."""

_line = ""
_asked = 0
_graceful = False
_held = 0
_cleanups: list[Callable[[], None]] = []


def install(line: str) -> None:
    """Ends this process with `line` and the usual exit code when it is interrupted (130) or terminated (143)."""
    global _line
    _line = line
    renew()


def renew() -> None:
    """Takes the signals back from a library that has put a handler of its own in the place of this one; nothing else than that,
    where `install` was not called."""
    if _line:
        for number in _CODES:
            signal.signal(number, _handler)


def at_stop(cleanup: Callable[[], None]) -> None:
    """`cleanup` runs before a process is ended in the middle."""
    _cleanups.append(cleanup)


@contextlib.contextmanager
def graceful() -> Iterator[None]:
    """In the block, termination (SIGTERM) waits for `terminate`, which comes when there is something to keep: at most for
    the time that schedulers give a process."""
    global _graceful
    _graceful = True
    try:
        yield
    finally:
        _graceful = False
        if is_terminated():
            terminate()


def is_terminated() -> bool:
    """Whether SIGTERM has come, and the process is to keep what it has and to end."""
    return _asked == signal.SIGTERM


def terminate() -> NoReturn:
    """Ends the process as one that SIGTERM has come to."""
    _stop(signal.SIGTERM)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Delays a signal until the block has ended, so that the block is done as a whole."""
    global _held
    _held += 1
    try:
        yield
    finally:
        _held -= 1
        if _asked and not _held and not _waits():
            _stop(_asked)


def end(code: int) -> NoReturn:
    """Ends the process without the ends of libraries: some wait for threads that are gone."""
    for stream in (sys.stdout, sys.stderr):
        # A stream that is closed, or a reader that is gone, takes no last words.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    _remove_sources()
    os._exit(code)


def _remove_sources() -> None:
    """TensorFlow writes the code that it makes of functions to temporary files, and removes them in an end that never comes.

    What Python compiles of them goes too, and the folder of that, where nobody else has anything in it.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith("__autograph_generated_file"):
            for path in (module.__file__, module.__cached__):
                with contextlib.suppress(OSError, TypeError):
                    os.unlink(path or "")
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(module.__cached__ or ""))


def _handler(number: int, frame: FrameType | None) -> None:
    global _asked, _graceful
    if number == signal.SIGALRM:
        # The time to end well is over.
        number, _graceful = signal.SIGTERM, False
    _asked = number
    if _waits():
        signal.signal(signal.SIGALRM, _handler)
        signal.alarm(_GRACE)
    elif not _held:
        _stop(_asked)


def _waits() -> bool:
    return _graceful and is_terminated()


def _stop(number: int) -> NoReturn:
    # One is enough: cleaning up must not be interrupted.
    for each in _CODES:
        signal.signal(each, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.write(errors, f"{_line}\n".encode())
    for cleanup in _cleanups:
        cleanup()
    _remove_sources()
    os._exit(_CODES[signal.Signals(number)])
