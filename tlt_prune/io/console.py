"""Lines on the screen."""

from __future__ import annotations

from tlt_prune.config import shown
from tlt_prune.io import workers


def say(message: str = "") -> None:
    """Prints a message at once; control characters in it are escaped, line breaks stay. Of several workers, the chief prints."""
    if workers.is_chief():
        print(shown(message, lines=True), flush=True)
