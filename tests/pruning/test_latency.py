"""Latency budgets: the table, its sums, and what is refused. Values are given, not measured: a test asserts on no timing."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import keras
import numpy as np
import pytest
from helpers import pretended_milliseconds, randomize

import tlt_prune
from tlt_prune.errors import PlanError
from tlt_prune.graph.tracer import trace
from tlt_prune.pruning.cost import latency
from tlt_prune.pruning.cost.latency import LatencyTable
from tlt_prune.pruning.cost.layer_shapes import interpolated
from tlt_prune.pruning.cost.terms import charged

pytestmark = pytest.mark.one_backend


@pytest.fixture(autouse=True)
def _pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "_milliseconds", pretended_milliseconds)
    latency._table_of_this_machine.cache_clear()


def net() -> keras.Model:
    x = y = keras.Input((8, 8, 3))
    for i in range(3):
        y = keras.layers.Conv2D(64, 3, padding="same", activation="relu", name=f"c{i}")(y)
    y = keras.layers.DepthwiseConv2D(3, padding="same", name="dw")(y)
    return randomize(keras.Model(x, keras.layers.Dense(3, name="head")(keras.layers.GlobalAveragePooling2D()(y))))


def test_the_sum_is_what_the_layers_take() -> None:
    model = net()
    channels = trace(model)
    total = charged(LatencyTable().terms(channels, 8))
    multiplications = 64 * 9 * (3 * 64 + 64 * 64 + 64 * 64 + 64) + 64 * 3
    assert total == pytest.approx(multiplications * 1e-6)


@pytest.mark.parametrize("ranking", ["local", "global"])
@pytest.mark.parametrize("said", ["50%", 2.0])
def test_a_budget_of_latency_is_met(ranking: str, said: Any, tmp_path: pathlib.Path) -> None:
    model = net()
    table = str(tmp_path / "latency.json")
    plan = tlt_prune.plan_pruning(model, latency_ms=said, ranking=ranking, latency_table=table, min_num_filters=8)
    target = 0.5 * plan.latency_ms_before if said == "50%" else said
    assert 0.7 * target < plan.latency_ms_after <= target
    # What is predicted is what the pruned model's own layers add up to: between measured counts, to the interpolation.
    pruned = plan.apply(model)
    assert charged(LatencyTable().terms(trace(pruned), 8)) == pytest.approx(plan.latency_ms_after, rel=0.1)
    assert "(predicted)" in plan.summary()
    assert tlt_prune.PruningPlan.from_json(plan.to_json()).latency_ms_after == plan.latency_ms_after


def test_interpolation_between_counts_that_were_measured() -> None:
    value = interpolated([[8, 16, 64], [8, 64]], np.array([[1.0, 2.0], [2.0, 4.0], [5.0, 9.0]]))
    assert value([8, 8]) == 1
    assert value([64, 64]) == 9
    assert value([12, 8]) == pytest.approx(1.5)
    assert value([40, 36]) == pytest.approx(((2 + 5) / 2 + (4 + 9) / 2) / 2)
    assert value([0, 8]) == 0


def test_the_table_is_kept_and_measured_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep/latency.json"
    channels = trace(net())
    first = charged(LatencyTable(path).terms(channels, 8))
    monkeypatch.setattr(latency, "_milliseconds", lambda *a: pytest.fail("it is measured again"))
    assert charged(LatencyTable(path).terms(channels, 8)) == first
    again = LatencyTable(path)
    assert not again.calibrated(channels)
    again.calibrate(channels, 7.0, 8)
    assert charged(LatencyTable(path).terms(channels, 8)) == pytest.approx(7.0)
    # The scale is an architecture's, whatever its widths.
    assert LatencyTable(path).calibrated(channels)


def test_noise_never_makes_fewer_channels_slower() -> None:
    table = LatencyTable()
    channels = trace(net())
    table.terms(channels, 8)
    name = next(x for x in table._layers if '"channels": [64, 64]' in x and '"conv"' in x)
    table._layers[name.replace("[64, 64]", "[8, 64]")] = 1e3
    term = next(t for t in table.terms(channels, 8) if len(t.vectors) == 2 and t.value([64, 64]) > 100)
    assert term.value([8, 64]) <= term.value([64, 64])


def test_what_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "latency.json"
    path.write_text("[]")
    with pytest.raises(PlanError, match="expected a table of latencies"):
        LatencyTable(path)
    path.write_text(json.dumps({"of": {"machine": "another", "threads": 0}, "layers": {}, "scales": {}}))
    with pytest.raises(PlanError, match="was measured on another with 0 threads"):
        LatencyTable(path)
    x = keras.Input((None, None, 3))
    y = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(32, 3, name="c")(x))
    with pytest.raises(PlanError, match="the size of what 'c' is given is open"):
        tlt_prune.plan_pruning(keras.Model(x, keras.layers.Dense(2)(y)), latency_ms="50%")
    with pytest.raises(PlanError, match=r"latency_ms=1e-06 cannot be met.* ms"):
        tlt_prune.plan_pruning(net(), latency_ms=1e-6)
