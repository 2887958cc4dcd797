"""SqueezeNet: Iandola et al., 2016, arXiv:1602.07360, with or without bypass."""

from __future__ import annotations

import keras

from tlt_prune.models.blocks import ArchitectureOptions, InputShape, Net, inputs
from tlt_prune.models.registry import register_architecture

# squeeze and expand widths of the fire modules, by their number
_FIRES = {2: (16, 64), 3: (16, 64), 4: (32, 128), 5: (32, 128), 6: (48, 192), 7: (48, 192), 8: (64, 256), 9: (64, 256)}


@register_architecture("squeezenet")
def squeezenet(
    input_shape: InputShape = (224, 224, 3),
    classes: int | None = None,
    *,
    skip: bool = False,
    dropout: float = 1e-3,
    options: ArchitectureOptions | None = None,
) -> keras.Model:
    """Builds SqueezeNet; its total stride is 16.

    Args:
        input_shape: (height, width, channels).
        classes: outputs of the head (conv10, pool10, softmax); None for a bare backbone.
        skip: simple bypass around every second fire module.
        dropout: before the head.
        options: what all architectures share.
    """
    o = options or ArchitectureOptions()
    net = Net(o)
    image = inputs(o, input_shape)
    x = net.act(net.conv(image, 96, 7, 2, name="conv1", block=0, use_bias=True), "conv1_relu", kind="relu")
    x = net.max_pool(x, 3, 2, name="pool1")
    for number, (squeeze, expand) in _FIRES.items():
        y = _fire(net, x, number, squeeze, expand)
        x = net.add(x, y) if skip and number % 2 else y
        if number in (4, 8):
            x = net.max_pool(x, 3, 2, name=f"pool{number}")
    if classes is not None:
        x = keras.layers.Dropout(dropout, name="fire9_dropout")(x)
        x = net.output_conv(x, classes, 1, "conv10")
        x = net.global_pool(net.act(x, "conv10_relu", kind="relu"), "pool10")
        x = keras.layers.Activation("softmax", name="output")(x)
    return keras.Model(image, x, name="squeezenet")


def _fire(net: Net, x: keras.KerasTensor, number: int, squeeze: int, expand: int) -> keras.KerasTensor:
    name, block = f"fire{number}", number - 1

    def conv(y: keras.KerasTensor, filters: int, kernel: int, part: str, act: str) -> keras.KerasTensor:
        y = net.conv(y, filters, kernel, name=f"{name}_{part}", block=block, use_bias=True)
        return net.act(y, f"{name}_{act}", kind="relu")

    x = conv(x, squeeze, 1, "squeeze_conv", "squeeze")
    return net.concat(
        conv(x, expand, 1, "expand_conv1x1", "expand_1x1"), conv(x, expand, 3, "expand_conv3x3", "expand_3x3"), name=name
    )
