"""Custom layers for sequences of tokens (see `opened_kernels`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers, ops

from gallery.configured import Configured, registered


@registered
class PositionTable(Configured):
    """A table of positions that is learned."""

    def build(self, shape: Any) -> None:
        self.table = self.add_weight(shape=(shape[1], shape[2]), name="table")

    def call(self, x: Any) -> Any:
        return x + self.table


@registered
class PositionLookup(Configured):
    """Positions that are looked up by an Embedding, called on a constant."""

    def build(self, shape: Any) -> None:
        self.positions = np.arange(shape[1])
        self.embedding = layers.Embedding(shape[1], shape[2])
        self.embedding.build(())

    def call(self, x: Any) -> Any:
        return x + self.embedding(self.positions)


@registered
class ClassToken(Configured):
    def build(self, shape: Any) -> None:
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

    def call(self, x: Any) -> Any:
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, ops.shape(x)[-1]))
        return ops.concatenate([token, x], axis=1)


@registered
class TiledToken(ClassToken):
    def call(self, x: Any) -> Any:
        return ops.concatenate([ops.tile(self.token, (ops.shape(x)[0], 1, 1)), x], axis=1)


@registered
class PatchEmbedding(Configured):
    entries = ("units", "size")

    def __init__(self, units: int, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.size = units, size
        self.projection = layers.Conv2D(units, size, strides=size)

    def call(self, x: Any) -> Any:
        x = self.projection(x)
        return ops.reshape(x, (-1, x.shape[1] * x.shape[2], x.shape[3]))


@registered
class TransformerEncoder(Configured):
    entries = ("heads", "width", "hidden")

    def __init__(self, heads: int, width: int, hidden: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads, self.width, self.hidden = heads, width, hidden

    def build(self, shape: Any) -> None:
        self.attention = layers.MultiHeadAttention(self.heads, self.width)
        self.attention.build(shape, shape)
        self.first, self.second = layers.Dense(self.hidden, activation="gelu"), layers.Dense(shape[-1])
        self.first.build(shape)
        self.second.build((*shape[:-1], self.hidden))
        self.norms = [layers.LayerNormalization() for _ in range(2)]
        for norm in self.norms:
            norm.build(shape)

    def call(self, x: Any, training: bool | None = None) -> Any:
        y = self.norms[0](x)
        x = x + self.attention(y, y, training=training)
        return x + self.second(self.first(self.norms[1](x)))


@registered
class TokenMixer(Configured):
    """An MLP over the tokens, as in MLP-Mixer: the channels are an axis that it leaves alone."""

    entries = ("hidden",)

    def __init__(self, hidden: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden = hidden

    def build(self, shape: Any) -> None:
        self.first, self.second = layers.Dense(self.hidden, activation="gelu"), layers.Dense(shape[1])
        self.first.build((None, shape[2], shape[1]))
        self.second.build((None, shape[2], self.hidden))

    def call(self, x: Any) -> Any:
        return x + ops.transpose(self.second(self.first(ops.transpose(x, (0, 2, 1)))), (0, 2, 1))


@registered
class OneHead(Configured):
    """Attention of one head: queries and keys are of a width of their own, and summed over."""

    entries = ("inner",)

    def __init__(self, inner: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = inner
        # No kernel of zeros makes these zero.
        self.query, self.key = (layers.Dense(inner, activation="sigmoid") for _ in range(2))
        self.value = layers.Dense(inner)

    def build(self, shape: Any) -> None:
        for layer in (self.query, self.key, self.value):
            layer.build(shape)
        self.out = layers.Dense(shape[-1])
        self.out.build((*shape[:-1], self.inner))

    def call(self, x: Any) -> Any:
        scores = ops.softmax(ops.einsum("bnc,bmc->bnm", self.query(x), self.key(x)))
        return x + self.out(ops.matmul(scores, self.value(x)))


@registered
class Similarity(Configured):
    """Two projections compared token by token: a product and a sum."""

    entries = ("inner",)

    def __init__(self, inner: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = inner
        self.first, self.second = (layers.Dense(inner, activation="sigmoid") for _ in range(2))

    def call(self, x: Any) -> Any:
        return x * ops.sum(self.first(x) * self.second(x), axis=-1, keepdims=True)
