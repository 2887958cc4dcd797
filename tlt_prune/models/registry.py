"""One name, one call: `build(name, input_shape, classes, **options)`."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from tlt_prune.models.blocks import Options
from tlt_prune.models.resnet import resnet

Builder = Callable[..., keras.Model]

_BUILDERS: dict[str, Builder] = {f"resnet{n}": functools.partial(resnet, n) for n in (10, 18, 34, 50, 101, 152)}


def names() -> list[str]:
    """All architecture names."""
    return list(_BUILDERS)


def build(
    name: str, input_shape: Sequence[int | None] = (224, 224, 3), classes: int | None = None, **options: Any
) -> keras.Model:
    """Builds an architecture by name.

    Args:
        name: such as "resnet18"; TAO's spelling "resnet_18" is understood.
        input_shape: (height, width, channels), whatever the data format.
        classes: outputs of the classification head; None for a bare backbone.
        **options: the fields of `Options` (`data_format`, `kernel_regularizer`, `freeze_bn`...) and the
            architecture's own (`all_projections`, `use_pooling`...).

    Raises:
        ValueError: no architecture of that name, or an option that it does not have.
    """
    key = name.lower().replace("resnet_", "resnet")
    if key not in _BUILDERS:
        near = difflib.get_close_matches(key, list(_BUILDERS), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"Expected one of {', '.join(_BUILDERS)}. Received: name={name!r}.{hint}")
    shared = {f.name for f in dataclasses.fields(Options)}
    common = Options(**{k: v for k, v in options.items() if k in shared})
    own = {k: v for k, v in options.items() if k not in shared}
    try:
        return _BUILDERS[key](input_shape=input_shape, classes=classes, options=common, **own)
    except TypeError as error:
        raise ValueError(f"'{name}' does not take these options: {error}. Shared ones: {', '.join(sorted(shared))}.") from error
