"""A small network of residual blocks of every kind."""

from __future__ import annotations

from typing import Any

import keras
from helpers import randomize


def block(y: Any, name: str, width: int = 8) -> Any:
    z = keras.layers.Conv2D(width, 3, padding="same", name=f"{name}_1", activation="relu")(y)
    z = keras.layers.Conv2D(width, 3, padding="same", name=f"{name}_2")(z)
    z = keras.layers.BatchNormalization(name=f"{name}_bn")(z)
    return keras.layers.Add(name=name)([y, z])


def residual_model() -> keras.Model:
    """Two blocks, one that changes the width, and two more, the last an addition by an operator."""
    x = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(8, 3, padding="same", name="stem")(x)
    y = block(block(y, "a"), "b")
    short = keras.layers.Conv2D(12, 1, strides=2, name="short")(y)
    long = keras.layers.Conv2D(6, 3, strides=2, padding="same", name="longer")(y)
    long = keras.layers.Conv2D(12, 3, padding="same", name="long")(long)
    y = keras.layers.Add(name="wider")([short, long])
    y = block(y, "c", 12)
    y = y + keras.layers.Conv2D(12, 3, padding="same", name="d")(y)
    y = keras.layers.Dense(3, name="head")(keras.layers.GlobalAveragePooling2D()(y))
    return randomize(keras.Model(x, y, name="net"))
