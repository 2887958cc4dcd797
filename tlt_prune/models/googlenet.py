"""GoogLeNet: Szegedy et al., "Going Deeper with Convolutions", 2014, arXiv:1409.4842, with batch normalization."""

from __future__ import annotations

import keras

from tlt_prune.models.blocks import ArchitectureOptions, InputShape, Net, inputs
from tlt_prune.models.registry import register_architecture

# 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection
_INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


@register_architecture("googlenet")
def googlenet(
    input_shape: InputShape = (224, 224, 3),
    classes: int | None = None,
    *,
    options: ArchitectureOptions | None = None,
) -> keras.Model:
    """Builds GoogLeNet; without a head its total stride is 16.

    Args:
        input_shape: (height, width, channels).
        classes: outputs of the head (avg_pool, output_fc); None for a bare backbone.
        options: what all architectures share.
    """
    o = options or ArchitectureOptions()
    net = Net(o)
    image = inputs(o, input_shape)
    x = _conv(net, image, 64, 7, "conv1", 0, strides=2)
    x = net.max_pool(x, 2, 2, name="pool1")
    x = _conv(net, x, 64, 1, "conv2_reduce", 0)
    x = _conv(net, x, 192, 3, "conv2", 0)
    x = net.max_pool(x, 2, 2, name="pool2")
    for block, (name, widths) in enumerate(_INCEPTIONS.items(), start=1):
        if name == "4a":
            x = net.max_pool(x, 2, 2, name="pool3")
        if name == "5a" and classes is not None:
            x = net.max_pool(x, 2, 2, name="pool4")
        x = _inception(net, x, f"inception_{name}", widths, block)
    if classes is not None:
        x = net.average_pool(x, 7, 1, name="avg_pool")
        x = keras.layers.Dropout(0.4, name=net.name("Dropout"))(net.flatten(x, "flatten"))
        x = net.dense(x, classes, "output_fc")
    return keras.Model(image, x, name="Googlenet_bn" if o.use_batch_norm else "Googlenet")


def _conv(
    net: Net, x: keras.KerasTensor, filters: int, kernel: int, name: str, block: int, *, strides: int = 1
) -> keras.KerasTensor:
    # The toolkit names the normalizations of the stem, block 0, the other way round.
    norm = f"{name}_bn" if block else f"bn_{name}"
    return net.act(net.norm(net.conv(x, filters, kernel, strides, name=name, block=block), norm))


def _inception(net: Net, x: keras.KerasTensor, name: str, widths: tuple[int, ...], block: int) -> keras.KerasTensor:
    one, reduce3, three, reduce5, five, projection = widths
    a = _conv(net, x, one, 1, f"{name}_1x1", block)
    b = _conv(net, x, reduce3, 1, f"{name}_3x3_reduce", block)
    b = _conv(net, b, three, 3, f"{name}_3x3", block)
    c = _conv(net, x, reduce5, 1, f"{name}_5x5_reduce", block)
    c = _conv(net, c, five, 5, f"{name}_5x5", block)
    d = _conv(net, net.max_pool(x, 3, 1, name=f"{name}_pool"), projection, 1, f"{name}_pool_proj", block)
    return net.concat(a, b, c, d, name=f"{name}_output")
