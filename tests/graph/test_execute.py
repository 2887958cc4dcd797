"""The interpreter of graphs: what it yields, what it keeps and what it lets go."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, tree

from tlt_prune.graph.execute import Execution, run_through
from tlt_prune.graph.reader import Graph, read


@pytest.fixture
def model() -> keras.Model:
    """A nested model that is called twice, and a shortcut around both calls."""
    x = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="inside")], name="inner")
    y = inner(layers.ReLU(name="first")(inner(x)))
    return keras.Model(x, {"sum": layers.Add(name="last")([x, y]), "raw": y})


def paths(graph: Graph, **how: bool) -> list[str]:
    execution: Execution[None] = Execution(graph, [None], **how)
    yielded = []
    for pending in execution:
        yielded.append(pending.call.path)
        pending.results = [None] * len(pending.call.outputs)
    return yielded


def test_nested_models_are_opened_where_asked(model: keras.Model) -> None:
    graph = read(model)
    assert paths(graph) == ["inner/inside", "first", "inner/inside", "last"]
    assert paths(graph, opened=False) == ["inner", "first", "inner", "last"]


@pytest.mark.parametrize("how", [{}, {"opened": False}, {"forgetful": True}])
def test_it_computes_what_the_model_does(model: keras.Model, how: dict[str, bool]) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")
    graph = read(model)
    execution: Execution[Any] = Execution(graph, [x], **how)
    for pending in execution:
        args, kwargs = pending.arguments()
        pending.results = tree.flatten(pending.call.op(*args, **kwargs))
    expected = model(x)
    outputs = tree.pack_sequence_as(graph.outputs, execution.outputs)
    for name in ("sum", "raw"):
        np.testing.assert_array_equal(outputs[name], expected[name])
    through = run_through(graph, [x], lambda call, args, kwargs: call.op(*args, **kwargs))
    np.testing.assert_array_equal(through["sum"], expected["sum"])


def test_what_is_no_longer_needed_is_let_go(model: keras.Model) -> None:
    graph = read(model)
    alive: dict[bool, list[int]] = {}
    for forgetful in (False, True):
        execution: Execution[str] = Execution(graph, ["x"], forgetful=forgetful)
        alive[forgetful] = []
        for pending in execution:
            alive[forgetful].append(sum(map(len, execution.scopes)))
            pending.results = [pending.call.path]
        assert sorted(execution.outputs) == ["inner/inside", "last"]
        assert bool(execution.scopes) is not forgetful
    # Before each call: x and the nested model's input; x and its result; x, the activation and the nested input; x and y.
    assert alive[True] == [2, 2, 3, 2]
    assert alive[False] == [2, 4, 6, 8]
