"""Products of activations, and sums: channels that are summed over without a weight."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from gallery.cases import case, head


@case()
def dot_over_channels(g: Any) -> Any:
    """A user and an item, each with its own tower: two towers that end in a product."""
    x, z = g.Input((7,)), g.Input((5,))
    # Neither is zero where its kernel is: only the product says what a removed channel counts as.
    a = g.layers.Dense(8, activation="sigmoid")(g.layers.Dense(10, activation="relu")(x))
    b = g.layers.Dense(8, activation="sigmoid")(z)
    return g.Model([x, z], g.layers.Dense(2)(g.layers.Dot(axes=1)([a, b])))


@case(frozen="contracted with activations of which nothing may be removed")
def dot_with_an_input(g: Any) -> Any:
    x, z = g.Input((4, 7)), g.Input((4, 8))
    y = g.layers.Dense(8)(g.layers.Dense(6)(x))
    return head(g, [x, z], g.layers.Dense(6)(g.layers.Dot(axes=2)([y, z])))


@case()
def additive_attention(g: Any) -> Any:
    x = g.Input((6, 10))
    q, v, k = (g.layers.Dense(8, activation="sigmoid")(x) for _ in range(3))
    y = g.layers.AdditiveAttention()([q, v, k])
    y = g.layers.AdditiveAttention(use_scale=False)([g.layers.Dense(12, activation="sigmoid")(y), g.layers.Dense(12)(y)])
    return head(g, x, y)


@case()
def concatenating_attention(g: Any) -> Any:
    x = g.Input((6, 10))
    q, v = g.layers.Dense(8, activation="sigmoid")(x), g.layers.Dense(8, activation="sigmoid")(x)
    return head(g, x, g.layers.Attention(score_mode="concat", use_scale=True)([q, v]))


@case(keras3=True)
def similarity_by_einsum(g: Any) -> Any:
    x, z = g.Input((6, 5)), g.Input((4, 5))
    a, b = (keras.layers.Dense(8, activation="sigmoid")(y) for y in (x, z))
    scores = ops.softmax(ops.einsum("bnc,bmc->bnm", a, b) / 8**0.5)
    return head(g, [x, z], keras.layers.Dense(6)(ops.einsum("bnm,bmc->bnc", scores, b)))


@case(keras3=True)
def style_matrix(g: Any) -> Any:
    """Products of a map with itself, over its positions and over its channels."""
    x = g.Input((6, 5))
    y = keras.layers.Dense(8, activation="sigmoid")(x)
    return g.Model(x, keras.layers.Dense(3)(keras.layers.Flatten()(ops.matmul(y, ops.transpose(y, (0, 2, 1))))))


@case(keras3=True)
def factorization_machine(g: Any) -> Any:
    """((sum of a)^2 - sum of a^2) / 2: a sum over channels of products."""
    x = g.Input((6, 5))
    y = keras.layers.Dense(8, activation="sigmoid")(x)
    pairs = ops.square(ops.sum(y, axis=1)) - ops.sum(ops.square(y), axis=1)
    return g.Model(x, keras.layers.Dense(3)(0.5 * ops.sum(pairs, axis=-1, keepdims=True)))


@case(keras3=True)
def products_in_a_nested_model(g: Any) -> Any:
    """The same layers compare two pairs of towers."""
    a, b = keras.Input((4, 8)), keras.Input((4, 8))
    project = keras.layers.Dense(6, activation="sigmoid")
    inner = keras.Model([a, b], keras.layers.Dot(axes=2)([project(a), project(b)]))
    x = g.Input((4, 5))
    y, z = (keras.layers.Dense(8, activation="relu")(x) for _ in range(2))
    return head(g, x, keras.layers.Concatenate()([inner([y, z]), inner([z, y])]))
