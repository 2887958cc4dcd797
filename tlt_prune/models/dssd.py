"""DSSD: Fu et al., "DSSD: Deconvolutional Single Shot Detector", 2017, arXiv:1701.06659, as the toolkit builds it: SSD whose maps
know of the smaller ones.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from tlt_prune.models.anchors import checked_classes, fields_spelled_out
from tlt_prune.models.blocks import ArchitectureOptions, Net
from tlt_prune.models.feature_maps import DETECTOR_DEFAULTS, family
from tlt_prune.models.registry import register_network
from tlt_prune.models.ssd import (
    NARROW_BACKBONES,
    SSD_BACKBONES,
    SsdOptions,
    detector,
    expanded,
    relu_layer,
    without_norm,
)


@register_network("dssd", SSD_BACKBONES, DETECTOR_DEFAULTS)
@fields_spelled_out(SsdOptions)
def dssd(
    base: keras.Model, backbone: str, classes: int | None = 4, *, options: ArchitectureOptions | None = None, **own: Any
) -> keras.Model:
    """Puts DSSD on a backbone. Arguments, output and errors as `ssd`."""
    net = Net(options or ArchitectureOptions(), after=base)
    largest, *smaller = expanded(net, base, backbone)
    if backbone in NARROW_BACKBONES:
        largest = net.conv(largest, 256, 1, name="ssd_shrink_block_0", use_bias=False)
    *larger, x = largest, *smaller
    maps = [x]
    for number, large in enumerate(reversed(larger)):
        x = _deconvolution(net, x, large, number)
        maps.append(x)
    return detector(net, base, maps[::-1], checked_classes(classes), SsdOptions(**own), f"dssd_{family(backbone)}")


def _deconvolution(net: Net, small: keras.KerasTensor, large: keras.KerasTensor, number: int) -> keras.KerasTensor:
    """The paper's deconvolution module, figure 3: a map and the next smaller one, multiplied. As large and wide as `large`."""
    # What comes in is scaled by `width` already.
    exact = Net(dataclasses.replace(net.options, width=1.0))
    channels = large.shape[net.channel_axis]
    common: dict[str, Any] = {"use_bias": without_norm(net)}
    end = f"block_{number}"
    y = exact.conv(large, channels, 3, name=f"dssd_large_conv_0_{end}", **common)
    y = relu_layer(exact.norm(y, f"dssd_large_bn_0_{end}"), f"dssd_large_relu_0_{end}")
    y = exact.norm(exact.conv(y, channels, 3, name=f"dssd_large_conv_1_{end}", **common), f"dssd_large_bn_1_{end}")
    # Twice the smaller size is the larger one; or one more than it, where it is odd: a kernel of 2 without padding takes one off.
    sizes = zip(net.spatial(large), net.spatial(small), strict=True)
    even = [wanted == 2 * (given or 0) for wanted, given in sizes]
    x = exact.conv_transpose(small, channels, 2, 2, f"dssd_small_deconv_{end}", **common)
    x = exact.pad(x, [(1, 1) if fits else (0, 0) for fits in even], f"dssd_pad_{number}")
    kernel = (3 if even[0] else 2, 3 if even[1] else 2)
    x = exact.conv(x, channels, kernel, name=f"dssd_small_conv_{end}", padding="valid", **common)
    x = exact.norm(x, f"dssd_small_bn_{end}")
    return relu_layer(keras.layers.Multiply(name=f"dssd_mul_{end}")([y, x]), f"dssd_relu_{end}")
