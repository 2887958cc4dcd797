"""Exported files compute what Keras computes, or are not written."""

from __future__ import annotations

import json
import pathlib

import keras
import numpy as np
import onnx
import pytest
from helpers import INFO, randomize

import tlt_prune
from tlt_prune import export, models
from tlt_prune.errors import ExportError, NotReplacedError, SpecError
from tlt_prune.io import model_info


@pytest.fixture(scope="module", params=["channels_last", "channels_first"])
def model(request: pytest.FixtureRequest) -> keras.Model:
    keras.utils.set_random_seed(0)
    dense = randomize(models.build("resnet10", (36, 36, 3), 5, width=0.125, data_format=request.param))
    return tlt_prune.prune_model(dense, ratio=0.5, granularity=4, min_num_filters=4)


def samples(model: keras.Model, n: int = 3) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, *model.input_shape[1:])).astype("float32")


@pytest.mark.parametrize("opset", [13, 15, 17])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_onnx(model: keras.Model, tmp_path: pathlib.Path, opset: int, layout: str) -> None:
    path = tmp_path / "model.onnx"
    assert export.export_onnx(model, path, samples(model), opset=opset, layout=layout) < 1e-4
    graph = onnx.load(path)
    onnx.checker.check_model(graph)
    assert graph.opset_import[0].version == opset
    (value,) = graph.graph.input
    assert value.name == "input_1"
    assert [x.name for x in graph.graph.output] == ["head_fc5"]
    sizes = [d.dim_value for d in value.type.tensor_type.shape.dim]
    channels_first = model.input_shape[1] == 3
    assert sizes == [0, 3, 36, 36] if channels_first or layout == "NCHW" else [0, 36, 36, 3]
    assert not any(node.op_type == "BatchNormalization" for node in graph.graph.node)
    # An open batch, by another route than the one that checked it.
    predictor = export.load_predictor(path)
    batch = samples(model, 7)
    expected = np.asarray(model(batch, training=False))
    fed = np.transpose(batch, (0, 3, 1, 2)) if layout == "NCHW" and not channels_first else batch
    np.testing.assert_allclose(predictor(np.ascontiguousarray(fed)), expected, rtol=1e-3, atol=1e-5)
    assert predictor.channels_first(3) == (channels_first or layout == "NCHW")


def test_depthwise_batch_norm_is_folded(tmp_path: pathlib.Path) -> None:
    x = keras.Input((16, 16, 3), name="image")
    y = keras.layers.Conv2D(8, 3, use_bias=False)(x)
    y = keras.layers.ReLU()(keras.layers.BatchNormalization()(y))
    y = keras.layers.DepthwiseConv2D(3, use_bias=False)(y)
    y = keras.layers.ReLU()(keras.layers.BatchNormalization()(y))
    net = randomize(keras.Model(x, keras.layers.Dense(2, name="out")(keras.layers.GlobalAveragePooling2D()(y))))
    export.export_onnx(net, tmp_path / "m.onnx", samples(net))
    kinds = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert kinds.count("Conv") == 2
    assert not {"BatchNormalization", "Mul"} & set(kinds)


