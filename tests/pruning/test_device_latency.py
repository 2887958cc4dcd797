"""Latencies of another device: the script that measures there, and budgets by its table. Nothing here asserts on a timing."""

from __future__ import annotations

import ast
import json
import os
import pathlib
import stat
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from helpers import randomize
from onnx import numpy_helper, shape_inference

import tlt_prune
from tlt_prune.errors import NotReplacedError, PlanError
from tlt_prune.graph.tracer import trace
from tlt_prune.onnx import session_of
from tlt_prune.pruning.cost import key_of, layers_of_model, measure_latency
from tlt_prune.pruning.cost.device_latency import DeviceTable
from tlt_prune.pruning.cost.terms import charged

pytestmark = pytest.mark.one_backend

RECORDED = pathlib.Path(__file__).with_name("latency_recorded.json")

# What TensorRT's trtexec writes (samples/common/sampleReporting.cpp): a layer takes a nanosecond for a byte of the file that it
# comes from, and bringing its input into another form takes a second.
TRTEXEC = """#!{python}
import json, os, pathlib, sys
given = dict(x.lstrip("-").partition("=")[::2] for x in sys.argv[1:])
calls = pathlib.Path(__file__).with_name("calls")
with calls.open("a") as file:
    file.write(" ".join(sorted(given)) + "\\n")
if len(calls.read_text().splitlines()) == int(os.environ.get("FAILS_AT", 0)):
    print("[E] Error[10]: Could not find any implementation for node measured_layer.")
    sys.exit(1)
milliseconds = 1e-6 * os.path.getsize(given["onnx"])
if "exportProfile" in given:
    reformat = {{"name": "Reformatting CopyNode for Input Tensor 0 to measured_layer", "timeMs": 5e4, "averageMs": 1e3}}
    if os.environ.get("OLD"):
        rows = [{{"name": "conv", "timeMs": 50 * milliseconds, "averageMs": milliseconds, "percentage": 1}}]
        reformat["name"] = "Reformatting CopyNode for Input Tensor 0"
    else:
        rows = [{{"name": "w + x_quantized + measured_layer", "averageMs": 7.0, "medianMs": milliseconds, "percentage": 1}}]
        reformat["name"] = "Reformatting CopyNode for Input Tensor 0 to w"
    pathlib.Path(given["exportProfile"]).write_text(json.dumps([{{"count": 50}}, reformat, *rows]))
else:
    times = [{{"computeMs": x * milliseconds, "latencyMs": 9.0}} for x in (1, 2, 30)]
    pathlib.Path(given["exportTimes"]).write_text(json.dumps(times))
"""


def net(width: int = 32) -> keras.Model:
    x = y = keras.Input((12, 12, 3))
    y = keras.layers.Conv2D(width, 3, padding="same", activation="relu", name="c0")(y)
    y = keras.layers.Conv2D(2 * width, 3, strides=2, padding="same", activation="relu", name="c1")(y)
    y = keras.layers.DepthwiseConv2D(3, padding="same", name="dw")(y)
    y = keras.layers.Conv2D(2 * width, 1, activation="relu", name="c2")(y)
    y = keras.layers.Conv2D(width, 1, activation="relu", name="c3")(y)
    return randomize(keras.Model(x, keras.layers.Dense(3, name="head")(keras.layers.GlobalAveragePooling2D()(y))))


