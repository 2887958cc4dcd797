"""Several tensors become one."""

from __future__ import annotations

from typing import Any

from gallery.cases import case, conv, head, image


@case()
def residual(g: Any) -> Any:
    x = image(g)
    y = conv(g, x)
    for _ in range(3):
        y = g.layers.Add()([y, g.layers.BatchNormalization()(conv(g, y))])
    return head(g, x, y)


@case()
def all_merges(g: Any) -> Any:
    x = image(g)
    y = conv(g, x)
    for name in ("Subtract", "Multiply", "Average", "Maximum", "Minimum"):
        y = getattr(g.layers, name)()([y, conv(g, y)])
    return head(g, x, y)


@case()
def add_of_three_and_the_same_twice(g: Any) -> Any:
    x = image(g)
    y, z = conv(g, x), conv(g, x)
    return head(g, x, conv(g, g.layers.Add()([y, z, y]), 8))


@case()
def squeeze_excite(g: Any) -> Any:
    x = image(g)
    y = conv(g, x)
    s = g.layers.Reshape((1, 1, 12))(g.layers.GlobalAveragePooling2D()(y))
    s = conv(g, conv(g, s, 4, 1), 12, 1, activation="sigmoid")
    return head(g, x, conv(g, g.layers.Multiply()([y, s]), 8))


@case()
def squeeze_excite_dense(g: Any) -> Any:
    x = image(g)
    y = conv(g, x)
    s = g.layers.Dense(12, activation="sigmoid")(g.layers.Dense(6, activation="relu")(g.layers.GlobalMaxPooling2D()(y)))
    return head(g, x, conv(g, g.layers.Multiply()([y, g.layers.Reshape((1, 1, -1))(s)]), 8))


@case()
def spatial_attention(g: Any) -> Any:
    x = image(g)
    y = conv(g, x)
    return head(g, x, conv(g, g.layers.Multiply()([y, conv(g, y, 1, activation="sigmoid")]), 8))


@case(frozen="model input")
def added_to_the_input(g: Any) -> Any:
    x = image(g, channels=4)
    y = g.layers.Add()([x, conv(g, conv(g, x, 8), 4)])
    return head(g, x, conv(g, y, 8))


@case()
def concat_of_concats(g: Any) -> Any:
    x = image(g)
    a, b, c = conv(g, x, 8), conv(g, x, 12), conv(g, x, 6)
    y = g.layers.Concatenate()([g.layers.Concatenate()([a, b]), g.layers.BatchNormalization()(c), a])
    return head(g, x, conv(g, g.layers.DepthwiseConv2D(3)(y), 8))


@case()
def concat_with_the_input(g: Any) -> Any:
    x = image(g)
    return head(g, x, conv(g, g.layers.Concatenate()([x, conv(g, x), conv(g, x, 6)]), 8))


@case()
def add_of_two_concats(g: Any) -> Any:
    x = image(g)
    left = g.layers.Concatenate()([conv(g, x, 8), conv(g, x, 12)])
    right = g.layers.Concatenate()([conv(g, x, 14), conv(g, x, 6)])
    return head(g, x, conv(g, g.layers.Add()([left, right]), 8))


@case()
def concat_along_height(g: Any) -> Any:
    x = image(g)
    y = g.layers.Concatenate(axis=1)([conv(g, x), conv(g, x)])
    return head(g, x, conv(g, y, 8))


@case()
def dense_block(g: Any) -> Any:
    x = image(g)
    y = conv(g, x, 8)
    for _ in range(3):
        z = conv(g, g.layers.ReLU()(g.layers.BatchNormalization()(y)), 6)
        y = g.layers.Concatenate()([y, z])
    return head(g, x, y)


@case(frozen="channels of both operands would span two axes of a product")
def dot_of_activations(g: Any) -> Any:
    x = g.Input((5, 4))
    a, b = g.layers.Dense(8, activation="relu")(x), g.layers.Dense(10, activation="relu")(x)
    # (5, 8) . (5, 10) over time -> (8, 10): then over the features.
    y = g.layers.Dot(axes=1)([a, g.layers.Dense(6)(b)])
    return g.Model(x, g.layers.Dense(3)(g.layers.Flatten()(y)))
