"""What a rewrite must carry over: every weight, what fills weights at the start, and every flag."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from helpers import assert_independent, assert_law, randomize
from keras import layers, ops

import tlt_prune

TINY: dict[str, Any] = {"granularity": 1, "min_num_filters": 1}


def untouched_but_rebuilt(model: keras.Model) -> keras.Model:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*nothing is removed")
        return tlt_prune.prune_model(model, ratio=0.5, excluded_layers=["*"], **TINY)


def between(layer: Callable[[Any], Any], shape: tuple[int, ...] = (4, 6)) -> keras.Model:
    x = keras.Input(shape)
    y = layer(layers.Dense(8, name="before")(x))
    return randomize(keras.Model(x, layers.Dense(3)(layers.Dense(16, activation="relu", name="after")(y))))


def normalization() -> keras.layers.Layer:
    layer = layers.Normalization(axis=-1)
    layer.adapt(np.random.default_rng(1).normal(100, 30, (200, 4, 8)).astype("float32"))
    return layer


def small(width: int = 8) -> keras.Model:
    x = keras.Input((width,))
    return keras.Model(x, layers.Dense(8)(layers.Dense(5)(x)))


LISTS = {
    "RNN of a list": lambda: layers.RNN([layers.GRUCell(8), layers.LSTMCell(6)]),
    "StackedRNNCells": lambda: layers.RNN(layers.StackedRNNCells([layers.SimpleRNNCell(4), layers.GRUCell(5)])),
    "Bidirectional of a list": lambda: layers.Bidirectional(layers.RNN([layers.GRUCell(8), layers.GRUCell(6)])),
    "Pipeline": lambda: layers.Pipeline([layers.Rescaling(0.1), normalization()]),
    "Pipeline in a Pipeline": lambda: layers.Pipeline([layers.Pipeline([normalization()])]),
    "model twice over time": lambda: keras.Sequential(
        [keras.Input((4, 8)), layers.Reshape((2, 2, 8)), layers.TimeDistributed(layers.TimeDistributed(small()))]
    ),
    "RNN over time": lambda: keras.Sequential(
        [
            keras.Input((4, 8)),
            layers.Reshape((2, 2, 8)),
            layers.TimeDistributed(layers.RNN([layers.GRUCell(3), layers.GRUCell(2)])),
        ]
    ),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("half", [False, True])
def test_layers_inside_lists_and_wrappers_keep_their_weights(name: str, half: bool) -> None:
    model = between(LISTS[name]())
    x = np.random.default_rng(0).normal(size=(5, 4, 6)).astype("float32")
    if half:
        pruned = tlt_prune.prune_model(model, ratio=0.5, verify=True, **TINY)
        assert pruned.count_params() < model.count_params()
    else:
        pruned = untouched_but_rebuilt(model)
        for a, b in zip(model.weights, pruned.weights, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=a.path)
        np.testing.assert_array_equal(model.predict_on_batch(x), pruned.predict_on_batch(x))
    assert_independent(model, pruned, x)


class Cut(keras.initializers.Initializer):
    """An initializer of the user's own that holds an array."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values, "float32")

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        return ops.broadcast_to(ops.convert_to_tensor(self.values, dtype), shape)

    def get_config(self) -> dict[str, Any]:
        return {"values": self.values.tolist()}


def constant(*shape: int) -> Any:
    return keras.initializers.Constant(np.random.default_rng(0).normal(size=shape).astype("float32"))


CONSTANTS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "depthwise": (lambda: layers.DepthwiseConv2D(3, depthwise_initializer=constant(3, 3, 12, 1)), (8, 8)),
    "separable": (lambda: layers.SeparableConv2D(8, 3, pointwise_initializer=constant(1, 1, 12, 8)), (8, 8)),
    "broadcast": (lambda: layers.Conv2D(8, 1, bias_initializer=constant(8), kernel_initializer=constant(12, 1)), (8, 8)),
    "normalization": (
        lambda: layers.BatchNormalization(gamma_initializer=constant(12), moving_mean_initializer=constant(12)),
        (8, 8),
    ),
    "recurrent": (lambda: layers.LSTM(12, recurrent_initializer=constant(12, 48), return_sequences=True), (5,)),
    "equal shapes": (lambda: layers.GRU(12, recurrent_initializer=constant(12, 36), kernel_initializer=constant(12, 36)), (5,)),
    "both directions": (lambda: layers.Bidirectional(layers.GRU(6, bias_initializer=constant(2, 18))), (5,)),
    "over time": (lambda: layers.TimeDistributed(layers.Dense(12, bias_initializer=constant(12))), (5,)),
    "in a list": (lambda: layers.RNN([layers.GRUCell(4, recurrent_initializer=constant(4, 12)), layers.GRUCell(3)]), (5,)),
    "a user's own": (lambda: layers.Conv2D(8, 1, bias_initializer=Cut(np.arange(8))), (8, 8)),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("name", CONSTANTS)
