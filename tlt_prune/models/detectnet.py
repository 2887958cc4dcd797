"""DetectNet_v2: a backbone at stride 16 with the grid-box head, as the toolkit builds it. Decoding and training are not here."""

from __future__ import annotations

import keras

from tlt_prune.models.blocks import ArchitectureOptions, Net
from tlt_prune.models.registry import register_network


@register_network(
    "detectnet_v2",
    {
        **{f"resnet{n}": {"use_pooling": False, "all_projections": True} for n in (10, 18, 34, 50, 101, 152)},
        **{f"vgg{n}": {"use_pooling": False} for n in (16, 19)},
        **{f"mobilenet_v{n}": {"stride": 16} for n in (1, 2)},
        **{name: {} for name in ("darknet19", "darknet53", "squeezenet", "googlenet", "efficientnet_b0")},
    },
    {"data_format": "channels_first"},
)
def detectnet_v2(
    base: keras.Model, backbone: str, classes: int | None = 3, *, options: ArchitectureOptions | None = None
) -> keras.Model:
    """Puts the grid-box head on a backbone.

    Args:
        base: the backbone, without a head; its input has a fixed size.
        backbone: its name.
        classes: number of object classes: `output_cov` (sigmoid) has one channel per class, `output_bbox` four.
        options: what all architectures share. The toolkit builds it channels-first.

    Returns:
        A model with outputs [output_bbox, output_cov].
    """
    net, features, count = Net(options or ArchitectureOptions()), base.outputs[0], classes or 1
    heads = [
        net.output_conv(features, 4 * count, 1, "output_bbox"),
        net.output_conv(features, count, 1, "output_cov", activation="sigmoid"),
    ]
    return keras.Model(base.inputs[0], heads, name=f"{base.name}_detectnet_v2")
