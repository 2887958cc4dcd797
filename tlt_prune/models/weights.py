"""Weights by layer name, from any of Keras' file formats, with an account of every layer."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import h5py
import keras
import pandas as pd

from tlt_prune.errors import ExportError
from tlt_prune.graph import all_layers
from tlt_prune.io import load_keras
from tlt_prune.models import hdf5

if TYPE_CHECKING:
    import h5py
    from numpy.typing import NDArray


def load_weights_by_name(model: keras.Model, path: str | pathlib.Path) -> pd.DataFrame:
    """Loads the weights of every layer that the file has under the same name and with the same shapes.

    Args:
        model: a Keras model; layers of nested models are found by their own names.
        path: `.h5` or `.hdf5` (weights or whole model, Keras 1 to tf_keras, an unencrypted TLT or TAO file), `.keras`, or
            `.weights.h5`.

    Returns:
        A table with one row per layer that has weights, in the model or the file: "loaded", "not in the file", "not in the
        model", or the shapes that differ.

    Raises:
        ValueError: the file is no such file, or none of its layers fits.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"There is no weights file {path}. Expected .h5, .hdf5, .weights.h5 or .keras.")
    if path.suffix == ".keras":
        try:
            other = load_keras(path)
        except ExportError as error:
            raise ValueError(str(error)) from error
        layers = [x for x in all_layers(other) if x.weights and not isinstance(x, keras.Model)]
        return _loaded(model, path, {x.name: x.get_weights() for x in layers})
    try:
        # What a file says of its sizes bounds nothing: arrays are read when their shapes are the model's.
        with h5py.File(path, "r") as file:
            return _loaded(model, path, hdf5.stored(file))
    except hdf5.DamagedError as error:
        raise ValueError(f"{path}: {error}") from error
    except OSError as error:
        raise ValueError(f"{path} is no HDF5 file (encrypted TLT files must be decrypted first): {error}") from error


def _loaded(model: keras.Model, path: pathlib.Path, stored: Mapping[str, Sequence[NDArray[Any] | h5py.Dataset]]) -> pd.DataFrame:
    rows: dict[str, str] = {}
    for layer in all_layers(model):
        if not layer.weights or isinstance(layer, keras.Model) or layer.name in rows:
            continue
        rows[layer.name] = _load(layer, stored)
    for name in stored:
        rows.setdefault(name, "not in the model")
    table = pd.DataFrame({"status": rows})
    table.index.name = "layer"
    if not (table["status"] == "loaded").any():
        raise ValueError(
            f"{path}: none of its {len(stored)} layers fits '{model.name}'. It has {list(stored)[:3]}..., "
            f"the model {[n for n in rows if n not in stored][:3]}..."
        )
    return table


def _load(layer: keras.layers.Layer, stored: Mapping[str, Sequence[NDArray[Any] | h5py.Dataset]]) -> str:
    if layer.name not in stored:
        return "not in the file"
    values = stored[layer.name]
    wanted, stored_shapes = [tuple(w.shape) for w in layer.weights], [tuple(v.shape) for v in values]
    if wanted != stored_shapes:
        return f"shapes differ: {stored_shapes} in the file, {wanted} in the model"
    layer.set_weights([hdf5.array_of(x, layer.name) for x in values])
    return "loaded"
