"""Models and data at the edge of what files take: names, types, shared layers, values that are not finite."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from keras import layers
from numpy.typing import NDArray

from tlt_prune import export
from tlt_prune import quantization as q
from tlt_prune.errors import ExportError, QuantizationError, UnsupportedModelError
from tlt_prune.onnx import relative_difference

Writer = Callable[..., float]
WRITERS: dict[str, Writer] = {"m.onnx": export.export_onnx, "m": export.export_saved_model, "m.tflite": export.export_litert}


def values(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def network() -> keras.Model:
    x = keras.Input((12, 12, 3))
    y = layers.Conv2D(32, 3, use_bias=False, name="c1")(x)
    y = layers.Conv2D(32, 3, name="c2")(layers.ReLU()(layers.BatchNormalization(name="b1")(y)))
    return keras.Model(x, layers.Dense(20, name="d")(layers.GlobalAveragePooling2D()(y)))


X = values(16, 12, 12, 3)


def int8_kernels(path: str | os.PathLike[str]) -> int:
    graph = onnx.load(path).graph
    return sum(t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1 for t in graph.initializer)


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_the_layout_is_that_of_the_layers_that_read_the_input(last: bool, tmp_path: pathlib.Path) -> None:
    shape = (16, 14, 3) if last else (3, 16, 14)
    convolution = layers.Conv2D(8, 3, data_format="channels_last" if last else "channels_first")
    inner = keras.Sequential([keras.Input(shape), layers.ReLU(), convolution])
    x = keras.Input(shape)
    # Flatten says "channels_last" unless told otherwise.
    model = keras.Model(x, layers.Dense(4)(layers.Flatten()(inner(layers.Rescaling(0.5)(x)))))
    export.export_onnx(model, tmp_path / "m.onnx", values(4, *shape), layout="NCHW")
    (received,) = export.load_predictor(tmp_path / "m.onnx").input_shapes.values()
    assert received == (None, 3, 16, 14)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_calibration_for_litert_must_be_finite(bad: float, tmp_path: pathlib.Path) -> None:
    data = X.copy()
    data[3, 0, 0, 0] = bad
    with pytest.raises(ExportError, match="NaN or infinity in 1 of 16 examples"):
        export.export_litert(network(), tmp_path / "m.tflite", X, precision="int8", calibration=data)
    assert not list(tmp_path.iterdir())


def test_a_layer_that_is_called_twice_in_int8(tmp_path: pathlib.Path) -> None:
    a, b = keras.Input((12, 12, 3)), keras.Input((12, 12, 3))
    tower = keras.Sequential(
        [keras.Input((12, 12, 3)), layers.Conv2D(32, 3), layers.ReLU(), layers.Conv2D(32, 3), layers.GlobalAveragePooling2D()]
    )
    model = keras.Model([a, b], layers.Dense(4)(layers.Subtract()([tower(a), tower(b)])))
    given = [X, X[::-1].copy()]
    # A tuple of arrays is one per input.
    aware = q.quantization_aware(model, (given[0], given[1]))
    export.export_onnx(aware, tmp_path / "aware.onnx", given)
    expected = aware.predict(given, verbose=0)
    found = export.load_predictor(tmp_path / "aware.onnx").run(given)[0]
    assert relative_difference([expected], [found]) < 0.05
    export.export_onnx(model, tmp_path / "m.onnx", given)
    for target in ("tensorrt", "onnxruntime"):
        result = q.quantize_onnx(tmp_path / "m.onnx", tmp_path / "int8.onnx", (given[0], given[1]), target=target, excluded=[])
        assert result.difference < 0.1
        # The file has every weight once.
        assert int8_kernels(tmp_path / "int8.onnx") == 3
        found = export.load_predictor(tmp_path / "int8.onnx").run(given)[0]
        assert relative_difference([model.predict(given, verbose=0)], [found]) < 0.1


@pytest.mark.parametrize("name", WRITERS)
def test_a_model_of_nan_is_refused_whichever_output_has_it(name: str, tmp_path: pathlib.Path) -> None:
    x = keras.Input((6,))
    model = keras.Model(x, [layers.Dense(4, name="a")(x), layers.Dense(4, name="b")(x)])
    model.get_layer("b").kernel.assign(np.full((6, 4), np.nan))
    with pytest.raises(ExportError, match="the Keras model answers NaN or infinity on the samples"):
        WRITERS[name](model, tmp_path / name, values(3, 6))
    assert not list(tmp_path.iterdir())


def test_a_difference_of_nan_is_nan() -> None:
    right, wrong = np.ones(2), np.array([1.0, np.nan])
    assert np.isnan(relative_difference([right, right], [right, wrong]))
    assert np.isnan(relative_difference([right, right], [wrong, right]))
    assert relative_difference([right, right], [right, right + 0.5]) == 0.5


def test_what_cannot_be_quantized_is_said(tmp_path: pathlib.Path) -> None:
    source, path = tmp_path / "m.onnx", tmp_path / "int8.onnx"
    export.export_onnx(network(), source, X, precision="float16")
    with pytest.raises(QuantizationError, match=r"has float16 weights. Expected a float32 file"):
        q.quantize_onnx(source, path, X)
    export.export_onnx(network(), source, X)
    for excluded, message in (
        ("c1", r"expected a list of .*, such as \['c1'\]"),
        (["c1("], "is no regular expression"),
    ):
        with pytest.raises(QuantizationError, match=message):
            q.quantize_onnx(source, path, X, excluded=excluded)
    for data in (None, {"x": X}, len):
        with pytest.raises(QuantizationError, match="Calibration set: expected an array"):
            q.quantize_onnx(source, path, data)  # type: ignore[arg-type]
    x = keras.Input((12, 12, 3))
    export.export_onnx(keras.Model(x, layers.MaxPooling2D()(x)), source, X)
    with pytest.raises(QuantizationError, match="nothing to quantize"):
        q.quantize_onnx(source, path, X)
    assert not path.exists()


def test_a_fixed_batch_size_is_calibrated_in_batches_of_it(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "m.onnx"
    for size, examples in ((1, 16), (3, 15)):
        export.export_onnx(network(), source, X, batch_size=size)
        assert q.quantize_onnx(source, tmp_path / "int8.onnx", X).examples == examples
    with pytest.raises(QuantizationError, match=r"inputs of shape \(3, 12, 12, 3\). Received: \(2, 12, 12, 3\)"):
        q.quantize_onnx(source, tmp_path / "int8.onnx", X[:2])
    for size in (0, -1, 1.5):
        with pytest.raises(ExportError, match="batch_size: expected a whole number of at least 1"):
            export.export_onnx(network(), source, X, batch_size=size)  # type: ignore[arg-type]


def test_integer_inputs_have_no_ranges(tmp_path: pathlib.Path) -> None:
    x = keras.Input((4,), dtype="int32")
    model = keras.Model(x, layers.Dense(32)(layers.Embedding(10, 32)(layers.Add()([x, x]))))
    ids = np.random.default_rng(0).integers(0, 5, (32, 4)).astype(np.int32)
    export.export_onnx(model, tmp_path / "m.onnx", ids)
    result = q.quantize_onnx(tmp_path / "m.onnx", tmp_path / "int8.onnx", ids)
    assert result.difference < 0.05
    assert x.name not in result.ranges


def test_tiny_values_count_as_zero() -> None:
    from tlt_prune.quantization.ranges import Histogram

    histogram = Histogram()
    histogram.add(np.full(3, 1e-36, np.float32))
    assert histogram.range("percentile", 99.99).maximum == 1


@pytest.mark.parametrize("name", WRITERS)
def test_outputs_in_a_dictionary_are_those_of_the_model(name: str, tmp_path: pathlib.Path) -> None:
    x = keras.Input((6,))
    model = keras.Model(x, {"boxes": layers.Dense(4)(x), "cls": layers.Dense(4)(x)})
    WRITERS[name](model, tmp_path / name, values(3, 6))
    found = export.load_predictor(tmp_path / name).run(values(2, 6))
    for key, value in zip(("boxes", "cls"), found, strict=True):
        np.testing.assert_allclose(value, model(values(2, 6))[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", WRITERS)
def test_inputs_of_any_name(name: str, tmp_path: pathlib.Path) -> None:
    names = ["image.1", "my input", "größe", "_x", "image_1", "2nd"]
    inputs = [keras.Input((n + 2,), name=each) for n, each in enumerate(names)]
    model = keras.Model(inputs, layers.Dense(4)(layers.Concatenate()(inputs)))
    given = [values(3, n + 2) for n in range(len(names))]
    WRITERS[name](model, tmp_path / name, given)
    predictor = export.load_predictor(tmp_path / name)
    by_width = {x.shape[1]: x for x in given}
    fed = [by_width[shape[1]] for shape in predictor.input_shapes.values()]
    np.testing.assert_allclose(predictor.run(fed)[0], model(given), rtol=1e-5, atol=1e-6)


def test_an_output_that_is_an_input(tmp_path: pathlib.Path) -> None:
    x = keras.Input((8,), name="x")
    model = keras.Model(x, [x, layers.Dense(4)(x)])
    export.export_onnx(model, tmp_path / "m.onnx", values(3, 8))
    np.testing.assert_array_equal(export.load_predictor(tmp_path / "m.onnx").run(values(2, 8))[0], values(2, 8))


@pytest.mark.parametrize("name", [*WRITERS, "m.keras"])
def test_numbers_of_any_type_are_taken(name: str, tmp_path: pathlib.Path) -> None:
    model, given = network(), X.astype(np.float64)
    model.save(tmp_path / name) if name == "m.keras" else WRITERS[name](model, tmp_path / name, given)
    np.testing.assert_allclose(export.load_predictor(tmp_path / name)(given[:2]), model(X[:2]), rtol=1e-4, atol=1e-5)


def test_samples_of_two_inputs_are_equally_many(tmp_path: pathlib.Path) -> None:
    a, b = keras.Input((4,)), keras.Input((4,))
    with pytest.raises(ExportError, match=r"Received: \(8, 4\), \(4, 4\)"):
        export.export_onnx(keras.Model([a, b], layers.Add()([a, b])), tmp_path / "m.onnx", [values(8, 4), values(4, 4)])
    unbuilt: Any = keras.Sequential([layers.Dense(3)])
    with pytest.raises(ExportError, match="has no inputs that are known"):
        export.export_onnx(unbuilt, tmp_path / "m.onnx", values(8, 4))


def test_litert_with_open_sizes(tmp_path: pathlib.Path) -> None:
    x = keras.Input((None, None, 3))
    model = keras.Model(x, layers.Conv2D(4, 3)(x))
    export.export_litert(model, tmp_path / "m.tflite", X)
    found = export.load_predictor(tmp_path / "m.tflite").run(values(2, 9, 7, 3))[0]
    np.testing.assert_allclose(found, model(values(2, 9, 7, 3)), rtol=1e-4, atol=1e-5)


def test_a_model_that_has_a_quantized_one_inside(tmp_path: pathlib.Path) -> None:
    aware, x = q.quantization_aware(network(), X), keras.Input((12, 12, 3))
    model = keras.Model(x, layers.Softmax()(aware(x)))
    assert q.is_quantization_aware(model)
    export.export_onnx(model, tmp_path / "m.onnx", X)
    assert int8_kernels(tmp_path / "m.onnx") == 3
    with pytest.raises(ExportError, match="was trained with the symmetric int8"):
        export.export_litert(model, tmp_path / "m.tflite", X, precision="int8", calibration=X)


def test_a_model_of_mixed_precision_is_quantized_in_float32(tmp_path: pathlib.Path) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    model = network()
    keras.config.set_dtype_policy("float16")
    half = network()
    keras.config.set_dtype_policy("float32")
    aware = q.quantization_aware(model, X)
    export.export_onnx(aware, tmp_path / "m.onnx", X)
    assert relative_difference([model.predict(X, verbose=0)], [aware.predict(X, verbose=0)]) < 0.1
    for make in (lambda: q.quantization_aware(half, X), lambda: export.export_onnx(half, tmp_path / "n.onnx", X)):
        with pytest.raises(UnsupportedModelError, match=r"has weights of float16 \('c1/kernel'\)"):
            make()


def test_models_inside_with_layers_of_equal_names(tmp_path: pathlib.Path) -> None:
    def tower(name: str) -> keras.Model:
        parts = [keras.Input((12, 12, 3)), layers.Conv2D(16, 3, name="conv1"), layers.GlobalAveragePooling2D(name="gap")]
        return keras.Sequential(parts, name=name)

    x = keras.Input((12, 12, 3))
    model = keras.Model(x, layers.Dense(4)(layers.Concatenate()([tower("t1")(x), tower("t2")(x)])))
    aware = q.quantization_aware(model, X, excluded=["t2/conv1"])
    assert relative_difference([model.predict(X, verbose=0)], [aware.predict(X, verbose=0)]) < 0.1
    export.export_onnx(aware, tmp_path / "m.onnx", X)
    assert int8_kernels(tmp_path / "m.onnx") == 2
    folded = q.fold_batch_norms(model)
    assert relative_difference([model.predict(X, verbose=0)], [folded.predict(X, verbose=0)]) < 1e-5
    # The model itself has its names.
    assert [m.layers[0].name for m in model.layers if isinstance(m, keras.Model)] == ["conv1", "conv1"]
    with pytest.raises(UnsupportedModelError, match="has several layers called 'conv1'"):
        q.to_tf_keras(model)


def test_a_quantization_of_nothing_is_refused() -> None:
    with pytest.raises(QuantizationError, match="has nothing to quantize"):
        q.quantization_aware(network(), X, excluded=["*"])
    with pytest.raises(QuantizationError, match=r"percentile: expected more than 50 and at most 100. Received: 0"):
        q.quantization_aware(network(), X, percentile=0)


def test_engines_for_what_they_take(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ExportError, match=r"expected batch sizes of 1 <= minimum <= optimum <= maximum. Received: 4, 1, 16"):
        export.EngineOptions((12, 12), minimum=4)
    x = keras.Input((None, 8))
    export.export_onnx(keras.Model(x, layers.Dense(4)(x)), tmp_path / "m.onnx", values(3, 5, 8))
    with pytest.raises(ExportError, match=r"has open sizes \(\?, 8\) that are not a picture's"):
        export.trtexec_command(tmp_path / "m.onnx", export.EngineOptions((12, 12)))


def test_a_twin_computes_the_same_or_is_refused() -> None:
    def of(activation: str) -> keras.Model:
        x = keras.Input((8,))
        return keras.Model(x, layers.Dense(4, activation=activation)(x))

    for same in ("gelu", "silu", "relu6"):
        assert q.to_tf_keras(of(same))[1] < 1e-6
    with pytest.raises(UnsupportedModelError, match=r"differs by .* Expected at most 1e-03"):
        q.to_tf_keras(of("hard_sigmoid"))
    with pytest.raises(UnsupportedModelError, match="tf_keras has no activation 'celu'"):
        q.to_tf_keras(of("celu"))
    twin: Any = q.to_tf_keras(of("gelu"))[0]
    with pytest.raises(ExportError, match="expected a Keras 3 model"):
        export.export_onnx(twin, "x.onnx", values(3, 8))


def test_what_litert_lacks_is_named(tmp_path: pathlib.Path) -> None:
    x = keras.Input((5, 8))
    with pytest.raises(ExportError, match="LiteRT has no operation for TensorFlow's TensorListReserve"):
        export.export_litert(keras.Model(x, layers.LSTM(4)(x)), tmp_path / "m.tflite", values(4, 5, 8))
