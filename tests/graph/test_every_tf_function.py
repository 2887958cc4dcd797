"""Every registered function of TensorFlow in a tf_keras graph, called: the tables must name exactly what the registry holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from helpers import assert_law, randomize

import tlt_prune
from tlt_prune.graph.reader import read
from tlt_prune.graph.rules import registry

if keras.backend.backend() != "tensorflow":
    pytest.skip("tf_keras has no other backend", allow_module_level=True)

import tensorflow as tf
import tf_keras

Branch = Callable[[Any], Any]


# --- TensorFlow functions in tf_keras ---
def tf_branches() -> dict[str, list[Branch]]:
    scale = [0.5 + i / 8 for i in range(8)]
    return {
        "unary": [
            lambda y, f=f: f(y)
            for f in (
                *(
                    tf.abs,
                    tf.math.ceil,
                    tf.cos,
                    tf.math.erf,
                    tf.exp,
                    tf.math.expm1,
                    tf.floor,
                    tf.math.log,
                    tf.math.log1p,
                    tf.negative,
                ),
                *(tf.math.reciprocal, tf.round, tf.math.rsqrt, tf.sigmoid, tf.sign, tf.sin, tf.math.softplus, tf.sqrt, tf.square),
                *(tf.tanh, tf.nn.elu, tf.nn.gelu, tf.nn.leaky_relu, tf.nn.relu, tf.nn.relu6, tf.nn.selu, tf.nn.silu, tf.nn.swish),
                *(tf.nn.softsign, tf.identity, tf.stop_gradient, tf.ones_like, tf.zeros_like),
            )
        ]
        + [lambda y: tf.cast(y, tf.float16), lambda y: tf.clip_by_value(y, 0.2, 0.7), lambda y: -y],
        "binary": [
            lambda y, f=f: f(y, tf.square(y) + 0.5)
            for f in (
                *(
                    tf.add,
                    tf.subtract,
                    tf.multiply,
                    tf.divide,
                    tf.truediv,
                    tf.maximum,
                    tf.minimum,
                    tf.pow,
                    tf.math.squared_difference,
                ),
                *(tf.math.divide_no_nan, tf.math.floordiv, tf.math.atan2, tf.greater, tf.less, tf.greater_equal, tf.less_equal),
                *(tf.equal, tf.not_equal),
            )
        ]
        + [
            *(
                lambda y: y + 1.0,
                lambda y: y - y / 2.0,
                lambda y: 2.0 - y,
                lambda y: 3.0 / (y + 1.0),
                lambda y: y**2.0,
                lambda y: 2.0**y,
            ),
            *(lambda y: 1.0 + y, lambda y: 2.0 * y, lambda y: y * scale, lambda y: y + np.asarray(scale, "float32")),
            lambda y: tf.where(y > 0.5, y, y * 2.0),
        ],
        "reduce": [
            lambda y, f=f: f(y, axis=[1, 2], keepdims=True)
            for f in (
                *(tf.reduce_mean, tf.reduce_sum, tf.reduce_max, tf.reduce_min, tf.math.reduce_std, tf.math.reduce_variance),
            )
        ],
        "moving": [
            lambda y: tf.reshape(y, (-1, 36, 8)),
            lambda y: tf.transpose(y, (0, 3, 1, 2)),
            lambda y: tf.transpose(y, perm=[0, 2, 1, 3]),
            lambda y: tf.expand_dims(y, 1),
            lambda y: tf.squeeze(y[:, :1], 1),
            lambda y: tf.concat([y, y * 2.0], -1),
            lambda y: tf.concat([y, y], axis=3),
            lambda y: tf.split(y, 2, axis=-1),
            lambda y: tf.split(y, [3, 5], -1),
            lambda y: tf.roll(y, 3, -1),
            lambda y: tf.roll(y, shift=1, axis=1),
            lambda y: y[..., 2:7],
            lambda y: y[:, 1:, ::2],
            lambda y: y[..., -3],
            lambda y: tf.pad(y, [[0, 0], [1, 1], [0, 0], [0, 0]]),
            lambda y: tf.pad(y, [[0, 0], [0, 0], [0, 0], [1, 2]]),
            lambda y: tf.tile(y, [1, 1, 2, 3]),
            lambda y: tf.repeat(y, 2, axis=-1),
            lambda y: tf.reverse(y, [-1]),
            lambda y: tf.stack([y, y], axis=-1),
            lambda y: tf.unstack(y, axis=1),
            lambda y: tf.gather(y, [0, 5, 5], axis=-1),
            lambda y: tf.nn.depth_to_space(y, 2),
            lambda y: tf.nn.space_to_depth(y, 2),
            lambda y: tf.nn.softmax(y, axis=1),
            lambda y: tf.nn.log_softmax(y, axis=1),
            lambda y: tf.nn.max_pool2d(y, 2, 2, "SAME"),
            lambda y: tf.nn.avg_pool2d(y, 2, 2, "SAME"),
            lambda y: tf.image.resize(y, (4, 4)),
            lambda y: tf.math.l2_normalize(y, axis=1),
            *nn_branches(),
            lambda y: tf.nn.bias_add(y, np.linspace(-1, 1, 8, dtype="float32")),
            lambda y: tf.nn.bias_add(y, tf.reduce_mean(y, (0, 1, 2))),
            lambda y: tf.broadcast_to(y[:, :1], [2, 6, 6, 8]),
            lambda y: tf.tile(y, [tf.shape(y)[0], 1, 1, 1])[:2],
            lambda y: tf.repeat(y, tf.shape(y)[0], axis=0)[:2],
            lambda y: tf.broadcast_to(y[:1], [tf.shape(y)[0], 6, 6, 8]),
        ],
        "shape": [lambda y: tf.reshape(y, [tf.shape(y)[0], 36, 8])],
        "sums": [
            lambda y: tf.einsum("bhwc,bhvc->bhwv", y, y),
            lambda y: tf.matmul(y, y, transpose_b=True),
            lambda y: tf.reduce_sum(y, -1),
        ],
        "product": [*with_constant_kernels(), lambda y: tf.matmul(tf.transpose(y, (0, 1, 3, 2)), y)],
    }


def nn_branches() -> list[Branch]:
    """Functions of `tf.nn` and `tf.image`, and what they and others are called in version 1."""
    v1, images = tf.compat.v1, tf.compat.v1.image
    whole = ([0, 0, 0, 0], [2, 3, 6, 8])
    resizes = (images.resize_images, images.resize_bilinear, images.resize_bicubic, images.resize_nearest_neighbor)
    return [
        *(lambda y, f=f: f(y, (4, 4)) for f in (*resizes, images.resize_area)),
        lambda y: v1.nn.softmax(y, axis=1),
        lambda y: v1.nn.log_softmax(y, axis=2),
        *(lambda y, f=f: f(y, 2, 2, "SAME") for f in (v1.nn.max_pool, v1.nn.avg_pool, tf.nn.avg_pool)),
        lambda y: tf.nn.pool(y, [2, 2], "MAX"),
        lambda y: v1.depth_to_space(y, 2),
        lambda y: v1.space_to_depth(y, 2),
        lambda y: tf.image.extract_patches(y, [1, 2, 2, 1], [1, 2, 2, 1], [1, 1, 1, 1], "VALID"),
        lambda y: v1.extract_image_patches(y, [1, 2, 2, 1], [1, 2, 2, 1], [1, 1, 1, 1], "SAME"),
        tf.image.flip_left_right,
        tf.image.flip_up_down,
        lambda y: tf.nn.moments(y, [1, 2]),
        lambda y: v1.nn.moments(y, [1, 2], keep_dims=True),
        v1.nn.crelu,
        lambda y: tf.nn.dropout(y, 0.0),
        lambda y: tf.slice(y, *whole),
        lambda y: tf.strided_slice(y, *whole),
        lambda y: tf.ensure_shape(y, (2, 6, 6, 8)),
        lambda y: tf.reduce_sum([y, y * 2.0], axis=0),
        lambda y: tf.linalg.matrix_transpose(y),
        lambda y: tf.norm(y, axis=1, keepdims=True),
        lambda y: tf.cumsum(y, 1),
        lambda y: tf.math.cumprod(y, 1),
        lambda y: tf.sort(y, axis=1),
        lambda y: tf.argmax(y, 1),
        lambda y: tf.argmin(y, 2),
        lambda y: y * tf.cast(tf.rank(y), tf.float32),
        lambda y: v1.where(y > 0.5, y, y * 2.0),
        lambda y: tf.add_n([y, y * 2.0]),
        lambda y: y % 0.3,
        *(lambda y, f=f: f(y > 0.3, y < 0.8) for f in (tf.logical_and, tf.logical_or)),
        lambda y: tf.logical_not(y > 0.5),
        *(lambda y, f=f: f(y) for f in (tf.math.is_nan, tf.math.is_finite, tf.math.is_inf)),
        *(lambda y, f=f: f(y, 1) for f in (tf.reduce_prod, tf.reduce_logsumexp)),
        *(lambda y, f=f: f(y > 0.5, 1) for f in (tf.reduce_any, tf.reduce_all)),
    ]


def with_constant_kernels() -> list[Branch]:
    """Nothing may be removed of what is convolved with a constant."""
    return [
        lambda y: tf.nn.conv2d(y, np.ones((1, 1, 8, 4), "float32"), 1, "SAME"),
        lambda y: tf.nn.convolution(y, np.ones((1, 1, 8, 4), "float32")),
        lambda y: tf.nn.conv1d(y[:, 0], np.ones((1, 8, 4), "float32"), 1, "SAME"),
        lambda y: tf.nn.conv3d(y[:, None], np.ones((1, 1, 1, 8, 4), "float32"), [1, 1, 1, 1, 1], "SAME"),
        lambda y: tf.nn.depthwise_conv2d(y, np.ones((1, 1, 8, 1), "float32"), [1, 1, 1, 1], "SAME"),
        lambda y: tf.tensordot(y, np.ones((8, 4), "float32"), 1),
    ]


@pytest.mark.parametrize("group", ["unary", "binary", "reduce", "moving", "shape", "sums", "product"])
def test_tensorflow_functions(group: str) -> None:
    x = tf_keras.Input(batch_shape=(2, 6, 6, 3))
    outputs = []
    for branch in tf_branches()[group]:
        y = tf_keras.layers.Conv2D(8, 3, padding="same", activation="sigmoid")(x)
        for part in keras.tree.flatten(branch(y)):
            outputs.append(tf_keras.layers.Dense(2)(tf_keras.layers.Flatten()(tf.cast(part, tf.float32))))
    model = randomize(tf_keras.Model(x, outputs))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=1, min_num_filters=1)
    assert not plan.unknown
    if group == "product":
        assert any(word in x.note for x in plan.layers for word in ("product", "contracted", "convolved"))
    else:
        assert plan.removed
        assert_law(model, plan, plan.apply(model), tolerance=1e-4)


def test_every_tensorflow_function_is_known_by_the_symbol_that_is_recorded() -> None:
    x = tf_keras.Input(batch_shape=(2, 6, 6, 8))
    branches = [branch for group in tf_branches().values() for branch in group]
    model = tf_keras.Model(x, [part for branch in branches for part in keras.tree.flatten(branch(x))])
    recorded = {getattr(call.op, "symbol", type(call.op).__name__) for call in read(model).walk()}
    assert recorded == set(registry._TF_OPS)


def test_the_batch_size_is_harmless_and_the_number_of_channels_is_not() -> None:
    x = tf_keras.Input((6, 6, 3))
    a, b = (tf_keras.layers.Conv2D(8, 3, padding="same", name=name)(x) for name in "ab")
    batch, channels = tf.shape(a)[0], tf.cast(tf.shape(b)[-1], tf.float32)
    y = tf_keras.layers.Dense(4)(tf.reshape(a, [batch, 36, 8]))
    z = tf_keras.layers.Dense(4)(b) / channels
    outputs = [tf_keras.layers.Dense(2)(y), tf_keras.layers.Dense(2)(z)]
    model = randomize(tf_keras.Model(x, outputs))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=1, min_num_filters=1)
    assert not plan.unknown
    assert (len(plan.kept["a"]), len(plan.kept["b"])) == (4, 8)
    assert plan.to_frame().loc["b", "note"] == "frozen: computed with the number of channels"
    assert_law(model, plan, plan.apply(model))


def test_a_slice_up_to_the_last_channel_takes_not_all() -> None:
    x = tf_keras.Input(batch_shape=(2, 6, 6, 3))
    y = tf_keras.layers.Conv2D(8, 3, padding="same", name="a")(x)
    y = tf.strided_slice(y, [0, 0, 0, 0], [2, 6, 6, -1])
    model = randomize(tf_keras.Model(x, tf_keras.layers.Dense(2)(tf_keras.layers.Flatten()(y))))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=1, min_num_filters=1)
    assert plan.to_frame().loc["a", "note"] == "frozen: sliced along the channels"
    assert_law(model, plan, plan.apply(model))
