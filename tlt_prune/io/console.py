"""Lines on the screen."""

from __future__ import annotations

from tlt_prune.config import shown


def say(message: str = "") -> None:
    """Prints a message at once; control characters in it are escaped, line breaks stay."""
    print(shown(message, lines=True), flush=True)
