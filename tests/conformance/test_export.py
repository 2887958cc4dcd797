"""Graphs of every kind reach ONNX and SavedModel; `tools/bench/parity_table.py` measures all of them, in every format."""

from __future__ import annotations

import pathlib
from typing import Any

import gallery
import keras
import onnx
import pytest
from helpers import randomize

import tlt_prune
from tlt_prune import export
from tlt_prune.errors import ExportError
from tlt_prune.graph import all_layers
from tlt_prune.graph.tracer import trace
from tlt_prune.pruning.rewrite.law import random_inputs

# What a converter gets wrong is said, and nothing written.
REFUSED = {
    "einsum_dense_ellipsis_behind": "onnxruntime cannot run the ONNX graph",
    "stateful_recurrent": r"'lstm.*' keeps its states between calls \(stateful=True\)",
}
# Kinds of layers that a SavedModel has been written of.
IN_SAVED_MODELS: set[type] = set()
NAMES = [name for name in (*gallery.EXACT, *gallery.APPROXIMATE) if name not in REFUSED]


def pruned(name: str) -> tuple[keras.Model, list[Any]]:
    """(a model of the gallery with half of its channels, two random inputs)."""
    model = tlt_prune.prune_model(
        randomize({**gallery.EXACT, **gallery.APPROXIMATE}[name](keras)), ratio=0.5, granularity=1, min_num_filters=1
    )
    return model, keras.tree.flatten(random_inputs(trace(model), 0, 2))


@pytest.mark.parametrize("name", NAMES)
def test_onnx_computes_what_keras_does(name: str, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    model, inputs = pruned(name)
    assert export.export_onnx(model, tmp_path / "m.onnx", inputs) < 1e-4
    assert not caplog.records
    exported = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(exported)
    assert exported.SerializeToString().count(b"tltcall") == 0
    # A SavedModel is TensorFlow's own function: each kind of layer once. Those of all graphs take as long as the ONNX files.
    kinds = {type(layer) for layer in all_layers(model)}
    if not kinds <= IN_SAVED_MODELS:
        assert export.export_saved_model(model, tmp_path / "m", inputs) < 1e-4
        IN_SAVED_MODELS.update(kinds)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_saved_models_compute_what_keras_does(name: str, tmp_path: pathlib.Path) -> None:
    model, inputs = pruned(name)
    assert export.export_saved_model(model, tmp_path / "m", inputs) < 1e-4


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported_is_said(name: str, tmp_path: pathlib.Path) -> None:
    model = randomize(gallery.EXACT[name](keras))
    inputs = keras.tree.flatten(random_inputs(trace(model), 0, 2))
    with pytest.raises(ExportError, match=REFUSED[name]):
        export.export_onnx(model, tmp_path / "m.onnx", inputs)
    assert list(tmp_path.iterdir()) == []
