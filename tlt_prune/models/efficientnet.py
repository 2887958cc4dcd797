"""EfficientNet B0 to B5: Tan and Le, 2019, arXiv:1905.11946."""

from __future__ import annotations

import dataclasses
import math

import keras

from tlt_prune.models.blocks import ArchitectureOptions, InputShape, Net, divisible, inputs
from tlt_prune.models.registry import register_architecture

# width, depth, dropout
_SCALES = {0: (1.0, 1.0, 0.2), 1: (1.0, 1.1, 0.2), 2: (1.1, 1.2, 0.3), 3: (1.2, 1.4, 0.3), 4: (1.4, 1.8, 0.4), 5: (1.6, 2.2, 0.4)}
# kernel, repeats, filters in, filters out, expansion, stride
_BLOCKS = (
    (3, 1, 32, 16, 1, 1),
    (3, 2, 16, 24, 6, 2),
    (5, 2, 24, 40, 6, 2),
    (3, 3, 40, 80, 6, 2),
    (5, 3, 80, 112, 6, 1),
    (5, 4, 112, 192, 6, 2),
    (3, 1, 192, 320, 6, 1),
)
_DROP_CONNECT = 0.2
_SE_RATIO = 0.25


def _kernel_initializer() -> keras.initializers.Initializer:
    return keras.initializers.VarianceScaling(2.0, "fan_out", "truncated_normal")


def _head_initializer() -> keras.initializers.Initializer:
    return keras.initializers.VarianceScaling(1 / 3, "fan_out", "uniform")


@register_architecture("efficientnet_b", (0, 1, 2, 3, 4, 5))
def efficientnet(
    variant: int,
    input_shape: InputShape = (224, 224, 3),
    classes: int | None = None,
    *,
    stride16: bool = False,
    options: ArchitectureOptions | None = None,
) -> keras.Model:
    """Builds an EfficientNet.

    Args:
        variant: 0 to 5.
        input_shape: (height, width, channels).
        classes: outputs of the head (avg_pool over the whole map, predictions); None for a bare backbone.
        stride16: the last stride of 2 becomes 1, for a total of 16. (In the toolkit this option has no effect.)
        options: what all architectures share.

    Raises:
        ValueError: there is no such variant.
    """
    if variant not in _SCALES:
        raise ValueError(f"Expected an EfficientNet variant of {sorted(_SCALES)}. Received: {variant}.")
    width, depth, dropout = _SCALES[variant]
    o = options or ArchitectureOptions()
    net = Net(o, use_bias=False, activation="swish")
    image = inputs(o, input_shape)
    x = net.pad(image, _padding(net, image, 3), "stem_conv_pad")
    x = net.conv(
        x, divisible(32 * width), 3, 2, name="stem_conv", padding="valid", block=0, kernel_initializer=_kernel_initializer()
    )
    x = net.act(net.norm(x, "stem_bn"), "stem_activation")
    count, total = 0, sum(repeats for _, repeats, *_ in _BLOCKS)
    for number, (kernel, repeats, narrow, wide, expansion, step) in enumerate(_BLOCKS, start=1):
        filters, before = divisible(wide * width), divisible(narrow * width)
        for i in range(math.ceil(depth * repeats)):
            stride = 1 if i or (stride16 and number == 6) else step
            drop = _DROP_CONNECT * count / total
            sizes = _BlockSizes(kernel, before, filters, expansion, stride, drop)
            x = _block(net, x, f"block{number}{chr(97 + i)}_", number, sizes)
            before = filters
            count += 1
    x = net.conv(x, divisible(1280 * width), 1, name="top_conv", block=len(_BLOCKS) + 1, kernel_initializer=_kernel_initializer())
    x = net.act(net.norm(x, "top_bn"), "top_activation")
    if classes is not None:
        x = keras.layers.AveragePooling2D(net.spatial(x), data_format=o.data_format, name="avg_pool")(x)
        x = keras.layers.Dropout(dropout, name="top_dropout")(net.flatten(x, "flatten"))
        x = net.dense(x, classes, "predictions", kernel_initializer=_head_initializer())
    return keras.Model(image, x, name=f"efficientnet-b{variant}")


@dataclasses.dataclass(frozen=True)
class _BlockSizes:
    """Sizes of a block.

    Attributes:
        kernel: of the depthwise convolution.
        before: filters that come in.
        filters: filters that go out.
        expansion: how many times as many filters the depthwise convolution has as come in.
        stride: of the depthwise convolution.
        drop: share of pictures for which the block is left out while training, where it has a shortcut.
    """

    kernel: int
    before: int
    filters: int
    expansion: int
    stride: int
    drop: float


def _block(net: Net, x: keras.KerasTensor, name: str, number: int, sizes: _BlockSizes) -> keras.KerasTensor:
    """Expansion, depthwise, squeeze-and-excitation, projection, and a shortcut where the shape stays."""
    start, kernel, stride = x, sizes.kernel, sizes.stride
    wide = sizes.before * sizes.expansion
    init = {"kernel_initializer": _kernel_initializer(), "block": number}
    if sizes.expansion != 1:
        x = net.norm(net.conv(x, wide, 1, name=f"{name}expand_conv", **init), f"{name}expand_bn")
        x = net.act(x, f"{name}expand_activation")
    if stride == 2:
        x = net.pad(x, _padding(net, x, kernel), f"{name}dwconv_pad")
    padding = "valid" if stride == 2 else "same"
    x = net.depthwise(
        x, kernel, stride, name=f"{name}dwconv", padding=padding, block=number, depthwise_initializer=_kernel_initializer()
    )
    x = net.act(net.norm(x, f"{name}bn"), f"{name}activation")
    se = net.global_pool(x, f"{name}se_squeeze")
    se = keras.layers.Reshape((-1, 1, 1) if net.channel_axis == 1 else (1, 1, -1), name=f"{name}se_reshape")(se)
    reduced = max(1, int(sizes.before * _SE_RATIO))
    se = net.conv(se, reduced, 1, name=f"{name}se_reduce", use_bias=True, activation=_function(net), **init)
    se = net.conv(se, wide, 1, name=f"{name}se_expand", use_bias=True, activation="sigmoid", **init)
    x = keras.layers.Multiply(name=f"{name}se_excite")([x, se])
    x = net.norm(net.conv(x, sizes.filters, 1, name=f"{name}project_conv", **{**init, "use_bias": False}), f"{name}project_bn")
    if stride == 1 and sizes.before == sizes.filters:
        if sizes.drop > 0:
            x = keras.layers.Dropout(sizes.drop, noise_shape=(None, 1, 1, 1), name=f"{name}drop")(x)
        x = net.add(x, start, name=f"{name}add")
    return x


def _function(net: Net) -> str:
    return {"swish": "silu"}.get(net.activation, net.activation)


def _padding(net: Net, x: keras.KerasTensor, kernel: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Padding of a stride-2 convolution as for even sizes in PyTorch: one less before where the size is even."""
    half = kernel // 2
    height, width = (half - (1 if n is None else 1 - n % 2) for n in net.spatial(x))
    return (height, half), (width, half)
