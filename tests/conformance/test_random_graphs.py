"""Random graphs obey the law, hold the granularity, and survive saving. tools/dev/fuzz.py runs many more."""

from __future__ import annotations

import os

import keras
import numpy as np
import pytest
from helpers import assert_same_after_reload, randomize
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from random_graphs import models
from renormalized import keep_of, reference

import tlt_prune
from tlt_prune.graph.tracer import trace
from tlt_prune.pruning.rewrite.law import check_law, random_inputs, relative_error

NORMALIZING = (keras.layers.LayerNormalization, keras.layers.RMSNormalization, keras.layers.GroupNormalization)
# Layers that hold others in a list, and models two wrappers deep.
WITHOUT_A_RULE = {"Pipeline", "Sequential"}
EXAMPLES = int(os.environ.get("TLT_PRUNE_FUZZ_EXAMPLES", "20"))
# Without one, the same graphs every time.
SEED = os.environ.get("TLT_PRUNE_FUZZ_SEED")


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=SEED is None,
    # What one seed found is not tried again in place of another's graphs.
    database=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
@(seed(int(SEED)) if SEED is not None else lambda test: test)
@given(models(), st.sampled_from([0.3, 0.5, 0.8]), st.sampled_from([1, 2, 4]), st.booleans(), st.booleans())
# Keras draws the seeds of initializers and dropout from the `random` module while layers are built.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
def test_random_graph(model: keras.Model, ratio: float, granularity: int, reload: bool, inline: bool) -> None:
    randomize(model)
    plan = tlt_prune.plan_pruning(model, ratio=ratio, granularity=granularity, min_num_filters=1, inline=inline)
    assert set(plan.unknown.values()) <= WITHOUT_A_RULE
    pruned = plan.apply(model)
    assert pruned.count_params() == plan.params_after
    channels = trace(model, inline=inline)
    # A head of attention counts as the channels it has.
    unit = {p.name: p.unit for p in channels.producers}
    for layer in plan.layers:
        assert layer.filters_after >= 1
        if layer.filters_before * unit[layer.layer] % granularity == 0:
            assert layer.filters_after * unit[layer.layer] % granularity == 0, layer
    alive = plan.alive(channels)
    keep = keep_of(channels, alive, NORMALIZING)
    inputs = random_inputs(channels, 0, 2)
    if all(kept.all() for kept in keep.values()):
        check_law(channels, alive, pruned, tolerance=2e-5)
    else:
        expected = keras.tree.flatten(reference(channels, alive, pruned, keep)(inputs))
        for a, b in zip(expected, keras.tree.flatten(pruned(inputs)), strict=True):
            assert relative_error(np.asarray(a, np.float64), np.asarray(b, np.float64)) <= 2e-5
    if reload:
        try:
            assert_same_after_reload(pruned, inputs)
        except (ValueError, UserWarning):
            # Keras cannot load a model that shares a layer with one of its own nested models.
            with pytest.raises((ValueError, UserWarning)):
                assert_same_after_reload(model, inputs)
    keras.backend.clear_session()
