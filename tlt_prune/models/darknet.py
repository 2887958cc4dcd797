"""DarkNet 19 and 53 (arXiv:1612.08242, arXiv:1804.02767) and their cross-stage-partial forms (arXiv:1911.11929, 2004.10934)."""

from __future__ import annotations

import keras

from tlt_prune.models.blocks import ArchitectureOptions, InputShape, Net, inputs
from tlt_prune.models.registry import register_architecture

_WIDTHS = (64, 128, 256, 512, 1024)
# convolutions of each block of DarkNet 19 after its first; residuals of each block of DarkNet 53
_LAYERS_19 = (0, 2, 2, 4, 4)
_RESIDUALS_53 = (1, 2, 8, 8, 4)


@register_architecture("darknet", (19, 53))
def darknet(
    layers: int,
    input_shape: InputShape = (224, 224, 3),
    classes: int | None = None,
    *,
    options: ArchitectureOptions | None = None,
) -> keras.Model:
    """Builds a DarkNet; its total stride is 32.

    Args:
        layers: 19 or 53.
        input_shape: (height, width, channels).
        classes: outputs of the head (avgpool, predictions); None for a bare backbone.
        options: what all architectures share; activation "leaky_relu" (default) or "relu".
    """
    conv = _Conv(layers, options, suffix="lrelu")
    net = conv.net
    image = inputs(net.options, input_shape)
    x = conv(image, 32, 3, "conv1", 0)
    for b, width in enumerate(_WIDTHS, start=1):
        if layers == 53:
            x = conv(x, width, 3, f"conv{b + 1}", b, strides=2)
            x = _residuals(conv, x, b, _RESIDUALS_53[b - 1], width // 2, width)
            continue
        x = net.max_pool(x, 2, 2, name=f"maxpool_{b}")
        for i in range(1, _LAYERS_19[b - 1] + 2):
            narrow = i % 2 == 0
            x = conv(x, width // 2 if narrow else width, 1 if narrow else 3, f"b{b}_conv{i}", b)
    return _finished(net, image, x, f"darknet{layers}", classes)


@register_architecture("cspdarknet", (19, 53))
def cspdarknet(
    layers: int,
    input_shape: InputShape = (224, 224, 3),
    classes: int | None = None,
    *,
    options: ArchitectureOptions | None = None,
) -> keras.Model:
    """Builds a CSPDarkNet; its total stride is 32.

    Args:
        layers: 19 or 53.
        input_shape: (height, width, channels).
        classes: outputs of the head (avgpool, predictions); None for a bare backbone.
        options: what all architectures share; activation "leaky_relu" (default), "relu" or "mish".
    """
    conv = _Conv(layers, options, suffix="mish")
    net = conv.net
    image = inputs(net.options, input_shape)
    x = conv(image, 32, 3, "conv1", 0)
    for b, width in enumerate(_WIDTHS, start=1):
        half = width // 2
        if layers == 53:
            x = conv(x, width, 3, f"conv{b + 1}", b, strides=2)
            # The first block keeps its width in both parts.
            part = width if b == 1 else half
            z = conv(x, part, 1, f"conv{b + 1}_1", b)
            x = conv(x, part, 1, f"conv{b + 1}_2", b)
            x = _residuals(conv, x, b, _RESIDUALS_53[b - 1], half, part)
        else:
            x = net.max_pool(x, 2, 2, name=f"maxpool_{b}")
            x = conv(x, width, 3, f"b{b}_conv1", b)
            if b == 1:
                continue
            part = half
            z = conv(x, half, 1, f"b{b}_part1", b)
            x = conv(x, half, 1, f"b{b}_part2", b)
            for i in range(2, _LAYERS_19[b - 1] + 2):
                x = conv(x, half, 1 if i % 2 == 0 else 3, f"b{b}_conv{i}", b)
        x = conv(x, part, 1, f"b{b}_partial_trans", b)
        x = conv(net.concat(x, z, name=f"b{b}_concat"), width, 1, f"b{b}_final_trans", b)
    return _finished(net, image, x, f"cspdarknet{layers}", classes)


@register_architecture("cspdarknet_tiny")
def cspdarknet_tiny(
    input_shape: InputShape = (224, 224, 3), classes: int | None = None, *, options: ArchitectureOptions | None = None
) -> keras.Model:
    """Builds the backbone of YOLOv4-tiny (arXiv:2011.08036); its total stride is 32. Arguments as `cspdarknet`."""
    conv = _Conv(19, options, suffix="mish")
    net = conv.net
    image = inputs(net.options, input_shape)
    x = conv(image, 32, 3, "conv_0", 0, strides=2)
    x = conv(x, 64, 3, "conv_1", 1, strides=2)
    for b, width in ((2, 64), (3, 128), (4, 256)):
        name = f"conv_{b}"
        route = x = conv(x, width, 3, f"{name}_conv_0", b)
        inner = x = conv(_second_half(net, x), width // 2, 3, f"{name}_conv_1", b)
        x = conv(x, width // 2, 3, f"{name}_conv_2", b)
        x = conv(net.concat(x, inner, name=f"{name}_concat_0"), width, 1, f"{name}_conv_3", b)
        x = net.max_pool(net.concat(route, x, name=f"{name}_concat_1"), 2, 2, "valid", name=f"{name}_pool_0")
    x = conv(x, 512, 3, "conv_5", 5)
    return _finished(net, image, x, "cspdarknet_tiny", classes)


class _Conv:
    """Convolution, normalization and activation, named after the toolkit's block: <name>, <name>_bn, <name>_<suffix>."""

    def __init__(self, layers: int, options: ArchitectureOptions | None, suffix: str) -> None:
        if layers not in (19, 53):
            raise ValueError(f"Expected DarkNet layers to be 19 or 53. Received: layers={layers}.")
        self.net = Net(options or ArchitectureOptions(), use_bias=False, activation="leaky_relu")
        self._suffix = suffix

    def __call__(
        self, x: keras.KerasTensor, filters: int, kernel: int, name: str, block: int, *, strides: int = 1
    ) -> keras.KerasTensor:
        net = self.net
        x = net.norm(net.conv(x, filters, kernel, strides, name=name, block=block), f"{name}_bn")
        if net.activation == "relu":
            return keras.layers.ReLU(name=f"{name}_{self._suffix}")(x)
        return net.act(x, f"{name}_{self._suffix}")


def _residuals(conv: _Conv, x: keras.KerasTensor, block: int, count: int, narrow: int, width: int) -> keras.KerasTensor:
    for i in range(1, count + 1):
        y = conv(x, narrow, 1, f"b{block}_conv{i}_1", block)
        y = conv(y, width, 3, f"b{block}_conv{i}_2", block)
        x = conv.net.add(x, y, name=f"b{block}_add{i}")
    return x


def _second_half(net: Net, x: keras.KerasTensor) -> keras.KerasTensor:
    """The toolkit's `Split(groups=2, group_id=1)`, as a slice: it needs no custom layer to load."""
    half = x.shape[net.channel_axis] // 2
    return x[:, half:] if net.channel_axis == 1 else x[..., half:]


def _finished(net: Net, image: keras.KerasTensor, x: keras.KerasTensor, name: str, classes: int | None) -> keras.Model:
    if classes is not None:
        x = net.dense(net.global_pool(x, "avgpool"), classes, "predictions")
        name += "_bn_add_head" if net.options.use_batch_norm else "_add_head"
        return keras.Model(image, x, name=name)
    return keras.Model(image, x, name=f"{name}_bn" if net.options.use_batch_norm else name)
