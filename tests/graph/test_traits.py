"""Traits of layers: stated by rules, inherited by what computes the same, and by nothing else."""

from __future__ import annotations

from typing import Any

import keras
import pytest
from keras import layers

from tlt_prune.graph.family import family_of
from tlt_prune.graph.kinds import has_trait, is_batch_norm, is_convolution, is_dense
from tlt_prune.graph.reader import read


class Renamed(layers.ReLU):
    """Computes what its base does."""


class Doubled(layers.ReLU):
    def call(self, x: Any) -> Any:
        return 2 * super().call(x)


@pytest.mark.parametrize(
    ("layer", "traits"),
    [
        (layers.Conv2D(2, 3), {"convolution", "activation attribute"}),
        (layers.DepthwiseConv2D(3), {"depthwise convolution"}),
        (layers.Dense(2), {"dense", "activation attribute"}),
        (layers.Activation("relu"), {"activation attribute"}),
        (layers.BatchNormalization(), {"batch normalization"}),
        (layers.GlobalAveragePooling2D(), {"mean preserving"}),
        (layers.GlobalMaxPooling2D(), set()),
        (layers.MaxPooling2D(), set()),
        (layers.Dropout(0.5), {"mean preserving"}),
        (layers.AlphaDropout(0.5), set()),
        (layers.ReLU(), {"activation"}),
        (Renamed(), {"activation"}),
        (Doubled(), set()),
        (layers.Add(), {"sum"}),
        (layers.Subtract(), set()),
        (layers.Concatenate(), {"concatenation"}),
        (layers.Flatten(), {"flatten"}),
    ],
)
def test_traits(layer: Any, traits: set[str]) -> None:
    x = keras.Input((4,))
    family = family_of(keras.Model(x, layers.Dense(1)(x)))
    every = ("activation", "activation attribute", "batch normalization", "concatenation", "convolution", "dense")
    every += ("depthwise convolution", "flatten", "mean preserving", "sum")
    assert {trait for trait in every if has_trait(family, layer, trait)} == traits
    assert is_batch_norm(family, layer) == ("batch normalization" in traits)
    assert is_dense(family, layer) == ("dense" in traits)


def test_a_grouped_convolution_is_no_ordinary_one() -> None:
    x = keras.Input((8, 8, 4))
    family = family_of(keras.Model(x, layers.Conv2D(4, 3, groups=2)(x)))
    assert is_convolution(family, layers.Conv2D(4, 3))
    assert not is_convolution(family, layers.Conv2D(4, 3, groups=2))


def test_operations_have_traits_too() -> None:
    x = keras.Input((4,))
    graph = read(keras.Model(x, keras.ops.concatenate([x + x, x - x])))
    found = [(has_trait(graph.family, c.op, "sum"), has_trait(graph.family, c.op, "concatenation")) for c in graph.calls]
    assert sorted(found) == [(False, False), (False, True), (True, False)]
