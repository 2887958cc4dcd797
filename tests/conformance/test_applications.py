"""Every model of keras.applications, pruned by half: the law, the granularity, the savings."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import keras
import numpy as np
import pytest
from applications import FAMILIES, NAMES
from helpers import assert_law, assert_met_to_within_one_step, randomize
from renormalized import keep_of, reference

import tlt_prune
from tlt_prune.graph.tracer import trace
from tlt_prune.pruning.rewrite.law import random_inputs, relative_error

SIZES = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}


@pytest.fixture(autouse=True)
def _memory() -> Iterator[None]:
    yield
    keras.backend.clear_session()
    gc.collect()


def test_the_list_is_complete() -> None:
    assert sorted(NAMES) == sorted(name for name in dir(keras.applications) if name[0].isupper())


@pytest.mark.parametrize("name", [*FAMILIES, *(pytest.param(x, marks=pytest.mark.slow) for x in NAMES if x not in FAMILIES)])
def test_half_of_the_channels(name: str) -> None:
    size = SIZES.get(name, 32)
    # A head of its own: several models insist on 1,000 classes or larger pictures with theirs.
    body = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(size, size, 3))
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(body.output)
    model = randomize(keras.Model(body.input, keras.layers.Dense(10, name="head")(pooled), name=name))
    for ranking in ("local", "global"):
        assert assert_met_to_within_one_step(model, "macs", 0.5, ranking=ranking, granularity=8, min_num_filters=8)
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=8, min_num_filters=8)
    assert not plan.unknown
    for layer in plan.layers:
        if layer.filters_before % 8 == 0 and layer.groups:
            assert layer.filters_after % 8 == 0, layer
    assert plan.params_after <= 0.4 * plan.params_before
    pruned = plan.apply(model)
    assert pruned.count_params() == plan.params_after
    if name.startswith("ConvNeXt"):
        channels = trace(model)
        alive = plan.alive(channels)
        keep = keep_of(channels, alive, (keras.layers.LayerNormalization,))
        assert keep
        inputs = random_inputs(channels, 0, 2)
        expected = reference(channels, alive, pruned, keep)(inputs, training=False)
        assert relative_error(np.asarray(expected, np.float64), np.asarray(pruned(inputs, training=False), np.float64)) < 1e-4
    else:
        assert_law(model, plan, pruned, tolerance=1e-4)
        assert "approximate" not in " ".join(plan.to_frame()["note"])