def test_saved_model(model: keras.Model, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "saved"
    for _ in range(2):  # an existing folder is replaced
        assert export.export_saved_model(model, path, samples(model)) < 1e-4
    predictor = export.load_predictor(path)
    assert predictor.params == model.count_params()
    batch = samples(model, 5)
    np.testing.assert_allclose(predictor(batch), np.asarray(model(batch, training=False)), rtol=1e-3, atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]


def test_a_file_that_differs_is_not_written(model: keras.Model, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ExportError, match="nothing was written"):
        export.export_onnx(model, tmp_path / "model.onnx", samples(model), tolerance=0.0)
    with pytest.raises(ExportError, match="nothing was written"):
        export.export_saved_model(model, tmp_path / "saved", samples(model), tolerance=-1.0)
    assert list(tmp_path.iterdir()) == []


def test_a_cpu_without_channels_first_layers(tmp_path: pathlib.Path) -> None:
    """As TensorFlow says it on a CPU where it leaves oneDNN off."""
    import tensorflow as tf

    def refuse(x: tf.Tensor) -> tf.Tensor:
        raise tf.errors.UnimplementedError(None, None, "The Conv2D op currently only supports the NHWC tensor format on the CPU.")

    def call(x: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.py_function(refuse, [x], tf.float32), x.shape)

    image = keras.Input((3, 8, 8))
    net = keras.Model(image, keras.layers.Lambda(call, output_shape=(3, 8, 8))(image))
    with pytest.raises(ExportError, match=r"channels-first layers, which need oneDNN.*TF_ENABLE_ONEDNN_OPTS=1"):
        export.export_saved_model(net, tmp_path / "saved", samples(net))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [({"opset": 12}, "13 to 17"), ({"layout": "HWC"}, "NHWC or NCHW"), ({"precision": "float8"}, "float32, float16")],
)
def test_bad_options(model: keras.Model, tmp_path: pathlib.Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export.export_onnx(model, tmp_path / "m.onnx", samples(model), **options)  # type: ignore[arg-type]


def test_trtexec_command(model: keras.Model, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.onnx"
    export.export_onnx(model, path, samples(model), layout="NCHW")
    command = export.trtexec_command(path, export.EngineOptions((8, 8), maximum=8))
    assert f"--onnx={path}" in command
    assert "--fp16" in command
    assert "--maxShapes=input_1:8x3x36x36" in command


def test_missing_and_wrong_files(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ExportError, match="There is no model"):
        export.load_predictor(tmp_path / "none.keras")
    for name, message in (("a.onnx", "Cannot load"), ("a.keras", "no whole .keras file"), ("a.h5", "Cannot load")):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(ExportError, match=message):
            export.load_predictor(tmp_path / name)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ExportError, match="SavedModel"):
        export.load_predictor(tmp_path / "folder")


def test_several_outputs_keep_their_names(tmp_path: pathlib.Path) -> None:
    x = keras.Input((8, 8, 3), name="image")
    y = keras.layers.Conv2D(4, 3, name="trunk")(x)
    net = keras.Model(x, [keras.layers.Conv2D(2, 1, name="zeta")(y), keras.layers.Conv2D(3, 1, name="alpha")(y)])
    export.export_onnx(net, tmp_path / "m.onnx", samples(net))
    assert [v.name for v in onnx.load(tmp_path / "m.onnx").graph.output] == ["zeta", "alpha"]


def test_grouped_convolutions(tmp_path: pathlib.Path) -> None:
    x = keras.Input((8, 8, 4), name="image")
    y = keras.layers.Conv2D(8, 3, groups=4, name="grouped")(x)
    net = keras.Model(x, keras.layers.Conv2D(8, 3, groups=8, name="out")(y))
    export.export_onnx(net, tmp_path / "m.onnx", samples(net))
    kinds = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert kinds.count("Conv") == 2


def test_what_belongs_to_a_model_travels_with_every_file(model: keras.Model, tmp_path: pathlib.Path) -> None:
    model.save(tmp_path / "m.keras")
    assert export.load_predictor(tmp_path / "m.keras").info is None
    model_info.write(tmp_path / "m.keras", INFO)
    export.export_onnx(model, tmp_path / "m.onnx", samples(model), info=INFO)
    export.export_saved_model(model, tmp_path / "m", samples(model), info=INFO)
    for name in ("m.keras", "m.onnx", "m"):
        assert export.load_predictor(tmp_path / name).info == INFO
    # Keras reads its file as before, without this package's help.
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again.predict_on_batch(samples(model)), model.predict_on_batch(samples(model)))


def test_nodes_are_called_as_layers(tmp_path: pathlib.Path) -> None:
    net = randomize(models.build("efficientnet_b0", (32, 32, 3), 4, width=0.25))
    export.export_onnx(net, tmp_path / "m.onnx", samples(net), tolerance=1e-3)
    graph = onnx.load(tmp_path / "m.onnx").graph
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    named = {node.name: node for node in convolutions}
    assert {x.name for x in net.layers if type(x) is keras.layers.Conv2D} <= set(named)
    # A depthwise one is called by itself, or by the normalization folded into it.
    others = [x.name for x in net.layers if isinstance(x, keras.layers.DepthwiseConv2D)]
    assert all((name in named) != (name.replace("_dwconv", "_bn") in named) for name in others)
    assert len(named) == len(convolutions)
    assert all(node.input[1] == f"{node.name}/kernel" for node in convolutions)
    assert {f"stem_activation/{kind}" for kind in ("Sigmoid", "Mul")} <= {node.name for node in graph.node}
    assert len({node.name for node in graph.node}) == len(graph.node)
    assert not [name for node in graph.node for name in node.output if "__" in name or ":" in name]


def test_a_layer_called_twice_is_two_nodes(tmp_path: pathlib.Path) -> None:
    x = keras.Input((6, 6, 3), name="image")
    shared, inner_x = keras.layers.Conv2D(3, 3, padding="same", name="shared"), keras.Input((6, 6, 3))
    inner = keras.Model(inner_x, keras.layers.Conv2D(3, 1, name="conv")(inner_x), name="inside")
    net = keras.Model(x, keras.layers.Conv2D(2, 1, name="out")(inner(shared(keras.layers.ReLU()(shared(x))))))
    export.export_onnx(net, tmp_path / "m.onnx", samples(net))
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert [node.name for node in graph.node if node.op_type == "Conv"] == ["shared", "shared_2", "inside/conv", "out"]


