"""Weights that several layers share, and layers that several hold: one thing before a rewrite and after it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from helpers import assert_independent, randomize
from keras import layers, ops

import tlt_prune
from tlt_prune.errors import UnsupportedModelError

TINY: dict[str, Any] = {"granularity": 1, "min_num_filters": 1}


class Tied(layers.Layer):
    """A decoder with the kernel of an encoder, transposed."""

    def __init__(self, to: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.to = to

    def build(self, shape: Any) -> None:
        self.bias = self.add_weight(shape=(self.to.kernel.shape[0],), name="bias")

    def call(self, x: Any) -> Any:
        return ops.matmul(x, ops.transpose(self.to.kernel)) + self.bias

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "to": keras.saving.serialize_keras_object(self.to)}

    @classmethod
    def from_config(cls, config: Any) -> Tied:
        config = dict(config)
        return cls(keras.saving.deserialize_keras_object(config.pop("to")), **config)


class Lazy(Tied):
    """One that builds its encoder where nobody has."""

    def build(self, shape: Any) -> None:
        if not self.to.built:
            self.to.build((None, 20))
        super().build(shape)


class Untied(Tied):
    """One whose configuration copies the encoder."""

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "to": self.to.get_config()}

    @classmethod
    def from_config(cls, config: Any) -> Tied:
        config = dict(config)
        inner = layers.Dense.from_config(config.pop("to"))
        inner.build((None, 20))
        return cls(inner, **config)


def autoencoder(cls: type[Tied]) -> keras.Model:
    x = keras.Input((20,))
    encoder = layers.Dense(16, name="encoder")
    y = layers.Dense(16, name="middle")(layers.Dense(24, name="wide")(encoder(x)))
    return randomize(keras.Model(x, cls(encoder, name="tied")(y)))


@pytest.mark.parametrize("cls", [Tied, Lazy])
def test_a_tied_decoder_stays_tied(cls: type[Tied]) -> None:
    model = autoencoder(cls)
    plan = tlt_prune.plan_pruning(model, ratio=0.5, **TINY)
    assert len(plan.kept["encoder"]) == 8
    pruned = tlt_prune.prune_model(model, ratio=0.5, verify=True, **TINY)
    assert pruned.get_layer("tied").to is pruned.get_layer("encoder")
    assert len(pruned.weights) == len(model.weights)
    assert pruned.count_params() == plan.params_after < plan.params_before
    assert_independent(model, pruned, np.zeros((2, 20), "float32"))


def test_a_tie_that_a_configuration_cannot_say_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="shares the weight 'encoder/kernel' with another layer"):
        tlt_prune.prune_model(autoencoder(Untied), ratio=0.5, **TINY)


def test_a_layer_inside_a_wrapper_and_outside_is_one_layer_and_pruned_alike() -> None:
    x = keras.Input((6,))
    dense = layers.Dense(12, name="both")
    steps = layers.TimeDistributed(dense, name="steps")(layers.RepeatVector(3)(x))
    y = layers.Concatenate()([dense(x), layers.Flatten()(steps)])
    model = randomize(keras.Model(x, layers.Dense(2)(y)))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, **TINY)
    pruned = tlt_prune.prune_model(model, ratio=0.5, verify=True, **TINY)
    assert pruned.get_layer("both").units == 6
    assert pruned.get_layer("steps").layer is pruned.get_layer("both")
    assert pruned.count_params() == plan.params_after
    assert plan.params_before == model.count_params()


@pytest.mark.parametrize("kind", ["layer", "variable"])
def test_what_reads_the_model_from_outside_is_refused(kind: str) -> None:
    """A Lambda with the kernel of another layer: in the new model it would be the original's."""
    x = keras.Input((20,))
    encoder = layers.Dense(16, name="encoder")
    y = layers.Dense(16, name="middle")(layers.Dense(24, name="wide")(encoder(x)))
    kernel = encoder.kernel

    def by_layer(z: Any) -> Any:
        return ops.matmul(z, ops.transpose(encoder.kernel))

    def by_variable(z: Any) -> Any:
        return ops.matmul(z, ops.transpose(kernel))

    y = layers.Lambda(by_layer if kind == "layer" else by_variable, name="reads")(y)
    with pytest.raises(UnsupportedModelError, match=r"'reads' reads 'encoder.*' of the model from outside of its inputs"):
        tlt_prune.prune_model(keras.Model(x, y), ratio=0.5, **TINY)


class Pair(layers.Layer):
    """Two layers in a list, which may be one."""

    def __init__(self, parts: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = parts

    def call(self, x: Any) -> Any:
        for part in self.parts:
            x = part(x)
        return x

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "parts": keras.saving.serialize_keras_object(self.parts)}

    @classmethod
    def from_config(cls, config: Any) -> Pair:
        return cls(**{**config, "parts": keras.saving.deserialize_keras_object(config["parts"])})


def test_a_layer_that_is_held_twice_or_by_two_stays_one() -> None:
    x = keras.Input((8,))
    one, common = layers.Dense(8, name="one"), layers.Dense(8, name="common")
    y = Pair([one, one, common], name="first")(layers.Dense(8, name="in")(layers.Dense(24, name="free")(x)))
    y = Pair([common, layers.Dense(8, name="other")], name="second")(y)
    model = randomize(keras.Model(x, layers.Dense(3)(y)))
    pruned = tlt_prune.prune_model(model, ratio=0.5, verify=True, **TINY)
    first, second = pruned.get_layer("first").parts, pruned.get_layer("second").parts
    assert first[0] is first[1]
    assert first[2] is second[0]
    assert len(pruned.weights) == len(model.weights)
    assert_independent(model, pruned, np.zeros((2, 8), "float32"))
