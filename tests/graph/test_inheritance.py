"""Whose computation a layer has: names and bases prove nothing, only what is not overridden does."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from helpers import around, assert_law, randomize
from keras import ops

import tlt_prune

pytestmark = pytest.mark.one_backend


def plan_of(model: keras.Model, **options: Any) -> Any:
    return tlt_prune.plan_pruning(model, ratio=0.5, granularity=1, min_num_filters=1, **options)


class WeightStandardized(keras.layers.Conv2D):
    """Overrides what `call` calls: its kernel is normalized over the incoming channels."""

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        mean = ops.mean(kernel, axis=(0, 1, 2), keepdims=True)
        return super().convolution_op(inputs, kernel - mean)


class KernelProperty(keras.layers.Dense):
    @property
    def kernel(self) -> Any:
        return ops.softmax(self._kernel, axis=0)


class Centered(keras.layers.BatchNormalization):
    def _moments(self, inputs: Any, mask: Any) -> Any:
        return super()._moments(inputs, mask)


class Called(keras.layers.ReLU):
    def __call__(self, x: Any) -> Any:
        y = super().__call__(x)
        return ops.flip(y, axis=-1)


@pytest.mark.parametrize(
    ("layer", "note", "kept"),
    [
        (lambda: WeightStandardized(12, 3, name="own"), "approximate: a statistic over the pruned channels", 6),
        (lambda: KernelProperty(12, name="own"), "approximate: softmax over the pruned channels", 6),
        (lambda: Centered(name="own"), "", 6),
    ],
    ids=["standardized", "kernel", "centered"],
)
def test_a_subclass_that_overrides_what_computes_does_not_inherit_the_rule(layer: Any, note: str, kept: int) -> None:
    """It is opened: what it does counts, and not its base's name."""
    model = around(layer())
    plan = plan_of(model)
    assert not plan.unknown
    assert plan.to_frame().loc["before", "note"] == note
    assert len(plan.kept["before"]) == kept
    assert len(plan.kept["after"]) == 4
    assert_law(model, plan, plan.apply(model))


def test_a_method_replaced_on_the_object_is_kept() -> None:
    layer = keras.layers.ReLU(name="own")
    layer.call = lambda x: ops.flip(x, axis=-1)
    model = around(layer)
    plan = plan_of(model)
    assert len(plan.kept["before"]) == 12, "its configuration says nothing of the method"
    assert_law(model, plan, plan.apply(model))


class Plain(keras.layers.Conv2D):
    """Adds an argument, a configuration entry, a helper of its own: computes what Conv2D does."""

    def __init__(self, filters: int, note: str = "", **kwargs: Any) -> None:
        super().__init__(filters, 3, **{"padding": "same", "activation": "relu", **kwargs})
        self.note = note

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {
            "filters": config["filters"], "note": self.note, "name": config["name"], "activation": config["activation"],
        }  # fmt: skip

    def described(self) -> str:
        return self.note


def test_a_subclass_that_only_adds_inherits_the_rule() -> None:
    model = around(Plain(16, "a note", name="plain"))
    plan = plan_of(model)
    assert not plan.unknown
    assert (len(plan.kept["before"]), len(plan.kept["plain"])) == (6, 8)
    pruned = plan.apply(model)
    assert type(pruned.get_layer("plain")) is Plain
    assert pruned.get_layer("plain").note == "a note"
    assert_law(model, plan, pruned)


