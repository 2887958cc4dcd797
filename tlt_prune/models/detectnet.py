"""DetectNet_v2: a backbone at stride 16 with the grid-box head, as the toolkit builds it. Decoding and training are not here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from tlt_prune.models.blocks import ArchitectureOptions, InputShape


def detectnet_v2(
    backbone: Callable[..., keras.Model],
    input_shape: InputShape = (544, 960, 3),
    classes: int | None = 3,
    *,
    options: ArchitectureOptions | None = None,
    **backbone_options: Any,
) -> keras.Model:
    """Puts the grid-box head on a backbone.

    Args:
        backbone: a builder of this package, such as `functools.partial(resnet, 18)`.
        input_shape: (height, width, channels), fixed.
        classes: number of object classes: `output_cov` (sigmoid) has one channel per class, `output_bbox` four.
        options: what all architectures share. The toolkit builds it channels-first.
        **backbone_options: passed on.

    Returns:
        A model with outputs [output_bbox, output_cov].
    """
    o = options or ArchitectureOptions(data_format="channels_first")
    base = backbone(input_shape=input_shape, classes=None, options=o, **backbone_options)
    features = base.outputs[0]
    heads = [_head(features, o, "bbox", 4 * (classes or 1), None), _head(features, o, "cov", classes or 1, "sigmoid")]
    return keras.Model(base.inputs[0], heads, name=f"{base.name}_detectnet_v2")


def _head(
    x: keras.KerasTensor, o: ArchitectureOptions, objective: str, filters: int, activation: str | None
) -> keras.KerasTensor:
    return keras.layers.Conv2D(
        filters,
        1,
        padding="same",
        data_format=o.data_format,
        activation=activation,
        kernel_regularizer=o.kernel_regularizer,
        bias_regularizer=o.bias_regularizer,
        name=f"output_{objective}",
    )(x)
