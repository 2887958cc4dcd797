"""Measuring a latency: repeated until two medians agree, on a clock that the test sets."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterable

import numpy as np
import pytest

from tlt_prune.export import Predictor, load_predictor
from tlt_prune.onnx import predictor as module
from tlt_prune.onnx.predictor import latency_ms
from tlt_prune.pruning.cost.measure_latency import empty_model


def measured(monkeypatch: pytest.MonkeyPatch, milliseconds: Iterable[float], seconds: float = 0) -> tuple[float, int]:
    """(latency found, calls made), where each call takes the next of `milliseconds`, after five to warm up.

    `seconds` is the time that is measured at least.
    """
    clock, calls = [0.0], []
    durations = itertools.chain([1000.0] * 5, milliseconds)

    def run(batch: object) -> list[np.ndarray]:
        calls.append(1)
        clock[0] += next(durations) / 1000
        return []

    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(module, "_SECONDS", seconds)
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


def test_a_machine_that_is_busy_for_half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    found, calls = measured(monkeypatch, itertools.chain([4.0] * 125, itertools.repeat(2.0)), seconds=1)
    assert found == pytest.approx(2.0)
    assert calls == 376


def test_an_onnx_file_is_measured_on_one_thread(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, real = [], module.session_of

    def session_of(model: object, *, threads: int = 0) -> object:
        opened.append(threads)
        return real(model, threads=threads)

    monkeypatch.setattr(module, "session_of", session_of)
    monkeypatch.setattr(module, "_SECONDS", 0)
    (tmp_path / "model.onnx").write_bytes(empty_model())
    predictor = load_predictor(tmp_path / "model.onnx")
    assert opened == [0]
    assert latency_ms(predictor, np.zeros((1, 1), np.float32), runs=2) > 0
    assert opened == [0, 1]
