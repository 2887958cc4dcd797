"""Latency of a whole model in onnxruntime, and the predictions for its layers scaled to it."""

from __future__ import annotations

import pathlib
import tempfile
from typing import TYPE_CHECKING

import numpy as np

from tlt_prune import extras
from tlt_prune.config import Options
from tlt_prune.export import export_onnx, latency_ms, load_predictor
from tlt_prune.io import files, say
from tlt_prune.pruning.cost import chosen_granularity, table_at

if TYPE_CHECKING:
    import keras

    from tlt_prune.graph import ChannelGraph


def measured_ms(model: keras.Model) -> float:
    """Milliseconds of a Keras model, exported to ONNX, at batch 1."""
    extras.require("export", "A budget of latency")
    shape = [n or 1 for n in model.inputs[0].shape]
    x = np.random.default_rng(0).standard_normal([1, *shape[1:]]).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder, files.apart():
        path = pathlib.Path(folder) / "model.onnx"
        export_onnx(model, path, x)
        predictor = load_predictor(path)
        return latency_ms(predictor, x, runs=30)


def calibrate(model: keras.Model, channels: ChannelGraph, options: Options) -> None:
    """Scales predictions to what the whole model takes, measured once and kept in the table."""
    table = table_at(options.latency_table)
    if not table.calibrated(channels):
        granularity = chosen_granularity(channels.graph, options.granularity)
        whole = measured_ms(model)
        table.calibrate(channels, whole, granularity)
        say(f"The whole model takes {whole:.3g} ms in onnxruntime; latencies of layers are in {options.latency_table}.")
