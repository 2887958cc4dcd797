"""VGG 16 and 19: Simonyan and Zisserman, 2015, arXiv:1409.1556, with batch normalization, as the toolkit builds it."""

from __future__ import annotations

import keras

from tlt_prune.models.blocks import ArchitectureOptions, InputShape, Net, inputs, letters
from tlt_prune.models.registry import register_architecture

_REPEATS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_WIDTHS = (64, 128, 256, 512, 512)


@register_architecture("vgg", (16, 19), classifier={"use_pooling": False})
def vgg(
    layers: int,
    input_shape: InputShape = (224, 224, 3),
    classes: int | None = None,
    *,
    use_pooling: bool = True,
    dropout: float = 0.5,
    hidden: int = 4096,
    options: ArchitectureOptions | None = None,
) -> keras.Model:
    """Builds a VGG; without a head its total stride is 16.

    Args:
        layers: 16 or 19.
        input_shape: (height, width, channels).
        classes: outputs of the head (fc1, fc2, output_fc); None for a bare backbone.
        use_pooling: max pooling between the blocks; without, the first convolution of each takes the stride.
        dropout: after the hidden dense layers; 0 leaves it out.
        hidden: width of the hidden dense layers.
        options: what all architectures share.

    Raises:
        ValueError: there is no VGG of that many layers.
    """
    if layers not in _REPEATS:
        raise ValueError(f"Expected VGG layers to be one of {sorted(_REPEATS)}. Received: layers={layers}.")
    o = options or ArchitectureOptions()
    net = Net(o)
    image = x = inputs(o, input_shape)
    for block, (repeat, width) in enumerate(zip(_REPEATS[layers], _WIDTHS, strict=True), start=1):
        if block > 1 and use_pooling:
            x = net.max_pool(x, 2, 2, name=f"block{block - 1}_pool")
        for i in range(repeat):
            stride = 2 if i == 0 and block > 1 and not use_pooling else 1
            x = _convolution(net, x, width, stride, f"block_{block}{letters(i)}_", block)
    if classes is not None:
        if use_pooling:
            x = net.max_pool(x, 2, 2, name="block5_pool")
        x = net.flatten(x, "flatten")
        for name in ("fc1", "fc2"):
            x = net.dense(x, net.filters(hidden), name, "relu")
            x = keras.layers.Dropout(dropout, name=net.name("Dropout"))(x) if dropout else x
        x = net.dense(x, classes, "output_fc")
    pool, norm = "" if use_pooling else "_nopool", "_bn" if o.use_batch_norm else ""
    return keras.Model(image, x, name=f"vgg{layers}{pool}{norm}")


def _convolution(net: Net, x: keras.KerasTensor, width: int, stride: int, name: str, block: int) -> keras.KerasTensor:
    x = net.norm(net.conv(x, width, 3, stride, name=f"{name}conv_1", block=block), f"{name}bn_1")
    return net.act(x, f"{name}{net.activation}")
