"""What NVIDIA's own DetectNet_v2 code computed, as data (tests/data/detectnet_v2)."""

from __future__ import annotations

import gzip
import json
import pathlib
from typing import Any

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "data/detectnet_v2"


def load(name: str) -> Any:
    """A file's content: "rasterizer.json.gz"."""
    path = FOLDER / name
    return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_text())


def cases(name: str, kind: str | None = None) -> list[Any]:
    """The cases of a file, of one kind, with the file as "of": those that a test gets as `case` are counted in the report."""
    return [{**case, "of": name} for case in load(name)["cases"] if kind is None or case.get("kind") == kind]


def ids(found: list[Any]) -> list[str]:
    return [case["id"] for case in found]
