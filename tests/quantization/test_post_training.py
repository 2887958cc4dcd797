"""Q/DQ as TensorRT documents it, placed where it wants it, with values that hold."""

from __future__ import annotations

import collections
import pathlib
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from helpers import randomize
from tensorrt_graph import check_tensorrt, pictures

from tlt_prune import export, models, quantization
from tlt_prune.errors import QuantizationError
from tlt_prune.quantization.post_training import TARGETS
from tlt_prune.quantization.qdq import quantized_weight


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> tuple[keras.Model, pathlib.Path]:
    keras.utils.set_random_seed(0)
    model = randomize(models.build("resnet10", (24, 24, 3), 5, width=0.25))
    path = tmp_path_factory.mktemp("float") / "model.onnx"
    export.export_onnx(model, path, pictures(model, 4))
    return model, path


@pytest.mark.parametrize("method", quantization.METHODS)
def test_a_residual_network(residual: tuple[keras.Model, pathlib.Path], tmp_path: pathlib.Path, method: str) -> None:
    model, source = residual
    x = pictures(model)
    found = quantization.quantize_onnx(source, tmp_path / "int8.onnx", x, method=method, excluded=[])
    assert found.examples == len(x)
    assert found.difference < 0.1
    assert found.agreement > 0.9
    makers = check_tensorrt(found.path)
    # Every input, and every scale: what calibration says.
    constants = {x.name: onnx.numpy_helper.to_array(x) for x in onnx.load(found.path).graph.initializer}
    for node in makers.values():
        if node.op_type == "QuantizeLinear":
            assert constants[node.input[1]] == np.float32(found.ranges[node.input[0]].scale)
    # A quarter of the size, and the same answers as the float file.
    assert found.path.stat().st_size < 0.4 * source.stat().st_size
    np.testing.assert_allclose(export.load_predictor(found.path)(x), export.load_predictor(source)(x), atol=0.05)


def test_one_summand_stays_with_its_convolution(residual: tuple[keras.Model, pathlib.Path], tmp_path: pathlib.Path) -> None:
    _, source = residual
    found = quantization.quantize_onnx(source, tmp_path / "int8.onnx", pictures(residual[0]), excluded=[])
    makers = check_tensorrt(found.path)
    additions = [node for node in makers.values() if node.op_type == "Add" and all(name in makers for name in node.input)]
    assert len(additions) == 4
    for node in additions:
        assert collections.Counter(makers[name].op_type for name in node.input) == {"Conv": 1, "DequantizeLinear": 1}


def test_layers_of_few_channels_stay_float_for_tensorrt(tmp_path: pathlib.Path) -> None:
    """Of fewer than 16 input or output channels, those of all groups together; onnxruntime's kernels gain by int8 anyway."""
    image = keras.Input((12, 12, 3))
    y = keras.layers.Conv2D(16, 3, activation="relu", name="three_in")(image)
    y = keras.layers.DepthwiseConv2D(3, activation="relu", name="depthwise")(y)
    y = keras.layers.Conv2D(16, 3, activation="relu", name="wide")(y)
    y = keras.layers.Conv2D(15, 1, activation="relu", name="fifteen_out")(y)
    y = keras.layers.Conv2D(16, 1, activation="relu", name="fifteen_in")(y)
    y = keras.layers.Conv2DTranspose(16, 2, strides=2, activation="relu", name="transposed")(y)
    y = keras.layers.GlobalAveragePooling2D()(y)
    y = keras.layers.Dense(16, activation="relu", name="dense")(y)
    model = randomize(keras.Model(image, keras.layers.Dense(5, name="head")(y)))
    x = pictures(model)
    export.export_onnx(model, tmp_path / "m.onnx", x)

    def in_int8(path: pathlib.Path) -> set[str]:
        graph = onnx.load(path).graph
        made = {name for node in graph.node for name in node.output}
        return {n.name for n in graph.node if n.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and n.input[1] in made}

    every = {"three_in", "depthwise", "wide", "fifteen_out", "fifteen_in", "transposed", "dense", "head"}
    found = quantization.quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", x)
    assert in_int8(found.path) == {"depthwise", "wide", "transposed", "dense"}
    assert set(found.narrow) == every - {"depthwise", "wide", "transposed", "dense"}
    for options in ({"excluded": []}, {"target": "onnxruntime"}):
        found = quantization.quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", x, **options)
        assert in_int8(found.path) == every
        assert found.narrow == ()
    patterns = [*quantization.narrow_layers(tmp_path / "m.onnx"), "wide"]
    found = quantization.quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", x, excluded=patterns)
    assert in_int8(found.path) == {"depthwise", "transposed", "dense"}


