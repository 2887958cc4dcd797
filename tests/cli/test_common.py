"""Errors of libraries that a user should read as one line."""

from __future__ import annotations

import pytest

from tlt_prune.cli.common import foreseeable


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
