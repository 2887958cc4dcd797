"""Shared by all tests."""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Iterator
from typing import Any

# Before any framework is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")

import keras
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True, scope="module")
def _clean_session() -> Iterator[None]:
    yield
    keras.backend.clear_session()


@pytest.fixture(autouse=True)
def _seed() -> None:
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    return ROOT


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How the toolkit's records compare, counted at the end of the report. Here, because test workers share this file only."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for reports in terminalreporter.stats.values():
        for report in reports:
            for key, value in getattr(report, "user_properties", ()):
                if key == "tao" and report.when == "call":
                    kind = "template variants" if "test_tao_models" in report.nodeid else "pruning runs"
                    counts[kind][value] += 1
    for kind, counter in sorted(counts.items()):
        terminalreporter.write_line(f"TLT/TAO {kind}: {', '.join(f'{n} {value}' for value, n in sorted(counter.items()))}")
