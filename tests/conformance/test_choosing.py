"""Budgets, walks, criteria and compensations on every graph of the gallery, each built once."""

from __future__ import annotations

import gallery
import keras
import numpy as np
import pytest
from helpers import assert_met_to_within_one_step, randomize

import tlt_prune
from tlt_prune.graph.tracer import trace
from tlt_prune.pruning.cost.costs import costs
from tlt_prune.pruning.rewrite.law import random_inputs
from tlt_prune.pruning.running.batches import Batches
from tlt_prune.pruning.running.walk import Walk

ALL = {**gallery.EXACT, **gallery.APPROXIMATE}


@pytest.mark.parametrize("name", ALL)
def test_every_piece(name: str) -> None:
    model = randomize(ALL[name](keras))
    channels = trace(model)
    before = [w.copy() for w in model.get_weights()]

    # Half of it, never above, and no group could keep one step more.
    resource = "params" if np.isnan(costs(channels).total_macs) else "macs"
    for ranking in ("local", "global"):
        assert_met_to_within_one_step(model, resource, 0.5, ranking=ranking, granularity=1, min_num_filters=1)

    # A walk computes what the model computes: nested, shared, over time, raw operations, several inputs and outputs.
    inputs = random_inputs(channels, 0, 2)
    expected = [np.asarray(x, np.float64) for x in keras.tree.flatten(model(inputs, training=False))]
    channels.graph.family.reset_states(model)
    data = [(inputs, None)]
    walk = Walk(channels.graph, Batches(data, channels.graph, what=name))
    for _ in walk:
        pass
    for a, (b,) in zip(expected, walk.outputs, strict=True):
        np.testing.assert_allclose(np.asarray(b, np.float64), a, rtol=1e-4, atol=1e-5)

    # Whatever the pieces can do there: the pruned model stays whole, and the given one as it is.
    channels.graph.family.reset_states(model)
    criterion = tlt_prune.criteria.Activation(data)
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=1, min_num_filters=1, criterion=criterion)
    pieces = ["bias", tlt_prune.Bias(data), tlt_prune.LeastSquares(data), tlt_prune.RecalibrateBatchNorm(data)]
    pruned = plan.apply(model, compensation=pieces)
    for x in keras.tree.flatten(pruned(inputs, training=False)):
        assert np.isfinite(np.asarray(x, np.float64)).all()
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
