"""How a graph becomes a case of the gallery, and the layers that most of them have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Build = Callable[[Any], Any]
EXACT: dict[str, Build] = {}
APPROXIMATE: dict[str, Build] = {}
KERAS3: set[str] = set()
FROZEN: dict[str, str] = {}
# Counts what is not differentiable, and an operation for which TensorFlow has no gradient.
WITHOUT_GRADIENTS = ("counts_and_norms", "augmentation")


def case(*, approximate: bool = False, keras3: bool = False, frozen: str = "") -> Callable[[Build], Build]:
    def add(build: Build) -> Build:
        (APPROXIMATE if approximate else EXACT)[build.__name__] = build
        if keras3:
            KERAS3.add(build.__name__)
        if frozen:
            FROZEN[build.__name__] = frozen
        return build

    return add


def image(g: Any, size: int = 9, channels: int = 3) -> Any:
    return g.Input((size, size, channels))


def conv(g: Any, x: Any, filters: int = 12, kernel: int = 3, **kwargs: Any) -> Any:
    return g.layers.Conv2D(filters, kernel, **{"padding": "same", "activation": "relu", **kwargs})(x)


def head(g: Any, inputs: Any, x: Any, units: int = 3) -> Any:
    """Global pooling where there is something to pool, and a dense layer."""
    pool = {3: "GlobalAveragePooling1D", 4: "GlobalAveragePooling2D", 5: "GlobalAveragePooling3D"}.get(len(x.shape))
    if pool:
        x = getattr(g.layers, pool)()(x)
    return g.Model(inputs, g.layers.Dense(units)(x))
