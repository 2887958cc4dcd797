"""Layers that nobody wrote a rule for: opened, pruned exactly, saved, loaded, trained."""

from __future__ import annotations

import pytest
from gallery import opened
from helpers import assert_independent, assert_law, assert_same_after_reload, randomize

import tlt_prune
from tlt_prune.pruning.rewrite.law import random_inputs

ALL = {**opened.EXACT, **opened.APPROXIMATE}


# A layer without a `build` is built when it is called, which Keras says of every such layer that it loads.
@pytest.mark.filterwarnings("ignore:.*`build\\(\\)` was called on layer", "ignore:What became of .* is a functional model")
@pytest.mark.parametrize("inline", [False, True], ids=["class kept", "inlined"])
@pytest.mark.parametrize("name", ALL)
def test_law(name: str, inline: bool) -> None:
    model = randomize(ALL[name]())
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=1, min_num_filters=1, inline=inline)
    assert plan.removed
    assert not plan.unknown
    pruned = plan.apply(model)
    assert pruned.count_params() == plan.params_after < plan.params_before == model.count_params()
    channels = assert_law(model, plan, pruned)
    inputs = random_inputs(channels, 0, 2)
    assert_same_after_reload(pruned, inputs)
    assert_independent(model, pruned, inputs)
    kept = [type(x) for x in model.layers if isinstance(x, opened.Configured)]
    if not inline and "subclassed" not in name:
        assert [type(x) for x in pruned.layers if isinstance(x, opened.Configured)] == kept
