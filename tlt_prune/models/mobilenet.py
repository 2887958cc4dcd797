"""MobileNet v1 (arXiv:1704.04861) and v2 (arXiv:1801.04381), with the toolkit's explicit padding, which TensorRT fuses."""

from __future__ import annotations

import keras

from tlt_prune.models.blocks import ArchitectureOptions, InputShape, Net, divisible, inputs
from tlt_prune.models.registry import register_architecture

# filters and stride of the depthwise-separable blocks; the last two belong to stride 32 only
_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
# filters, stride and expansion of the inverted residuals; those from 13 on belong to stride 32 only
_V2 = (
    (16, 1, 1),
    *((24, 2, 6), (24, 1, 6)),
    *((32, 2, 6), (32, 1, 6), (32, 1, 6)),
    *((64, 2, 6), *((64, 1, 6),) * 3),
    *((96, 1, 6),) * 3,
    *((160, 2, 6), (160, 1, 6), (160, 1, 6)),
    (320, 1, 6),
)


@register_architecture("mobilenet_v1")
def mobilenet_v1(
    input_shape: InputShape = (224, 224, 3),
    classes: int | None = None,
    *,
    alpha: float = 1.0,
    stride: int = 32,
    dropout: float = 1e-3,
    options: ArchitectureOptions | None = None,
) -> keras.Model:
    """Builds MobileNet.

    Args:
        input_shape: (height, width, channels).
        classes: outputs of the head (7x7 average pooling, predictions); None for a bare backbone.
        alpha: width multiplier.
        stride: total stride, 16 or 32.
        dropout: before the head.
        options: what all architectures share; activation "relu" or "relu6".
    """
    o = options or ArchitectureOptions()
    net = Net(o, use_bias=False)
    relu = _relu_name(net)
    image = inputs(o, input_shape)
    x = net.pad(image, (1, 1), "conv1_pad")
    x = net.norm(net.conv(x, int(32 * alpha), 3, 2, name="conv1", padding="valid", block=0), "conv1_bn")
    x = _relu(net, x, f"conv_block_{relu}")
    for i, (filters, step) in enumerate(_V1[: None if _full(stride) else 11], start=1):
        x = net.pad(x, (1, 1), f"conv_pad_{i}")
        x = net.norm(net.depthwise(x, 3, step, name=f"conv_dw_{i}", padding="valid", block=i), f"conv_dw_{i}_bn")
        x = _relu(net, x, f"conv_dw_{i}_{relu}")
        x = net.norm(net.conv(x, int(filters * alpha), 1, name=f"conv_pw_{i}", padding="valid", block=i), f"conv_pw_{i}_bn")
        x = _relu(net, x, f"conv_pw_{relu}_{i}")
    if classes is not None:
        x = keras.layers.Dropout(dropout, name="dropout")(_pooled(net, x))
        x = net.dense(x, classes, "predictions")
    return keras.Model(image, x, name=_name("mobilenet", o, classes))


@register_architecture("mobilenet_v2")
def mobilenet_v2(
    input_shape: InputShape = (224, 224, 3),
    classes: int | None = None,
    *,
    alpha: float = 1.0,
    stride: int = 32,
    all_projections: bool = False,
    options: ArchitectureOptions | None = None,
) -> keras.Model:
    """Builds MobileNet v2.

    Args:
        input_shape: (height, width, channels).
        classes: outputs of the head (7x7 average pooling, predictions); None for a bare backbone.
        alpha: width multiplier.
        stride: total stride, 16 or 32.
        all_projections: a 1x1 convolution (no bias, no batch norm) on every shortcut.
        options: what all architectures share; activation "relu" or "relu6".
    """
    o = options or ArchitectureOptions()
    net = Net(o, use_bias=False)
    image = inputs(o, input_shape)
    x = net.pad(image, (1, 1), "conv1_pad")
    x = _norm(net, net.conv(x, divisible(32 * alpha), 3, 2, name="conv1", padding="valid", block=0), "bn_conv1")
    x = _relu(net, x, "re_lu_0")
    for i, (filters, step, expansion) in enumerate(_V2[: None if _full(stride) else 13]):
        x = _inverted_residual(net, x, i, divisible(int(filters * alpha)), step, expansion, all_projections)
    if _full(stride):
        last = divisible(1280 * alpha) if alpha > 1 else 1280
        x = _norm(net, net.conv(x, last, 1, name="conv_1", padding="valid", block=18), "conv_1_bn")
        x = _relu(net, x, "re_lu_head")
    if classes is not None:
        x = net.dense(_pooled(net, x), classes, "predictions")
    return keras.Model(image, x, name=_name("mobilenet_v2", o, classes))


def _inverted_residual(
    net: Net, x: keras.KerasTensor, i: int, filters: int, stride: int, expansion: int, project: bool
) -> keras.KerasTensor:
    name = f"block_{i}_" if i else "expanded_conv_"
    channels = x.shape[net.channel_axis]
    y = x
    if i:
        # Counted from what comes in, which `width` has scaled already.
        wide = round(expansion * channels / net.options.width)
        y = _norm(net, net.conv(y, wide, 1, name=f"{name}expand", padding="valid", block=i + 1), f"{name}expand_bn")
        y = _relu(net, y, f"re_lu_{i + 1}")
    y = net.pad(y, (1, 1), f"{name}depthwise_pad")
    y = net.depthwise(y, 3, stride, name=f"{name}depthwise", padding="valid", block=i + 1)
    y = _relu(net, _norm(net, y, f"{name}depthwise_bn"), f"{name}{_relu_name(net)}")
    y = _norm(net, net.conv(y, filters, 1, name=f"{name}project", padding="valid", block=i + 1), f"{name}project_bn")
    if stride != 1 or channels != y.shape[net.channel_axis]:
        return y
    if project:
        x = net.conv(x, filters, 1, name=f"{name}projected_inputs", padding="valid", block=i + 1, use_bias=False)
    return net.add(x, y, name=f"{name}add")


def _norm(net: Net, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return net.norm(x, name, epsilon=1e-3, momentum=0.999)


def _relu_name(net: Net) -> str:
    return "relu6" if net.activation == "relu6" else "relu"


def _relu(net: Net, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return keras.layers.ReLU(6.0 if net.activation == "relu6" else None, name=name)(x)


def _pooled(net: Net, x: keras.KerasTensor) -> keras.KerasTensor:
    size = min(7, *(n or 7 for n in net.spatial(x)))
    return net.flatten(net.average_pool(x, size, padding="valid"), "flatten_1")


def _full(stride: int) -> bool:
    if stride not in (16, 32):
        raise ValueError(f"Expected a total stride of 16 or 32. Received: stride={stride}.")
    return stride == 32


def _name(base: str, o: ArchitectureOptions, classes: int | None) -> str:
    return base + ("_bn" if o.use_batch_norm else "") + ("_add_head" if classes is not None else "")
