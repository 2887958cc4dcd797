"""Text from outside, read with budgets, so that a small file takes little time whatever is in it; and shown, so that it moves no
cursor."""

from __future__ import annotations

import contextlib
import io
import json
import math
import pathlib
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

from tlt_prune.errors import DataError, escaped, first_line

# Larger ones are no labels, names or annotations of a data set that fits into memory.
_MOST_BYTES = 2**30
# Characters of a number.
MAX_DIGITS = 400


class TextError(DataError):
    """Why a text was not read, as the rest of a line."""


def decoded(data: bytes, source: object) -> str:
    """Text in UTF-8, with or without a byte order mark.

    Raises:
        TextError: it is in another encoding; the message names `source`, the line and what to do.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:4096]:
        raise TextError(f"{source}: expected text in UTF-8. Received UTF-16 or no text. Convert it: iconv -f utf-16 -t utf-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise TextError(
            f"{source}, line {line}: expected text in UTF-8. Received the byte 0x{data[error.start]:02x}. "
            "Convert it: iconv -f latin1 -t utf-8."
        ) from error


def read_text(path: pathlib.Path, most: int = 2**20) -> str:
    """A text file in UTF-8 of at most `most` bytes.

    Raises:
        OSError: it cannot be read.
        TextError: it is larger, or in another encoding.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    # A NUL in the name.
    except ValueError as error:
        raise TextError(f"{path}: expected the name of a file. {error}.") from error
    if len(content) > most:
        raise TextError(f"{path}: expected text of at most {most:,} bytes. It is larger.")
    return decoded(content, path)


def read_lines(path: pathlib.Path) -> list[str]:
    """Lines of a text file in UTF-8; they end at a line feed, a carriage return or both, and at nothing else.

    Raises:
        OSError: it cannot be read.
        TextError: it is in another encoding, or above 2^30 bytes.
    """
    return io.StringIO(read_text(path, _MOST_BYTES), newline=None).read().split("\n")


def read_json(path: pathlib.Path, what: str, most: int = 2**20) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: the file.
        what: it is expected to hold, for errors.
        most: bytes.

    Raises:
        TextError: it cannot be read, or holds something else.
    """
    with _expecting(path, what):
        return json_of(read_text(path, most))


def read_json_lines(path: pathlib.Path, what: str, most: int = 2**20) -> list[dict[str, Any]]:
    """The objects of a file with one JSON object per line. A last line that was not written to its end is left out.

    Args:
        path: the file.
        what: it is expected to hold, for errors.
        most: bytes.

    Raises:
        TextError: it cannot be read, or holds something else.
    """
    with _expecting(path, what):
        *lines, rest = read_text(path, most).split("\n")
        return [json_of(line) for line in lines or [rest]]


@contextlib.contextmanager
def _expecting(path: pathlib.Path, what: str) -> Iterator[None]:
    """Why a file was not read, with its name and what it should have held."""
    try:
        yield
    except OSError as error:
        raise TextError(f"{path}: expected {what}. {error.strerror}.") from error
    except TextError as error:
        raise TextError(f"{path}: expected {what}. {error}") from error


def json_of(text: str) -> dict[str, Any]:
    """A JSON object: numbers are finite, no key comes twice.

    Raises:
        TextError: it is none.
    """

    def number(kind: Callable[[str], Any]) -> Callable[[str], Any]:
        def read(word: str) -> Any:
            value = kind(word) if len(word) <= MAX_DIGITS else math.nan
            if isinstance(value, float) and not math.isfinite(value):
                raise TextError(f"Received a number that is not finite or has too many digits: {word[:40]}.")
            return value

        return read

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        unique_pairs = dict(pairs)
        if len(unique_pairs) < len(pairs):
            raise TextError("A key is given twice.")
        return unique_pairs

    try:
        data = json.loads(
            text, parse_int=number(int), parse_float=number(float), parse_constant=number(float), object_pairs_hook=unique
        )
    except TextError:
        raise
    except (ValueError, RecursionError) as error:
        raise TextError(f"It is no JSON: {first_line(error, 150)}.") from error
    if not isinstance(data, dict):
        raise TextError(f"It is no JSON object, but a {type(data).__name__}.")
    return data


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
    return escaped(str(text), "\n" if lines else "")
