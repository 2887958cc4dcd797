"""Measuring a latency: repeated until two medians agree, on a clock that the test sets."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterable

import numpy as np
import pytest

from tlt_prune.export import Predictor
from tlt_prune.onnx import predictor as module
from tlt_prune.onnx.predictor import latency_ms


def measured(monkeypatch: pytest.MonkeyPatch, milliseconds: Iterable[float]) -> tuple[float, int]:
    """(latency found, calls made), where each call takes the next of `milliseconds`, after five to warm up."""
    clock, calls = [0.0], []
    durations = itertools.chain([1000.0] * 5, milliseconds)

    def run(batch: object) -> list[np.ndarray]:
        calls.append(1)
        clock[0] += next(durations) / 1000
        return []

    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    found = latency_ms(Predictor("onnx", pathlib.Path("m.onnx"), {}, 0, 0, run), np.zeros(1), runs=4)
    return found, len(calls) - 5


def test_two_medians_that_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    # One call in four is slow: the median does not see it.
    found, calls = measured(monkeypatch, itertools.cycle([2.0, 2.0, 2.0, 9.0]))
    assert found == pytest.approx(2.0)
    assert calls == 8


def test_a_machine_that_is_busy_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    medians = [5.0, 3.0, 2.0, 2.08, 1.0]
    found, calls = measured(monkeypatch, [x for x in medians for _ in range(4)])
    assert found == pytest.approx(2.0)
    assert calls == 16


def test_a_machine_that_is_never_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    found, calls = measured(monkeypatch, [x for k in range(20) for x in [10.0 * 1.1 ** (k % 2) * 1.2 ** (19 - k)] * 4])
    assert calls == 80
    assert found < 20
