"""Weight decay by its effect: the losses of a model, their values, and what `fit` reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from helpers import randomize

from tlt_prune import training
from tlt_prune.config.specs import RegConfig
from tlt_prune.graph.rules import registry

L = keras.layers
CONV = "conv2d"
# Every kind of layer in scope: its scope, its input shape, how it is built, and its kernels.
KINDS: dict[str, tuple[str, tuple[int, ...], Callable[..., Any], tuple[str, ...]]] = {
    "Conv1D": (CONV, (8, 3), lambda **k: L.Conv1D(4, 3, **k), ("kernel",)),
    "Conv2D": (CONV, (8, 8, 3), lambda **k: L.Conv2D(4, 3, **k), ("kernel",)),
    "Conv2D, grouped": (CONV, (8, 8, 4), lambda **k: L.Conv2D(4, 3, groups=2, **k), ("kernel",)),
    "Conv3D": (CONV, (4, 4, 4, 2), lambda **k: L.Conv3D(4, 2, **k), ("kernel",)),
    "Conv1DTranspose": (CONV, (8, 3), lambda **k: L.Conv1DTranspose(4, 3, **k), ("kernel",)),
    "Conv2DTranspose": (CONV, (8, 8, 3), lambda **k: L.Conv2DTranspose(4, 3, **k), ("kernel",)),
    "Conv3DTranspose": (CONV, (4, 4, 4, 2), lambda **k: L.Conv3DTranspose(4, 2, **k), ("kernel",)),
    "DepthwiseConv1D": (CONV, (8, 3), lambda **k: L.DepthwiseConv1D(3, **k), ("kernel",)),
    "DepthwiseConv2D": (CONV, (8, 8, 3), lambda **k: L.DepthwiseConv2D(3, **k), ("kernel",)),
    "SeparableConv1D": (CONV, (8, 3), lambda **k: L.SeparableConv1D(4, 3, **k), ("depthwise_kernel", "pointwise_kernel")),
    "SeparableConv2D": (CONV, (8, 8, 3), lambda **k: L.SeparableConv2D(4, 3, **k), ("depthwise_kernel", "pointwise_kernel")),
    "Dense": ("dense", (8,), lambda **k: L.Dense(4, **k), ("kernel",)),
}


def model_of(kind: str, use_bias: bool) -> tuple[keras.Model, Any]:
    _, shape, make, _ = KINDS[kind]
    layer = make(use_bias=use_bias, name="layer")
    x = keras.Input(shape)
    # Out of scope here: its parameters must never be penalized.
    y = L.BatchNormalization()(layer(x))
    model = randomize(keras.Model(x, L.Flatten()(y)))
    return model, layer


@pytest.mark.parametrize("regularize_bias", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_every_kind(kind: str, use_bias: bool, regularize_bias: bool) -> None:
    scope, _, _, kernels = KINDS[kind]
    model, layer = model_of(kind, use_bias)
    config = RegConfig(type="L2", weight_decay=0.5, scope=(scope,), bias=regularize_bias)
    assert training.set_regularizers(model, config) == 1
    penalized = [getattr(layer, name) for name in kernels] + ([layer.bias] if use_bias and regularize_bias else [])
    expected = 0.5 * sum(float(np.sum(np.asarray(v, np.float64) ** 2)) for v in penalized)
    assert len(model.losses) == len(penalized)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)
    assert expected > 0

    # What `fit` reports is the data's loss and the penalty: at a learning rate of zero nothing else moves.
    x = np.random.default_rng(0).standard_normal((4, *model.input_shape[1:])).astype("float32")
    model.compile(keras.optimizers.SGD(0.0), "mse")
    target = np.zeros((4, *model.output_shape[1:]), "float32")
    reported = model.fit(x, target, epochs=1, verbose=0).history["loss"][0]
    training.set_regularizers(model, RegConfig(type="none"))
    assert model.losses == []
    model.compile(keras.optimizers.SGD(0.0), "mse")
    plain = model.fit(x, target, epochs=1, verbose=0).history["loss"][0]
    assert reported - plain == pytest.approx(expected, rel=1e-3)


def test_the_kinds_are_those_in_scope() -> None:
    from tlt_prune.training import regularizers

    traits = {trait for traits in regularizers._SCOPES.values() for trait in traits}
    classes = {cls for cls in vars(L).values() if isinstance(cls, type)}
    in_scope = {cls.__name__ for cls in classes if not registry._LAYER_TRAITS.get(cls.__name__, frozenset()).isdisjoint(traits)}
    assert in_scope == {kind.partition(",")[0] for kind in KINDS}


def test_l1() -> None:
    model, layer = model_of("Conv2D", use_bias=False)
    training.set_regularizers(model, RegConfig(type="L1", weight_decay=0.25))
    assert float(sum(model.losses)) == pytest.approx(0.25 * float(np.abs(np.asarray(layer.kernel)).sum()), rel=1e-5)


def test_a_layer_out_of_scope_loses_its_penalty() -> None:
    x = keras.Input((8,))
    y = L.Dense(4, use_bias=False, kernel_regularizer=keras.regularizers.L2(1.0), name="dense")(x)
    model = keras.Model(x, y)
    assert len(model.losses) == 1
    assert training.set_regularizers(model, RegConfig(scope=("conv2d",))) == 0
    assert model.losses == []
    assert model.get_layer("dense").kernel_regularizer is None


def test_a_layer_of_another_kind_keeps_what_its_author_gave_it() -> None:
    x = keras.Input((5, 8))
    model = keras.Model(x, L.LSTM(4, kernel_regularizer=keras.regularizers.L2(1.0))(x))
    training.set_regularizers(model, RegConfig())
    assert len(model.losses) == 1


def test_weight_decay_moves_the_weights() -> None:
    """A network without biases, as the toolkit's are: training on nothing but the penalty shrinks every kernel."""
    x = keras.Input((8, 8, 3))
    y = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, use_bias=False, name="c")(x)))
    model = keras.Model(x, L.Dense(2, use_bias=False, name="d")(L.Flatten()(y)))
    training.set_regularizers(model, RegConfig(type="L2", weight_decay=0.1))
    before = {name: float(np.linalg.norm(model.get_layer(name).get_weights()[0])) for name in "cd"}
    # Pictures of zeros and targets of zeros: the data have no gradient.
    model.compile(keras.optimizers.SGD(0.5), "mse")
    model.fit(np.zeros((4, 8, 8, 3), "float32"), np.zeros((4, 2), "float32"), epochs=3, verbose=0)
    for name, norm in before.items():
        # w <- w - rate * 2 * decay * w, three times.
        assert float(np.linalg.norm(model.get_layer(name).get_weights()[0])) == pytest.approx(norm * 0.9**3, rel=1e-4)