@pytest.fixture
def device(tmp_path: pathlib.Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the script of a folder where there is nothing but Python and a trtexec."""
    program = tmp_path / "bin/trtexec"
    program.parent.mkdir()
    program.write_text(TRTEXEC.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def run(folder: pathlib.Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", str(folder / "measure_latency.py"), "--name", "Orin", *arguments]
        path = {"PATH": f"{program.parent}:{os.environ['PATH']}", **environment}
        return subprocess.run(command, env=path, capture_output=True, text=True, check=False, cwd="/")

    return run


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("script") / "orin"
    assert tlt_prune.write_latency_script(net(), folder) == len(json.loads((folder / "layers.json").read_text())["layers"])
    return folder


def copied(written: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "on_device"
    folder.mkdir()
    for x in written.iterdir():
        (folder / x.name).write_bytes(x.read_bytes())
    return folder


def test_the_script_needs_nothing_new() -> None:
    text = pathlib.Path(measure_latency.__file__).read_text()
    tree = ast.parse(text, feature_version=(3, 8))
    at_the_top = {x.module or "" for x in tree.body if isinstance(x, ast.ImportFrom)} | {
        alias.name for x in tree.body if isinstance(x, ast.Import) for alias in x.names
    }
    assert {x.partition(".")[0] for x in at_the_top} <= sys.stdlib_module_names


LAYERS = {
    "same": lambda: keras.layers.Conv2D(24, (3, 5), padding="same"),
    "same, strided, odd": lambda: keras.layers.Conv2D(24, 4, strides=(2, 3), padding="same"),
    "valid, dilated": lambda: keras.layers.Conv2D(24, 3, dilation_rate=2),
    "depthwise": lambda: keras.layers.DepthwiseConv2D(3, strides=2, padding="same"),
    "causal": lambda: keras.layers.Conv1D(24, 3, dilation_rate=2, padding="causal"),
    "3-D": lambda: keras.layers.Conv3D(24, 3, padding="same"),
    "dense": lambda: keras.layers.Dense(24),
    "dense on a map": lambda: keras.layers.Dense(24),
}


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("case", LAYERS)
def test_a_layers_file_is_that_layer(case: str, int8: bool) -> None:
    shape = {"causal": (11, 20), "3-D": (5, 6, 7, 20), "dense": (20,)}.get(case, (11, 14, 20))
    layer = LAYERS[case]()
    x = keras.Input(shape)
    y = layer(x)
    (facts,) = layers_of_model(trace(keras.Model(x, y)))
    content, dims = measure_latency.layer_model(facts, int8)
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    (value,) = shape_inference.infer_shapes(model).graph.output
    sizes = [d.dim_value for d in value.type.tensor_type.shape.dim]
    expected = [1, y.shape[-1], *y.shape[1:-1]] if facts["kind"] != "dense" else [int(np.prod(y.shape[1:-1])), y.shape[-1]]
    assert sizes == expected
    kernels = [numpy_helper.to_array(x) for x in model.graph.initializer if x.name in ("w", "w_int8")]
    assert [(k.size, str(k.dtype)) for k in kernels] == [(int(np.prod(layer.kernel.shape)), "int8" if int8 else "float32")]
    assert len(np.unique(kernels[0])) > min(kernels[0].size, 100) // 2
    given = np.random.default_rng(0).standard_normal(dims).astype(np.float32)
    (computed,) = session_of(onnx.load_from_string(content)).run(None, {"x": given})
    assert np.isfinite(computed).all()
    assert np.abs(computed).max() > 0


def test_a_convolution_reads_what_keras_reads() -> None:
    x = keras.Input((7, 10, 3))
    layer = keras.layers.Conv2D(4, 4, strides=(2, 3), padding="same", use_bias=False)
    keras_model = keras.Model(x, layer(x))
    (facts,) = layers_of_model(trace(keras_model))
    content, dims = measure_latency.layer_model(facts)
    kernel = next(numpy_helper.to_array(t) for t in onnx.load_from_string(content).graph.initializer if t.name == "w")
    layer.set_weights([kernel.transpose(2, 3, 1, 0)])
    given = np.random.default_rng(0).standard_normal(dims).astype(np.float32)
    (computed,) = session_of(onnx.load_from_string(content)).run(None, {"x": given})
    expected = np.asarray(keras_model(given.transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(computed.transpose(0, 2, 3, 1), expected, atol=1e-4)


@pytest.mark.parametrize("old", ["", "yes"])
def test_a_budget_means_the_device(written: pathlib.Path, tmp_path: pathlib.Path, device: Any, old: str) -> None:
    folder = copied(written, tmp_path)
    done = device(folder, OLD=old)
    assert done.returncode == 0, done.stdout + done.stderr
    job, table = (json.loads((folder / x).read_text()) for x in ("layers.json", "latency.json"))
    assert table["of"] == {"machine": "Orin", "engine": "TensorRT", "data_type": "fp16", "flags": "--fp16"}
    assert set(table["layers"]) == set(job["layers"])
    for key, value in table["layers"].items():
        content, _ = measure_latency.layer_model(json.loads(key))
        assert value == pytest.approx(1e-6 * len(content)), key
    whole = 2e-6 * (folder / "model.onnx").stat().st_size
    path = str(folder / "latency.json")
    plan = tlt_prune.plan_pruning(net(), latency_ms="50%", latency_table=path, granularity=4, min_num_filters=4)
    assert plan.latency_ms_before == pytest.approx(whole)
    assert 0.4 * whole < plan.latency_ms_after <= 0.5 * whole
    # What is pruned is pruned again by the same table, though its widths were not measured.
    pruned = plan.apply(net())
    again = tlt_prune.plan_pruning(pruned, latency_ms="70%", latency_table=path, granularity=4, min_num_filters=4)
    assert again.latency_ms_before == pytest.approx(plan.latency_ms_after, rel=1e-6)
    assert again.latency_ms_after <= 0.7 * again.latency_ms_before


def test_ended_early_it_goes_on(written: pathlib.Path, tmp_path: pathlib.Path, device: Any) -> None:
    folder = copied(written, tmp_path)
    layers = json.loads((folder / "layers.json").read_text())["layers"]
    done = device(folder, FAILS_AT="5")
    assert done.returncode == 1
    assert "failed with 1" in done.stderr
    assert "Could not find any implementation" in done.stderr
    assert not (folder / "latency.json").exists()
    assert len(json.loads((folder / "latency.json.unfinished").read_text())["layers"]) == 4
    for other in (["--name", "Thor"], ["--flags", "--fp16 --useDLACore=0"]):
        done = device(folder, *other)
        assert done.returncode == 1
        assert "was measured as" in done.stderr
    assert device(folder).returncode == 0
    calls = (tmp_path / "bin/calls").read_text().splitlines()
    # One for each layer, the failed one, and the whole model.
    assert len(calls) == len(layers) + 2
    assert not (folder / "latency.json.unfinished").exists()
    assert all("fp16" in x and "int8" not in x for x in calls)


def test_without_trtexec_it_says_so(written: pathlib.Path, tmp_path: pathlib.Path, device: Any) -> None:
    done = device(copied(written, tmp_path), PATH="/nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("There is no trtexec in PATH or /usr/src/tensorrt/bin/trtexec. Give --trtexec")


def test_int8_leaves_narrow_layers_in_float(tmp_path: pathlib.Path, device: Any) -> None:
    tlt_prune.write_latency_script(net(), tmp_path / "orin", data_type="int8")
    folder = copied(tmp_path / "orin", tmp_path)
    layers = json.loads((folder / "layers.json").read_text())["layers"]
    assert {value for key, value in layers.items() if min(json.loads(key)["channels"]) < 16} == {"float"}
    assert {value for key, value in layers.items() if min(json.loads(key)["channels"]) >= 16} == {"int8"}
    kinds = [x.op_type for x in onnx.load(folder / "model.onnx").graph.node]
    assert kinds.count("QuantizeLinear") >= 3
    assert device(folder).returncode == 0
    table = json.loads((folder / "latency.json").read_text())
    assert table["of"]["data_type"] == "int8"
    for key, data_type in layers.items():
        content, _ = measure_latency.layer_model(json.loads(key), data_type == "int8")
        assert table["layers"][key] == pytest.approx(1e-6 * len(content))
    assert "fp16 int8" in (tmp_path / "bin/calls").read_text()


def test_by_the_recorded_table() -> None:
    """Measured by the script in onnxruntime, on two cores of an EPYC."""
    table = DeviceTable(RECORDED)
    assert table.device == "EPYC, two cores, onnxruntime, fp16"
    channels = trace(net(64))
    assert table.calibrated(channels)
    measured = json.loads(RECORDED.read_text())["models"]["c0 c1 dw c2 c3 head"]["milliseconds"]
    assert charged(table.terms(channels, 8)) == pytest.approx(measured)
    plan = tlt_prune.plan_pruning(net(64), latency_ms="60%", latency_table=str(RECORDED))
    assert plan.latency_ms_before == pytest.approx(measured)
    assert 0.5 * measured < plan.latency_ms_after <= 0.6 * measured
    by_macs = tlt_prune.plan_pruning(net(64), macs=plan.macs_after)
    # A millisecond is not where a multiplication is.
    assert [x.filters_after for x in by_macs.layers] != [x.filters_after for x in plan.layers]


def test_what_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(PlanError, match=r"has no times of 6 of the model's 6 layers, such as .*latency_script"):
        tlt_prune.plan_pruning(net(96), latency_ms="60%", latency_table=str(RECORDED))
    stored = json.loads(RECORDED.read_text())
    path = tmp_path / "latency.json"

    def refused(match: str, **changes: Any) -> None:
        path.write_text(json.dumps({**stored, **changes}))
        with pytest.raises(PlanError, match=match):
            tlt_prune.plan_pruning(net(64), latency_ms="60%", latency_table=str(path))

    without = {key: value for key, value in stored["layers"].items() if json.loads(key)["channels"] != [64, 128]}
    refused("has no times of some channel counts of", layers=without)
    for name in ("conv", "[1]", '{"kind": "conv"}', '{"channels": "x"}'):
        refused("has a layer .*Expected the names", layers={**stored["layers"], name: 1.0})
    refused("greater than or equal to 0", layers=dict.fromkeys(stored["layers"], -1.0))
    model = {"milliseconds": 1.0, "layers": [key_of({"kind": "dense", "size": [1], "channels": [1, 10**6]})]}
    refused("has no times of", models={"c0 c1 dw c2 c3 head": model})
    with pytest.raises(PlanError, match=r"data_type: expected 'fp16' or 'int8'\. Received: 'fp8'"):
        tlt_prune.write_latency_script(net(), tmp_path / "script", data_type="fp8")  # type: ignore[arg-type]


def test_measured_latencies_in_the_folder_are_not_lost(tmp_path: pathlib.Path) -> None:
    tlt_prune.write_latency_script(net(), tmp_path / "orin")
    tlt_prune.write_latency_script(net(), tmp_path / "orin", granularity=16)
    (tmp_path / "orin/latency.json").write_text("{}")
    with pytest.raises(NotReplacedError):
        tlt_prune.write_latency_script(net(), tmp_path / "orin")
    assert (tmp_path / "orin/latency.json").read_text() == "{}"
