"""Custom layers of tf_keras, made of TensorFlow's functions. Both are arguments: nobody else needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def layers_of(k: Any, tf: Any) -> dict[str, Callable[[], Any]]:
    """Name -> makes a layer for (batch, 6, 12)."""
    registered = k.utils.register_keras_serializable("opened")

    @registered
    class Affine(k.layers.Layer):
        def build(self, shape: Any) -> None:
            self.scale = self.add_weight(name="scale", shape=(shape[-1],), initializer="ones")
            self.shift = self.add_weight(name="shift", shape=(shape[-1],))

        def call(self, x: Any) -> Any:
            return x * self.scale + self.shift

    @registered
    class Gain(k.layers.Layer):
        """A single number."""

        def build(self, shape: Any) -> None:
            self.gain = self.add_weight(name="gain", shape=(), initializer="ones")

        def call(self, x: Any) -> Any:
            return x * self.gain

    @registered
    class ClassToken(k.layers.Layer):
        def build(self, shape: Any) -> None:
            self.token = self.add_weight(name="token", shape=(1, 1, shape[-1]))

        def call(self, x: Any) -> Any:
            token = tf.tile(tf.cast(self.token, x.dtype), [tf.shape(x)[0], 1, 1])
            return tf.concat([token, x], axis=1)

    @registered
    class BroadcastToken(k.layers.Layer):
        def build(self, shape: Any) -> None:
            self.token = self.add_weight(name="token", shape=(1, 1, shape[-1]))

        def call(self, x: Any) -> Any:
            return tf.concat([tf.repeat(self.token, tf.shape(x)[0], axis=0), x], axis=1)

    @registered
    class Positions(k.layers.Layer):
        def build(self, shape: Any) -> None:
            self.table = self.add_weight(name="table", shape=(1, *shape[1:]))

        def call(self, x: Any) -> Any:
            return x + self.table

    @registered
    class LookedUp(k.layers.Layer):
        """Rows of a table, by constant numbers."""

        def build(self, shape: Any) -> None:
            self.table = self.add_weight(name="table", shape=(2 * shape[1], shape[-1]))
            self.rows = tf.range(0, 2 * shape[1], 2)

        def call(self, x: Any) -> Any:
            return x + tf.gather(self.table, self.rows)

    @registered
    class OwnDense(k.layers.Layer):
        def __init__(self, units: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.units = units

        def build(self, shape: Any) -> None:
            self.kernel = self.add_weight(name="kernel", shape=(shape[-1], self.units))
            self.bias = self.add_weight(name="bias", shape=(self.units,))

        def call(self, x: Any) -> Any:
            return tf.nn.relu(tf.nn.bias_add(tf.matmul(x, self.kernel), self.bias))

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "units": self.units}

    @registered
    class OwnEinsum(OwnDense):
        def call(self, x: Any) -> Any:
            return tf.einsum("bnc,cd->bnd", x, self.kernel) + self.bias

    @registered
    class Transposed(OwnDense):
        """A kernel whose rows are what it makes."""

        def build(self, shape: Any) -> None:
            self.kernel = self.add_weight(name="kernel", shape=(self.units, shape[-1]))

        def call(self, x: Any) -> Any:
            return tf.matmul(x, self.kernel, transpose_b=True)

    @registered
    class Block(k.layers.Layer):
        """Layers, in a list and in a dictionary."""

        def __init__(self, units: int, hidden: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.units, self.hidden = units, hidden
            self.parts = [k.layers.Dense(hidden, activation="relu"), k.layers.Dense(units)]
            self.norms = {"last": k.layers.BatchNormalization()}

        def call(self, x: Any, training: Any = None) -> Any:
            return tf.nn.relu(x + self.norms["last"](self.parts[1](self.parts[0](x)), training=training))

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "units": self.units, "hidden": self.hidden}

    return {
        "affine": Affine,
        "gain": Gain,
        "class token": ClassToken,
        "repeated token": BroadcastToken,
        "positions": Positions,
        "rows of a table": LookedUp,
        "own dense": lambda: OwnDense(16),
        "own einsum": lambda: OwnEinsum(16),
        "transposed kernel": lambda: Transposed(16),
        "block": lambda: Block(12, 16),
    }


def closed_of(k: Any, tf: Any) -> dict[str, tuple[Callable[[], Any], str]]:
    """Name -> (makes a layer that cannot be opened, or made smaller; the reason)."""

    class Asks(k.layers.Layer):
        def call(self, x: Any) -> Any:
            return x if tf.reduce_mean(x) > 0 else x * 2.0

    class OfNumPy(k.layers.Layer):
        def call(self, x: Any) -> Any:
            return tf.ensure_shape(tf.numpy_function(lambda a: a, [x], tf.float32), x.shape)

    class Fixed(k.layers.Layer):
        """Its width is written in its code."""

        def build(self, shape: Any) -> None:
            self.scale = self.add_weight(name="scale", shape=(12,))

        def call(self, x: Any) -> Any:
            return x * self.scale

    class AddsALoss(k.layers.Layer):
        def call(self, x: Any) -> Any:
            self.add_loss(tf.reduce_sum(x))
            return x

    return {
        "if": (Asks, "not opened: on symbolic tensors it raises"),
        "NumPy": (OfNumPy, "unknown layer"),
        "fixed": (Fixed, "no entry of the configuration of 'fixed' counts it"),
        "loss": (AddsALoss, "not opened: it adds a loss"),
    }
