"""Reshapes around a channel axis that they leave whole: windows, tokens, patches, unknown sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from helpers import assert_law, randomize
from keras import layers, ops

import tlt_prune
from tlt_prune.graph.labels import reshape

pytestmark = pytest.mark.one_backend


def to_windows(y: Any, batch: Any = -1) -> Any:
    y = ops.transpose(ops.reshape(y, (-1, 2, 4, 2, 4, 16)), (0, 1, 3, 2, 4, 5))
    return ops.reshape(y, (batch, 16, 16))


def from_windows(y: Any, channels: int = 16) -> Any:
    y = ops.transpose(ops.reshape(y, (-1, 2, 2, 4, 4, channels)), (0, 1, 3, 2, 4, 5))
    return ops.reshape(y, (-1, 8, 8, channels))


def windows(y: Any) -> Any:
    return from_windows(layers.Dense(16, activation="relu", name="in_window")(to_windows(y)))


def tokens(y: Any) -> Any:
    y = layers.Dense(16, name="in_window")(layers.Reshape((64, 16))(y))
    return layers.Reshape((8, 8, 16))(y)


def merged_patches(y: Any) -> Any:
    y = ops.transpose(ops.reshape(y, (-1, 4, 2, 4, 2, 16)), (0, 1, 3, 2, 4, 5))
    return layers.Dense(16, name="in_window")(ops.reshape(y, (-1, 4, 4, 64)))


def pixels_in_the_batch(y: Any) -> Any:
    y = layers.Dense(16, activation="relu", name="in_window")(ops.reshape(y, (-1, 16)))
    return ops.reshape(y, (-1, 8, 8, 16))


def windows_side_by_side(y: Any) -> Any:
    """Channels of the four windows of a picture next to each other."""
    y = layers.Dense(16, activation="relu", name="in_window")(to_windows(y))
    y = ops.reshape(ops.transpose(ops.reshape(y, (-1, 4, 16, 16)), (0, 2, 1, 3)), (-1, 16, 64))
    return layers.Reshape((4, 4, 24))(layers.Dense(24, name="behind")(y))


def channels_first(y: Any) -> Any:
    y = layers.Permute((3, 1, 2))(y)
    y = ops.reshape(ops.reshape(y, (-1, 16, 64)), (-1, 16, 8, 8))
    return layers.Dense(16, name="in_window")(layers.Permute((2, 3, 1))(y))


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    f.__name__: f for f in (windows, tokens, merged_patches, pixels_in_the_batch, windows_side_by_side, channels_first)
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_channels_survive_a_change_of_layout(name: str) -> None:
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(16, 3, padding="same", activation="relu", name="stem")(x)
    y = layers.Conv2D(12, 3, name="after")(LAYOUTS[name](y))
    model = randomize(keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling2D()(y))))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=1, min_num_filters=1)
    assert len(plan.kept["stem"]) == len(plan.kept["in_window"]) == 8, plan
    assert_law(model, plan, plan.apply(model))


def test_unknown_sizes_do_not_matter_to_an_axis_that_stays() -> None:
    x = keras.Input((None, None, 3))
    y = layers.Conv2D(16, 3, padding="same", name="stem")(x)
    y = layers.Dense(16, name="in_window")(layers.Reshape((-1, 16))(y))
    model = randomize(keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling1D()(y))))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=1, min_num_filters=1)
    assert len(plan.kept["stem"]) == len(plan.kept["in_window"]) == 8
    assert_law(model, plan, plan.apply(model))


@pytest.mark.parametrize(
    ("shape", "own", "new", "axis"),
    [
        ((None, 16, 16), 2, (None, 2, 2, 4, 4, 16), 5),
        ((None, None, None, 16), 3, (None, None, 16), 2),
        # Two sizes of the new shape are unknown; a leading one is the batch.
        ((None, 16, None), 1, (None, 16, None, 1), 1),
        ((None, 16, 4), 1, (None, 16, 2), None),
        ((None, 4, 16), 2, (None, 2, 16), 2),
        ((None, 4, 16), 2, (None, 16, 4), None),
        ((2, 16, 4), 1, (2, 16, 2, 2), 1),
        ((None, 16, 2, 2), 1, (None, 16, 4), 1),
    ],
)
def test_where_an_axis_goes(shape: tuple[int | None, ...], own: int, new: tuple[int | None, ...], axis: int | None) -> None:
    labels = np.arange(1, 17).reshape([16 if i == own else 1 for i in range(len(shape))])
    moved = reshape(labels, shape, new)
    if axis is None:
        # Either nothing is known, or the labels vary along something else as well.
        assert moved is None or moved.size != 16
    else:
        assert moved is not None
        assert moved.shape == tuple(16 if i == axis else 1 for i in range(len(new)))
        np.testing.assert_array_equal(moved.ravel(), labels.ravel())
