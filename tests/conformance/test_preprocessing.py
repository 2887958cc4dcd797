"""Layers that turn words and numbers into a network's inputs keep what they have adapted to."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest

import tlt_prune

SENTENCES = ["the cat sat on the mat", "a dog ran", "cats and dogs", "the dog sat"]


def prune(model: keras.Model, inputs: Any, folder: pathlib.Path) -> tuple[keras.Model, np.ndarray]:
    """Half of the channels removed, verified; and what the pruned model computes, saved and loaded in between."""
    pruned = tlt_prune.prune_model(model, ratio=0.5, granularity=1, min_num_filters=1, verify=True)
    pruned.save(folder / "model.keras")
    after = np.asarray(pruned(inputs))
    np.testing.assert_allclose(np.asarray(keras.models.load_model(folder / "model.keras")(inputs)), after, rtol=1e-5, atol=1e-6)
    return pruned, after


@pytest.mark.parametrize("mode", ["int", "tf_idf"])
def test_an_adapted_vocabulary(mode: str, tmp_path: pathlib.Path) -> None:
    words = keras.layers.TextVectorization(20, output_mode=mode, name="words")
    words.adapt(SENTENCES)
    x = keras.Input((1,), dtype="string")
    y = words(x)
    if mode == "int":
        y = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(20, 16)(y))
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.Dense(16, activation="relu")(y)))
    for layer in model.layers[2:]:
        layer.set_weights([np.random.default_rng(0).standard_normal(w.shape) for w in layer.get_weights()])
    inputs = keras.ops.convert_to_tensor([["the cat ran"], ["dogs and mats"]])
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=1, min_num_filters=1)
    assert not plan.unknown
    pruned, after = prune(model, inputs, tmp_path)
    assert pruned.get_layer("words").get_vocabulary() == words.get_vocabulary()
    np.testing.assert_array_equal(np.asarray(pruned.get_layer("words")(inputs)), np.asarray(words(inputs)))
    assert np.ptp(after) > 0


def test_a_table_of_columns(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    price, shop, town = keras.Input((1,)), keras.Input((1,), dtype="int64"), keras.Input((1,), dtype="string")
    normal, bins = keras.layers.Normalization(), keras.layers.Discretization(num_bins=4, name="bins")
    normal.adapt(rng.normal(3, 2, (100, 1)))
    bins.adapt(rng.normal(3, 2, (100, 1)))
    towns = keras.layers.StringLookup(output_mode="one_hot", name="towns")
    towns.adapt(["Rome", "Oslo", "Rome", "Lima"])
    columns = [
        normal(price),
        keras.layers.CategoryEncoding(4, output_mode="one_hot")(bins(price)),
        keras.layers.IntegerLookup(vocabulary=[1, 5, 7], output_mode="one_hot")(shop),
        keras.layers.Flatten()(keras.layers.Embedding(6, 8)(keras.layers.Hashing(6)(shop))),
        towns(town),
    ]
    y = keras.layers.Dense(16, activation="relu")(keras.layers.Concatenate()(columns))
    model = keras.Model([price, shop, town], keras.layers.Dense(1)(keras.layers.Dense(12, activation="relu")(y)))
    boundaries, mean = list(bins.bin_boundaries), normal.get_weights()[0].copy()
    inputs = [keras.ops.convert_to_tensor(column) for column in ([[1.0], [4.0]], [[5], [8]], [["Oslo"], ["Paris"]])]
    pruned, _ = prune(model, inputs, tmp_path)
    assert pruned.get_layer("bins").bin_boundaries == boundaries
    assert pruned.get_layer("towns").get_vocabulary() == towns.get_vocabulary()
    np.testing.assert_array_equal(next(x for x in pruned.layers if x.name == normal.name).get_weights()[0], mean)


def test_an_old_keras_vocabulary() -> None:
    tf_keras = pytest.importorskip("tf_keras")
    towns = tf_keras.layers.StringLookup(output_mode="one_hot", name="towns")
    towns.adapt(["Rome", "Oslo", "Rome", "Lima"])
    x = tf_keras.Input((1,), dtype="string")
    model = tf_keras.Model(x, tf_keras.layers.Dense(1)(tf_keras.layers.Dense(16, activation="relu")(towns(x))))
    pruned = tlt_prune.prune_model(model, ratio=0.5, granularity=1, min_num_filters=1, verify=True)
    assert pruned.get_layer("towns").get_vocabulary() == towns.get_vocabulary()