def test_depthwise_and_grouped_kernels(tmp_path: pathlib.Path) -> None:
    x = keras.Input((12, 12, 4), name="image")
    y = keras.layers.Conv2D(8, 3, groups=2)(x)
    y = keras.layers.ReLU()(keras.layers.BatchNormalization()(y))
    y = keras.layers.DepthwiseConv2D(3, depth_multiplier=2)(y)
    y = keras.layers.ReLU(6.0)(y)
    y = keras.layers.Conv2DTranspose(6, 2, strides=2)(y)
    net = randomize(keras.Model(x, keras.layers.Dense(3, name="out")(keras.layers.GlobalAveragePooling2D()(y))))
    export.export_onnx(net, tmp_path / "m.onnx", pictures(net, 4))
    found = quantization.quantize_onnx(tmp_path / "m.onnx", tmp_path / "int8.onnx", pictures(net), method="min_max", excluded=[])
    graph = onnx.load(found.path).graph
    sizes = {tuple(x.dims) for x in graph.initializer if x.data_type == onnx.TensorProto.INT8 and len(x.dims) == 4}
    assert sizes == {(8, 2, 3, 3), (16, 1, 3, 3), (16, 6, 2, 2)}
    assert found.difference < 0.1


def test_both_targets_and_exclusions(residual: tuple[keras.Model, pathlib.Path], tmp_path: pathlib.Path) -> None:
    model, source = residual
    x = pictures(model)
    for target in TARGETS:
        found = quantization.quantize_onnx(source, tmp_path / f"{target}.onnx", x, target=target)
        assert found.agreement > 0.9
    # A ReLU costs nothing where uint8 begins at zero.
    assert not any(node.op_type == "Relu" for node in onnx.load(tmp_path / "onnxruntime.onnx").graph.node)
    first = next(node for node in onnx.load(source).graph.node if node.op_type == "Conv")
    quantization.quantize_onnx(source, tmp_path / "some.onnx", x, excluded=[first.output[0]])
    kept = next(node for node in onnx.load(tmp_path / "some.onnx").graph.node if node.op_type == "Conv")
    assert list(kept.input) == list(first.input)


def test_a_weight_is_rounded_to_the_nearest() -> None:
    weight = np.array([[1.0, -0.5, 0.003], [0.0, 0.0, 0.0], [254.0, 2.9, -127.0]], np.float32)
    integers, scales = quantized_weight(weight, 0)
    np.testing.assert_array_equal(integers, [[127, -64, 0], [0, 0, 0], [127, 1, -64]])
    np.testing.assert_allclose(scales, [1 / 127, 1.0, 2.0], rtol=1e-7)


