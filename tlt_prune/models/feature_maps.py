"""Feature maps of each backbone that SSD and RetinaNet read: the deepest one of each stride from 8 on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from tlt_prune.models.blocks import Net

_STRIDES = (8, 16, 32)
# backbone -> the layers that make its maps of stride 8, 16 and, where it has one, 32
_LAYERS: dict[str, tuple[str, ...]] = {
    "resnet10": ("block_2a_relu", "block_4a_relu"),
    "resnet18": ("block_2b_relu", "block_4b_relu"),
    "resnet34": ("block_2d_relu", "block_4c_relu"),
    "resnet50": ("block_2d_relu", "block_4c_relu"),
    "resnet101": ("block_2d_relu", "block_4c_relu"),
    "vgg16": ("block_4c_{activation}", "block_5c_{activation}"),
    "vgg19": ("block_4d_{activation}", "block_5d_{activation}"),
    "darknet19": ("b3_conv3_lrelu", "b4_conv5_lrelu", "b5_conv5_lrelu"),
    "darknet53": ("b3_add8", "b4_add8", "b5_add4"),
    "mobilenet_v1": ("conv_pw_{relu}_5", "conv_pw_{relu}_11"),
    # Inside of a block: the next stride is on the depthwise convolution behind it.
    "mobilenet_v2": ("re_lu_7", "block_12_add"),
    "efficientnet_b0": ("block4a_expand_activation", "block6a_expand_activation", "top_activation"),
    "squeezenet": ("fire8", "fire9"),
    "googlenet": ("inception_3b_output", "inception_5b_output"),
}
# Options of a backbone under a detector that are others than those of a classifier.
DETECTOR_DEFAULTS = {"data_format": "channels_first", "input_name": "Input", "use_bias": False}
BACKBONES: Mapping[str, Mapping[str, Any]] = {
    **{name: {} for name in ("darknet19", "darknet53", "efficientnet_b0", "squeezenet", "googlenet")},
    **{f"resnet{n}": {"use_pooling": False, "all_projections": True} for n in (10, 18, 34, 50, 101)},
    **{f"vgg{n}": {"use_pooling": False} for n in (16, 19)},
    "mobilenet_v1": {"stride": 16},
    "mobilenet_v2": {"stride": 16, "all_projections": True},
}
"""Name of a backbone -> its own options, with which it has the maps."""


def feature_maps(base: keras.Model, backbone: str, net: Net) -> list[keras.KerasTensor]:
    """Outputs of stride 8, 16 and, of a DarkNet or an EfficientNet, 32; the largest first.

    Args:
        base: the backbone, without a head; its input has a fixed size.
        backbone: its name, a key of `BACKBONES`.
        net: with the backbone's options.

    Raises:
        ValueError: the input has an open size, or an option of the backbone changed its strides.
    """
    image = net.spatial(base.inputs[0])
    if None in image:
        raise ValueError(f"Expected a fixed input size. Received: height={image[0]}, width={image[1]}.")
    relu = "relu6" if net.activation == "relu6" else "relu"
    maps = [base.get_layer(x.format(activation=net.activation, relu=relu)).output for x in _LAYERS[backbone]]
    for stride, x in zip(_STRIDES, maps, strict=False):
        expected = tuple(-(-(n or 0) // stride) for n in image)
        if net.spatial(x) != expected:
            raise ValueError(
                f"Expected options with which '{backbone}' has a feature map of stride {stride}, here {expected}. "
                f"Received: a map of {net.spatial(x)}."
            )
    return maps


def family(backbone: str) -> str:
    """The name without the number of layers, as the toolkit's models have it: "resnet" of "resnet18"."""
    numbered = backbone.startswith(("resnet", "vgg", "darknet"))
    return backbone.rstrip("0123456789") if numbered else backbone
