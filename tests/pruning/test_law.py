"""The check itself: it must fail where the law is broken."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from helpers import randomise

import tlt_prune
from tlt_prune.errors import LawError
from tlt_prune.graph.channels import trace
from tlt_prune.pruning.costs import costs
from tlt_prune.pruning.law import check_law, relative_error


@pytest.fixture
def pruned() -> tuple[Any, Any, keras.Model]:
    x = keras.Input((8, 8, 3))
    y = keras.layers.ReLU()(keras.layers.BatchNormalization(name="bn")(keras.layers.Conv2D(16, 3, name="a")(x)))
    y = keras.layers.Conv2D(8, 3, name="b")(y)
    model = randomise(keras.Model(x, keras.layers.Dense(3, name="head")(keras.layers.Flatten()(y))))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=4, min_num_filters=4)
    channels = trace(model)
    return channels, plan.alive(channels), plan.apply(model)


def test_a_right_model_passes(pruned: tuple[Any, Any, keras.Model]) -> None:
    assert check_law(*pruned, tolerance=1e-5).relative_error < 1e-5


@pytest.mark.parametrize("layer", ["a", "bn", "b", "head"])
def test_a_mistake_in_any_layer_is_found(pruned: tuple[Any, Any, keras.Model], layer: str) -> None:
    weights = pruned[2].get_layer(layer).get_weights()
    # Two channels swapped: what a wrong index map does.
    weights[0] = np.take(weights[0], [1, 0, *range(2, weights[0].shape[-1])], axis=-1)
    pruned[2].get_layer(layer).set_weights(weights)
    with pytest.raises(LawError, match="Expected at most 1e-04"):
        check_law(*pruned)


def test_a_wrong_set_of_channels_is_found(pruned: tuple[Any, Any, keras.Model]) -> None:
    channels, alive, model = pruned
    producer = next(p for p in channels.producers if p.name == "a")
    other = alive.copy()
    other[producer.labels] = np.roll(alive[producer.labels], 1)
    with pytest.raises(LawError):
        check_law(channels, other, model)


def test_values_that_are_not_finite_are_found(pruned: tuple[Any, Any, keras.Model]) -> None:
    head = pruned[2].get_layer("head")
    head.set_weights([np.full_like(w, np.nan) for w in head.get_weights()])
    with pytest.raises(LawError):
        check_law(*pruned)
    assert relative_error(np.ones(3), np.ones(4)) == float("inf")


def test_macs_are_the_published_ones() -> None:
    """MobileNetV2: 300 million multiply-adds at 224 x 224 (arXiv:1801.04381, table 4)."""
    total = costs(trace(keras.applications.MobileNetV2(weights=None)))
    assert total.total_macs == pytest.approx(300e6, rel=0.01)
    assert total.total_params == 3_538_984
