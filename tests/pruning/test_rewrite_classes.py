"""The user's own class of model, and what it is compiled with: a rewrite keeps them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from helpers import randomize
from keras import layers, ops

import tlt_prune

TINY: dict[str, Any] = {"granularity": 1, "min_num_filters": 1}


class Own:
    """A training step of one's own."""

    def train_step(self, *arguments: Any) -> Any:
        self.ran = True
        return super().train_step(*arguments)  # type: ignore[misc]


class PlainSubclass(Own, keras.Model):
    pass


class OwnSequential(Own, keras.Sequential):
    pass


class WithArgument(Own, keras.Model):
    def __init__(self, inputs: Any, outputs: Any, alpha: float = 0.5, **kwargs: Any) -> None:
        super().__init__(inputs, outputs, **kwargs)
        self.alpha = alpha

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha}


class WithWeight(WithArgument):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale = self.add_weight(shape=(3,), initializer="zeros", name="scale", trainable=False)


class BuildsItself(Own, keras.Model):
    def __init__(self, filters: int = 16, **kwargs: Any) -> None:
        x = keras.Input((8, 8, 3))
        super().__init__(x, layers.Dense(3)(layers.Flatten()(layers.Conv2D(filters, 3)(x))), **kwargs)
        self.filters = filters

    def get_config(self) -> dict[str, Any]:
        return {"filters": self.filters, "name": self.name}


def parts() -> tuple[Any, Any]:
    x = keras.Input((8, 8, 3))
    return x, layers.Dense(3)(layers.Flatten()(layers.Conv2D(16, 3)(x)))


CLASSES = {
    "plain": lambda: PlainSubclass(*parts()),
    "argument": lambda: WithArgument(*parts(), alpha=0.9),
    "weight": lambda: WithWeight(*parts(), alpha=0.9),
    "sequential": lambda: OwnSequential([keras.Input((8, 8, 3)), layers.Conv2D(16, 3), layers.Flatten(), layers.Dense(3)]),
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_of_the_users_own_is_kept(name: str) -> None:
    model = randomize(CLASSES[name]())
    pruned = tlt_prune.prune_model(model, ratio=0.5, **TINY)
    assert type(pruned) is type(model)
    assert getattr(pruned, "alpha", None) == getattr(model, "alpha", None)
    if name == "weight":
        np.testing.assert_array_equal(pruned.scale, model.scale)
    x = np.zeros((4, 8, 8, 3), "float32")
    pruned.compile("sgd", "mse", run_eagerly=True)
    pruned.fit(x, np.zeros((4, 3)), verbose=0)
    assert pruned.ran
    assert not hasattr(model, "ran")


def test_a_class_that_cannot_be_kept_is_said() -> None:
    model = BuildsItself(filters=24)
    with pytest.warns(UserWarning, match=r"plain Model, not a BuildsItself: .* What it adds \(train_step\) is lost"):
        pruned = tlt_prune.prune_model(model, ratio=0.5, **TINY)
    assert pruned.count_params() < model.count_params()


def simple() -> keras.Model:
    x = keras.Input((8,))
    return randomize(keras.Model(x, layers.Dense(3)(layers.Dense(16)(x))))


class Unregistered(keras.losses.Loss):
    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.mean(ops.abs(y_true - y_pred), axis=-1)


class Steady(keras.optimizers.SGD):
    pass


class Distance(keras.metrics.MeanAbsoluteError):
    pass


class Falling(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step: Any) -> Any:
        return 1.0 / (1.0 + ops.cast(step, "float32"))

    def get_config(self) -> dict[str, Any]:
        return {}


def by_function(y_true: Any, y_pred: Any) -> Any:
    return ops.mean(ops.square(y_true - y_pred), axis=-1)


COMPILED: dict[str, Callable[[], dict[str, Any]]] = {
    "function": lambda: {"optimizer": "sgd", "loss": by_function, "metrics": [by_function]},
    "lambda": lambda: {"optimizer": "sgd", "loss": lambda y_true, y_pred: by_function(y_true, y_pred)},
    "loss class": lambda: {"optimizer": "adam", "loss": Unregistered(), "metrics": ["mae", Distance(name="d")]},
    "optimizer class": lambda: {"optimizer": Steady(0.25, momentum=0.5), "loss": "mse"},
    "schedule class": lambda: {"optimizer": keras.optimizers.Adam(Falling()), "loss": ["mse"]},
}


@pytest.mark.parametrize("name", COMPILED)
def test_what_a_model_is_compiled_with_is_handed_on(name: str) -> None:
    model = simple()
    arguments = COMPILED[name]()
    model.compile(**arguments)
    pruned = tlt_prune.prune_model(model, ratio=0.5, **TINY)
    assert pruned.compiled
    assert type(pruned.optimizer) is type(model.optimizer)
    assert pruned.optimizer is not model.optimizer
    if name == "optimizer class":
        assert float(pruned.optimizer.learning_rate) == 0.25
    pruned.fit(np.zeros((4, 8)), np.zeros((4, 3)), verbose=0)
    assert int(model.optimizer.iterations) == 0


def test_a_loss_is_scaled_whatever_the_policy_is_now() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = simple()
        model.compile("sgd", "mse")
    finally:
        keras.config.set_dtype_policy("float32")
    pruned = tlt_prune.prune_model(model, ratio=0.5, **TINY)
    assert type(pruned.optimizer) is type(model.optimizer) is keras.optimizers.LossScaleOptimizer


class ThatFails(keras.optimizers.SGD):
    def get_config(self) -> dict[str, Any]:
        raise RuntimeError("not to be written down")


def test_a_compile_argument_that_cannot_be_copied_is_said() -> None:
    model = simple()
    model.compile(ThatFails(), "mse")
    with pytest.warns(UserWarning, match=r"not compiled: .* not to be written down"):
        assert not tlt_prune.prune_model(model, ratio=0.5, **TINY).compiled
