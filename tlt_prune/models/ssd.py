"""SSD: Liu et al., "SSD: Single Shot MultiBox Detector", 2016, arXiv:1512.02325, as the toolkit builds it: six feature maps, each
with a class and four offsets for every anchor box. Decoding and training are not here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from tlt_prune.models.anchors import AnchorBoxes, AnchorOptions, checked_classes, fields_spelled_out, of_all_maps, predictions
from tlt_prune.models.blocks import ArchitectureOptions, Net
from tlt_prune.models.feature_maps import BACKBONES, DETECTOR_DEFAULTS, family, feature_maps
from tlt_prune.models.registry import register_network

MAPS = 6
SCALES = (0.05, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85)
# A DarkNet's activation is leaky elsewhere.
SSD_BACKBONES = {name: {**own, "activation": "relu"} if name.startswith("darknet") else own for name, own in BACKBONES.items()}
# Number of an expansion block -> widths of its two convolutions, stride of the second.
_Blocks = dict[int, tuple[int, int, int]]
_WIDE: _Blocks = {0: (512, 512, 1), 1: (256, 512, 2), 2: (128, 256, 2), 3: (128, 256, 2), 4: (128, 256, 2)}
_MEDIUM: _Blocks = {number: (a // 2, b // 2, stride) for number, (a, b, stride) in _WIDE.items()}
# Here the backbone's last map is read as it is.
_NARROW: _Blocks = dict.fromkeys((1, 2, 3, 4), (64, 128, 2))
NARROW_BACKBONES = ("resnet10", "mobilenet_v1", "mobilenet_v2", "squeezenet")
_PREDICTION_CHANNELS = (0, 256, 512, 1024)


@dataclasses.dataclass(frozen=True)
class SsdOptions(AnchorOptions):
    """Options of SSD and DSSD.

    Attributes:
        pred_num_channels: width of the residual block in front of each map's outputs, 256, 512 or 1024; 0 for none.
    """

    aspect_ratios: Sequence[float] | Sequence[Sequence[float]] = (1.0, 2.0, 0.5, 3.0, 1 / 3)
    pred_num_channels: int = 0

    def __post_init__(self) -> None:
        if self.pred_num_channels not in _PREDICTION_CHANNELS:
            raise ValueError(
                f"Expected pred_num_channels to be one of {_PREDICTION_CHANNELS}. Received: {self.pred_num_channels!r}."
            )


@register_network("ssd", SSD_BACKBONES, DETECTOR_DEFAULTS)
@fields_spelled_out(SsdOptions)
def ssd(
    base: keras.Model, backbone: str, classes: int | None = 4, *, options: ArchitectureOptions | None = None, **own: Any
) -> keras.Model:
    """Puts SSD on a backbone.

    Args:
        base: the backbone, without a head; its input has a fixed size.
        backbone: its name.
        classes: number of classes, the background among them as number 0.
        options: what all architectures share. The toolkit builds it channels-first.
        **own: the fields of `SsdOptions`; without `scales`, those of the toolkit's examples.

    Returns:
        A model with one output, shape (batch, boxes, classes + 12): probabilities of the classes, offsets of the box (center x
        and y, width and height), the anchor box (xmin ymin xmax ymax, as shares of the picture) and its variances.

    Raises:
        ValueError: an option is out of range, or there are fewer than two classes.
    """
    net = Net(options or ArchitectureOptions(), after=base)
    maps = expanded(net, base, backbone)
    return detector(net, base, maps, checked_classes(classes), SsdOptions(**own), f"ssd_{family(backbone)}")


def expanded(net: Net, base: keras.Model, backbone: str) -> list[keras.KerasTensor]:
    """The backbone's maps and those of the expansion blocks, six in all, the largest first."""
    maps = feature_maps(base, backbone, net)
    x = maps[-1]
    blocks = _NARROW if backbone in NARROW_BACKBONES else _MEDIUM if backbone in ("resnet18", "resnet34") else _WIDE
    if blocks is not _NARROW:
        maps = maps[:-1]
    for number in sorted(blocks)[: MAPS - len(maps)]:
        narrow, wide, stride = blocks[number]
        name = f"ssd_expand_block_{number}_"
        x = relu_layer(net.conv(x, narrow, 1, name=f"{name}conv_0", use_bias=True), f"{name}relu_0")
        x = net.conv(x, wide, 3, stride, name=f"{name}conv_1", use_bias=without_norm(net))
        x = relu_layer(net.norm(x, f"{name}bn_1"), f"{name}relu_1")
        maps.append(x)
    return maps


def detector(
    net: Net, base: keras.Model, maps: Sequence[keras.KerasTensor], classes: int, o: SsdOptions, name: str
) -> keras.Model:
    """The model whose outputs are read from six maps."""
    if o.pred_num_channels:
        maps = [_residual(net, x, i, o.pred_num_channels) for i, x in enumerate(maps)]
    grids = o.grids(net.spatial(base.inputs[0]), SCALES)
    anchors = [AnchorBoxes(**grid, data_format=net.options.data_format, name=f"ssd_anchor_{i}") for i, grid in enumerate(grids)]

    def head(i: int, kind: str, values: int) -> keras.KerasTensor:
        initializer = keras.initializers.VarianceScaling(2.0, "fan_in", "truncated_normal")
        return net.output_conv(maps[i], anchors[i].grid.count * values, 3, f"ssd_{kind}_{i}", kernel_initializer=initializer)

    confidences = [net.last(head(i, "conf", classes)) for i in range(MAPS)]
    offsets = [head(i, "loc", 4) for i in range(MAPS)]
    boxes = [anchor(x) for anchor, x in zip(anchors, offsets, strict=True)]
    x = keras.layers.Permute((3, 2, 1), name="before_softmax_permute")(of_all_maps(confidences, "conf", classes))
    x = keras.layers.Softmax(axis=1, name="mbox_conf_softmax_")(x)
    x = keras.layers.Permute((3, 2, 1), name="mbox_conf_softmax")(x)
    y = predictions(net, x, [net.last(x) for x in offsets], boxes, "ssd_predictions")
    return keras.Model(base.inputs[0], y, name=name)


def _residual(net: Net, x: keras.KerasTensor, number: int, channels: int) -> keras.KerasTensor:
    """The prediction module of Fu et al., 2017, arXiv:1701.06659, figure 2 (c)."""

    def conv(x: keras.KerasTensor, i: int, filters: int) -> keras.KerasTensor:
        x = net.conv(x, filters, 1, name=f"ssd_mpred_conv_{i}_block_{number}", use_bias=without_norm(net))
        return net.norm(x, f"ssd_mpred_bn_{i}_block_{number}")

    y = x
    for i in range(2):
        y = relu_layer(conv(y, i, channels // 4), f"ssd_mpred_relu_{i}_block_{number}")
    y = net.add(conv(y, 2, channels), conv(x, 3, channels), name=f"ssd_mpred_add_block_{number}")
    return relu_layer(y, f"ssd_mpred_relu_3_block_{number}")


def relu_layer(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """The networks' own activation, whatever the backbone's."""
    return keras.layers.ReLU(name=name)(x)


def without_norm(net: Net) -> bool:
    """Whether there is no batch normalization, which makes the bias of the convolution in front of it superfluous."""
    return not net.options.use_batch_norm
