"""LiteRT files compute what Keras computes, in LiteRT's own interpreter."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
from helpers import INFO, randomize

from tlt_prune import export, models, prune_model
from tlt_prune.errors import ExportError, QuantizationError
from tlt_prune.quantization import quantization_aware, train_for_litert


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return prune_model(randomize(models.build("resnet10", (16, 16, 3), 4, width=0.5)), ratio=0.5)


def pictures(model: keras.Model, count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *model.input_shape[1:])).astype("float32")


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_precisions(model: keras.Model, tmp_path: pathlib.Path, precision: str) -> None:
    path, x = tmp_path / "m.tflite", pictures(model, 64)
    error = export.export_litert(model, path, x[:8], precision=precision, calibration=x, info=INFO)
    assert error < {"float32": 1e-5, "float16": 1e-2, "int8": 0.1}[precision]
    read = export.load_predictor(path)
    assert read.kind == "litert"
    assert read.info == INFO
    assert read.input_shapes == {"input_1": (None, 16, 16, 3)}
    # Batch normalization is folded: two numbers a channel become one.
    folded = sum(x.count_params() for x in model.layers if not isinstance(x, keras.layers.BatchNormalization))
    assert folded <= read.params <= folded + 200
    size = {"float32": 4, "float16": 2, "int8": 1}[precision]
    assert read.file_bytes < size * read.params + 40_000
    expected = np.asarray(model(x, training=False))
    difference = np.abs(read(x) - expected).max() / np.abs(expected).max()
    assert difference == pytest.approx(error, abs={"float32": 1e-5, "float16": 1e-2, "int8": 0.1}[precision])
    if precision == "int8":
        assert difference > 1e-4


def test_several_inputs_and_outputs(tmp_path: pathlib.Path) -> None:
    a, b = keras.Input((6, 8, 3), name="right"), keras.Input((4,), name="left")
    y = keras.layers.Flatten()(keras.layers.Conv2D(2, 3, padding="same")(a))
    many = [keras.layers.Dense(n + 1)(b) for n in range(11)]
    model = keras.Model({"left": b, "right": a}, [keras.layers.Concatenate()([y, b]), *many])
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((5, *i.shape[1:])).astype("float32") for i in model.inputs]
    export.export_litert(model, tmp_path / "two.tflite", x)
    export.export_saved_model(model, tmp_path / "two", x)
    by_name = dict(zip((i.name for i in model.inputs), x, strict=True))
    expected = [np.asarray(y) for y in model(by_name)]
    for name in ("two.tflite", "two"):
        read = export.load_predictor(tmp_path / name)
        assert set(read.input_shapes) == {"left", "right"}
        for received, wanted in zip(read.run([by_name[i] for i in read.input_shapes]), expected, strict=True):
            np.testing.assert_allclose(received, wanted, rtol=1e-4, atol=1e-5)


def test_trained_with_quantization(tmp_path: pathlib.Path) -> None:
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3), name="image")
    y = keras.layers.ReLU()(keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, use_bias=False)(image)))
    y = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3, activation="relu")(y))
    model = randomize(keras.Model(image, keras.layers.Dense(4, activation="softmax")(y)))
    before = [np.array(w) for w in model.get_weights()]
    x, y = pictures(model, 64), np.eye(4, dtype="float32")[np.arange(64) % 4]
    aware = train_for_litert(model, tf.data.Dataset.from_tensor_slices((x, y)).batch(16), epochs=2)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    export.export_litert(aware, tmp_path / "m.tflite", x)
    read = export.load_predictor(tmp_path / "m.tflite")
    assert read.file_bytes < read.params + 20_000
    assert np.mean(read(x).argmax(1) == np.asarray(aware(x, training=False)).argmax(1)) > 0.9


def test_bad_input(model: keras.Model, tmp_path: pathlib.Path) -> None:
    path, x = tmp_path / "m.tflite", pictures(model, 4)
    for options, message in (
        ({"precision": "int4"}, "expected one of float32, float16, int8"),
        ({"precision": "int8"}, "int8 needs inputs to measure ranges on"),
        ({"precision": "int8", "calibration": x[:, :8]}, r"takes inputs of shape \(None, 16, 16, 3\)"),
        ({"tolerance": -1.0}, "nothing was written"),
    ):
        with pytest.raises(ExportError, match=message):
            export.export_litert(model, path, x, **options)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=r"symmetric int8 of TensorRT and onnxruntime \(train.qat\)"):
        export.export_litert(quantization_aware(model, [x]), path, x)
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"nothing")
    with pytest.raises(ExportError, match="as LiteRT"):
        export.load_predictor(path)


def test_what_model_optimization_cannot_quantize() -> None:
    x = keras.Input((8, 8, 4))
    with pytest.raises(QuantizationError, match="cannot quantize"):
        train_for_litert(keras.Model(x, keras.layers.Conv3D(2, 1)(keras.layers.Reshape((8, 8, 4, 1))(x))), None)


def test_states_between_calls_are_refused(tmp_path: pathlib.Path) -> None:
    x = keras.Input(batch_shape=(2, 5, 6))
    inner = keras.Sequential([keras.Input(batch_shape=(2, 5, 6)), keras.layers.GRU(4, stateful=True, name="gru")])
    model = keras.Model(x, keras.layers.Dense(3)(inner(x)))
    for write, name in ((export.export_litert, "m.tflite"), (export.export_onnx, "m.onnx")):
        with pytest.raises(ExportError, match=r"'gru' keeps its states between calls \(stateful=True\). .* a SavedModel"):
            write(model, tmp_path / name, np.zeros((2, 5, 6), np.float32))
    assert not list(tmp_path.iterdir())


def test_what_litert_lacks_is_said(tmp_path: pathlib.Path) -> None:
    x = keras.Input((6, 6, 6, 2))
    model = keras.Model(x, keras.layers.MaxPooling3D()(x))
    with pytest.raises(ExportError, match="LiteRT has no operation for TensorFlow's MaxPool3D"):
        export.export_litert(model, tmp_path / "m.tflite", np.zeros((1, 6, 6, 6, 2), "float32"))
    assert list(tmp_path.iterdir()) == []


def test_words_are_integers_in_calibration_too(tmp_path: pathlib.Path) -> None:
    words = keras.Input((6,), dtype="int32", name="words")
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(10, 8)(words))
    model = keras.Model(words, keras.layers.Dense(3)(x))
    inputs = np.random.default_rng(0).integers(0, 10, (32, 6)).astype("int32")
    assert export.export_litert(model, tmp_path / "m.tflite", inputs, precision="int8", calibration=inputs) < 0.1
