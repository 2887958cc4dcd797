"""ShuffleNet: Zhang et al., 2017, arXiv:1707.01083, with grouped convolutions where the toolkit's template fails."""

from __future__ import annotations

from typing import Any

import keras

from tlt_prune.models.blocks import ArchitectureOptions, InputShape, Net, inputs
from tlt_prune.models.registry import register_architecture

_OUT_CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
_UNITS = (3, 7, 3)


@register_architecture("shufflenet")
def shufflenet(
    input_shape: InputShape = (224, 224, 3),
    classes: int | None = None,
    *,
    groups: int = 1,
    scale_factor: float = 1.0,
    bottleneck_ratio: float = 0.25,
    options: ArchitectureOptions | None = None,
) -> keras.Model:
    """Builds ShuffleNet; its total stride is 32.

    Args:
        input_shape: (height, width, channels).
        classes: channels of the last 1x1 convolution `score_fr`, the toolkit's head; None for a bare backbone.
        groups: 1, 2, 3, 4 or 8 groups in the 1x1 convolutions.
        scale_factor: multiplies the filter counts; a multiple of 0.25.
        bottleneck_ratio: width of a unit's bottleneck, as a share of its output.
        options: what all architectures share.

    Raises:
        ValueError: the groups or the scale factor are not among those of the paper.
    """
    if groups not in _OUT_CHANNELS or not float(scale_factor * 4).is_integer():
        raise ValueError(
            f"Expected groups of {sorted(_OUT_CHANNELS)} and a scale_factor in steps of 0.25. "
            f"Received: groups={groups}, scale_factor={scale_factor}."
        )
    o = options or ArchitectureOptions()
    net = Net(o, use_bias=False)
    image = inputs(o, input_shape)
    x = net.conv(image, int(24 * scale_factor), 3, 2, name="conv1", block=1, activation="relu")
    x = net.max_pool(x, 3, 2, name="maxpool1")
    for stage, units in enumerate(_UNITS, start=2):
        width = int(_OUT_CHANNELS[groups] * 2 ** (stage - 2) * scale_factor)
        for block in range(1, units + 2):
            # The first unit sees too few channels to be worth grouping.
            g = 1 if (stage, block) == (2, 1) else groups
            x = _unit(net, x, width, stage, block, g, bottleneck_ratio)
    if classes is not None:
        x = net.output_conv(x, classes, 1, "score_fr", padding="valid")
    name = f"ShuffleNet_{scale_factor:.2g}X_g{groups}_br_{bottleneck_ratio:.2g}_{''.join(map(str, _UNITS))}"
    return keras.Model(image, x, name=name)


def _unit(net: Net, x: keras.KerasTensor, width: int, stage: int, block: int, groups: int, ratio: float) -> keras.KerasTensor:
    # Keras 3 forbids the toolkit's "/" in names.
    name = f"stage{stage}_block{block}_"
    stride = 2 if block == 1 else 1
    out = width if stride == 1 else width - round(x.shape[net.channel_axis] / net.options.width)
    y = net.conv(x, int(width * ratio), 1, name=f"{name}1x1_gconv_1", block=stage, groups=groups)
    y = net.act(net.norm(y, f"{name}bn_gconv_1"), f"{name}relu_gconv_1", kind="relu")
    y = _shuffled(net, y, groups, net.name("ChannelShuffle"))
    y = net.depthwise(y, 3, stride, name=f"{name}1x1_dwconv_1", padding="same", block=stage)
    y = net.norm(y, f"{name}bn_dwconv_1")
    y = net.norm(net.conv(y, out, 1, name=f"{name}1x1_gconv_2", block=stage, groups=groups), f"{name}bn_gconv_2")
    if stride == 1:
        merged = net.add(y, x, name=f"{name}add")
    else:
        pooled = net.average_pool(x, 3, 2, name=f"{name}avg_pool")
        merged = net.concat(y, pooled, name=f"{name}concat")
    return net.act(merged, f"{name}relu_out", kind="relu")


def _shuffled(net: Net, x: keras.KerasTensor, groups: int, name: str) -> keras.KerasTensor:
    """Reshape, transpose, reshape: channel j of group i comes to place j of i. One group moves nothing."""
    if groups == 1:
        return keras.layers.Identity(name=name)(x)
    height, width = net.spatial(x)
    channels = x.shape[net.channel_axis]
    split: tuple[Any, ...]
    if net.channel_axis == 1:
        split, order, back = (groups, channels // groups, height, width), (2, 1, 3, 4), (channels, height, width)
    else:
        split, order, back = (height, width, groups, channels // groups), (1, 2, 4, 3), (height, width, channels)
    x = keras.layers.Reshape(split, name=f"{name}_split")(x)
    x = keras.layers.Permute(order, name=f"{name}_permute")(x)
    return keras.layers.Reshape(back, name=name)(x)
