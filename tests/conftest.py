"""Shared by all tests."""

from __future__ import annotations

import collections
import gc
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

# Before any framework is imported. Two workers, and what they start, on two cores: threads that wait for each other take more
# than they give.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# As the scripts do: without it there are no channels-first convolutions on older CPUs.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")

import keras
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What the frameworks have made stays: looking for garbage among it, again and again, took a tenth of the time.
gc.collect()
gc.freeze()
gc.set_threshold(100_000, 20, 100)


# What a test says of one of the toolkit's records -> what that is.
TAO = {"tao_template": "template variants", "tao": "pruning runs"}
LONG = ("test_demo.py", "test_notebooks.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes begins first, so that no worker waits for it in the end."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(autouse=True, scope="module")
def _clean_session() -> Iterator[None]:
    # TensorFlow's own seed, which Keras does not draw by. To set it forgets all kernels; for every test, that was a seventh of
    # the time.
    tf.random.set_seed(0)
    yield
    # It looks for garbage; what is left stays.
    keras.backend.clear_session()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    with mock.patch.object(tf.random, "set_seed"):
        keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    return ROOT


@pytest.fixture(autouse=True)
def _recorded(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    """Tells the report which of the toolkit's recorded cases a test holds this package against."""
    case = getattr(request.node, "callspec", None) and request.node.callspec.params.get("case")
    if isinstance(case, dict) and "of" in case:
        record_property("detectnet_v2", f"{case['of'].partition('.')[0]}/{case.get('kind', '')}/{case['id']}")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How the toolkit's records compare, counted at the end of the report. Here, because test workers share this file only."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    detection: set[str] = set()
    for reports in terminalreporter.stats.values():
        for report in reports:
            for key, value in getattr(report, "user_properties", ()):
                if key in TAO and report.when == "call":
                    counts[TAO[key]][value] += 1
                if key == "detectnet_v2" and report.when == "call" and report.outcome == "passed":
                    detection.add(value)
    for kind, counter in sorted(counts.items()):
        terminalreporter.write_line(f"TLT/TAO {kind}: {', '.join(f'{n} {value}' for value, n in sorted(counter.items()))}")
    if detection:
        files = collections.Counter(case.partition("/")[0] for case in detection)
        by_file = ", ".join(f"{n} {name}" for name, n in sorted(files.items()))
        terminalreporter.write_line(f"DetectNet_v2, recorded cases held: {len(detection)} ({by_file})")
