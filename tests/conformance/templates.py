"""Models against recorded templates of the toolkit, layer by layer."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest

# Classes of the toolkit's own -> what stands in their place here.
CLASSES = {"ChannelShuffle": "Identity"}


def assert_equal(model: keras.Model, record: dict[str, Any]) -> None:
    """Layers, names, configuration, connections, outputs and parameters."""
    expected = {layer["name"].replace("/", "_"): layer for layer in record["layers"]}
    received = {layer.name: layer for layer in model.layers}
    # A slice stands where the toolkit has a Split.
    dropped = {n for n, layer in expected.items() if layer["class"] == "Split"}
    assert set(received) == set(expected) - dropped
    assert model.count_params() == record["total_params"]
    frozen = sum(
        int(np.prod(w.shape)) for layer in model.layers for w in layer.weights if "moving" not in w.name and not w.trainable
    )
    # Frozen batch normalization is run frozen there and trained nevertheless; here it is not.
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == record["trainable_params"] - frozen
    assert frozen == 0 or "'freeze_bn': True" in str(record["constructor_args"])
    inbound = connections(model)
    for name, layer in received.items():
        compare(layer, expected[name], inbound[name], dropped)
    assert [x._keras_history.operation.name for x in model.outputs] == [n.replace("/", "_") for n in record["outputs"]]


def connections(model: keras.Model) -> dict[str, list[Any]]:
    """Layer -> the layers that it reads, as the records have them: for one that is called several times a list a call."""
    calls: dict[str, list[list[str]]] = {}
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            calls.setdefault(node.operation.name, []).append([x._keras_history.operation.name for x in node.input_tensors])
    # A slice stands where the toolkit has a Split: look through it.
    sliced = {name: found[0][0] for name, found in calls.items() if name.startswith("get_item")}
    looked = {name: [[sliced.get(x, x) for x in sources] for sources in found] for name, found in calls.items()}
    return {name: found[0] if len(found) == 1 else found for name, found in looked.items()}


def compare(layer: Any, record: dict[str, Any], inbound: list[Any], dropped: set[str]) -> None:
    kind = CLASSES.get(record["class"], record["class"])
    assert type(layer).__name__ == kind
    assert layer.count_params() == record["params"], layer.name
    several = bool(record["inbound"]) and isinstance(record["inbound"][0], list)
    if several:
        # Their order among each other is that of the calls there, and of depths here.
        wanted = sorted(record["inbound"])
        assert sorted(inbound) == wanted, layer.name
        assert sorted(list(x) for x in shapes(layer)) == sorted(x[1:] for x in record["output_shape"]), layer.name
    else:
        if kind != "InputLayer":
            assert list(layer.output.shape[1:]) == record["output_shape"][1:], layer.name
        wanted = [x.replace("/", "_") for x in record["inbound"]]
        if not dropped & set(wanted):
            assert inbound == wanted, layer.name
    config = layer.get_config()
    for key, value in record["config"].items():
        check_key(layer.name, key, value, config, rank=len(shapes(layer)[0]) + 1)


def shapes(layer: Any) -> list[Any]:
    """Of the outputs of a layer's calls, without the batch."""
    return [node.output_tensors[0].shape[1:] for node in layer._inbound_nodes]


def check_key(layer: str, key: str, value: Any, config: dict[str, Any], rank: int) -> None:
    key = {"alpha": "negative_slope", "batch_input_shape": "batch_shape"}.get(key, key)
    received = config[key]
    if key.endswith("_initializer"):
        assert initializer(received["class_name"], received["config"]) == initializer(*value), (layer, key)
    elif key == "axis":
        received = received[0] if isinstance(received, (list, tuple)) else received
        assert received % rank == value % rank, (layer, key)
    elif key == "activation":
        assert {"silu": "swish"}.get(received, received) == value, (layer, key)
    elif isinstance(value, float) or (key == "max_value" and value is not None):
        # The records hold max_value as text.
        value = float(value)
        assert received == pytest.approx(value, rel=1e-6), (layer, key)
    else:
        assert plain(received) == plain(value), (layer, key)


def initializer(name: str, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Its class and what matters of its configuration, in Keras 3's words."""
    if name == "PriorProbability":
        # RetinaNet's: a sigmoid that begins at that probability.
        p = config["probability"]
        name, config = "Constant", {"value": -math.log((1 - p) / p)}
    if name in ("HeNormal", "HeUniform"):
        # Keras 3 has a class for each.
        distribution = "normal" if name == "HeNormal" else "uniform"
        name, config = "VarianceScaling", {"scale": 2.0, "mode": "fan_in", "distribution": distribution}
    found = {k: round(v, 6) if isinstance(v, float) else v for k, v in config.items() if k != "seed" and v is not None}
    if name == "VarianceScaling":
        found["distribution"] = {"truncated_normal": "normal"}.get(found["distribution"], found["distribution"])
    return name, found


def plain(value: Any) -> Any:
    return [plain(x) for x in value] if isinstance(value, (list, tuple)) else value
