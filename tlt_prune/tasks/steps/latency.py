"""Latency of a whole model: measured in onnxruntime, or by a script that measures the model and its layers on a device."""

from __future__ import annotations

import json
import pathlib
import tempfile
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tlt_prune import extras
from tlt_prune.config import Options
from tlt_prune.errors import PlanError
from tlt_prune.export import export_onnx, latency_ms, load_predictor
from tlt_prune.io import files, say
from tlt_prune.pruning.cost import (
    DeviceTable,
    chosen_granularity,
    key_of,
    key_of_model,
    layers_of_model,
    layers_to_measure,
    measure_latency,
    table_at,
)
from tlt_prune.quantization import FEWEST_CHANNELS, quantize_onnx

if TYPE_CHECKING:
    import keras

    from tlt_prune.graph import ChannelGraph

DataType = Literal["fp16", "int8"]


def measured_ms(model: keras.Model) -> float:
    """Milliseconds of a Keras model, exported to ONNX, at batch 1."""
    extras.require("export", "A budget of latency")
    inputs = _noise(model)
    with tempfile.TemporaryDirectory() as folder, files.apart():
        path = pathlib.Path(folder) / "model.onnx"
        export_onnx(model, path, inputs)
        predictor = load_predictor(path)
        return latency_ms(predictor, inputs, runs=30)


def _noise(model: keras.Model) -> Any:
    """Inputs of batch 1, in the types that the model takes: of numbers of tokens and the like the first."""
    rng = np.random.default_rng(0)
    arrays = []
    for x in model.inputs:
        shape, kind = [n or 1 for n in x.shape], str(x.dtype)
        arrays.append(rng.standard_normal(shape).astype(np.float32) if "float" in kind else np.zeros(shape, kind))
    return arrays[0] if len(arrays) == 1 else arrays


def calibrate(model: keras.Model, channels: ChannelGraph, options: Options) -> None:
    """Scales predictions to what the whole model takes, measured once and kept in the table."""
    table = table_at(options.latency_table)
    if isinstance(table, DeviceTable):
        scaled = "" if table.calibrated(channels) else " They are not scaled to the whole model, which was not measured there."
        say(f"Latencies of layers are those of {table.device}, in {options.latency_table}.{scaled}")
    elif not table.calibrated(channels):
        granularity = chosen_granularity(channels.graph, options.granularity)
        whole = measured_ms(model)
        table.calibrate(channels, whole, granularity)
        say(f"The whole model takes {whole:.3g} ms in onnxruntime; latencies of layers are in {options.latency_table}.")


def outcome_of(model: keras.Model, predicted: float, options: Options) -> str:
    """A line about the latency of a pruned model: predicted, and measured where this is the machine."""
    table = table_at(options.latency_table)
    if isinstance(table, DeviceTable):
        return f"Latency: {predicted:.3g} ms predicted on {table.device}."
    return f"Latency: {predicted:.3g} ms predicted, {measured_ms(model):.3g} ms measured in onnxruntime."


def script_for(model: keras.Model, folder: pathlib.Path, options: Options, data_type: str) -> list[str]:
    """Writes the folder of a script's `latency_script`: lines for the user. `data_type` is that of `export`."""
    computed: DataType = "int8" if data_type == "int8" else "fp16"
    count = write_latency_script(model, folder, granularity=options.granularity, data_type=computed)
    return [
        f"Wrote {folder}: {count} layers to be measured. Copy it to the device, run python3 measure_latency.py there, bring "
        "latency.json back, and prune with --latency_ms ... --latency_table latency.json."
    ]


def write_latency_script(
    model: keras.Model,
    folder: str | pathlib.Path,
    *,
    granularity: int | Literal["auto"] = 8,
    data_type: DataType = "fp16",
) -> int:
    """Writes a folder to be copied to a device: a script, what it is to measure, and the model as an ONNX file.

    `python3 measure_latency.py`, run there, measures by trtexec every convolution and dense layer of the model at several channel
    counts, and the whole model, all at batch 1. It writes latency.json: `prune_model(model, latency_ms=...,
    latency_table="latency.json")` means that device then.

    Args:
        model: a functional or Sequential Keras model, its inputs of fixed sizes.
        folder: the folder to write; one that was written before is replaced, unless something else was put there.
        granularity: the one that will be pruned with.
        data_type: numbers that TensorRT computes in. With "int8" it does so in layers of at least 16 channels, as `tlt-export`
            writes them.

    Returns:
        How many layers are measured.

    Raises:
        PlanError: a size of the model's inputs is open, or `data_type` is another one.
        ExportError: the model cannot be written as ONNX.
        NotReplacedError: the folder holds something else.
    """
    from tlt_prune.graph import trace

    if data_type not in ("fp16", "int8"):
        raise PlanError(f"data_type: expected 'fp16' or 'int8'. Received: {data_type!r}.")
    if granularity != "auto" and (not isinstance(granularity, int) or granularity < 1):
        raise PlanError(f"granularity: expected a whole number of at least 1, or 'auto'. Received: {granularity!r}.")
    extras.require("export", "A script that measures latencies")
    channels = trace(model)
    layers = layers_to_measure(channels, chosen_granularity(channels.graph, granularity))
    job = {
        "data_type": data_type,
        "model": {
            "file": "model.onnx",
            "key": key_of_model(channels),
            "layers": [key_of(x) for x in layers_of_model(channels)],
        },
        "layers": {key_of(x): _data_type(x["channels"], data_type) for x in layers},
    }
    with files.whole_folder(pathlib.Path(folder)) as staged, files.apart():
        _write_model(model, staged / "model.onnx", data_type)
        (staged / "layers.json").write_text(json.dumps(job, indent=1))
        script = pathlib.Path(measure_latency.__file__)
        (staged / script.name).write_text(script.read_text())
    return len(layers)


def _data_type(channels: list[int], data_type: str) -> str:
    return "int8" if data_type == "int8" and min(channels) >= FEWEST_CHANNELS else "float"


def _write_model(model: keras.Model, path: pathlib.Path, data_type: str) -> None:
    inputs = _noise(model)
    if data_type != "int8":
        export_onnx(model, path, inputs, batch_size=1)
        return
    with tempfile.TemporaryDirectory() as folder:
        whole = pathlib.Path(folder) / "model.onnx"
        export_onnx(model, whole, inputs, batch_size=1)
        # Ranges do not change what a layer takes.
        quantize_onnx(whole, path, inputs if len(model.inputs) == 1 else tuple(inputs), method="min_max")