def two_inputs() -> tuple[keras.Model, list[np.ndarray]]:
    a, b = keras.Input((6, 8, 3), name="right"), keras.Input((4,), name="left")
    y = keras.layers.Flatten()(keras.layers.Conv2D(2, 3, padding="same")(a))
    net = keras.Model({"left": b, "right": a}, [keras.layers.Dense(3, name="of_both")(keras.layers.Concatenate()([y, b])), y])
    return net, [samples_of_shape(x.shape) for x in net.inputs]


def samples_of_shape(shape: tuple[int | None, ...]) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal((5, *shape[1:])).astype("float32")


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_several_inputs_and_outputs(tmp_path: pathlib.Path, layout: str) -> None:
    net, x = two_inputs()
    export.export_onnx(net, tmp_path / "two.onnx", x, layout=layout)
    export.export_saved_model(net, tmp_path / "two", x)
    net.save(tmp_path / "two.keras")
    expected = [np.asarray(y) for y in net(keras.tree.pack_sequence_as(net.input, x))]
    by_name = dict(zip((i.name for i in net.inputs), x, strict=True))
    for name in ("two.keras", "two", "two.onnx"):
        predictor = export.load_predictor(tmp_path / name)
        assert set(predictor.input_shapes) == {"left", "right"}
        fed = [by_name[i] for i in predictor.input_shapes]
        if predictor.kind == "onnx" and layout == "NCHW":
            fed = [np.transpose(v, (0, 3, 1, 2)) if v.ndim == 4 else v for v in fed]
        for a, b in zip(predictor.run(fed), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        with pytest.raises(ExportError, match=r"expected a model with one input\. It has 2: (left, right|right, left)\."):
            predictor.picture_size(3)


def test_samples_that_do_not_fit(tmp_path: pathlib.Path) -> None:
    net, x = two_inputs()
    for bad in (x[0], x[::-1], [v[:0] for v in x]):
        with pytest.raises(ExportError, match="takes inputs of shape"):
            export.export_onnx(net, tmp_path / "two.onnx", bad)
        with pytest.raises(ExportError, match="takes inputs of shape"):
            export.export_saved_model(net, tmp_path / "two", bad)
    assert list(tmp_path.iterdir()) == []


def test_half_precision(model: keras.Model, tmp_path: pathlib.Path) -> None:
    export.export_onnx(model, tmp_path / "single.onnx", samples(model))
    assert 1e-6 < export.export_onnx(model, tmp_path / "half.onnx", samples(model), precision="float16") < 1e-2
    onnx.checker.check_model(onnx.load(tmp_path / "half.onnx"), full_check=True)
    assert (tmp_path / "half.onnx").stat().st_size < 0.6 * (tmp_path / "single.onnx").stat().st_size
    graph = onnx.load(tmp_path / "half.onnx").graph
    assert {x.data_type for x in graph.initializer if len(x.dims) == 4} == {onnx.TensorProto.FLOAT16}
    assert {x.type.tensor_type.elem_type for x in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}


def test_a_fixed_batch(model: keras.Model, tmp_path: pathlib.Path) -> None:
    export.export_onnx(model, tmp_path / "two.onnx", samples(model), batch_size=2)
    assert export.load_predictor(tmp_path / "two.onnx").input_shape[0] == 2
    with pytest.raises(ExportError, match="expected at least batch_size=9"):
        export.export_onnx(model, tmp_path / "nine.onnx", samples(model), batch_size=9)


def test_open_sizes_are_filled_in_for_trtexec(tmp_path: pathlib.Path) -> None:
    x = keras.Input((None, None, 3), name="image")
    y = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(x))
    export.export_onnx(keras.Model(x, y), tmp_path / "open.onnx", np.zeros((2, 16, 16, 3), "float32"))
    assert "--optShapes=image:1x20x24x3" in export.trtexec_command(tmp_path / "open.onnx", export.EngineOptions((20, 24)))
    predictor = export.load_predictor(tmp_path / "open.onnx")
    assert predictor.picture_size(3, (20, 24)) == (20, 24, 3)
    with pytest.raises(ExportError, match="expected an input of pictures"):
        predictor.picture_size(3)


def test_a_folder_that_is_no_export_is_never_replaced(model: keras.Model, tmp_path: pathlib.Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results/model.keras").write_text("mine")
    with pytest.raises(NotReplacedError, match="no earlier export"):
        export.export_saved_model(model, tmp_path / "results", samples(model))
    assert [p.name for p in (tmp_path / "results").iterdir()] == ["model.keras"]
    # An empty folder and an earlier export are.
    (tmp_path / "empty").mkdir()
    for _ in range(2):
        export.export_saved_model(model, tmp_path / "empty", samples(model), info=INFO)
    assert export.load_predictor(tmp_path / "empty").info == INFO
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "results"]


