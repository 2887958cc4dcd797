"""Shared by all tests."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

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
