"""Strided 1 x 1 convolutions of few channels, whose gradient on a CPU is oneDNN's that writes where it must not."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
from keras import layers
from small_training import SIZE, run

from tlt_prune.training import narrow_shortcuts, subsampled_first


class Halved(layers.Conv2D):
    """Overrides what Keras documents for overriding."""

    def convolution_op(self, inputs: object, kernel: object) -> object:
        return super().convolution_op(inputs, 0.5 * kernel)


def test_narrow_strided_ones_are_taken_and_no_others() -> None:
    inner_in = keras.Input((16, 16, 8))
    inner = keras.Model(inner_in, layers.Conv2D(8, 1, 2, name="inside")(inner_in))
    x = inputs = keras.Input((64, 64, 3))
    x = layers.Conv2D(8, 3, 2, "same", name="of_nine_pixels")(x)
    x = layers.Conv2D(8, 1, name="without_strides")(x)
    x = layers.Conv2D(8, 1, 2, name="narrow")(x)
    x = layers.TimeDistributed(layers.Dense(8))(inner(x))
    x = Halved(16, 1, 2, name="of_the_user")(x)
    model = keras.Model(inputs, layers.Conv2D(8, 1, 2, name="wide")(x))
    with subsampled_first(model) as names:
        assert sorted(names) == ["inside", "narrow"]
        assert "convolution_op" in vars(model.get_layer("narrow"))
    assert not any("convolution_op" in vars(x) for x in model._flatten_layers())


@pytest.mark.parametrize(("rank", "size", "strides"), [(1, 33, 3), (2, 64, 2), (2, (17, 30), (2, 3)), (3, 9, 2)])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_what_is_computed_is_the_same(rank: int, size: object, strides: object, padding: str, data_format: str) -> None:
    sizes = size if isinstance(size, tuple) else (size,) * rank
    inputs = keras.Input((*sizes, 4) if data_format == "channels_last" else (4, *sizes))
    kind = (layers.Conv1D, layers.Conv2D, layers.Conv3D)[rank - 1]
    layer = kind(6, 1, strides, padding, data_format=data_format, activation="relu", bias_initializer="uniform")
    outputs = layer(inputs)
    x = np.random.default_rng(0).standard_normal((2, *inputs.shape[1:])).astype("float32")
    expected = keras.Model(inputs, outputs).predict(x, verbose=0)
    model = keras.Model(inputs, outputs)
    with subsampled_first(model) as names:
        assert names == [layer.name]
        got = model.predict(x, verbose=0)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_the_gradient_is_that_of_the_formula() -> None:
    """At a size where oneDNN's own ends the process."""
    inputs = keras.Input((64, 64, 8))
    layer = layers.Conv2D(16, 1, 2, use_bias=False)
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(1.0), "mse")
    before = layer.get_weights()[0][0, 0]
    x = np.random.default_rng(0).standard_normal((2, 64, 64, 8)).astype("float32")
    y = np.zeros((2, 32, 32, 16), "float32")
    with subsampled_first(model):
        model.train_on_batch(x, y)
    seen = x[:, ::2, ::2].reshape(-1, 8)
    gradient = 2 * seen.T @ (seen @ before) / y.size
    np.testing.assert_allclose(layer.get_weights()[0][0, 0], before - gradient, rtol=1e-5, atol=1e-6)


def test_the_scripts_training_computes_them_so(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def model() -> keras.Model:
        x = inputs = keras.Input(SIZE)
        for strides, name in ((1, "wide_enough"), (2, "shortcut")):
            x = layers.Conv2D(8, 1, strides, name=name)(x)
        return keras.Model(inputs, layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x)))

    taken = []
    computes = narrow_shortcuts._without_strides
    monkeypatch.setattr(narrow_shortcuts, "_without_strides", lambda layer: taken.append(layer.name) or computes(layer))
    result = run(tmp_path, epochs=1, model=model)
    assert taken == ["shortcut"]
    assert "convolution_op" not in vars(result.model.get_layer("shortcut"))
