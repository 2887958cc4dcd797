"""YOLOv3: Redmon and Farhadi, 2018, arXiv:1804.02767, on any backbone, as the toolkit builds it. Also what YOLOv4 shares with it.

Decoding and training are not here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from tlt_prune.models.blocks import ArchitectureOptions, Net
from tlt_prune.models.feature_maps import BACKBONES, DETECTOR_DEFAULTS
from tlt_prune.models.registry import register_network
from tlt_prune.models.yolo_layers import BBoxPostProcessingLayer, YOLOAnchorBox, checked_boxes

# (width, height) of boxes, in shares of the picture.
Anchors = Sequence[Sequence[Sequence[float]]]
# For big, middle-sized and small objects.
ANCHORS: Anchors = (
    ((0.279, 0.216), (0.375, 0.476), (0.897, 0.784)),
    ((0.072, 0.147), (0.149, 0.108), (0.142, 0.286)),
    ((0.024, 0.031), (0.038, 0.072), (0.079, 0.055)),
)


@dataclasses.dataclass(frozen=True)
class BackboneMaps:
    """What a YOLO reads of a backbone besides its last map, and how wide it is on it.

    Attributes:
        mid, small: layers that make the maps for middle-sized and small objects; `{activation}` and `{relu}` stand for its name.
        widths: filters of the 3x3 convolutions for big, middle-sized and small objects; the 1x1 convolutions have half.
        expand: filters of the stride-2 convolution on the last map, where that is as large as `mid`; 0 for none.
        mid_conv, small_conv: (filters, kernel size) of a convolution on `mid` and `small`, None for none.
        upsample: `small` is as large as `mid`, and every position of it is taken four times.
    """

    mid: str
    small: str
    widths: tuple[int, int, int] = (1024, 512, 256)
    expand: int = 0
    mid_conv: tuple[int, int] | None = None
    small_conv: tuple[int, int] | None = None
    upsample: bool = False


_NARROW = (512, 256, 128)
MAPS: dict[str, BackboneMaps] = {
    "resnet10": BackboneMaps("block_3a_relu", "block_2a_relu", _NARROW, 512),
    "resnet18": BackboneMaps("block_3b_relu", "block_2b_relu", _NARROW, 512),
    "resnet34": BackboneMaps("block_3f_relu", "block_2d_relu", _NARROW, 512),
    "resnet50": BackboneMaps("block_4c_relu_2", "block_3f_relu_2", expand=1024, upsample=True),
    "resnet101": BackboneMaps("block_4c_relu_2", "block_3w_relu_2", expand=1024, upsample=True),
    # Their last map has a stride of 16, and nothing is added: the maps have strides of 16, 8 and 4.
    "vgg16": BackboneMaps("block_4c_{activation}", "block_3c_{activation}"),
    "vgg19": BackboneMaps("block_4d_{activation}", "block_3d_{activation}"),
    "darknet19": BackboneMaps("b4_conv5_lrelu", "b3_conv3_lrelu"),
    "darknet53": BackboneMaps("b4_add8", "b3_add8"),
    "cspdarknet19": BackboneMaps("b4_final_trans_mish", "b3_final_trans_mish"),
    "cspdarknet53": BackboneMaps("b4_final_trans_mish", "b3_final_trans_mish"),
    # By analogy with MobileNet v2 and the widths of its own maps: no record of the toolkit's shows it.
    "mobilenet_v1": BackboneMaps("conv_pw_{relu}_11", "conv_pw_{relu}_5", expand=512),
    "mobilenet_v2": BackboneMaps("block_9_add", "block_5_add", (128, 64, 32), 96),
    "squeezenet": BackboneMaps("fire9", "fire8", (256, 128, 128), 128, (128, 1), (128, 1)),
    "googlenet": BackboneMaps("inception_5a_output", "inception_4e_output", (1024, 512, 256), 1024, (512, 3), (256, 3), True),
    "efficientnet_b0": BackboneMaps("block6a_expand_activation", "block5a_expand_activation", small_conv=(256, 3), upsample=True),
}


@register_network(
    "yolov3",
    {**BACKBONES, "cspdarknet19": {}, "cspdarknet53": {}},
    DETECTOR_DEFAULTS,
)
def yolo_v3(
    base: keras.Model,
    backbone: str,
    classes: int | None = None,
    *,
    anchors: Anchors = ANCHORS,
    arch_conv_blocks: int = 2,
    options: ArchitectureOptions | None = None,
) -> keras.Model:
    """Puts YOLOv3 on a backbone.

    Args:
        base: the backbone, without a head; height and width of its input are multiples of 32, or open.
        backbone: its name.
        classes: number of object classes.
        anchors: three lists of (width, height) in shares of the picture: for big, middle-sized and small objects.
        arch_conv_blocks: how often a 1x1 convolution in front of each head is followed by a 3x3 and another 1x1: 0, 1 or 2.
        options: what all architectures share. The toolkit builds it channels-first. `activation` is the backbone's: what is
            added has LeakyReLU of slope 0.1, or ReLU where it is "relu".

    Returns:
        A model with one output (batch, boxes, 6 + 5 + classes): what `YOLOAnchorBox` says of each box, then y, x, height, width,
        objectness and classes as the network has them, without an activation.

    Raises:
        ValueError: an option or the size of the input does not fit.
    """
    if arch_conv_blocks not in (0, 1, 2):
        raise ValueError(f"arch_conv_blocks: expected 0, 1 or 2. Received: {arch_conv_blocks!r}.")
    boxes = checked_anchors(anchors, (3,))
    neck = Neck(base, backbone, options or ArchitectureOptions())
    levels, x = [], neck.expanded(base.outputs[0])
    for i, width in enumerate(neck.maps.widths):
        if i:
            x = neck.conv(x, width // 2, 1, f"yolo_conv{2 * i}")
            x = neck.joined(x, neck.map(i), f"upsample{i - 1}")
        x = neck.alternating(x, width, f"yolo_conv{2 * i + 1}", 2 * int(arch_conv_blocks) + 1)
        levels.append(neck.conv(x, width, 3, f"yolo_conv{2 * i + 1}_6"))
    return keras.Model(base.inputs[0], detections(neck.net, levels, boxes, classes), name="YOLOv3")


class Neck:
    """Makes the layers between a backbone and the heads: a convolution is <name>, <name>_bn, <name>_lrelu, without a bias."""

    def __init__(self, base: keras.Model, backbone: str, options: ArchitectureOptions, maps: BackboneMaps | None = None) -> None:
        """`maps` are those of `MAPS` unless given; automatic names go on from those of `base`."""
        self.net = Net(options, use_bias=False, after=base)
        self.maps = maps or MAPS[backbone]
        self._base = base
        activation = options.activation or "relu"
        self._words = {"activation": activation, "relu": "relu6" if activation == "relu6" else "relu"}
        self._relu = options.activation == "relu"

    def conv(self, x: keras.KerasTensor, filters: int, kernel: int, name: str, *, strides: int = 1) -> keras.KerasTensor:
        """Convolution, normalization, LeakyReLU or ReLU."""
        x = self.net.norm(self.net.conv(x, filters, kernel, strides, name=name), f"{name}_bn")
        if self._relu:
            return keras.layers.ReLU(name=f"{name}_lrelu")(x)
        return self.net.act(x, f"{name}_lrelu", kind="leaky_relu")

    def alternating(self, x: keras.KerasTensor, width: int, stem: str, count: int) -> keras.KerasTensor:
        """`count` convolutions, 1x1 of half the width and 3x3 of the whole in turn: <stem>_1, <stem>_2..."""
        for i in range(1, count + 1):
            x = self.conv(x, width // 2, 1, f"{stem}_{i}") if i % 2 else self.conv(x, width, 3, f"{stem}_{i}")
        return x

    def expanded(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """The backbone's last map at half the size, where it needs that."""
        return self.conv(x, self.maps.expand, 3, "yolo_expand_conv1", strides=2) if self.maps.expand else x

    def map(self, level: int) -> keras.KerasTensor:
        """The backbone's map for middle-sized (1) or small objects (2)."""
        name, conv = ((self.maps.mid, self.maps.mid_conv), (self.maps.small, self.maps.small_conv))[level - 1]
        x = self._base.get_layer(name.format(**self._words)).output
        if level == 2 and self.maps.upsample:
            x = self.net.upsample(x, "expand_upsample")
        return self.conv(x, *conv, f"expand_conv{level + 1}") if conv else x

    def joined(self, x: keras.KerasTensor, finer: keras.KerasTensor, name: str) -> keras.KerasTensor:
        """A map at twice its size beside a finer one.

        Raises:
            ValueError: the finer one has another size.
        """
        x = self.net.upsample(x, name)
        for one, other in zip(self.net.spatial(x), self.net.spatial(finer), strict=True):
            if None not in (one, other) and one != other:
                image = self.net.spatial(self._base.inputs[0])
                raise ValueError(
                    "Expected height and width of the input to be multiples of 32, and no option of the backbone that changes its"
                    f" strides. Received: (height, width)={image}, with maps of {self.net.spatial(x)} and"
                    f" {self.net.spatial(finer)} to join."
                )
        return self.net.concat(x, finer)


