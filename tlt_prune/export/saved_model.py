"""Export to a TensorFlow SavedModel, compared with Keras."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras

from tlt_prune import extras
from tlt_prune.export.material import PicturePreprocessing
from tlt_prune.graph import family_of
from tlt_prune.io import ModelInfo, files, model_info
from tlt_prune.onnx import InputArrays, check_parity, input_structure, keras_runner, load_predictor, quiet, samples_of

if TYPE_CHECKING:
    import tf_keras


def export_saved_model(
    model: keras.Model,
    path: str | pathlib.Path,
    samples: InputArrays,
    tolerance: float = 1e-4,
    info: ModelInfo | None = None,
    pictures: PicturePreprocessing | None = None,
) -> float:
    """Writes a SavedModel folder with a serving signature and an open batch size.

    The states of stateful layers start at zero in it.

    Args:
        model: a Keras model.
        path: folder; an earlier export is replaced, anything else rejected.
        samples: float32 inputs in the model's layout, for the comparison: an array, or one per input, in the model's order.
        tolerance: see `check_parity`.
        info: what belongs to the model; written beside the graph.
        pictures: how pictures become the model's input. With it, the folder has a second signature, "serve_pictures", which takes
            them as they are: `(n, height, width, channels)`, of any size.

    Returns:
        The largest difference, relative to the largest output.

    Raises:
        ExportError: the written model computes something else; what was at `path` stays as it was.
        NotReplacedError: `path` is something else than an earlier export.
    """
    extras.require_tensorflow("export_saved_model")
    path = pathlib.Path(path)
    arrays = samples_of(model, samples)
    family = family_of(model)
    with family.untouched(model), files.whole_folder(path) as partial:
        family.reset_states(model)
        write_saved_model(model, partial, pictures)
        if info is not None:
            files.write_text(partial / model_info.SAVED_MODEL_FILE, info.model_dump_json(indent=1))
        written = load_predictor(partial)
        by_name = dict(zip(signature_names(model), arrays, strict=True))
        fed = [by_name[name] for name in written.input_shapes]
        return check_parity(keras_runner(model), written.run, arrays, fed, tolerance, f"The SavedModel of '{model.name}'")


def write_saved_model(model: keras.Model, path: str | pathlib.Path, pictures: PicturePreprocessing | None = None) -> None:
    """Writes the folder without comparing it with the model."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    # Without training=False, layers of augmentation would stay active.
    archive.add_endpoint("serve", lambda inputs: model(inputs, training=False), _signature(model))
    if pictures is not None:
        archive.add_endpoint("serve_pictures", _serving(model, pictures), [pictures.signature])
    with quiet():
        archive.write_out(path, verbose=False)


def _signature(model: keras.Model) -> list[keras.InputSpec]:
    """Input specs of the serving signature: one positional argument with the structure of the model's inputs."""
    names = {id(x): name for x, name in zip(model.inputs, signature_names(model), strict=True)}
    specs = keras.tree.map_structure(
        lambda x: keras.InputSpec(shape=x.shape, dtype=x.dtype, name=names[id(x)]), input_structure(model)
    )
    return [specs]


def signature_names(model: keras.Model | tf_keras.Model) -> list[str]:
    """For each input its name in a serving signature, of letters, digits and underscores: "image.1" becomes "image_1"."""
    names: list[str] = []
    for x in model.inputs:
        name = re.sub(r"[^A-Za-z0-9_]", "_", x.name).lstrip("_") or "input"
        name = name if not name[0].isdigit() else f"input_{name}"
        same = sum(name == other or other.startswith(f"{name}_") for other in names)
        names.append(f"{name}_{same}" if name in names else name)
    return names


def _serving(model: keras.Model, pictures: PicturePreprocessing) -> Callable[[Any], Any]:
    return lambda images: model(pictures.prepare(images), training=False)