@pytest.mark.parametrize(("kind", "axes"), [("Conv2D", (3,)), ("DepthwiseConv2D", (2, 3)), ("Dense", (1,))])
def test_group_lasso_is_the_sum_of_the_filters_norms(kind: str, axes: tuple[int, ...]) -> None:
    scope, _, _, _ = KINDS[kind]
    model, layer = model_of(kind, use_bias=False)
    training.set_regularizers(model, RegConfig(type="group_lasso", weight_decay=0.5, scope=(scope,)))
    kernel = np.asarray(layer.kernel, np.float64)
    others = tuple(i for i in range(kernel.ndim) if i not in axes)
    size = np.prod([kernel.shape[i] for i in others])
    expected = 0.5 * np.sqrt(size) * np.sqrt((kernel**2).sum(axis=others)).sum()
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)


def test_group_lasso_drives_filters_to_zero_and_has_a_gradient_there() -> None:
    penalty = training.GroupLasso(0.1)
    variable = keras.Variable(np.array([[3.0, 0.0], [4.0, 0.0]], np.float32))
    optimizer = keras.optimizers.SGD(0.1)
    import tensorflow as tf

    for _ in range(600):
        with tf.GradientTape() as tape:
            loss = penalty(variable)
        (gradient,) = tape.gradient(loss, [variable.value])
        assert np.isfinite(np.asarray(gradient)).all()
        optimizer.apply([gradient], [variable])
    np.testing.assert_allclose(np.asarray(variable), 0, atol=0.02)
    again = keras.regularizers.deserialize(keras.regularizers.serialize(penalty))
    assert again.get_config() == {"factor": 0.1, "axes": [-1]}


def test_the_scales_of_batch_normalization() -> None:
    model, _ = model_of("Conv2D", use_bias=False)
    norm = next(x for x in model.layers if isinstance(x, L.BatchNormalization))
    assert training.set_regularizers(model, RegConfig(type="none", bn_scale_decay=0.5)) == 1
    expected = 0.5 * float(np.abs(np.asarray(norm.gamma)).sum())
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)
    training.set_regularizers(model, RegConfig(type="none"))
    assert not model.losses
