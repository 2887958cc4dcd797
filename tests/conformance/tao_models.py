"""The toolkit's other models (tests/data/tao_models/README.md) by `models.build`, from the arguments that the records state.

Nothing is looked up by name: files that are added are read like the others.
"""

from __future__ import annotations

import functools
import gzip
import json
import pathlib
from typing import Any

import keras

from tlt_prune import models

DATA = pathlib.Path(__file__).resolve().parent.parent / "data" / "tao_models"
# What the toolkit calls an option -> what it is here.
NAMES = {"aspect_ratios_global": "aspect_ratios", "aspect_ratios_per_layer": "aspect_ratios", "activation_type": "activation"}
# Arguments that say which model it is, or how it is trained, or that are for another framework.
OTHERS = {"arch", "nlayers", "num_layers", "image_size", "size", "input_shape", "is_dssd", "qat"}
STEMS = {"multitask_classification": "multitask", "yolo_v3": "yolov3", "yolo_v4": "yolov4", "yolo_v4_tiny": "yolov4"}


@functools.cache
def load(relative: str) -> Any:
    return json.loads(gzip.decompress((DATA / relative).read_bytes()))


def names(folder: str) -> list[str]:
    return sorted(path.name.removesuffix(".json.gz") for path in (DATA / folder).glob("*.json.gz"))


def build(record: dict[str, Any]) -> keras.Model:
    """The model that a template's constructor makes, here."""
    given = dict(record["constructor_args"])
    channels, height, width = (
        given.get("input_shape") or given.get("image_size") or given.get("size") or record.get("input_shape", (3, 128, 128))
    )
    family = record["family"]
    given |= given.pop("model_config", {})
    arch = given["arch"]
    depth = given.get("nlayers", given.get("num_layers"))
    backbone = (
        f"{arch}{depth}"
        if arch in ("resnet", "vgg", "darknet", "cspdarknet")
        else arch.replace("_3l", "").replace("vanilla_unet", "vanilla")
    )
    stem = STEMS.get(family, family)
    classes = next(given.pop(key) for key in ("nclasses_dict", "num_classes", "n_classes") if key in given)
    options = {NAMES.get(key, key): value for key, value in given.items() if key not in OTHERS and value is not None}
    if stem == "yolov4" and "darknet" not in backbone:
        # Given to every backbone there, and read by the DarkNets.
        options.pop("activation", None)
    if options.pop("force_relu", False):
        options["activation"] = "relu"
    if family == "unet":
        options = unet_options(options)
    known = models.own_options(f"{stem}_{backbone}")
    for key in ("all_projections", "use_pooling", "dropout"):
        # Given to every backbone there, and read by some.
        if key not in known:
            options.pop(key, None)
    return models.build(f"{stem}_{backbone}", (height, width, channels), classes, data_format=record["data_format"], **options)


def unet_options(options: dict[str, Any]) -> dict[str, Any]:
    initializers = {0: "glorot_uniform", 1: "he_normal", 2: "he_uniform"}
    found = {k: v for k, v in options.items() if k not in ("activation", "export", "initializer")}
    found["kernel_initializer"] = initializers[options.get("initializer", 0)]
    found["output"] = options.get("activation", "softmax")
    found["probabilities"] = options.get("export", False)
    return found
