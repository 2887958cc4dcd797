"""Every registered rule, called: each raw operation of Keras 3, each layer.

The tables below must name exactly what the registry holds, so that no rule is without a call that would crash it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from helpers import assert_law, randomize
from keras import ops

import tlt_prune
from tlt_prune.graph import rules
from tlt_prune.graph.rules import elementwise, merging, raw, registry

Branch = Callable[[Any], Any]


def function_of(cls: str) -> Any:
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls).lower()
    return getattr(ops, snake, None)


# Operations on (batch, 6, 6, channels): one or several branches each. What the registry gives one shared rule is called alike.
MOVING: dict[str, list[Branch]] = {
    "Reshape": [lambda y: ops.reshape(y, (-1, 36, 8)), lambda y: ops.reshape(y, (-1, 6, 6, 2, 4))],
    "Transpose": [lambda y: ops.transpose(y, (0, 3, 1, 2))],
    "Swapaxes": [lambda y: ops.swapaxes(y, 1, 3)],
    "Moveaxis": [lambda y: ops.moveaxis(y, 3, 1)],
    "ExpandDims": [lambda y: ops.expand_dims(y, 1)],
    "Squeeze": [lambda y: ops.squeeze(y[:, :1, :1], (1, 2)), lambda y: ops.squeeze(y[:, :1], 1)],
    "Flip": [lambda y: ops.flip(y, axis=-1), lambda y: ops.flip(y, axis=1)],
    "Roll": [lambda y: ops.roll(y, 3, axis=-1), lambda y: ops.roll(y, 1, axis=1), lambda y: ops.roll(y, -2, axis=3)],
    "Repeat": [lambda y: ops.repeat(y, 2, axis=-1), lambda y: ops.repeat(y, 2, axis=1)],
    "Tile": [lambda y: ops.tile(y, (1, 1, 2, 3))],
    "BroadcastTo": [lambda y: ops.broadcast_to(y[:, :1], (2, 6, 6, 8))],
    "Pad": [
        lambda y: ops.pad(y, ((0, 0), (1, 0), (0, 0), (1, 2))),
        lambda y: ops.pad(y, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect"),
    ],
    "Take": [
        lambda y: ops.take(y, [0, 5, 5, -1], axis=-1),
        lambda y: ops.take(y, 3, axis=-1),
        lambda y: ops.take(y, [1], axis=1),
    ],
    "Split": [lambda y: ops.split(y, 2, axis=-1), lambda y: ops.split(y, [3, 7], axis=-1), lambda y: ops.split(y, 2, axis=1)],
    "Unstack": [lambda y: ops.unstack(y, axis=1)],
    "GetItem": [
        lambda y: y[..., 2:7],
        lambda y: y[..., 1::2],
        lambda y: y[:, 1:, ::2],
        lambda y: y[..., -3],
        lambda y: y[:, None, ..., :4],
    ],
    "DepthToSpace": [lambda y: ops.depth_to_space(y, 2)],
    "SpaceToDepth": [lambda y: ops.space_to_depth(y, 2)],
    "Concatenate": [lambda y: ops.concatenate([y, y * 2.0], axis=-1), lambda y: ops.concatenate([y, y], axis=1)],
    "Stack": [lambda y: ops.stack([y, y], axis=1), lambda y: ops.stack([y, y], axis=-1)],
    "Ravel": [],
    "Matmul": [lambda y: ops.matmul(ops.transpose(y, (0, 1, 3, 2)), y)],
    "Einsum": [lambda y: ops.einsum("bhwc,bhvc->bhwv", y, y), lambda y: ops.einsum("bhwc,bhwd->bhwc", y, y[..., :1])],
    "Moments": [lambda y: ops.moments(y, axes=[1, 2])],
    "Glu": [lambda y: ops.glu(y)],
    "Cumsum": [lambda y: ops.cumsum(y, axis=1)],
    "Cumprod": [lambda y: ops.cumprod(y, axis=2)],
    "Sort": [lambda y: ops.sort(y, axis=1)],
    "Softmax": [lambda y: ops.softmax(y, axis=1)],
    "LogSoftmax": [lambda y: ops.log_softmax(y, axis=2)],
    "Normalize": [lambda y: ops.normalize(y, axis=1)],
    "MaxPool": [lambda y: ops.max_pool(y, 2, strides=2)],
    "AveragePool": [lambda y: ops.average_pool(y, 2, strides=2)],
    "Resize": [lambda y: ops.image.resize(y, (4, 4))],
    "PadImages": [lambda y: ops.image.pad_images(y, 1, 1, 1, 1)],
    "CropImages": [lambda y: ops.image.crop_images(y, 1, 1, 1, 1)],
    "Slice": [lambda y: ops.slice(y, (0, 0, 0, 2), (2, 6, 6, 4)), lambda y: ops.slice(y, (0, 1, 0, 0), (2, 3, 6, 8))],
    "TakeAlongAxis": [lambda y: ops.take_along_axis(y, np.zeros((2, 2, 6, 1), int), axis=1)],
    "DotProductAttention": [
        lambda y: ops.dot_product_attention(y, y, y),
        lambda y: ops.dot_product_attention(*[ops.transpose(y, (0, 1, 3, 2))] * 3),
    ],
    "Sparsemax": [lambda y: ops.sparsemax(y, axis=-1)],
    "BatchNorm": [lambda y: ops.batch_normalization(y, np.arange(8.0), np.ones(8), -1, np.arange(8.0), np.ones(8))],
    "LayerNorm": [lambda y: ops.layer_normalization(y, axis=1)],
    "RMSNorm": [lambda y: ops.rms_normalization(y, axis=1)],
    "Conv": [lambda y: ops.conv(y, np.ones((3, 3, 8, 4), "float32"))],
    "ConvTranspose": [lambda y: ops.conv_transpose(y, np.ones((2, 2, 4, 8), "float32"), strides=2)],
    "DepthwiseConv": [lambda y: ops.depthwise_conv(y, np.ones((3, 3, 8, 1), "float32"))],
    "Tensordot": [lambda y: ops.tensordot(y, np.ones((8, 4), "float32"), axes=1)],
}
# What meets a constant where a kernel would be.
FROZEN = ("Matmul", "Conv", "ConvTranspose", "DepthwiseConv", "Tensordot")
# One argument more than the operation on its own.
UNARY: dict[str, Branch] = {
    "Cast": lambda y: ops.cast(y, "float16"),
    "SaturateCast": lambda y: ops.saturate_cast(y, "int32"),
    "Clip": lambda y: ops.clip(y, 0.2, 0.7),
    "Threshold": lambda y: ops.threshold(y, 0.5, 0.1),
    "BitwiseInvert": lambda y: ops.bitwise_invert(ops.cast(y * 8, "int32")),
    "BitwiseNot": lambda y: ops.bitwise_not(ops.cast(y * 8, "int32")),
    "LogicalNot": lambda y: ops.logical_not(y > 0.5),
    "Arccosh": lambda y: ops.arccosh(1 + y),
}
MERGING: dict[str, Branch] = {
    "Where": lambda y: ops.where(y > 0.5, y, y * 2.0),
    "Isclose": lambda y: ops.isclose(y, ops.square(y)),
    "Nextafter": lambda y: ops.nextafter(y, ops.square(y)),
}
# Keras 3.15 on JAX: a norm along one axis cannot be compiled.
REDUCING: dict[str, Branch] = {"Norm": lambda y: ops.norm(y, axis=(1, 2))}
# Keras 3.15 makes no graph of complex numbers, and gives adaptive pooling a shape of one axis too many.
UNCALLABLE = {"Conjugate", "Imag", "Real", "SparseSigmoid", "AdaptiveMaxPool", "AdaptiveAveragePool"}


def named(rule: Any) -> list[str]:
    return [name for name, found in registry._OPS.items() if found is rule]


def shared(rule: Any, special: dict[str, Branch], call: Callable[[Any, Any], Any]) -> dict[str, list[Branch]]:
    branches = {}
    for name in named(rule):
        function = function_of(name)
        if name in special:
            branches[name] = [special[name]]
        elif function is not None and name not in UNCALLABLE:
            branches[name] = [lambda y, function=function: call(function, y)]
    return branches


GROUPS: dict[str, dict[str, list[Branch]]] = {
    "unary": shared(elementwise.unary_op, UNARY, lambda f, y: f(y)),
    "merging": shared(merging.merge_op, MERGING, lambda f, y: f(y, ops.square(y) + 0.5)),
    "reducing": shared(raw.reduce_op, REDUCING, lambda f, y: f(y, axis=1)),
    **{name: {name: branches} for name, branches in MOVING.items() if branches},
}


def pooled(x: Any) -> Any:
    """(batch, anything) -> (batch, features), whatever the dtype."""
    x = ops.cast(x, "float32")
    return keras.layers.Flatten()(x) if len(x.shape) > 1 else ops.expand_dims(x, -1)


def model_of(branches: dict[str, list[Branch]]) -> keras.Model:
    x = keras.Input(batch_shape=(2, 6, 6, 3))
    outputs = []
    for made in branches.values():
        for branch in made:
            # A convolution each: what one operation freezes is not blamed on another.
            y = keras.layers.Conv2D(8, 3, padding="same", activation="sigmoid")(x)
            outputs += [keras.layers.Dense(2)(pooled(part)) for part in keras.tree.flatten(branch(y))]
    return randomize(keras.Model(x, outputs))


@pytest.mark.parametrize("group", GROUPS)
def test_raw_operations(group: str) -> None:
    model = model_of(GROUPS[group])
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=1, min_num_filters=1)
    assert not plan.unknown
    pruned = plan.apply(model)
    assert pruned.count_params() == plan.params_after
    if group in FROZEN:
        words = ("contracted", "product", "computed kernel", "constant")
        assert any(word in x.note for x in plan.layers for word in words)
    else:
        assert plan.removed
        assert_law(model, plan, pruned, tolerance=1e-4)


def test_every_raw_operation_is_in_a_table() -> None:
    called = {name for group in GROUPS.values() for name in group} | UNCALLABLE | {"Ravel"}
    missing = {name for name in set(registry._OPS) - called if function_of(name) is not None}
    assert not missing
    # The rest are spellings of other versions: the class does not exist here.
    import keras.src.ops as home

    for name in set(registry._OPS) - called:
        assert not hasattr(home, name), name


def test_padding_as_numpy_spells_it() -> None:
    """Keras 3.15 traces `ops.pad(y, 1)`, though TensorFlow cannot run it: tracing must not crash."""
    x = keras.Input(batch_shape=(2, 6, 6, 3))
    for width in (1, (1, 2), ((0, 0), (0, 0), (1, 1), (2, 2))):
        y = ops.pad(keras.layers.Conv2D(8, 3)(x), width)
        model = keras.Model(x, keras.layers.Conv2D(2, 1)(y))
        assert len(tlt_prune.plan_pruning(model, ratio=0.5, min_num_filters=1, granularity=1).kept[model.layers[1].name]) == 4


def test_a_product_of_channels_on_different_axes() -> None:
    x, z = keras.Input((6, 5)), keras.Input((8, 5))
    a = ops.transpose(keras.layers.Dense(8, name="a")(x), (0, 2, 1))
    y = ops.einsum("bxz,bxz->bx", a, keras.layers.Dense(6, name="b")(z))
    model = randomize(keras.Model([x, z], keras.layers.Dense(3)(keras.layers.Dense(10, name="c")(y))))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, min_num_filters=1, granularity=1)
    assert [len(plan.kept[name]) for name in "abc"] == [8, 6, 5]
    assert "multiplied with a tensor whose channels lie on another axis" in plan.to_frame().loc["a", "note"]
    assert_law(model, plan, plan.apply(model))


class Gate(keras.layers.Layer):
    def call(self, x: Any, gate: Any = None) -> Any:
        return x if gate is None else x * gate


def test_further_tensors_freeze_instead_of_crashing() -> None:
    x = keras.Input((6, 6, 3))
    y, z = (keras.layers.Conv2D(8, 3, padding="same", name=name)(x) for name in "yz")
    model = randomize(keras.Model(x, keras.layers.Conv2D(2, 1)(Gate(name="gate")(y, gate=z))))
    with rules.scoped():
        tlt_prune.register_rule(Gate)(lambda call, x: x)
        plan = tlt_prune.plan_pruning(model, ratio=0.5, min_num_filters=1, granularity=1)
    for name in "yz":
        assert plan.to_frame().loc[name, "note"] == "frozen: Gate 'gate' is called with further tensors"
