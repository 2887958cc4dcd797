"""Layers and models at the edges of what rules expect: each is pruned exactly, or says why it stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from helpers import assert_law, randomize
from keras import layers, ops

import tlt_prune

OPTIONS = {"ratio": 0.5, "granularity": 1, "min_num_filters": 1}


def conv(x: Any, filters: int, **options: Any) -> Any:
    return layers.Conv2D(filters, 3, padding="same", activation="relu", **options)(x)


def headed(x: Any, y: Any) -> keras.Model:
    return randomize(keras.Model(x, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(y))))


def test_an_embedding_that_is_read_both_ways_round() -> None:
    """Its variable makes channels along either axis."""
    x = keras.Input((6,), dtype="int32")
    embedding = layers.ReversibleEmbedding(20, 8, name="emb")
    y = layers.Dense(8, name="b")(layers.Dense(12, activation="relu", name="a")(embedding(x)))
    model = randomize(keras.Model(x, embedding(y, reverse=True)))
    plan = tlt_prune.plan_pruning(model, **OPTIONS)
    assert len(plan.kept["a"]) == 6
    assert_law(model, plan, plan.apply(model))


@keras.saving.register_keras_serializable(package="test_edges")
class Tied(layers.Layer):
    """w on the way in, and its transpose on the way out."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = width

    def build(self, shape: Any) -> None:
        self.w = self.add_weight(shape=(shape[-1], self.width), name="w")

    def call(self, x: Any) -> Any:
        return ops.matmul(ops.relu(ops.matmul(x, self.w)), ops.transpose(self.w))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width}


@pytest.mark.parametrize(("width", "inline"), [(14, False), (14, True), (10, False), (10, True)])
def test_a_kernel_and_its_transpose(width: int, inline: bool) -> None:
    x = keras.Input((6,))
    y = layers.Dense(4, name="head")(Tied(width, name="tied")(layers.Dense(10, activation="relu", name="a")(x)))
    model = randomize(keras.Model(x, y))
    plan = tlt_prune.plan_pruning(model, inline=inline, **OPTIONS)
    names = [layer.layer for layer in plan.layers]
    assert len(names) == len(set(names)), "one row, one name"
    assert_law(model, plan, plan.apply(model))
    again = tlt_prune.PruningPlan.from_json(plan.to_json())
    assert {k: v.tolist() for k, v in again.kept.items()} == {k: v.tolist() for k, v in plan.kept.items()}


@keras.saving.register_keras_serializable(package="test_edges")
def summed_up(x: Any) -> Any:
    return ops.cumsum(x, axis=-1)


SPECTRAL: dict[str, Callable[[], Any]] = {
    "convolution": lambda: layers.Conv2D(12, 3),
    "transposed": lambda: layers.Conv2DTranspose(12, 3),
    "transposed, as many": lambda: layers.Conv2DTranspose(8, 3),
    "depthwise": lambda: layers.DepthwiseConv2D(3),
    "an activation that may not be elementwise": lambda: layers.Conv2D(8, 3, activation=summed_up),
}


@pytest.mark.parametrize("inner", SPECTRAL)
@pytest.mark.parametrize("excluded", [[], ["first"], ["sn"]])
def test_spectral_normalization(inner: str, excluded: list[str]) -> None:
    x = keras.Input((8, 8, 3))
    y = layers.SpectralNormalization(SPECTRAL[inner](), name="sn")(conv(x, 8, name="first"))
    model = headed(x, conv(y, 8, name="last"))
    plan = tlt_prune.plan_pruning(model, excluded_layers=excluded, **OPTIONS)
    assert len(plan.kept["last"]) == 4
    pruned = plan.apply(model)
    assert_law(model, plan, pruned)
    kernel = pruned.get_layer("sn").kernel
    assert pruned.get_layer("sn").vector_u.shape == (1, kernel.shape[-1])


@pytest.mark.one_backend
def test_bounds_for_every_channel() -> None:
    x = keras.Input((8, 8, 3))
    y = ops.clip(conv(x, 8, name="first"), list(np.linspace(0, 0.4, 8)), 1.0)
    model = headed(x, conv(y, 8, name="last"))
    plan = tlt_prune.plan_pruning(model, **OPTIONS)
    assert len(plan.kept["first"]) == 8
    assert any("'x_min' of a Clip is an array" in reason for reason in plan.frozen)
    assert_law(model, plan, plan.apply(model))
    assert len(plan.kept["last"]) == 4


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_the_check_knows_how_numbers_of_16_bits_round(policy: str) -> None:
    for seed in range(3):
        x = keras.Input((12, 12, 3))
        y = layers.BatchNormalization(dtype=policy)(conv(x, 12, dtype=policy))
        for _ in range(4):
            y = layers.Add(dtype=policy)([y, conv(conv(y, 15, dtype=policy), 12, dtype=policy)])
        model = randomize(keras.Model(x, layers.Dense(4, dtype="float32")(layers.Flatten(dtype=policy)(y))), seed)
        tlt_prune.prune_model(model, ratio=0.3, granularity=1, min_num_filters=1, verify=True)


def test_a_variable_that_was_frozen_by_itself_stays_so() -> None:
    x = keras.Input((8, 8, 3))
    model = headed(x, conv(conv(x, 8, name="first"), 8, name="last"))
    model.get_layer("last").bias.trainable = False
    pruned = tlt_prune.prune_model(model, **OPTIONS)
    assert len(pruned.trainable_weights) == len(model.trainable_weights) == 5
    assert not pruned.get_layer("last").bias.trainable
    assert pruned.get_layer("last").kernel.trainable