def test_a_record_of_another_version(model: keras.Model, tmp_path: pathlib.Path) -> None:
    text = INFO.model_dump_json()
    newer = text.replace("{", '{"later": 1, ', 1)
    assert model_info.parse(newer, "x") == INFO
    assert model_info.parse(None, "x") is None
    for damaged in ("", "{", "[1]", text.replace("torch", "torches"), '{"classes": ["a"]}'):
        with pytest.raises(SpecError, match=r"a\.keras holds a record of its classes and preprocessing that cannot be read"):
            model_info.parse(damaged, "a.keras")


STUB = """
import json, pathlib

class NetworkDefinitionCreationFlag:
    EXPLICIT_BATCH = 0

class BuilderFlag:
    FP16, INT8 = "FP16", "INT8"

class IInt8EntropyCalibrator2:
    pass

class Logger:
    WARNING = 1
    def __init__(self, level): pass

class OnnxParser:
    num_errors = 1
    def __init__(self, network, logger): pass
    def parse(self, text): return b"broken" not in text
    def get_error(self, i): return "unsupported operator"

class Recorder:
    def __init__(self): self.said = {"flags": [], "shapes": []}
    def create_network(self, flags): self.said["network"] = flags; return self
    def create_builder_config(self): return self
    def create_optimization_profile(self): return self
    def set_flag(self, flag): self.said["flags"].append(flag)
    def set_shape(self, *shape): self.said["shapes"].append(shape)
    def add_optimization_profile(self, profile): pass
    def build_serialized_network(self, network, config):
        calibrator = vars(config).get("int8_calibrator")
        if calibrator is not None:
            self.said["scales"] = calibrator.read_calibration_cache().decode()
        return json.dumps(self.said).encode()

def Builder(logger): return Recorder()
"""


def test_the_build_script_asks_tensorrt_for_what_the_file_is(
    model: keras.Model, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    export.export_onnx(model, path, samples(model), layout="NCHW")
    script = export.write_build_script(path, export.EngineOptions((36, 36), maximum=8))
    assert not export.build_engine(script)  # TensorRT is not installed here
    assert not (tmp_path / "m.engine").exists()
    # A module that records what it is asked for stands in for TensorRT.
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub/tensorrt.py").write_text(STUB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stub"))
    monkeypatch.syspath_prepend(str(tmp_path / "stub"))
    assert export.build_engine(script)
    said = json.loads((tmp_path / "m.engine").read_text())
    assert said == {"network": 1, "flags": ["FP16"], "shapes": [["input_1", [1, 3, 36, 36], [1, 3, 36, 36], [8, 3, 36, 36]]]}
    cache = tmp_path / "cal.bin"
    cache.write_text("scales")
    script = export.write_build_script(path, export.EngineOptions((36, 36), maximum=8, calibration_cache=cache))
    assert export.build_engine(script)
    said = json.loads((tmp_path / "m.engine").read_text())
    assert (said["flags"], said["scales"]) == (["FP16", "INT8"], "scales")
    path.write_bytes(path.read_bytes() + b"broken")
    with pytest.raises(ExportError, match=r"TensorRT cannot build the engine .* unsupported operator"):
        export.build_engine(script)


def test_a_saved_model_takes_pictures_as_they_are(tmp_path: pathlib.Path) -> None:
    import tensorflow as tf

    from tlt_prune.export import PicturePreprocessing

    net = randomize(models.build("resnet10", (16, 16, 3), 4, width=0.125))
    prepare = PicturePreprocessing(3, "uint8", lambda x: tf.image.resize(tf.cast(x, tf.float32), (16, 16)) / 255)
    export.export_saved_model(net, tmp_path / "saved", samples(net), pictures=prepare)
    served = tf.saved_model.load(str(tmp_path / "saved")).signatures["serve_pictures"]
    raw = np.random.default_rng(0).integers(0, 255, (2, 20, 24, 3), dtype=np.uint8)
    (answer,) = served(pictures=tf.constant(raw)).values()
    expected = net(tf.image.resize(tf.cast(raw, tf.float32), (16, 16)) / 255, training=False)
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)


def test_states_between_calls_begin_at_zero_in_a_saved_model(tmp_path: pathlib.Path) -> None:
    x = keras.Input(batch_shape=(2, 5, 6))
    memory = keras.layers.GRU(4, stateful=True)
    net = keras.Model(x, keras.layers.Dense(3)(memory(x)))
    batch = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    expected = [net.predict_on_batch(batch) for _ in range(3)]
    left = memory.states[0].numpy()
    assert export.export_saved_model(net, tmp_path / "m", batch) < 1e-6
    np.testing.assert_array_equal(memory.states[0], left)
    served = export.load_predictor(tmp_path / "m")
    for each in expected:
        np.testing.assert_allclose(served.run([batch])[0], each, rtol=1e-5, atol=1e-6)
