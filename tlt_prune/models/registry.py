"""One name, one call: `build(name, input_shape, classes, **options)`."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from tlt_prune.models.alexnet import alexnet
from tlt_prune.models.blocks import Net, Options
from tlt_prune.models.darknet import cspdarknet, cspdarknet_tiny, darknet
from tlt_prune.models.detectnet import detectnet_v2
from tlt_prune.models.efficientnet import efficientnet
from tlt_prune.models.googlenet import googlenet
from tlt_prune.models.helnet import helnet
from tlt_prune.models.mobilenet import mobilenet_v1, mobilenet_v2
from tlt_prune.models.resnet import LAYERS as RESNET_LAYERS
from tlt_prune.models.resnet import resnet
from tlt_prune.models.shufflenet import shufflenet
from tlt_prune.models.squeezenet import squeezenet
from tlt_prune.models.vgg import vgg

Builder = Callable[..., keras.Model]

_BACKBONES: dict[str, Builder] = {
    **{f"resnet{n}": functools.partial(resnet, n) for n in RESNET_LAYERS},
    **{f"vgg{n}": functools.partial(vgg, n) for n in (16, 19)},
    "alexnet": alexnet,
    "googlenet": googlenet,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "squeezenet": squeezenet,
    **{f"darknet{n}": functools.partial(darknet, n) for n in (19, 53)},
    **{f"cspdarknet{n}": functools.partial(cspdarknet, n) for n in (19, 53)},
    "cspdarknet_tiny": cspdarknet_tiny,
    **{f"efficientnet_b{n}": functools.partial(efficientnet, n) for n in range(6)},
    "shufflenet": shufflenet,
    **{f"helnet{n}": functools.partial(helnet, n) for n in (6, 10, 12, 18, 26, 34)},
}
# What DetectNet_v2 asks of a backbone to come at stride 16.
_DETECTNET_OPTIONS: dict[str, dict[str, Any]] = {
    **{f"resnet{n}": {"use_pooling": False, "all_projections": True} for n in (10, 18, 34, 50, 101, 152)},
    **{f"vgg{n}": {"use_pooling": False} for n in (16, 19)},
    "googlenet": {},
    "mobilenet_v1": {"stride": 16},
    "mobilenet_v2": {"stride": 16},
    "squeezenet": {},
    **{f"darknet{n}": {} for n in (19, 53)},
    "efficientnet_b0": {},
}
_DETECTORS: dict[str, Builder] = {
    f"detectnet_v2_{name}": functools.partial(detectnet_v2, _BACKBONES[name], **options)
    for name, options in _DETECTNET_OPTIONS.items()
}
_BUILDERS = {**_BACKBONES, **_DETECTORS}


def names() -> list[str]:
    """All architecture names."""
    return list(_BUILDERS)


def build(
    name: str, input_shape: Sequence[int | None] = (224, 224, 3), classes: int | None = None, **options: Any
) -> keras.Model:
    """Builds an architecture by name, with the head of its template.

    Args:
        name: such as "resnet18" or "detectnet_v2_resnet18"; TAO's spellings "resnet_18" and "efficientnet-b0" are understood.
        input_shape: (height, width, channels), whatever the data format.
        classes: outputs of the head; None for a bare backbone.
        **options: the fields of `Options` (`data_format`, `kernel_regularizer`, `freeze_bn`...) and the
            architecture's own (`all_projections`, `use_pooling`, `alpha`...).

    Raises:
        ValueError: no architecture of that name, or an option that it does not have.
    """
    shared = {f.name for f in dataclasses.fields(Options)}
    common = {k: v for k, v in options.items() if k in shared}
    own = {k: v for k, v in options.items() if k not in shared}
    key = _key(name)
    if key in _DETECTORS:
        common = {"data_format": "channels_first", **common}
    try:
        return _BUILDERS[key](input_shape=input_shape, classes=classes, options=Options(**common), **own)
    except TypeError as error:
        raise ValueError(f"'{name}' does not take these options: {error}. Shared ones: {', '.join(sorted(shared))}.") from error


def classifier(
    name: str, input_shape: Sequence[int | None] = (224, 224, 3), classes: int = 1000, *, dropout: float = 0.0, **options: Any
) -> keras.Model:
    """The toolkit's classification network: a bare backbone, pooling over its whole map, and one dense layer.

    The layers are `avg_pool`, `flatten` and `predictions`, the same on every backbone.

    Args:
        name, input_shape, **options: as for `build`. `use_pooling` is False and ResNet's
            `all_projections` True unless given, as in the toolkit.
        classes: outputs.
        dropout: share of the pooled features dropped while training.
    """
    if _key(name).startswith(("resnet", "vgg")):
        options.setdefault("use_pooling", False)
    if _key(name).startswith("resnet"):
        options.setdefault("all_projections", True)
    backbone = build(name, input_shape, None, **options)
    net = Net(Options(**{k: v for k, v in options.items() if k in {f.name for f in dataclasses.fields(Options)}}))
    x = backbone.outputs[0]
    x = keras.layers.AveragePooling2D(net.spatial(x), data_format=net.options.data_format, name="avg_pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    if dropout:
        x = keras.layers.Dropout(dropout, name="dropout")(x)
    x = net.dense(x, classes, "predictions")
    return keras.Model(backbone.inputs[0], x, name=backbone.name)


def _key(name: str) -> str:
    wanted = name.lower().replace("-", "_")
    for key in _BUILDERS:
        if wanted.replace("_", "") == key.replace("_", ""):
            return key
    near = difflib.get_close_matches(wanted, list(_BUILDERS), n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise ValueError(f"There is no architecture name={name!r}.{hint} Expected one of {', '.join(_BUILDERS)}.")
