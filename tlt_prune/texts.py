"""Text from outside, read and shown: encodings, names of files and classes, control characters."""

from __future__ import annotations

import io
import json
import pathlib
import unicodedata
from typing import Any

from tlt_prune.errors import DataError, first_line

# Larger ones are no labels, names or annotations of a data set that fits into memory.
_MOST_BYTES = 2**30


def decoded(data: bytes, source: str) -> str:
    """Text in UTF-8, with or without a byte order mark.

    Raises:
        DataError: it is in another encoding; the message names `source`, the line and what to do.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:4096]:
        raise DataError(
            f"{shown(source)}: expected text in UTF-8. Received UTF-16, or no text. Convert it: iconv -f utf-16 -t utf-8."
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{shown(source)}, line {line}: expected text in UTF-8. Received the byte 0x{data[error.start]:02x}. "
            "Convert it: iconv -f latin1 -t utf-8."
        ) from error


def read_lines(path: pathlib.Path) -> list[str]:
    """Lines of a text file in UTF-8; they end at a line feed, a carriage return or both, and at nothing else.

    Raises:
        OSError: it cannot be read.
        DataError: it is in another encoding, or above 2^30 bytes.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise DataError(f"{shown(path)}: expected text of at most {_MOST_BYTES:,} bytes. Received {path.stat().st_size:,}.")
    return io.StringIO(decoded(path.read_bytes(), str(path)), newline=None).read().split("\n")


def read_json(path: pathlib.Path, what: str) -> Any:
    """What a JSON file holds.

    Args:
        path: the file.
        what: it is expected to hold, for errors.

    Raises:
        DataError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads("\n".join(read_lines(path)))
    except OSError as error:
        raise DataError(f"{shown(path)}: expected {what}. {error.strerror}.") from error
    except RecursionError as error:
        raise DataError(f"{shown(path)}: expected {what}. Received lists within lists, too many to be read.") from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{shown(path)}: expected {what}. {first_line(error, 150)}.") from error


def nfc(name: str) -> str:
    """A name as names are compared: some systems write an accent as a letter of its own, others do not."""
    return unicodedata.normalize("NFC", name)


def check_name(path: pathlib.Path) -> pathlib.Path:
    """`path`, if its name can be written into a table.

    Raises:
        DataError: it is not in UTF-8.
    """
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{shown(path)}: expected a name in UTF-8. Rename it.") from error
    return path


def shown(text: object, *, lines: bool = False) -> str:
    """Text for people: what would move the cursor, color the terminal or break the line is escaped.

    Args:
        text: anything; its `str`.
        lines: whether line feeds may stay.
    """
    kept = "\n" if lines else ""
    return "".join(
        c if c.isprintable() or c in kept else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in str(text)
    )
