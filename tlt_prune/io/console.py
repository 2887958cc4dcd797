"""Lines on the screen."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from tlt_prune.config import shown
from tlt_prune.io import workers


def say(message: str = "") -> None:
    """Prints a message at once; control characters in it are escaped, line breaks stay. Of several workers, the chief prints."""
    if workers.is_chief():
        print(shown(message, lines=True), flush=True)


@contextlib.contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[], None]]:
    """A function to call after each of `total` steps; a bar for a person at a terminal or notebook, nothing in a log."""
    import keras

    watched = (sys.stdout.isatty() or "ipykernel" in sys.modules) and workers.is_chief()
    bar = keras.utils.Progbar(total, verbose=1 if watched else 0, unit_name="step")
    if watched:
        print(what, flush=True)

    def advance() -> None:
        bar.add(1)

    yield advance
