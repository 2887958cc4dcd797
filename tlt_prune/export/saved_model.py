"""TensorFlow SavedModel."""

from __future__ import annotations

import pathlib
from typing import Any

import keras

from tlt_prune import files, model_info
from tlt_prune.export.runtime import keras_runner, load_predictor
from tlt_prune.model_info import ModelInfo
from tlt_prune.parity import check_parity, samples_of


def export_saved_model(
    model: keras.Model, path: str | pathlib.Path, samples: Any, tolerance: float = 1e-4, info: ModelInfo | None = None
) -> float:
    """Writes a SavedModel folder with a serving signature and an open batch size.

    Args:
        model: a Keras model.
        path: folder; an earlier export is replaced, anything else refused.
        samples: float32 inputs in the model's layout, for the comparison: an array, or one an input, in the model's order.
        tolerance: see `check_parity`.
        info: what belongs to the model; written beside the graph.

    Returns:
        The largest relative difference found.

    Raises:
        ExportError: the written model computes something else; what was at `path` stays.
        NotReplacedError: there is something else than an earlier export at `path`.
    """
    path = pathlib.Path(path)
    arrays = samples_of(model, samples)
    with files.whole_folder(path, "saved_model.pb") as partial:
        model.export(partial, format="tf_saved_model", verbose=False)
        if info is not None:
            files.write_text(partial / model_info.SAVED_MODEL_FILE, info.model_dump_json(indent=1))
        written = load_predictor(partial)
        by_name = dict(zip((x.name for x in model.inputs), arrays, strict=True))
        fed = [by_name[name] for name in written.input_shapes]
        return check_parity(keras_runner(model), written.run, arrays, fed, tolerance, f"The SavedModel of '{model.name}'")
