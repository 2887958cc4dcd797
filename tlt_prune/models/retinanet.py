"""RetinaNet: Lin et al., "Focal Loss for Dense Object Detection", 2017, arXiv:1708.02002, as the toolkit builds it: a pyramid of
five maps, and two subnets that all maps share. Decoding and training are not here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras

from tlt_prune.models.anchors import (
    AnchorOptions,
    RetinaAnchorBoxes,
    checked_classes,
    fields_spelled_out,
    of_all_maps,
    predictions,
)
from tlt_prune.models.blocks import ArchitectureOptions, Net
from tlt_prune.models.feature_maps import BACKBONES, DETECTOR_DEFAULTS, family, feature_maps
from tlt_prune.models.registry import register_network

SCALES = (0.045, 0.09, 0.2, 0.4, 0.55, 0.7)
# What the sigmoids begin at, so that the many boxes of background do not drown the first steps: section 3.3.
_PRIOR = 0.01
_STRIDE = 32


@dataclasses.dataclass(frozen=True)
class RetinaOptions(AnchorOptions):
    """Options of RetinaNet.

    Attributes:
        n_kernels: convolutions of each subnet in front of its last one.
        n_anchor_levels: see `AnchorGrid`.
        feature_size: width of the pyramid and the subnets.
    """

    two_boxes_for_ar1: bool = False
    n_kernels: int = 1
    n_anchor_levels: int = 1
    feature_size: int = 256

    def __post_init__(self) -> None:
        if self.n_kernels < 0 or self.feature_size < 1:
            raise ValueError(
                "Expected n_kernels of at least 0 and feature_size of at least 1. "
                f"Received: n_kernels={self.n_kernels}, feature_size={self.feature_size}."
            )


@register_network("retinanet", BACKBONES, DETECTOR_DEFAULTS)
@fields_spelled_out(RetinaOptions)
def retinanet(
    base: keras.Model, backbone: str, classes: int | None = 4, *, options: ArchitectureOptions | None = None, **own: Any
) -> keras.Model:
    """Puts RetinaNet on a backbone.

    Args:
        base: the backbone, without a head; the sides of its input are multiples of 32.
        backbone: its name.
        classes: number of classes, the background among them as number 0, which is not trained.
        options: what all architectures share. The toolkit builds it channels-first.
        **own: the fields of `RetinaOptions`; without `scales`, those of the toolkit's examples.

    Returns:
        A model with one output, shape (batch, boxes, classes + 12): a sigmoid for each class, offsets of the box (center x and y,
        width and height), the anchor box (xmin ymin xmax ymax, as shares of the picture) and its variances.

    Raises:
        ValueError: an option is out of range, the input's size does not fit, or there are fewer than two classes.
    """
    net, o = Net(options or ArchitectureOptions(), after=base), RetinaOptions(**own)
    size = net.spatial(base.inputs[0])
    maps = feature_maps(base, backbone, net)
    if any((n or 0) % _STRIDE for n in size):
        raise ValueError(f"Expected height and width to be multiples of {_STRIDE}. Received: height={size[0]}, width={size[1]}.")
    maps = _pyramid(net, maps, o.feature_size, as_it_is=backbone.startswith("efficientnet"))
    anchors = [
        RetinaAnchorBoxes(
            **grid, n_anchor_levels=o.n_anchor_levels, data_format=net.options.data_format, name=f"retinanet_anchor_{i}"
        )
        for i, grid in enumerate(o.grids(size, SCALES))
    ]
    y = _outputs(net, o, maps, anchors, checked_classes(classes))
    return keras.Model(base.inputs[0], y, name=f"retinanet_{family(backbone)}")


def _pyramid(net: Net, maps: Sequence[keras.KerasTensor], width: int, as_it_is: bool) -> list[keras.KerasTensor]:
    """P3 to P7, of stride 8 to 128.

    Args:
        net: makes layers.
        maps: of the backbone, of stride 8, 16 and perhaps 32.
        width: of the pyramid.
        as_it_is: a map of stride 32 gets no convolution of its own.
    """
    c3, c4, *rest = maps

    def conv(x: keras.KerasTensor, kernel: int, name: str, strides: int = 1) -> keras.KerasTensor:
        initializer = keras.initializers.VarianceScaling(2.0, "fan_in", "truncated_normal")
        return net.conv(x, width, kernel, strides, name=name, use_bias=True, kernel_initializer=initializer)

    def relu(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return keras.layers.ReLU(name=name)(x)

    if not rest:
        c5 = relu(conv(c4, 3, "expand_conv1", 2), "expand1_relu")
    else:
        c5 = rest[0] if as_it_is else relu(conv(rest[0], 1, "expand_conv1"), "expand1_relu")
    p5 = conv(c5, 1, "C5_reduced")
    p4 = net.add(net.upsample(p5, "P5_upsampled"), conv(c4, 1, "C4_reduced"), name="P4_merged")
    p3 = net.add(net.upsample(p4, "P4_upsampled"), conv(c3, 1, "C3_reduced"), name="P3_merged")
    p6 = relu(conv(c5, 3, "P6", 2), "P6_relu")
    p7 = relu(conv(p6, 3, "P7", 2), "P7_relu")
    return [*(relu(conv(x, 3, f"P{i}"), f"P{i}_relu") for i, x in enumerate((p3, p4, p5), start=3)), p6, p7]


def _outputs(
    net: Net, o: RetinaOptions, maps: Sequence[keras.KerasTensor], anchors: Sequence[RetinaAnchorBoxes], classes: int
) -> keras.KerasTensor:
    counts = sorted({x.grid.count for x in anchors})
    # The layers that make the outputs are those of all maps.
    if len(counts) > 1:
        raise ValueError(f"aspect_ratios: expected as many boxes for each map. Received: {counts} boxes per position.")
    prior = keras.initializers.Constant(-math.log((1 - _PRIOR) / _PRIOR))
    classify = [*_subnet(net, o, "class"), _shared(net, counts[0] * classes, "conf_regressor", bias_initializer=prior)]
    locate = [*_subnet(net, o, "loc"), _shared(net, counts[0] * 4, "loc_regressor")]
    confidences, offsets, boxes = [], [], []
    for x, anchor in zip(maps, anchors, strict=True):
        confidences.append(net.last(_through(classify, x)))
        y = _through(locate, x)
        offsets.append(net.last(y))
        boxes.append(anchor(y))
    x = keras.layers.Activation("sigmoid", name="mbox_conf_sigmoid")(of_all_maps(confidences, "conf", classes))
    return predictions(net, x, offsets, boxes, "retinanet_predictions")


def _subnet(net: Net, o: RetinaOptions, kind: str) -> list[keras.layers.Layer]:
    filters = net.filters(o.feature_size)
    return [_shared(net, filters, f"{kind}_subn_{i}", activation="relu") for i in range(o.n_kernels)]


def _shared(net: Net, filters: int, name: str, **kwargs: Any) -> keras.layers.Layer:
    """A convolution that is called on every map."""
    o = net.options
    return keras.layers.Conv2D(
        filters,
        3,
        padding="same",
        data_format=o.data_format,
        kernel_initializer=keras.initializers.RandomNormal(0.0, 0.01),
        kernel_regularizer=o.kernel_regularizer,
        bias_regularizer=o.bias_regularizer,
        name=f"retinanet_{name}",
        **kwargs,
    )


def _through(layers: Sequence[keras.layers.Layer], x: keras.KerasTensor) -> keras.KerasTensor:
    for layer in layers:
        x = layer(x)
    return x
