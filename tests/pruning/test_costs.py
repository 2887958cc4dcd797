"""Parameters and MACs, counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import pytest

import tlt_prune
from tlt_prune.graph.tracer import trace
from tlt_prune.pruning.cost.costs import costs

pytestmark = pytest.mark.one_backend

L = keras.layers


def macs_of(inputs: Any, outputs: Any) -> float:
    return costs(trace(keras.Model(inputs, outputs))).total_macs


CASES: dict[str, tuple[tuple[int, ...], Callable[[Any], Any], float]] = {
    "Conv2D, valid": ((8, 8, 3), lambda x: L.Conv2D(4, 3)(x), 6 * 6 * 9 * 3 * 4),
    "Conv2D, strided and grouped": ((8, 8, 4), lambda x: L.Conv2D(6, 3, strides=2, groups=2, padding="same")(x), 16 * 9 * 2 * 6),
    "Conv1D": ((8, 3), lambda x: L.Conv1D(4, 3)(x), 6 * 3 * 3 * 4),
    "Conv2DTranspose": ((5, 5, 3), lambda x: L.Conv2DTranspose(4, 3, strides=2)(x), 25 * 9 * 3 * 4),
    "Conv1DTranspose": ((5, 3), lambda x: L.Conv1DTranspose(4, 2, strides=2)(x), 5 * 2 * 3 * 4),
    "DepthwiseConv2D": ((8, 8, 3), lambda x: L.DepthwiseConv2D(3, depth_multiplier=2)(x), 36 * 9 * 3 * 2),
    "SeparableConv2D": ((8, 8, 3), lambda x: L.SeparableConv2D(5, 3)(x), 36 * (9 * 3 + 3 * 5)),
    "Dense": ((7,), lambda x: L.Dense(4)(x), 7 * 4),
    "Dense over positions": ((5, 7), lambda x: L.Dense(4)(x), 5 * 7 * 4),
    "EinsumDense": ((5, 7), lambda x: L.EinsumDense("abc,cd->abd", output_shape=(None, 4))(x), 5 * 7 * 4),
    "EinsumDense to heads": ((5, 7), lambda x: L.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3))(x), 5 * 7 * 6),
    "EinsumDense, an axis summed": ((5, 7), lambda x: L.EinsumDense("abc,cd->ad", output_shape=4)(x), 5 * 7 * 4),
    "SimpleRNN": ((6, 5), lambda x: L.SimpleRNN(4)(x), 6 * (5 * 4 + 4 * 4)),
    "LSTM": ((6, 5), lambda x: L.LSTM(4)(x), 6 * (5 * 16 + 4 * 16)),
    "GRU": ((6, 5), lambda x: L.GRU(4, return_sequences=True)(x), 6 * (5 * 12 + 4 * 12)),
    "Bidirectional": ((6, 5), lambda x: L.Bidirectional(L.LSTM(4))(x), 2 * 6 * (5 * 16 + 4 * 16)),
    # Both kernels work on maps of 6 x 6, not of 8 x 8.
    "ConvLSTM2D": ((3, 8, 8, 2), lambda x: L.ConvLSTM2D(4, 3)(x), 3 * 36 * 9 * (2 + 4) * 16),
    "ConvLSTM2D, sequence": ((3, 8, 8, 2), lambda x: L.ConvLSTM2D(4, 3, return_sequences=True)(x), 3 * 36 * 9 * (2 + 4) * 16),
    "ConvLSTM1D, strided": ((3, 8, 2), lambda x: L.ConvLSTM1D(4, 3, strides=2)(x), 3 * 3 * 3 * (2 + 4) * 16),
    "TimeDistributed": ((3, 8, 8, 2), lambda x: L.TimeDistributed(L.Conv2D(4, 3))(x), 3 * 36 * 9 * 2 * 4),
    "TimeDistributed(LSTM)": ((3, 6, 5), lambda x: L.TimeDistributed(L.LSTM(4))(x), 3 * 6 * (5 * 16 + 4 * 16)),
    # Self-attention: three projections, scores, values, output.
    "MultiHeadAttention": ((6, 10), lambda x: L.MultiHeadAttention(2, 4)(x, x), 4 * 6 * 10 * 8 + 2 * 6 * 6 * 8),
    "Attention": ((6, 10), lambda x: L.Attention()([x, x]), 2 * 6 * 6 * 10),
    "Dot": ((6, 10), lambda x: L.Dot(axes=2)([x, x]), 6 * 6 * 10),
    "matmul": ((6, 10), lambda x: keras.ops.matmul(x, keras.ops.transpose(x, (0, 2, 1))), 6 * 6 * 10),
    "einsum": ((6, 10), lambda x: keras.ops.einsum("btc,bsc->bts", x, x), 6 * 6 * 10),
}


@pytest.mark.parametrize("case", CASES)
def test_macs(case: str) -> None:
    shape, build, expected = CASES[case]
    x = keras.Input(shape)
    assert macs_of(x, build(x)) == expected


def test_macs_of_cross_attention_use_the_length_of_each_side() -> None:
    query, source = keras.Input((4, 10)), keras.Input((7, 6))
    y = L.MultiHeadAttention(2, 3, value_dim=5)(query, source)
    projections = 4 * 10 * 6 + 7 * 6 * 6 + 7 * 6 * 10 + 4 * 10 * 10
    assert macs_of([query, source], y) == projections + 4 * 7 * 6 + 4 * 7 * 10


def test_macs_of_grouped_query_attention() -> None:
    x = keras.Input((6, 10))
    y = L.GroupQueryAttention(4, 8, 2)(x, x)
    # Eight query heads of width 4 read two heads of keys and values.
    assert macs_of(x, y) == 6 * 10 * (32 + 8 + 8) + 2 * 6 * 6 * 32 + 6 * 32 * 10


def test_macs_of_what_is_pruned_are_those_of_the_pruned_model() -> None:
    x = keras.Input((6, 10))
    y = L.MultiHeadAttention(4, 4)(x, x)
    y = L.Bidirectional(L.GRU(12, return_sequences=True))(y)
    model = keras.Model(x, L.Dense(3)(L.Conv1D(8, 3)(y)))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=1, min_num_filters=1)
    pruned = plan.apply(model)
    assert plan.removed
    measured = costs(trace(pruned))
    assert (measured.total_params, measured.total_macs) == (plan.params_after, plan.macs_after)


def test_the_rows_of_a_layer_with_several_parts_add_up() -> None:
    x = keras.Input((6, 10))
    y = L.MultiHeadAttention(1, 4, value_dim=8, name="attention")(x, x)
    y = L.Bidirectional(L.LSTM(5, return_sequences=True), name="memory")(y)
    model = keras.Model(x, L.Dense(3, name="head")(y))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=1, min_num_filters=1)
    frame = plan.to_frame()
    assert {"attention", "attention:heads", "attention:value", "memory:forward", "memory:backward", "head"} == set(frame.index)
    for when in ("before", "after"):
        assert frame[f"params_{when}"].sum() == getattr(plan, f"params_{when}")
        assert frame[f"macs_{when}"].sum() == pytest.approx(getattr(plan, f"macs_{when}"))
    # Query, key and value kernels with the biases of queries and keys; the rest of the row before is the output projection.
    assert frame.loc["attention", "params_before"] == 8 * 10 + 10
    assert frame.loc["memory:forward", "params_before"] == frame.loc["memory:backward", "params_before"] == 4 * 5 * (10 + 5 + 1)


def test_the_output_projection_is_not_counted_twice() -> None:
    x = keras.Input((6, 10))
    model = keras.Model(x, L.MultiHeadAttention(2, 4)(x, x))
    plan = tlt_prune.plan_pruning(model, ratio=0.0)
    assert sum(x.params_before for x in plan.layers) == model.count_params() == plan.params_before