class TimeDistributed(keras.layers.Layer):
    """Not Keras' wrapper: flips the channels."""

    def __init__(self, layer: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer = layer

    def call(self, x: Any) -> Any:
        return ops.flip(x, axis=-1)


class Lambda(keras.layers.Layer):
    """Not Keras' Lambda: it has no function."""

    def call(self, x: Any) -> Any:
        return ops.flip(x, axis=-1)


class LSTM(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return x * ops.flip(x, axis=-1)


@pytest.mark.parametrize("cls", [TimeDistributed, Lambda, LSTM])
def test_a_name_is_only_a_name(cls: type) -> None:
    model = around(cls(name="own"))
    plan = plan_of(model)
    assert not plan.unknown
    # The channels are seen to be flipped: they go in pairs where they are multiplied with each other.
    kept = plan.kept["before"]
    assert len(kept) == 6
    assert cls is not LSTM or (11 - kept[::-1]).tolist() == kept.tolist()
    assert_law(model, plan, plan.apply(model))


# --- activations ---


def relu(x: Any) -> Any:
    """A user's function of a well-known name, which mixes channels."""
    return ops.relu(x) - ops.mean(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("layer", [lambda: keras.layers.Activation(relu), lambda: keras.layers.Conv2D(12, 1, activation=relu)])
def test_an_activation_is_recognized_by_what_it_is(layer: Any) -> None:
    model = around(layer())
    plan = plan_of(model)
    frozen = [x for x in plan.layers if "activation 'relu' is not known to be elementwise" in x.note]
    assert frozen
    assert_law(model, plan, plan.apply(model))


def test_keras_own_functions_are_known_wherever_they_come_from() -> None:
    functions = ["relu", keras.activations.relu, keras.ops.gelu, keras.activations.swish, keras.ops.sigmoid, "hard_swish", None]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        functions += [tf.nn.relu, tf.tanh, tf.nn.silu]
    for function in functions:
        plan = plan_of(around(keras.layers.Activation(function)))
        assert len(plan.kept["before"]) == 6, function


def test_tf_keras_functions_are_known() -> None:
    if keras.backend.backend() != "tensorflow":
        pytest.skip("tf_keras has no other backend")
    import tf_keras

    names = ["relu", "swish", "leaky_relu", "relu6", "gelu", "elu", "mish", "softmax", "linear"]
    x = tf_keras.Input((5, 5, 3))
    y = x
    for name in names:
        y = tf_keras.layers.Conv2D(8, 1, activation=name)(y)
    plan = plan_of(tf_keras.Model(x, tf_keras.layers.Dense(2)(tf_keras.layers.Flatten()(y))))
    assert {x.note for x in plan.layers if x.kind == "Conv2D"} == {"", "approximate: softmax over the pruned channels"}


def test_a_users_function_inside_a_wrapper() -> None:
    x = keras.Input((4, 6))
    y = keras.layers.TimeDistributed(keras.layers.Dense(12, activation=relu, name="inner"), name="steps")(x)
    y = keras.layers.TimeDistributed(keras.layers.Dense(10, kernel_regularizer=OwnPenalty()), name="more")(y)
    model = randomize(keras.Model(x, keras.layers.Dense(2)(y)))
    plan = plan_of(model)
    assert "activation 'relu'" in plan.to_frame().loc["steps", "note"]
    pruned = plan.apply(model)
    assert pruned.get_layer("steps").layer.activation is relu
    assert_law(model, plan, pruned)


def test_a_users_function_inside_a_recurrent_layer() -> None:
    x = keras.Input((4, 6))
    y = keras.layers.LSTM(12, activation=relu, name="memory")(x)
    model = randomize(keras.Model(x, keras.layers.Dense(2)(keras.layers.Dense(10)(y))))
    plan = plan_of(model)
    assert "activation 'relu' is not known" in plan.to_frame().loc["memory", "note"]
    pruned = plan.apply(model)
    assert pruned.get_layer("memory").cell.activation is relu
    assert_law(model, plan, pruned)


class OwnPenalty(keras.regularizers.Regularizer):
    def __call__(self, x: Any) -> Any:
        return ops.sum(ops.abs(x))

    def get_config(self) -> dict[str, Any]:
        return {}


# --- models ---


class Scaled(keras.Model):
    """A functional model whose call is its own."""

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return 2.0 * super().call(inputs, training=training, mask=mask)


class Logged(keras.Model):
    """A functional model with a training step of its own: it computes what its layers do."""

    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


def inner_of(cls: type) -> keras.Model:
    a = keras.Input((8, 8, 12))
    return cls(a, keras.layers.Conv2D(10, 3, name="inner_conv")(a), name="inner")


def test_a_model_with_a_call_of_its_own_is_opened() -> None:
    whole = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(12, 3, name="first")(whole)
    model = randomize(Scaled(whole, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(y))))
    with pytest.warns(UserWarning, match="is a functional model, not a Scaled"):
        pruned = tlt_prune.prune_model(model, ratio=0.5, granularity=1, min_num_filters=1, verify=True)
    x = np.ones((1, 8, 8, 3), "float32")
    assert pruned.count_params() < model.count_params()
    assert not isinstance(pruned, Scaled)
    assert pruned(x).shape == model(x).shape
    x = keras.Input((8, 8, 3))
    y = inner_of(Scaled)(keras.layers.Conv2D(12, 3, padding="same", name="before")(x))
    model = randomize(keras.Model(x, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(y))))
    plan = plan_of(model)
    assert not plan.unknown
    assert_law(model, plan, plan.apply(model))


def test_a_model_with_a_training_step_of_its_own_has_one() -> None:
    model = randomize(inner_of(Logged))
    a = model.inputs[0]
    whole = Logged(a, keras.layers.Dense(2)(keras.layers.Flatten()(model.outputs[0])), name="whole")
    randomize(whole)
    plan = plan_of(whole)
    assert len(plan.kept["inner_conv"]) == 5
    pruned = plan.apply(whole)
    assert type(pruned) is Logged
    assert_law(whole, plan, pruned)


def test_values_are_compared_not_shapes() -> None:
    """The weight-standardized convolution, had its rule been inherited: what the law would have said."""
    layer = WeightStandardized(12, 3, name="own")
    model = around(layer)
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype("float32")
    before = np.asarray(model(x))
    kernel = np.asarray(layer.kernel).copy()
    kernel[:, :, :6] = 0
    layer.kernel.assign(kernel)
    zeroed = np.asarray(model(x))
    # Zeroed rows are no removed rows here: the mean still counts them.
    kernel[:, :, 6:] -= kernel[:, :, 6:].mean(axis=(0, 1, 2), keepdims=True)
    assert np.abs(before - zeroed).max() > 0.01
