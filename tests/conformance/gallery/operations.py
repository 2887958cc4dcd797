"""Operations of `keras.ops` outside of layers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from gallery.cases import case, conv, head, image


@case()
def operators(g: Any) -> Any:
    x = image(g)
    y, z = conv(g, x), conv(g, x)
    return head(g, x, conv(g, (y + z * 2.0 - 1.0) / 3.0 - y, 8))


@case()
def constants_a_channel(g: Any) -> Any:
    x = image(g)
    scale = np.linspace(0.5, 1.5, 12).astype("float32")
    return head(g, x, conv(g, conv(g, x) * scale + scale.reshape(1, 1, 1, 12), 8))


@case()
def constants_in_a_list(g: Any) -> Any:
    x = g.Input((7,))
    scale = [0.5, 1.0, 1.5, 2.0]
    y = g.layers.Dense(4, activation="relu")(x) * (np.array(scale, "float32") if g is keras else scale)
    return g.Model(x, g.layers.Dense(3)(y))


@case(keras3=True)
def counts_and_norms(g: Any) -> Any:
    x = image(g)
    y = conv(g, x)
    counted = ops.cast(ops.count_nonzero(y, axis=(1, 2)), "float32")
    return g.Model(x, keras.layers.Dense(3)(counted + ops.norm(conv(g, x), axis=(1, 2))))


@case(keras3=True)
def raw_activations_and_reductions(g: Any) -> Any:
    x = image(g)
    y = ops.relu(conv(g, x, activation=None))
    y = y * ops.sigmoid(ops.mean(y, axis=(1, 2), keepdims=True))
    y = ops.where(y > 0.1, y, ops.square(y) * 0.5)
    return head(g, x, conv(g, ops.clip(ops.maximum(y, 0.01), 0.0, 6.0), 8))


@case(keras3=True)
def hard_swish_by_hand(g: Any) -> Any:
    x = image(g)
    y = conv(g, x, activation=None)
    return head(g, x, conv(g, y * ops.relu6(y + 3.0) / 6.0, 8))


@case(keras3=True)
def raw_attention(g: Any) -> Any:
    x = g.Input((6, 5))
    q, k, v = (keras.layers.Dense(8)(x) for _ in range(3))
    weights = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1))))
    return head(g, x, keras.layers.Dense(6)(ops.matmul(weights, v)))


@case(keras3=True, frozen="reduced over the channels")
def channel_attention_over_mean(g: Any) -> Any:
    x = image(g)
    y = conv(g, x)
    gate = conv(g, ops.mean(y, axis=-1, keepdims=True), 1, activation="sigmoid")
    return head(g, x, conv(g, conv(g, y * gate, 10), 8))
