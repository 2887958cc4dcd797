"""The recorded behavior of the Transfer Learning Toolkit, as Keras 3 models and expectations.

tests/data/tao_golden/README.md says how it was recorded and what rule it follows.
"""

from __future__ import annotations

import functools
import gzip
import json
import pathlib
import zlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from helpers import without_random_weights

DATA = pathlib.Path(__file__).resolve().parent.parent / "data" / "tao_golden"


@functools.cache
def load(relative: str) -> Any:
    path = DATA / relative
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return json.loads(text)


def names(folder: str) -> list[str]:
    return sorted(p.name.removesuffix(".json.gz") for p in (DATA / folder).glob("*.json.gz"))


# --- deterministic weights ---


def deterministic_weights(layer_name: str, roles: list[tuple[str, tuple[int, ...]]]) -> list[np.ndarray]:
    """The recorded runs' weights: `roles` are (kind, shape) in the order of the layer's weights."""
    weights = []
    for index, (kind, shape) in enumerate(roles):
        rng = np.random.default_rng(zlib.crc32(f"{layer_name}/{index}".encode()))
        if kind == "kernel":
            value = rng.standard_normal(shape) * rng.uniform(0.05, 1.0, shape[-1])
        elif kind == "depthwise":
            value = rng.standard_normal(shape) * rng.uniform(0.05, 1.0, shape[2])[:, None]
        elif kind == "positive":
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = 0.1 * rng.standard_normal(shape)
        weights.append(value.astype(np.float32))
    return weights


def set_deterministic_weights(
    model: keras.Model, recorded_name: Callable[[str], str] = lambda x: x.replace(">", "/")
) -> keras.Model:
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(
                deterministic_weights(recorded_name(layer.name), [(_role(layer, w), tuple(w.shape)) for w in layer.weights])
            )
    return model


def _role(layer: Any, weight: Any) -> str:
    if weight.name in ("gamma", "moving_variance"):
        return "positive"
    if weight.name == "kernel":
        return "depthwise" if isinstance(layer, keras.layers.DepthwiseConv2D) else "kernel"
    if weight.name in ("depthwise_kernel", "pointwise_kernel"):
        return weight.name.replace("depthwise_kernel", "depthwise").replace("pointwise_kernel", "kernel")
    return "small"


# --- models from layer records ---


def build_model(record: dict[str, Any]) -> keras.Model:
    """The recorded topology in Keras 3, with the recorded layer names; its weights are zeros."""
    tensors: dict[str, Any] = {}
    with without_random_weights():
        for layer in record["layers"]:
            inputs = [tensors[name] for name in layer["inbound"]]
            tensors[layer["name"]] = _MAKERS[layer["class"]](layer, inputs)
    return keras.Model(
        [tensors[name] for name in record["inputs"]],
        [tensors[name] for name in record["outputs"]],
        name=record["model_name"].replace("/", "_"),
    )


def _plain(cls: type, *keys: str, **renamed: str) -> Callable[[Any, list[Any]], Any]:
    def make(layer: dict[str, Any], inputs: list[Any]) -> Any:
        config = layer["config"]
        arguments = {key: _tuple(config[key]) for key in keys if key in config}
        arguments |= {new: config[old] for new, old in renamed.items() if old in config}
        return cls(name=_name(layer["name"]), **arguments)(inputs[0] if len(inputs) == 1 else inputs)

    return make


def _tuple(value: Any) -> Any:
    return tuple(_tuple(x) for x in value) if isinstance(value, list) else value


def _name(name: str) -> str:
    # Keras 3 forbids "/" in names; the deterministic weights go by the recorded ones.
    return name.replace("/", ">")


def _input(layer: dict[str, Any], inputs: list[Any]) -> Any:
    return keras.Input(layer["config"]["batch_input_shape"][1:], name=_name(layer["name"]))


def _split(layer: dict[str, Any], inputs: list[Any]) -> Any:
    groups, group = layer["config"]["groups"], layer["config"]["group_id"]
    return keras.ops.split(inputs[0], groups, axis=1)[group]


def _shuffle(layer: dict[str, Any], inputs: list[Any]) -> Any:
    # Recorded with one group only, where it moves nothing.
    return keras.layers.Identity(name=_name(layer["name"]))(inputs[0])


_CONV = ("filters", "kernel_size", "strides", "padding", "dilation_rate", "use_bias", "activation", "data_format")
_MAKERS: dict[str, Callable[[Any, list[Any]], Any]] = {
    "InputLayer": _input,
    "Conv2D": _plain(keras.layers.Conv2D, *_CONV),
    "DepthwiseConv2D": _plain(keras.layers.DepthwiseConv2D, *_CONV[1:], "depth_multiplier"),
    "Dense": _plain(keras.layers.Dense, "units", "use_bias", "activation"),
    "BatchNormalization": _plain(keras.layers.BatchNormalization, "axis", "epsilon", "momentum", "center", "scale"),
    "Activation": _plain(keras.layers.Activation, "activation"),
    "ReLU": _plain(keras.layers.ReLU, "max_value"),
    "LeakyReLU": _plain(keras.layers.LeakyReLU, negative_slope="alpha"),
    "MaxPooling2D": _plain(keras.layers.MaxPooling2D, "strides", "padding", "pool_size", "data_format"),
    "AveragePooling2D": _plain(keras.layers.AveragePooling2D, "strides", "padding", "pool_size", "data_format"),
    "GlobalAveragePooling2D": _plain(keras.layers.GlobalAveragePooling2D, "data_format"),
    "ZeroPadding2D": _plain(keras.layers.ZeroPadding2D, "padding", "data_format"),
    "Flatten": _plain(keras.layers.Flatten, "data_format"),
    "Reshape": _plain(keras.layers.Reshape, "target_shape"),
    "Dropout": _plain(keras.layers.Dropout, "rate"),
    "Concatenate": _plain(keras.layers.Concatenate, "axis"),
    "Add": _plain(keras.layers.Add),
    "Subtract": _plain(keras.layers.Subtract),
    "Multiply": _plain(keras.layers.Multiply),
    "Average": _plain(keras.layers.Average),
    "Maximum": _plain(keras.layers.Maximum),
    "Split": _split,
    "ChannelShuffle": _shuffle,
}
