"""The architectures against the toolkit's templates, layer by layer.

`DEVIATIONS` lists everything that today's Keras forces to differ, with the reason; all else is equal.
"""

from __future__ import annotations

from typing import Any

import golden
import keras
import numpy as np
import pytest
from helpers import assert_law, randomize

import tlt_prune
from tlt_prune import models

DEVIATIONS = {
    "names": "Keras 3 forbids '/' in names: ShuffleNet's 'stage2/block1/...' is 'stage2_block1_...'",
    "model_1": "SqueezeNet is nameless in the toolkit ('model_1'); here it is 'squeezenet'",
    "Split": "the toolkit's custom Split layer is a slice here, so that files load without custom code",
    "ChannelShuffle": "the custom ChannelShuffle layer is Reshape-Permute-Reshape, and Identity for one group",
    "swish": "Keras 3 calls swish 'silu'; the function is the same",
    "distribution": "VarianceScaling 'normal' of Keras 2 is 'truncated_normal' of Keras 3: the same distribution",
    "stride16": "EfficientNet's stride16 has no effect in the toolkit; here it is a stride of 16 if asked for",
}


def cases() -> list[str]:
    return [name for name in golden.names("templates") if "error" not in golden.load(f"templates/{name}.json.gz")]


def build(name: str, record: dict[str, Any]) -> keras.Model:
    arguments = dict(record["constructor_args"])
    shape = record["input_shape"]
    first = record["data_format"] == "channels_first"
    size = (*shape[1:], shape[0]) if first else tuple(shape)
    family = record["family"]
    layers = arguments.pop("nlayers", arguments.pop("num_layers", None))
    arguments["data_format"] = record["data_format"]
    if name.startswith("detectnet_v2_"):
        base = arguments.get("template", "resnet")
        layers = layers if base in ("resnet", "darknet", "vgg") else ""
        return models.build(f"detectnet_v2_{base}{layers}", size, len(arguments["classes"]), data_format="channels_first")
    classes = arguments.pop("nclasses", arguments.pop("classes", None))
    head = arguments.pop("add_head", family.startswith(("makenet", "shufflenet")))
    arguments.pop("input_shape", None)
    if "stride16" in arguments:
        arguments["stride16"] = False  # see DEVIATIONS
    if "activation_type" in arguments:
        arguments["activation"] = arguments.pop("activation_type")
    if name.startswith("makenet_"):
        backbone = name.removeprefix("makenet_")
        return models.classifier(backbone, size, classes, **arguments)
    key = name.partition("_head")[0].partition("_bias")[0].partition("_a")[0].partition("_bn")[0].partition("_nobn")[0]
    for suffix in ("_leaky_relu", "_mish", "_relu", "_skip", "_lrelu", "_g1"):
        key = key.partition(suffix)[0]
    return models.build(key, size, classes if head else None, **arguments)


def expected_layers(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {layer["name"].replace("/", "_"): layer for layer in record["layers"]}


@pytest.mark.parametrize("name", cases())
def test_variant(name: str, record_property: Any) -> None:
    record = golden.load(f"templates/{name}.json.gz")
    model = build(name, record)
    expected = expected_layers(record)
    received = {layer.name: layer for layer in model.layers}
    dropped = {n for n, layer in expected.items() if layer["class"] == "Split"}
    assert set(received) == set(expected) - dropped
    assert model.name == record["model_name"].replace("model_1", "squeezenet")
    assert model.count_params() == record["total_params"]
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == record["trainable_params"]
    inbound = connections(model)
    for layer_name, layer in received.items():
        compare(layer, expected[layer_name], inbound[layer_name], dropped)
    assert [x._keras_history.operation.name for x in model.outputs] == [n.replace("/", "_") for n in record["outputs"]]
    record_property("tao", "equal")


def connections(model: keras.Model) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for depth in model._nodes_by_depth.values():
        for node in depth:
            found[node.operation.name] = [x._keras_history.operation.name for x in node.input_tensors]
    # A slice stands where the toolkit has a Split: look through it.
    raw = {name for name in found if name.startswith("get_item")}
    return {name: [found[x][0] if x in raw else x for x in sources] for name, sources in found.items()}


def compare(layer: Any, record: dict[str, Any], inbound: list[str], dropped: set[str]) -> None:
    kind = {"ChannelShuffle": "Identity"}.get(record["class"], record["class"])
    assert type(layer).__name__ == kind
    assert layer.count_params() == record["params"], layer.name
    if kind != "InputLayer":
        assert list(layer.output.shape[1:]) == record["output_shape"][1:], layer.name
    wanted = [x.replace("/", "_") for x in record["inbound"]]
    if not dropped & set(wanted):
        assert inbound == wanted, layer.name
    config = layer.get_config()
    for key, value in record["config"].items():
        check_key(layer.name, key, value, config, rank=len(record["output_shape"]))


def check_key(layer: str, key: str, value: Any, config: dict[str, Any], rank: int) -> None:
    key = {"alpha": "negative_slope", "batch_input_shape": "batch_shape"}.get(key, key)
    received = config[key]
    if key.endswith("_initializer"):
        assert (received["class_name"], initializer(received["config"])) == (value[0], initializer(value[1])), (layer, key)
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


def initializer(config: dict[str, Any]) -> dict[str, Any]:
    found = {k: v for k, v in config.items() if k in ("scale", "mode", "distribution")}
    found["distribution"] = {"truncated_normal": "normal"}.get(found["distribution"], found["distribution"])
    return found


def plain(value: Any) -> Any:
    return [plain(x) for x in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize(
    "name", [name for name in golden.names("templates") if "error" in golden.load(f"templates/{name}.json.gz")]
)
def test_what_the_toolkit_refuses_works_here(name: str) -> None:
    record = golden.load(f"templates/{name}.json.gz")
    groups = record["constructor_args"].get("groups")
    if groups is not None:
        model = models.build("shufflenet", (64, 64, 3), 10, groups=groups)
    else:
        model = models.build(name.partition("_head")[0].partition("_channels")[0], (64, 64, 3), data_format="channels_last")
    randomize(model)
    inputs = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype("float32")
    outputs = np.asarray(model(inputs), np.float64)
    assert outputs.shape == (2, *model.output_shape[1:])
    assert np.isfinite(outputs).all()
    plan = tlt_prune.plan_pruning(model, ratio=0.5, min_num_filters=8)
    assert not plan.unknown
    assert_law(model, plan, plan.apply(model), tolerance=2e-5)
