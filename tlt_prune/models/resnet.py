"""ResNet: He et al., "Deep Residual Learning", 2015, arXiv:1512.03385.

10, 18, 34, 50, 101, 152 as the toolkit builds them; 20, 32, 44, 56, 110 are the paper's own for small pictures (section 4.2),
which the toolkit does not have, under the same layer names.
"""

from __future__ import annotations

import keras

from tlt_prune.models.blocks import ArchitectureOptions, InputShape, Net, inputs, letters
from tlt_prune.models.registry import register_architecture

_WIDTHS = (64, 128, 256, 512)
_SMALL = (20, 32, 44, 56, 110)
_Plan = tuple[tuple[int, ...], tuple[int, ...], int, tuple[int, ...]]
# layers -> (blocks a stage, kernel sizes of a block's convolutions, expansion of the last one, width of each stage)
_PLANS: dict[int, _Plan] = {
    10: ((1, 1, 1, 1), (3, 3), 1, _WIDTHS),
    18: ((2, 2, 2, 2), (3, 3), 1, _WIDTHS),
    34: ((3, 4, 6, 3), (3, 3), 1, _WIDTHS),
    50: ((3, 4, 6, 3), (1, 3, 1), 4, _WIDTHS),
    101: ((3, 4, 23, 3), (1, 3, 1), 4, _WIDTHS),
    152: ((3, 8, 36, 3), (1, 3, 1), 4, _WIDTHS),
    # Projections only where the shape changes: the paper's option B.
    **{n: (((n - 2) // 6,) * 3, (3, 3), 1, (16, 32, 64)) for n in _SMALL},
}
LAYERS = tuple(sorted(_PLANS))


@register_architecture(
    "resnet", (10, 18, 20, 32, 34, 44, 50, 56, 101, 110, 152), classifier={"use_pooling": False, "all_projections": True}
)
def resnet(
    layers: int,
    input_shape: InputShape = (224, 224, 3),
    classes: int | None = None,
    *,
    all_projections: bool = False,
    use_pooling: bool = True,
    options: ArchitectureOptions | None = None,
    activation: str = "softmax",
) -> keras.Model:
    """Builds a ResNet.

    Args:
        layers: 10, 18, 34, 50, 101 or 152; or 20, 32, 44, 56 or 110, for pictures of about 32 x 32 (total stride 4).
        input_shape: (height, width, channels).
        classes: outputs of the dense head `head_fc<classes>`; None for a bare backbone.
        all_projections: a 1x1 convolution on every shortcut, not only where the shape changes.
        use_pooling: max pooling after the stem and 7x7 average pooling at the end (total stride 32). Without,
            the first stage takes the stride and the last has none (total 16). Those for small pictures have only the pooling
            at the end, over the whole map.
        options: what all architectures share.
        activation: of the head.

    Raises:
        ValueError: there is no ResNet of that many layers.
    """
    if layers not in LAYERS:
        raise ValueError(f"Expected ResNet layers to be one of {list(LAYERS)}. Received: layers={layers}.")
    o = options or ArchitectureOptions()
    net = Net(o)
    image = inputs(o, input_shape)
    small = layers in _SMALL
    stem = (16, 3, 1) if small else (64, 7, 2)
    x = net.act(net.norm(net.conv(image, *stem, name="conv1", block=0), "bn_conv1"))
    if use_pooling and not small:
        x = net.max_pool(x, 3, 2)
    repeats, kernels, expansion, widths = _PLANS[layers]
    strides = (1, 2, 2) if small else (1, 2, 2, 2) if use_pooling else (2, 2, 2, 1)
    for stage, (repeat, width, stride) in enumerate(zip(repeats, widths, strides, strict=True), start=1):
        filters = [width] * (len(kernels) - 1) + [width * expansion]
        for i in range(repeat):
            name = f"block_{stage}{letters(i)}_"
            project = (i == 0 and not (small and stage == 1)) or all_projections
            x = _block(net, x, name, stage, list(zip(kernels, filters, strict=True)), stride if i == 0 else 1, project)
    if use_pooling:
        x = net.average_pool(x, net.spatial(x)[0] or 8 if small else 7)
    if classes is not None:
        x = net.dense(net.flatten(x), classes, f"head_fc{classes}", activation)
    return keras.Model(image, x, name=_name(layers, o, use_pooling, classes))


def _block(
    net: Net, x: keras.KerasTensor, name: str, stage: int, convolutions: list[tuple[int, int]], stride: int, project: bool
) -> keras.KerasTensor:
    """Convolutions with a shortcut around them; the stride is on the first, as in the paper."""
    y = x
    last = len(convolutions)
    for i, (kernel, filters) in enumerate(convolutions, start=1):
        y = net.conv(y, filters, kernel, stride if i == 1 else 1, name=f"{name}conv_{i}", block=stage)
        y = net.norm(y, f"{name}bn_{i}")
        if i < last:
            y = net.act(y, f"{name}relu_{i}", kind="relu")
    if project:
        x = net.conv(x, convolutions[-1][1], 1, stride, name=f"{name}conv_shortcut", padding="valid", block=stage)
        x = net.norm(x, f"{name}bn_shortcut")
    return net.act(net.add(y, x), f"{name}relu", kind="relu")


def _name(layers: int, o: ArchitectureOptions, use_pooling: bool, classes: int | None) -> str:
    pool = "" if use_pooling else "_nopool"
    norm = "_bn" if o.use_batch_norm else ""
    return f"resnet{layers}{pool}{norm}" + (f"_fc{classes}" if classes is not None else "")
