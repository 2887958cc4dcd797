"""The base of the gallery's custom layers, and how Keras is told of them."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers


class Configured(layers.Layer):
    """A layer whose constructor's arguments are its configuration."""

    entries: tuple[str, ...] = ()

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **{key: getattr(self, key) for key in self.entries}}


def registered(cls: Any) -> Any:
    return keras.saving.register_keras_serializable(package="opened")(cls)
