"""Random graphs obey the law, hold the granularity, and survive saving. tools/fuzz.py runs many more."""

from __future__ import annotations

import os

import keras
import pytest
from helpers import assert_same_after_reload, randomise
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import models

import tlt_prune
from tlt_prune.graph.channels import trace
from tlt_prune.pruning.law import check_law, random_inputs

EXAMPLES = int(os.environ.get("TLT_PRUNE_FUZZ_EXAMPLES", "50"))


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 50,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
@given(models(), st.sampled_from([0.3, 0.5, 0.8]), st.sampled_from([1, 2, 4]), st.booleans())
# Keras draws the seeds of initialisers and dropout from the `random` module while layers are built.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
def test_random_graph(model: keras.Model, ratio: float, granularity: int, reload: bool) -> None:
    randomise(model)
    plan = tlt_prune.plan_pruning(model, ratio=ratio, granularity=granularity, min_num_filters=1)
    assert not plan.unknown
    pruned = plan.apply(model)
    assert pruned.count_params() == plan.params_after
    for layer in plan.layers:
        assert layer.filters_after >= 1
        if layer.filters_before % granularity == 0:
            assert layer.filters_after % granularity == 0, layer
    channels = trace(model)
    check_law(channels, plan.alive(channels), pruned, tolerance=2e-5)
    if reload:
        assert_same_after_reload(pruned, random_inputs(channels, 0, 2))
    keras.backend.clear_session()
