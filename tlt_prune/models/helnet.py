"""HelNet 6 to 34: the toolkit's ResNet without shortcuts, total stride 16."""

from __future__ import annotations

import keras

from tlt_prune.models.blocks import ArchitectureOptions, InputShape, Net, inputs, letters
from tlt_prune.models.registry import register_architecture

_REPEATS = {6: (1, 1, 1, 1), 10: (1, 1, 1, 1), 12: (1, 1, 2, 1), 18: (2, 2, 2, 2), 26: (3, 4, 3, 2), 34: (3, 4, 6, 3)}
_WIDTHS = (64, 128, 256, 512)
_STRIDES = (2, 2, 2, 1)


@register_architecture("helnet", (6, 10, 12, 18, 26, 34))
def helnet(
    layers: int,
    input_shape: InputShape = (224, 224, 3),
    classes: int | None = None,
    *,
    pooling: bool = False,
    options: ArchitectureOptions | None = None,
) -> keras.Model:
    """Builds a HelNet.

    Args:
        layers: 6, 10, 12, 18, 26 or 34.
        input_shape: (height, width, channels).
        classes: outputs of a pooled dense head, which the toolkit does not have; None for the backbone.
        pooling: max pooling after the stem instead of a stride in the first stage.
        options: what all architectures share. Convolutions have a bias where there is no batch norm.

    Raises:
        ValueError: there is no HelNet of that many layers.
    """
    if layers not in _REPEATS:
        raise ValueError(f"Expected HelNet layers to be one of {sorted(_REPEATS)}. Received: layers={layers}.")
    o = options or ArchitectureOptions()
    net = Net(o, use_bias=not o.use_batch_norm)
    image = inputs(o, input_shape)
    x = net.act(net.norm(net.conv(image, 64, 7, 2, name="conv1", block=0), "bn_conv1"))
    if pooling:
        x = net.max_pool(x, 2, 2)
    convolutions = 1 if layers == 6 else 2
    for stage, (repeat, width, stride) in enumerate(zip(_REPEATS[layers], _WIDTHS, _STRIDES, strict=True), start=1):
        first = 1 if stage == 1 and pooling else stride
        for i in range(repeat):
            x = _block(net, x, f"block_{stage}{letters(i)}_", stage, width, first if i == 0 else 1, convolutions)
    if classes is not None:
        x = net.dense(net.global_pool(x, "avgpool"), classes, "predictions")
    # The toolkit's name says "nopool" where there is pooling; kept, since files are named after it.
    pool, norm = "_nopool" if pooling else "", "_bn" if o.use_batch_norm else ""
    return keras.Model(image, x, name=f"helnet{layers}_s16{pool}{norm}")


def _block(
    net: Net, x: keras.KerasTensor, name: str, stage: int, width: int, stride: int, convolutions: int
) -> keras.KerasTensor:
    for i in range(1, convolutions + 1):
        x = net.conv(x, width, 3, stride if i == 1 else 1, name=f"{name}conv_{i}", block=stage)
        x = net.act(net.norm(x, f"{name}bn_{i}"))
    return x
