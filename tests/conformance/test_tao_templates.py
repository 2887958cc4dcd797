"""The architectures against the toolkit's templates, layer by layer.

`DEVIATIONS` lists everything that today's Keras forces to differ, with the reason; all else is equal.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import golden
import keras
import numpy as np
import pytest
from helpers import assert_law, randomize, without_random_weights
from templates import assert_equal

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


@pytest.fixture(autouse=True)
def _free() -> Iterator[None]:
    yield
    # A hundred networks, one at a time.
    gc.collect()


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


@pytest.mark.parametrize("name", cases())
def test_variant(name: str, record_property: Any) -> None:
    record = golden.load(f"templates/{name}.json.gz")
    with without_random_weights():
        model = build(name, record)
    assert_equal(model, record)
    assert model.name == record["model_name"].replace("model_1", "squeezenet")
    record_property("tao_template", "equal")


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
