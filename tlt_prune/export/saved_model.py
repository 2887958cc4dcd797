"""TensorFlow SavedModel."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
from numpy.typing import NDArray

from tlt_prune import files, model_info
from tlt_prune.export.parity import check_parity
from tlt_prune.export.runtime import keras_runner, load_predictor
from tlt_prune.model_info import ModelInfo


def export_saved_model(
    model: keras.Model, path: str | pathlib.Path, samples: NDArray[Any], tolerance: float = 1e-4, info: ModelInfo | None = None
) -> float:
    """Writes a SavedModel folder with a serving signature and an open batch size.

    Args:
        model: a Keras model with one input.
        path: folder; an earlier export is replaced, anything else refused.
        samples: float32 inputs in the model's layout, for the comparison with Keras.
        tolerance: see `check_parity`.
        info: what belongs to the model; written beside the graph.

    Returns:
        The largest relative difference found.

    Raises:
        ExportError: the written model computes something else; what was at `path` stays.
        NotReplacedError: there is something else than an earlier export at `path`.
    """
    path = pathlib.Path(path)
    with files.whole_folder(path, "saved_model.pb") as partial:
        model.export(partial, format="tf_saved_model", verbose=False)
        if info is not None:
            files.write_text(partial / model_info.SAVED_MODEL_FILE, info.model_dump_json(indent=1))
        written = load_predictor(partial)
        return check_parity(keras_runner(model), written.run, samples, samples, tolerance, f"The SavedModel of '{model.name}'")