def test_several_inputs(tmp_path: pathlib.Path) -> None:
    a, b = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 2), name="right")
    y = keras.layers.Concatenate()([keras.layers.Conv2D(4, 3)(a), keras.layers.Conv2D(4, 3)(b)])
    net = randomize(keras.Model([a, b], keras.layers.Dense(3)(keras.layers.Flatten()(y))))
    x = [np.random.default_rng(i).standard_normal((40, *s.shape[1:])).astype("float32") for i, s in enumerate((a, b))]
    export.export_onnx(net, tmp_path / "m.onnx", [v[:4] for v in x])
    assert quantization.quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", tuple(x), method="min_max").difference < 0.05


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_infinite_in_between_stays_float(target: str, tmp_path: pathlib.Path) -> None:
    """The inverse norm of a pixel that is zero throughout, which Keras limits afterwards."""
    image = keras.Input((8, 8, 3), name="image")
    y = keras.layers.Conv2D(64, 1, activation="relu", use_bias=False)(image)
    y = keras.layers.Conv2D(4, 3)(keras.layers.UnitNormalization()(y))
    net = randomize(keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(y))))
    # Either nothing, or so much that rounding does not turn the vector around.
    x = np.random.default_rng(0).uniform(1, 2, (64, 8, 8, 3)).astype("float32")
    x[:, 0, 0] = 0
    export.export_onnx(net, tmp_path / "m.onnx", x[:4])
    done = quantization.quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", x, target=target)
    assert done.difference < 0.1
    float_tensors = {name for node in onnx.load(tmp_path / "m.onnx").graph.node for name in node.output}
    assert float_tensors - done.ranges.keys()
    assert all(np.isfinite(x.maximum) for x in done.ranges.values())


def test_bad_input_leaves_nothing(residual: tuple[keras.Model, pathlib.Path], tmp_path: pathlib.Path) -> None:
    model, source = residual
    x = pictures(model, 4)
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (x[:0], {}, "The calibration set is empty"),
        (iter([]), {}, "The calibration set is empty"),
        (x[:, :8], {}, r"takes inputs of shape \(None, 24, 24, 3\)\. Received: \(4, 8, 24, 3\)"),
        ((x, x), {}, "takes inputs of shape"),
        (np.where(x > 2, np.nan, x), {}, "Calibration: tensor 'input_1' has values that are not finite"),
        (x, {"method": "best"}, "expected one of min_max, percentile, entropy"),
        (x, {"percentile": 0}, "expected more than 50"),
        (x, {"target": "tpu"}, "expected one of tensorrt, onnxruntime"),
        (x, {"excluded": ["conv77"]}, "no node is called 'conv77'"),
    ]
    for data, options, message in cases:
        with pytest.raises(QuantizationError, match=message):
            quantization.quantize_onnx(source, tmp_path / "int8.onnx", data, **options)
    with pytest.raises(QuantizationError, match="Cannot load"):
        quantization.quantize_onnx(tmp_path / "none.onnx", tmp_path / "int8.onnx", x)
    assert list(tmp_path.iterdir()) == []
    quantization.quantize_onnx(source, tmp_path / "int8.onnx", x)
    with pytest.raises(QuantizationError, match="quantized already"):
        quantization.quantize_onnx(tmp_path / "int8.onnx", tmp_path / "twice.onnx", x)


def test_the_cache_names_the_tensors_of_the_float_file(
    residual: tuple[keras.Model, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    _, source = residual
    found = quantization.quantize_onnx(source, tmp_path / "int8.onnx", pictures(residual[0]))
    quantization.write_calibration_cache(tmp_path / "cal.bin", found.scales)
    scales = quantization.read_calibration_cache(tmp_path / "cal.bin")
    assert {k: np.float32(v) for k, v in found.scales.items()} == scales
    graph = onnx.load(source).graph
    assert {"input_1", graph.output[0].name} | {n.output[0] for n in graph.node if n.op_type == "Conv"} <= set(scales)
    np.testing.assert_allclose(found.to_frame()["scale"] * 127, found.to_frame()["maximum"])


def test_a_loop_reads_what_is_outside(tmp_path: pathlib.Path) -> None:
    words = keras.Input((6,), dtype="int32", name="words")
    x = keras.layers.GRU(4)(keras.layers.Embedding(10, 3)(words))
    model = keras.Model(words, keras.layers.Dense(2)(x))
    inputs = np.random.default_rng(0).integers(0, 10, (16, 6)).astype("int32")
    export.export_onnx(model, tmp_path / "m.onnx", inputs)
    found = quantization.quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", inputs)
    assert found.difference < 0.1
