"""Compensation: exact where theory says so, better elsewhere, and plain about where it does nothing."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from helpers import randomize

import tlt_prune
from tlt_prune.errors import PlanError
from tlt_prune.graph.reader import read
from tlt_prune.graph.tracer import trace
from tlt_prune.pruning.compensation import compensate
from tlt_prune.pruning.compensation.moments import Moments, behind_activation, moments, relu
from tlt_prune.pruning.compensation.synthetic import pictures_for
from tlt_prune.pruning.compensation.windows import WindowPositions, as_kernel, filter_count, kernel_rows, window_rows
from tlt_prune.pruning.rewrite.rewrite import rewrite

RNG = np.random.default_rng(0)


def difference(a: Any, b: Any, x: Any) -> float:
    return float(np.abs(np.asarray(a(x, training=False)) - np.asarray(b(x, training=False))).max())


def conv_net(consumer: Any, *, activation: str = "relu", gamma: float | None = None, bias: bool = False) -> keras.Model:
    """conv -> batch normalization -> activation -> `consumer` -> head."""
    x = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(8, 3, padding="same", name="conv", use_bias=bias)(x)
    y = keras.layers.Activation(activation)(keras.layers.BatchNormalization(name="bn")(y))
    y = consumer(y)
    if len(y.shape) == 4:
        y = keras.layers.GlobalAveragePooling2D()(y)
    model = randomize(keras.Model(x, keras.layers.Dense(3, name="head")(y)))
    if gamma is not None:
        # Every second channel is constant.
        values = model.get_layer("bn").get_weights()
        values[0][::2], values[1][::2] = gamma, [0.7, -0.3, 1.2, 0.4]
        model.get_layer("bn").set_weights(values)
    return model


def keep_odd(network: Any) -> Any:
    """Only `conv` is pruned: of its channels the even ones."""
    return {x.name: np.arange(x.count) % 2 for x in network.layers if x.name == "conv"}


def pruned_with(model: keras.Model, compensation: Any) -> Any:
    return tlt_prune.prune_model(
        model, ratio=0.5, criterion=keep_odd, granularity=1, min_num_filters=1, compensation=compensation, verify=True
    )


def in_conv(**options: Any) -> Any:
    return lambda x: keras.layers.Conv2D(6, 3, name="consumer", **options)(x)


def in_conv_transpose(x: Any) -> Any:
    return keras.layers.Conv2DTranspose(6, 4, strides=2, padding="same", name="consumer")(x)


def in_conv_bn(x: Any) -> Any:
    return keras.layers.BatchNormalization(name="bn2")(keras.layers.Conv2D(6, 3, name="consumer", use_bias=False)(x))


def in_dense(x: Any) -> Any:
    return keras.layers.Dense(6, activation="relu", name="consumer")(keras.layers.GlobalAveragePooling2D()(x))


def in_flat(x: Any) -> Any:
    return keras.layers.Dense(6, activation="relu", name="consumer")(keras.layers.Flatten()(x))


# --- exact where theory says so ---


@pytest.mark.parametrize("activation", ["relu", "tanh", "swish", "linear"])
@pytest.mark.parametrize("consumer", [in_conv(), in_conv(activation="relu"), in_conv_bn, in_dense, in_flat])
@pytest.mark.parametrize("kind", ["bias", "bias with data", "least squares"])
def test_constant_channels_go_without_a_trace(activation: str, consumer: Any, kind: str) -> None:
    model = conv_net(consumer, activation=activation, gamma=0.0)
    x = RNG.standard_normal((16, 8, 8, 3)).astype("float32")
    assert difference(model, pruned_with(model, None), x) > 1e-3
    compensation = {"bias": "bias", "bias with data": tlt_prune.Bias(x), "least squares": tlt_prune.LeastSquares(x)}[kind]
    pruned = pruned_with(model, compensation)
    assert pruned.get_layer("conv").filters == 4
    # A fit has its ridge.
    assert difference(model, pruned, x) < (2e-3 if kind == "least squares" else 2e-5)


@pytest.mark.parametrize("kind", ["bias", "bias with data"])
def test_at_a_padded_border_the_constant_is_the_interiors(kind: str) -> None:
    model = conv_net(lambda x: keras.layers.Cropping2D(1)(in_conv(padding="same")(x)), gamma=0.0)
    x = RNG.standard_normal((4, 8, 8, 3)).astype("float32")
    compensation = tlt_prune.Bias() if kind == "bias" else tlt_prune.Bias(x)
    channels = trace(model)
    plan = tlt_prune.plan_pruning(model, ratio=0.5, criterion=keep_odd, granularity=1, min_num_filters=1)
    alive = plan.alive(channels)
    pruned = rewrite(channels, alive)
    report = compensate(compensation, channels, alive, pruned).set_index("layer")
    assert difference(model, pruned, x) < 2e-5
    assert report.loc["consumer", "done"]
    assert "padded border" in report.loc["consumer", "note"]
    whole = conv_net(in_conv(padding="same"), gamma=0.0)
    assert difference(whole, pruned_with(whole, compensation), x) > 1e-4


@pytest.mark.parametrize("consumer", [in_conv(padding="same"), in_conv_transpose])
def test_least_squares_finds_what_the_others_can_explain(consumer: Any) -> None:
    """The removed filters are sums of retained ones: nothing is lost."""
    model = conv_net(consumer, activation="linear")
    kernel = model.get_layer("conv").get_weights()[0]
    kernel[..., 0::2] = kernel[..., 1::2] @ np.array([[1, 0.5, 0, 0], [0, 1, 2, 0], [0, 0, 1, -1], [1, 0, 0, 1]], np.float32)
    model.get_layer("conv").set_weights([kernel])
    values = model.get_layer("bn").get_weights()
    values[0][:], values[1][:], values[2][:], values[3][:] = 1, 0, 0, 1
    model.get_layer("bn").set_weights(values)
    x = RNG.standard_normal((32, 8, 8, 3)).astype("float32")
    assert difference(model, pruned_with(model, None), x) > 0.05
    assert difference(model, pruned_with(model, tlt_prune.LeastSquares(x, ridge=0)), x) < 2e-4


def test_least_squares_solves_the_normal_equations() -> None:
    """Against numpy's own least squares, on all positions at once."""
    model = conv_net(in_conv(padding="valid", strides=2))
    x = RNG.standard_normal((40, 8, 8, 3)).astype("float32")
    pruned = pruned_with(model, tlt_prune.LeastSquares(x, ridge=0, batch_size=16))
    upto = keras.Model(model.inputs[0], model.get_layer("consumer").input)
    inputs, target = (
        np.asarray(keras.Model(model.inputs[0], t)(x)) for t in (upto.outputs[0], model.get_layer("consumer").output)
    )
    rows = np.stack([inputs[:, i : i + 3, j : j + 3, 1::2].reshape(40, -1) for i in (0, 2, 4) for j in (0, 2, 4)], axis=1)
    rows = np.concatenate([rows.reshape(-1, 36), np.ones((rows.shape[0] * 9, 1))], axis=1)
    solution = np.linalg.lstsq(rows.astype(np.float64), target.reshape(-1, 6).astype(np.float64), rcond=None)[0]
    kernel, bias = pruned.get_layer("consumer").get_weights()
    np.testing.assert_allclose(kernel.reshape(36, 6), solution[:-1], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(bias, solution[-1], rtol=1e-3, atol=1e-4)


def test_a_shortcuts_loss_is_made_up_for_by_what_is_added_to_it() -> None:
    """The stream that a block is added to has lost something already: the block's last layer is fitted to the sum."""

    def block(first: Any, last: Any) -> keras.Model:
        x = keras.Input((4, 4, 3))
        stream = keras.layers.Conv2D(6, 1, name="stem")(x)
        hidden = keras.layers.Conv2D(8, 1, name="conv", use_bias=False)(x)
        stream = keras.layers.Add()([stream, keras.layers.Conv2D(6, 1, name="first")(hidden)])
        y = keras.layers.Conv2D(6, 1, name="last", use_bias=False)(keras.layers.Conv2D(3, 1, name="copy", use_bias=False)(x))
        y = keras.layers.Add()([stream, keras.layers.BatchNormalization(name="norm")(y)])
        return randomize(keras.Model(x, keras.layers.Dense(3)(keras.layers.Flatten()(y))))

    model = block(None, None)
    model.get_layer("copy").set_weights([np.eye(3, dtype=np.float32).reshape(1, 1, 3, 3)])
    x = RNG.standard_normal((32, 4, 4, 3)).astype("float32")
    # 8 channels from 3 by a linear layer: any 4 of them, and any 3, explain the rest; with 1 the stream loses for good.
    options = {"criterion": lambda n: {"conv": np.arange(8.0)}, "granularity": 1, "min_num_filters": 1}
    plain = tlt_prune.prune_model(model, ratio=0.87, **options)
    fitted = tlt_prune.prune_model(model, ratio=0.87, compensation=tlt_prune.LeastSquares(x, ridge=1e-9), **options)
    assert difference(model, plain, x) > 0.5
    assert difference(model, fitted, x) < 1e-3 * difference(model, plain, x)


# --- moments ---


@pytest.mark.parametrize("function", [keras.activations.relu, keras.activations.tanh, keras.activations.gelu, keras.ops.relu6])
def test_moments_of_activations_against_sampling(function: Any) -> None:
    mean, deviation = np.array([-1.0, 0.0, 0.5, 2.0]), np.array([0.5, 1.0, 2.0, 0.1])
    sample = np.asarray(function((mean + deviation * np.random.default_rng(1).standard_normal((200_000, 4))).astype("float32")))
    found = behind_activation(function, Moments(mean, deviation**2))
    np.testing.assert_allclose(found.mean, sample.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(found.variance, sample.var(axis=0), atol=0.03)


def test_relu_in_closed_form_is_what_the_integral_says() -> None:
    x = Moments(np.linspace(-3, 3, 13), np.linspace(0.1, 2, 13))
    exact, grid = relu(x), behind_activation(keras.ops.relu, x)
    np.testing.assert_allclose(exact.mean, grid.mean, atol=1e-4)
    np.testing.assert_allclose(exact.variance, grid.variance, atol=1e-3)
    constant = relu(Moments(np.array([-1.0, 0.0, 2.0]), np.zeros(3)))
    np.testing.assert_array_equal(constant.mean, [0, 0, 2])
    np.testing.assert_array_equal(constant.variance, [0, 0, 0])


def test_moments_pass_through_sums_pools_and_concatenations() -> None:
    x = keras.Input((8, 8, 3))
    a, b = (keras.layers.BatchNormalization(name=f"bn_{n}")(keras.layers.Conv2D(4, 3, name=n)(x)) for n in "ab")
    total = keras.layers.Add(name="sum")([a, b])
    both = keras.layers.Concatenate(name="both")([keras.layers.AveragePooling2D(2)(total), keras.layers.AveragePooling2D(2)(a)])
    flat = keras.layers.Flatten(name="flat")(both)
    top = keras.layers.MaxPooling2D(name="max")(total)
    model = randomize(keras.Model(x, [keras.layers.Dense(2)(flat), keras.layers.Flatten()(top)]))
    graph = read(model)
    known = moments(graph)
    of = {call.path: known.get(call.outputs[0].key) for call in graph.calls}
    beta = {n: np.asarray(model.get_layer(f"bn_{n}").beta) for n in "ab"}
    gamma = {n: np.asarray(model.get_layer(f"bn_{n}").gamma) for n in "ab"}
    np.testing.assert_allclose(of["sum"].mean, beta["a"] + beta["b"], rtol=1e-6)
    np.testing.assert_allclose(of["sum"].variance, gamma["a"] ** 2 + gamma["b"] ** 2, rtol=1e-6)
    np.testing.assert_allclose(of["both"].mean, np.concatenate([beta["a"] + beta["b"], beta["a"]]), rtol=1e-6)
    np.testing.assert_allclose(of["flat"].mean, np.tile(of["both"].mean, 9), rtol=1e-6)
    assert of["max"] is None


# --- batch normalization ---


@pytest.mark.parametrize("batch_size", [7, 64])
def test_recalibration_measures_what_each_layer_is_given(batch_size: int) -> None:
    model = conv_net(in_conv_bn)
    x = (3 * RNG.standard_normal((40, 8, 8, 3)) + 1).astype("float32")
    report = tlt_prune.recalibrate_batch_norm(model, x, batch_size=batch_size)
    assert report["done"].tolist() == [True, True]
    for name, source in (("bn", "conv"), ("bn2", "consumer")):
        seen = np.asarray(keras.Model(model.inputs[0], model.get_layer(source).output)(x), np.float64)
        _, _, mean, variance = model.get_layer(name).get_weights()
        np.testing.assert_allclose(mean, seen.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(variance, seen.var(axis=(0, 1, 2)), rtol=1e-4)


def test_recalibration_after_a_prune_changes_nothing_else() -> None:
    model = conv_net(in_conv_bn)
    x = RNG.standard_normal((16, 8, 8, 3)).astype("float32")
    plain, after = pruned_with(model, None), pruned_with(model, [tlt_prune.RecalibrateBatchNorm(x)])
    for a, b in zip(plain.weights, after.weights, strict=True):
        if "moving" not in a.name:
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert not np.allclose(plain.get_layer("bn2").moving_variance, after.get_layer("bn2").moving_variance)


# --- where nothing is done, and why ---


def report_of(model: keras.Model, compensation: Any, **options: Any) -> Any:
    channels = trace(model)
    plan = tlt_prune.plan_pruning(model, **{"ratio": 0.5, "granularity": 1, "min_num_filters": 1, **options})
    alive = plan.alive(channels)
    return compensate(compensation, channels, alive, rewrite(channels, alive)).set_index("layer")


def test_every_layer_that_is_left_alone_says_why() -> None:
    x = keras.Input((8, 8, 4))
    y = keras.layers.Conv2D(8, 3, name="conv")(x)
    shared = keras.layers.Conv2D(8, 3, padding="same", name="shared")
    y = shared(shared(y))
    y = keras.layers.Conv2D(8, 3, groups=2, name="grouped")(y)
    y = keras.layers.Conv2DTranspose(8, 3, dilation_rate=2, name="transposed")(keras.layers.BatchNormalization()(y))
    y = keras.layers.Conv2D(8, 3, use_bias=False, activation="relu", name="homeless")(keras.layers.BatchNormalization()(y))
    model = randomize(keras.Model(x, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(y))))
    data = RNG.standard_normal((8, 8, 8, 4)).astype("float32")
    expected = {
        "bias": {
            "shared": "called several times",
            "grouped": "without groups",
            "transposed": "Conv2DTranspose is left alone",
            "homeless": "no bias, and no batch normalization",
        },
        "least squares": {"shared": "called several times", "grouped": "without groups", "transposed": "is not fitted"},
    }
    for kind, compensation in (("bias", tlt_prune.Bias()), ("least squares", tlt_prune.LeastSquares(data))):
        report = report_of(model, compensation)
        for layer, note in expected[kind].items():
            rows = report.loc[[layer]]
            assert not rows["done"].any()
            assert note in rows["note"].iloc[0]
    homeless = report_of(model, tlt_prune.LeastSquares(data)).loc["homeless"]
    assert homeless["done"]
    assert "without a constant" in homeless["note"]
    report = report_of(conv_net(lambda z: in_conv()(keras.layers.MaxPooling2D()(z))), "bias")
    assert "give Bias some data" in report.loc["consumer", "note"]


@pytest.mark.parametrize(
    ("compensation", "message"),
    [
        ("baes", "compensation: expected"),
        (tlt_prune.LeastSquares, "compensation: expected"),
        (tlt_prune.LeastSquares(np.zeros((0, 8, 8, 3), np.float32)), "LeastSquares: the data is empty"),
        (tlt_prune.LeastSquares(np.zeros((4, 9, 8, 3), np.float32)), "takes inputs of shape"),
        (tlt_prune.LeastSquares(np.full((4, 8, 8, 3), np.nan, np.float32)), "not finite"),
        (tlt_prune.RecalibrateBatchNorm(None), "no data"),
        (tlt_prune.Bias([]), "the data is empty"),
    ],
)
def test_what_is_no_compensation_is_refused(compensation: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        pruned_with(conv_net(in_conv()), compensation)


def test_a_ridge_below_zero_is_refused() -> None:
    with pytest.raises(PlanError, match="ridge >= 0"):
        tlt_prune.LeastSquares(None, ridge=-1)


def test_pictures_are_made_up_for_pictures_only() -> None:
    x = keras.Input((5,))
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.Dense(32)(x)))
    with pytest.raises(PlanError, match=r"does not take one picture.*LeastSquares\(data\)"):
        tlt_prune.prune_model(model, ratio=0.5, compensation=tlt_prune.LeastSquares())


# --- what it is made of ---


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_made_up_pictures_have_the_mean_and_contrast_that_the_model_was_trained_with(first: bool, channels: int) -> None:
    if first and keras.backend.backend() == "jax":
        pytest.skip("JAX on CPU is tried with channels last")
    size = (channels, 16, 16) if first else (16, 16, channels)
    form = {"data_format": "channels_first"} if first else {}
    x = keras.Input(size)
    y = keras.layers.Conv2D(24, 3, use_bias=False, **form)(x)
    y = keras.layers.ReLU()(keras.layers.BatchNormalization(axis=1 if first else -1, name="bn")(y))
    model = randomize(keras.Model(x, keras.layers.Dense(2)(keras.layers.Flatten()(y))))
    true_mean, true_contrast = np.linspace(0.3, 0.6, channels), 0.25
    base = np.moveaxis(true_contrast * pictures_for(read(model), 7), 1, -1) if first else pictures_for(read(model), 7)
    base = base / base.std() * true_contrast
    real = base - base.mean(axis=(0, 1, 2)) + true_mean
    real = (np.moveaxis(real, -1, 1) if first else real).astype("float32")
    tlt_prune.recalibrate_batch_norm(model, real)
    made_up = pictures_for(read(model), 0)
    axes = (0, 2, 3) if first else (0, 1, 2)
    np.testing.assert_allclose(made_up.mean(axis=axes), true_mean, atol=0.05)
    np.testing.assert_allclose(made_up.std(), true_contrast, rtol=0.15)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Conv1D(4, 3, padding="causal", dilation_rate=2, use_bias=False),
        keras.layers.Conv1D(4, 4, strides=2, padding="same", use_bias=False),
        keras.layers.Conv2D(4, (3, 2), strides=2, padding="same", use_bias=False),
        keras.layers.Conv2D(4, 3, dilation_rate=2, padding="valid", use_bias=False),
        keras.layers.Conv2D(4, 5, strides=3, padding="same", use_bias=False),
        keras.layers.Conv3D(4, 2, strides=2, padding="same", use_bias=False),
        keras.layers.Dense(4, use_bias=False),
        keras.layers.Conv1DTranspose(4, 3, strides=2, padding="same", use_bias=False),
        keras.layers.Conv2DTranspose(4, 4, strides=2, padding="same", use_bias=False),
        keras.layers.Conv2DTranspose(4, (2, 5), strides=(2, 3), padding="valid", use_bias=False),
        keras.layers.Conv2DTranspose(4, 2, strides=3, padding="same", use_bias=False),
        keras.layers.Conv2DTranspose(4, 3, padding="same", use_bias=False),
        keras.layers.Conv3DTranspose(4, 3, strides=2, padding="valid", use_bias=False),
    ],
)
def test_window_rows_times_the_kernel_is_the_layer(layer: Any) -> None:
    rank = len(layer.kernel_size) if hasattr(layer, "kernel_size") else 1
    x = RNG.standard_normal((2, *(9, 8, 7)[:rank], 3)).astype("float32")
    expected = np.asarray(layer(x))
    positions = WindowPositions.of(x, layer, np.arange(WindowPositions.count(x, layer)))
    rows = window_rows(x, layer, positions)
    kernel = np.asarray(layer.kernel)
    np.testing.assert_allclose(rows @ kernel_rows(kernel, layer), expected.reshape(-1, 4), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(as_kernel(kernel_rows(kernel, layer), layer), kernel)
    assert filter_count(layer) == 4