def checked_anchors(anchors: Any, counts: tuple[int, ...]) -> list[list[list[float]]]:
    """Lists of (width, height), as many as one of `counts` says.

    Raises:
        ValueError: they are something else.
    """
    lists = list(anchors) if isinstance(anchors, Sequence) and not isinstance(anchors, str) else []
    if len(lists) not in counts:
        wanted = " or ".join(
            {2: "two (big, middle-sized objects)", 3: "three (big, middle-sized, small objects)"}[n] for n in counts
        )
        raise ValueError(f"anchors: expected {wanted} lists of (width, height). Received: {anchors!r}.")
    return [checked_boxes(boxes, f"anchors[{i}]") for i, boxes in enumerate(lists)]


def detections(
    net: Net,
    levels: Sequence[keras.KerasTensor],
    anchors: Sequence[Sequence[Sequence[float]]],
    classes: int | None,
    grid_scale_xy: Sequence[float] = (),
) -> keras.KerasTensor:
    """The heads: (batch, boxes, 6 + 5 + classes) of all levels, big objects first.

    Args:
        net: makes the layers.
        levels: the feature map of each level.
        anchors: the boxes of each.
        classes: number of object classes.
        grid_scale_xy: scale of `BBoxPostProcessingLayer` for each; empty leaves it out.

    Raises:
        ValueError: `classes` is not a positive number.
    """
    if classes is None or classes < 1:
        raise ValueError(f"classes: expected the number of object classes, at least 1. Received: {classes!r}.")
    encoded = []
    for i, (x, boxes) in enumerate(zip(levels, anchors, strict=True)):
        size, short = ("big", "mid", "sm")[i], ("bg", "md", "sm")[i]
        x = net.output_conv(x, len(boxes) * (5 + classes), 1, f"conv_{size}_object")
        grid = YOLOAnchorBox(boxes, net.options.data_format, name=f"{short}_anchor")(x)
        if net.channel_axis == 1:
            x = keras.layers.Permute((2, 3, 1), name=f"{short}_permute")(x)
        x = keras.layers.Reshape((-1, 5 + classes), name=f"{short}_reshape")(x)
        if grid_scale_xy:
            x = BBoxPostProcessingLayer(grid_scale_xy[i], name=f"{short}_bbox_processor")(x)
        encoded.append(keras.layers.Concatenate(axis=-1, name=f"encoded_{short}")([grid, x]))
    return keras.layers.Concatenate(axis=-2, name="encoded_detections")(encoded)
