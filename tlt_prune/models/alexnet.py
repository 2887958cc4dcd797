"""AlexNet: Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", 2012."""

from __future__ import annotations

import keras

from tlt_prune.models.blocks import ArchitectureOptions, InputShape, Net, inputs
from tlt_prune.models.registry import register_architecture

# filters, kernel, stride, pooled after
_LAYERS = ((96, 11, 4, True), (256, 5, 1, True), (384, 3, 1, False), (384, 3, 1, False), (256, 3, 1, False))


@register_architecture("alexnet")
def alexnet(
    input_shape: InputShape = (224, 224, 3),
    classes: int | None = None,
    *,
    hidden: int = 4096,
    options: ArchitectureOptions | None = None,
) -> keras.Model:
    """Builds AlexNet, without normalization, as in the paper.

    Args:
        input_shape: (height, width, channels).
        classes: outputs of the head (fc6, fc7, head_fc8); None for a bare backbone.
        hidden: width of fc6 and fc7.
        options: what all architectures share.
    """
    o = options or ArchitectureOptions()
    net = Net(o)
    image = x = inputs(o, input_shape)
    for i, (filters, kernel, stride, pooled) in enumerate(_LAYERS, start=1):
        x = net.conv(x, filters, kernel, stride, name=f"conv{i}", block=i, use_bias=True, activation="relu")
        x = net.max_pool(x, 3, 2, name=f"pool{i}") if pooled else x
    if classes is not None:
        x = net.flatten(x, "flatten")
        for i in (6, 7):
            x = net.dense(x, net.filters(hidden), f"fc{i}", "relu", trainable=i not in o.freeze_blocks)
        x = net.dense(x, classes, "head_fc8", trainable=8 not in o.freeze_blocks)
    return keras.Model(image, x, name="AlexNet")
