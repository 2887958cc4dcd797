"""Weights by layer name, from any of Keras' file formats, with an account of every layer."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import h5py
import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlt_prune.graph.family import all_layers

Arrays = list[NDArray[Any]]


def load_weights_by_name(model: keras.Model, path: str | pathlib.Path) -> pd.DataFrame:
    """Loads the weights of every layer that the file has under the same name and with the same shapes.

    Args:
        model: a Keras model; layers of nested models are found by their own names.
        path: `.h5` or `.hdf5` (weights or whole model, Keras 1 to tf_keras, an unencrypted TLT or TAO file), `.keras`, or
            `.weights.h5`.

    Returns:
        A table with a row a layer that has weights, in the model or the file: "loaded", "not in the file", "not in the
        model", or the shapes that differ.

    Raises:
        ValueError: the file is no such file, or none of its layers fits.
    """
    path = pathlib.Path(path)
    stored = dict(_stored(path))
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


def _load(layer: Any, stored: dict[str, Arrays]) -> str:
    if layer.name not in stored:
        return "not in the file"
    values = stored[layer.name]
    wanted, found = [tuple(w.shape) for w in layer.weights], [tuple(v.shape) for v in values]
    if wanted != found:
        return f"shapes differ: {found} in the file, {wanted} in the model"
    layer.set_weights(values)
    return "loaded"


def _stored(path: pathlib.Path) -> Iterator[tuple[str, Arrays]]:
    """(layer name, weights) pairs of a file."""
    if not path.is_file():
        raise ValueError(f"There is no weights file {path}. Expected .h5, .hdf5, .weights.h5 or .keras.")
    if path.suffix == ".keras":
        model = keras.models.load_model(path, compile=False)
        for layer in all_layers(model):
            if layer.weights and not isinstance(layer, keras.Model):
                yield layer.name, layer.get_weights()
        return
    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)
            yield from _keras3(root) if "layer_names" not in root.attrs else _legacy(root)
    except OSError as error:
        raise ValueError(f"{path} is no HDF5 file (encrypted TLT files must be decrypted first): {error}") from error


def _legacy(root: Any) -> Iterator[tuple[str, Arrays]]:
    """Keras 1, 2 and tf_keras: a group a layer, which lists its weights in order."""
    for layer in _texts(root.attrs["layer_names"]):
        group = root[layer]
        weights = [np.asarray(group[name]) for name in _texts(group.attrs["weight_names"])]
        if weights:
            yield layer, weights


def _keras3(root: Any) -> Iterator[tuple[str, Arrays]]:
    """Keras 3: a group a layer, with a `vars` group and the layer's name as an attribute."""
    found: list[tuple[str, Arrays]] = []

    def visit(name: str, item: Any) -> None:
        if name.endswith("/vars") and len(item) and "name" in item.attrs:
            found.append((str(item.attrs["name"]), [np.asarray(item[key]) for key in sorted(item, key=int)]))

    root.visititems(visit)
    yield from found


def _texts(values: Any) -> list[str]:
    return [x.decode() if isinstance(x, bytes) else str(x) for x in values]
