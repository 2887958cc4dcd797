"""YOLOv4: Bochkovskiy et al., 2020, arXiv:2004.10934, on any backbone, and YOLOv4-tiny: Wang et al., 2020, arXiv:2011.08036.

Both as the toolkit builds them. Decoding and training are not here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import keras

from tlt_prune.models.blocks import ArchitectureOptions
from tlt_prune.models.feature_maps import BACKBONES, DETECTOR_DEFAULTS
from tlt_prune.models.registry import register_network
from tlt_prune.models.yolo_v3 import ANCHORS, MAPS, Anchors, BackboneMaps, Neck, checked_anchors, detections

# For big, middle-sized and small objects; and for those that YOLOv4-tiny has heads for.
_GRID_SCALES = (1.05, 1.1, 1.2)
_TINY_GRID_SCALES = (1.05, 1.05)
_SPP_SIZES = (5, 9, 13)

# The DarkNets are read before normalization and activation.
_RAW = {
    "darknet19": ("b4_conv5", "b3_conv3"),
    "cspdarknet19": ("b4_final_trans", "b3_final_trans"),
    "cspdarknet53": ("b4_final_trans", "b3_final_trans"),
}
_MAPS: dict[str, BackboneMaps] = {
    **MAPS,
    **{name: dataclasses.replace(MAPS[name], mid=mid, small=small) for name, (mid, small) in _RAW.items()},
    "cspdarknet_tiny": BackboneMaps("conv_4_conv_3_mish", "conv_3_conv_3_mish", (512, 256, 128)),
}


@register_network(
    "yolov4",
    {**BACKBONES, "cspdarknet19": {}, "cspdarknet53": {}, "cspdarknet_tiny": {}},
    DETECTOR_DEFAULTS,
)
def yolo_v4(
    base: keras.Model,
    backbone: str,
    classes: int | None = None,
    *,
    anchors: Anchors | None = None,
    grid_scale_xy: Sequence[float] | None = None,
    options: ArchitectureOptions | None = None,
) -> keras.Model:
    """Puts YOLOv4 on a backbone, or YOLOv4-tiny on "cspdarknet_tiny".

    Args:
        base: the backbone, without a head; height and width of its input are multiples of 32, or open.
        backbone: its name.
        classes: number of object classes.
        anchors: three lists of (width, height) in shares of the picture: for big, middle-sized and small objects. On
            "cspdarknet_tiny" two (the default) or three, and there are as many heads.
        grid_scale_xy: how far the centers of the boxes may leave their cells, for each list of anchors: see
            `BBoxPostProcessingLayer`. By default 1.05, 1.1, 1.2; for YOLOv4-tiny with two heads 1.05 for both.
        options: what all architectures share. The toolkit builds it channels-first. `activation` is the backbone's: what is
            added has LeakyReLU of slope 0.1, or ReLU where it is "relu".

    Returns:
        A model with one output (batch, boxes, 6 + 5 + classes): what `YOLOAnchorBox` says of each box, then y, x, height and
        width as `BBoxPostProcessingLayer` makes them, objectness and classes without an activation.

    Raises:
        ValueError: an option or the size of the input does not fit.
    """
    tiny = backbone == "cspdarknet_tiny"
    boxes = checked_anchors(ANCHORS[: 2 if tiny else 3] if anchors is None else anchors, (2, 3) if tiny else (3,))
    scales = (_TINY_GRID_SCALES if len(boxes) == 2 else _GRID_SCALES) if grid_scale_xy is None else grid_scale_xy
    if not isinstance(scales, Sequence) or len(scales) != len(boxes):
        raise ValueError(f"grid_scale_xy: expected {len(boxes)} numbers, one for each list of anchors. Received: {scales!r}.")
    neck = Neck(base, backbone, options or ArchitectureOptions(), _MAPS[backbone])
    if tiny:
        levels = _tiny(neck, base.outputs[0], len(boxes))
    else:
        # On EfficientNet the toolkit leaves its pyramid pooling out of the way from the backbone to the heads.
        x = base.outputs[0] if backbone.startswith("efficientnet") else _pyramid_pooling(neck, base.outputs[0])
        levels = _aggregated(neck, neck.expanded(x))
    return keras.Model(base.inputs[0], detections(neck.net, levels, boxes, classes, scales), name="YOLOv4")


def _pyramid_pooling(neck: Neck, x: keras.KerasTensor) -> keras.KerasTensor:
    """Spatial pyramid pooling: each position sees its surroundings at three sizes. As wide on every backbone."""
    for i, (filters, kernel) in enumerate(((512, 1), (1024, 3), (512, 1)), start=1):
        x = neck.conv(x, filters, kernel, f"yolo_neck_{i}")
    pools = [neck.net.max_pool(x, size, 1, name=f"yolo_spp_pool_{i}") for i, size in enumerate(_SPP_SIZES, start=1)]
    return neck.conv(neck.net.concat(*pools, x, name="yolo_spp_concat"), 512, 1, "yolo_spp_conv")


def _aggregated(neck: Neck, x: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Path aggregation (arXiv:1803.01534): from the coarsest map to the finest, and back. Returns the maps for the heads."""
    big, mid, small = neck.maps.widths
    x = neck.conv(neck.conv(x, big, 3, "yolo_conv1_2"), big // 2, 1, "yolo_conv1_3")
    top = neck.conv(x, mid // 2, 1, "yolo_conv2")
    branch = neck.conv(neck.map(1), mid // 2, 1, "yolo_x_branch")
    middle = neck.alternating(neck.joined(top, branch, "upsample0"), mid, "yolo_conv3", 5)
    x = neck.conv(middle, small // 2, 1, "yolo_conv4")
    branch = neck.conv(neck.map(2), small // 2, 1, "yolo_x_branch_2")
    fine = neck.alternating(neck.joined(x, branch, "upsample1"), small, "yolo_conv5", 5)

    x = neck.net.concat(middle, neck.conv(fine, mid // 2, 3, "yolo_sm_branch_conv", strides=2))
    x = neck.conv(x, mid // 2, 1, "yolo_conv3_5_1")
    x = neck.conv(neck.conv(x, mid, 3, "yolo_conv3_4_2"), mid // 2, 1, "yolo_conv3_5_1_1")
    # From here on some are as wide on every backbone.
    middle = neck.conv(neck.conv(x, mid, 3, "yolo_conv3_6"), 256, 1, "md_leaky_conv512")
    x = neck.net.concat(top, neck.conv(middle, 512, 3, "md_leaky_conv512_down", strides=2))
    x = neck.conv(x, big // 2, 1, "yolo_conv1_3_1")
    x = neck.conv(neck.conv(x, big, 3, "yolo_conv1_4"), big // 2, 1, "yolo_conv1_5")
    x = neck.conv(neck.conv(x, big, 3, "yolo_conv1_6"), 512, 1, "bg_leaky_conv512")
    return [
        neck.conv(x, 1024, 3, "bg_leaky_conv1024"),
        neck.conv(middle, 512, 3, "md_leaky_conv1024"),
        neck.conv(fine, small, 3, "yolo_conv5_6"),
    ]


def _tiny(neck: Neck, x: keras.KerasTensor, heads: int) -> list[keras.KerasTensor]:
    """YOLOv4-tiny: one way from the coarsest map to finer ones. Returns the maps for the heads, two or three."""
    widths = neck.maps.widths
    x = neck.conv(x, widths[0] // 2, 1, "yolo_conv1_1")
    levels = [neck.conv(x, widths[0], 3, "yolo_conv1_6")]
    for i in range(1, heads):
        x = neck.conv(x, widths[i] // 2, 1, f"yolo_conv{2 * i}")
        x = neck.joined(x, neck.map(i), f"upsample{i - 1}")
        x = neck.conv(x, widths[i], 3, f"yolo_conv{2 * i + 1}_6")
        levels.append(x)
    return levels
