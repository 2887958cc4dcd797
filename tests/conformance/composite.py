"""A custom layer made of a random chain of steps: what the generator of random graphs wraps in a class."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

STEPS = (
    "conv",
    "depthwise",
    "norm",
    "activation",
    "scale",
    "kernel",
    "residual",
    "gate",
    "shuffle",
    "halves",
    "nested",
    "compare",
)


@keras.saving.register_keras_serializable(package="tests")
class Composite(keras.layers.Layer):
    """A chain of steps at one width, then a convolution to another.

    Args:
        steps: names of `STEPS`.
        inner, width: channels between the steps, and of what comes out.
        built_alone: whether `build` makes everything; else calling it does.
    """

    def __init__(self, steps: Any, inner: int, width: int, built_alone: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps, self.inner, self.width, self.built_alone = list(steps), inner, width, built_alone
        self.entrance, self.exit = layers.Conv2D(inner, 1), layers.Conv2D(width, 1)
        self.parts = {str(i): self.part(step) for i, step in enumerate(self.steps)}

    def part(self, step: str) -> Any:
        same = {"padding": "same"}
        makers: dict[str, Any] = {
            "conv": lambda: layers.Conv2D(self.inner, 3, **same),
            "depthwise": lambda: layers.DepthwiseConv2D(3, **same),
            "norm": layers.BatchNormalization,
            "activation": lambda: layers.Activation("tanh"),
            "residual": lambda: layers.Conv2D(self.inner, 3, activation="relu", **same),
            "gate": lambda: layers.Dense(self.inner, activation="sigmoid"),
            "nested": lambda: Scale(0.5),
            "compare": lambda: layers.Conv2D(self.inner, 1, activation="sigmoid"),
        }
        return makers.get(step, layers.Identity)()

    def build(self, shape: Any) -> None:
        for i, step in enumerate(self.steps):
            if step == "scale":
                setattr(self, f"scale_{i}", self.add_weight(shape=(self.inner,), initializer="ones", name=f"scale_{i}"))
            if step == "kernel":
                kernel = self.add_weight(shape=(1, 1, self.inner, self.inner), name=f"kernel_{i}")
                setattr(self, f"kernel_{i}", kernel)
        inside = (*shape[:-1], self.inner)
        if self.built_alone:
            self.entrance.build(shape)
            for part in self.parts.values():
                part.build(inside[::3] if isinstance(part, layers.Dense) else inside)
            self.exit.build(inside)
        else:
            self.call(keras.KerasTensor(shape))

    def call(self, x: Any, training: bool | None = None) -> Any:
        y = self.entrance(x)
        for i, step in enumerate(self.steps):
            y = self.stepped(y, i, step)
        return self.exit(y)

    def stepped(self, y: Any, i: int, step: str) -> Any:
        part = self.parts[str(i)]
        if step == "scale":
            # Keras 3.15 takes the product for a sparse tensor, which a layer inside of a layer cannot be called with.
            return ops.add(y * getattr(self, f"scale_{i}"), 1.0)
        if step == "kernel":
            return ops.relu(ops.conv(y, getattr(self, f"kernel_{i}")))
        if step == "residual":
            return y + part(y)
        if step == "gate":
            return y * part(ops.mean(y, axis=(1, 2)))[:, None, None, :]
        if step == "compare":
            return y * ops.tanh(ops.einsum("bhwc,bhwc->bhw", y, part(y)))[..., None]
        if step == "shuffle":
            return ops.flip(y, axis=-1)
        if step == "halves" and y.shape[-1] % 2 == 0:
            first, second = ops.split(y, 2, axis=-1)
            return ops.concatenate([second, first], axis=-1)
        return part(y)

    def get_config(self) -> dict[str, Any]:
        own = {"steps": self.steps, "inner": self.inner, "width": self.width, "built_alone": self.built_alone}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="tests")
class Scale(keras.layers.Layer):
    """A custom layer inside a custom layer."""

    def __init__(self, factor: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def build(self, shape: Any) -> None:
        self.offset = self.add_weight(shape=(shape[-1],), name="offset")

    def call(self, x: Any) -> Any:
        # By Keras' operations: Keras 3.15 takes some products for sparse tensors, which Python's operators do not take.
        return ops.add(ops.multiply(x, self.factor), self.offset)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factor": self.factor}