def test_a_model_with_constant_initializers_can_be_loaded(name: str, tmp_path: pathlib.Path) -> None:
    make, shape = CONSTANTS[name]
    x = keras.Input((*shape, 3))
    y = make()(layers.Dense(12, activation="relu")(x))
    model = randomize(keras.Model(x, layers.Dense(3)(layers.Dense(8)(layers.Flatten()(y)))))
    pruned = tlt_prune.prune_model(model, ratio=0.5, verify=True, **TINY)
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras.saving.load_model(tmp_path / "pruned.keras", custom_objects={"Cut": Cut})
    data = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype("float32")
    np.testing.assert_allclose(loaded.predict_on_batch(data), pruned.predict_on_batch(data), rtol=1e-5, atol=1e-6)
    fresh = type(pruned).from_config(pruned.get_config(), custom_objects={"Cut": Cut})
    assert fresh.count_params() == pruned.count_params()


def test_a_constant_is_cut_where_its_weight_is() -> None:
    x = keras.Input((8, 8, 3))
    blur = np.arange(12, dtype="float32") * np.ones((3, 3, 12, 1), "float32")[..., 0]
    y = layers.Conv2D(12, 3, name="conv")(x)
    y = layers.DepthwiseConv2D(3, depthwise_initializer=keras.initializers.Constant(blur[..., None]), name="blur")(y)
    model = randomize(keras.Model(x, layers.Dense(3)(layers.Flatten()(y))))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, **TINY)
    pruned = plan.apply(model)
    np.testing.assert_array_equal(pruned.get_layer("blur").depthwise_initializer.value[0, 0, :, 0], plan.kept["conv"])
    assert model.get_layer("blur").depthwise_initializer.value.shape == (3, 3, 12, 1)


def test_flags_of_layers_inside_layers_are_kept() -> None:
    x = keras.Input((4, 8))
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    y = attention(x, x)
    rnn = layers.Bidirectional(layers.GRU(4), name="both")
    model = randomize(keras.Model(x, layers.Dense(3)(rnn(y))))
    attention._query_dense.trainable = False
    rnn.backward_layer.trainable = False
    pruned = tlt_prune.prune_model(model, ratio=0.5, **TINY)
    assert [v.path.split("/")[-3:] for v in pruned.trainable_variables] == [
        v.path.split("/")[-3:] for v in model.trainable_variables
    ]
    assert not pruned.get_layer("attention")._query_dense.trainable
    assert pruned.get_layer("attention")._key_dense.trainable


def test_a_mixin_with_a_call_of_its_own_takes_the_rule_away() -> None:
    class Doubled:
        def call(self, x: Any) -> Any:
            return 2 * ops.flip(super().call(x), axis=-1)  # type: ignore[misc]

    class Both(Doubled, layers.Dense):
        pass

    x = keras.Input((8,))
    model = randomize(keras.Model(x, layers.Dense(3)(Both(16, name="both")(layers.Dense(16, name="in")(x)))))
    # What it does instead is seen by opening it.
    plan = tlt_prune.plan_pruning(model, ratio=0.5, **TINY)
    assert plan.kept["both/kernel"].tolist() != list(range(8))
    assert_law(model, plan, plan.apply(model))


def test_a_network_trained_for_int8_says_what_to_do() -> None:
    from tlt_prune import quantization

    x = keras.Input((8, 8, 3))
    y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, use_bias=False)(x)))
    model = keras.Model(x, layers.Dense(3)(layers.Flatten()(layers.Conv2D(16, 3)(y))))
    aware = quantization.quantization_aware(model, np.random.default_rng(0).random((8, 8, 8, 3), "float32"))
    with pytest.warns(UserWarning, match="trained for int8: prune the one it was made from, then call quantization_aware"):
        tlt_prune.prune_model(aware, ratio=0.5, **TINY)
