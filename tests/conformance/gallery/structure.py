"""Models in models, shared layers, several inputs and outputs, open sizes, types of numbers."""

from __future__ import annotations

from typing import Any

import keras

from gallery.cases import case, conv, head, image


@case()
def time_distributed_model(g: Any) -> Any:
    inner = g.Input((6, 6, 3))
    cnn = g.Model(inner, g.layers.GlobalAveragePooling2D()(conv(g, conv(g, inner, 8), 10)))
    x = g.Input((5, 6, 6, 3))
    y = g.layers.TimeDistributed(cnn)(x)
    return g.Model(x, g.layers.Dense(3)(g.layers.GRU(6)(y)))


@case()
def time_distributed_sequential_on_pruned_channels(g: Any) -> Any:
    x = g.Input((4, 6, 6, 3))
    y = g.layers.TimeDistributed(g.layers.Conv2D(8, 3, activation="relu"))(x)
    cnn = g.Sequential([g.layers.Conv2D(6, 3, activation="relu"), g.layers.Flatten(), g.layers.Dense(10)])
    return head(g, x, g.layers.TimeDistributed(cnn)(y))


@case()
def sequential(g: Any) -> Any:
    return g.Sequential(
        [g.Input((9, 9, 3)), g.layers.Conv2D(12, 3, activation="relu"), g.layers.Flatten(), g.layers.Dense(8), g.layers.Dense(3)]
    )


@case()
def nested_model(g: Any) -> Any:
    a = g.Input((9, 9, 12))
    inner = g.Model(a, g.layers.Add()([a, conv(g, conv(g, a, 8), 12)]), name="inner")
    x = image(g)
    return head(g, x, conv(g, inner(conv(g, x, 12)), 8))


@case()
def nested_sequential_in_nested(g: Any) -> Any:
    block = g.Sequential(
        [g.Input((9, 9, 10)), g.layers.Conv2D(8, 3, activation="relu"), g.layers.BatchNormalization()], name="block"
    )
    a = g.Input((9, 9, 6))
    inner = g.Model(a, conv(g, block(conv(g, a, 10)), 10), name="inner")
    x = image(g)
    return head(g, x, inner(conv(g, x, 6)))


@case()
def siamese(g: Any) -> Any:
    a = g.Input((9, 9, 3))
    tower = g.Model(a, g.layers.GlobalAveragePooling2D()(conv(g, conv(g, a), 10)), name="tower")
    x, z = image(g), image(g)
    return g.Model([x, z], g.layers.Dense(3)(g.layers.Subtract()([tower(x), tower(z)])))


@case()
def nested_called_twice_with_other_channels(g: Any) -> Any:
    a = g.Input((9, 9, 8))
    inner = g.Model(a, conv(g, a, 10), name="inner")
    x = image(g)
    y, z = inner(conv(g, x, 8)), inner(conv(g, x, 8))
    return head(g, x, conv(g, g.layers.Concatenate()([y, z]), 6))


@case()
def shared_layer(g: Any) -> Any:
    x = image(g)
    shared = g.layers.Conv2D(10, 3, activation="relu")
    return head(g, x, conv(g, g.layers.Concatenate()([shared(conv(g, x)), shared(conv(g, x))]), 8))


@case()
def shared_reshape(g: Any) -> Any:
    x = image(g, 6)
    shared = g.layers.Reshape((36, 12))
    return head(g, x, g.layers.Conv1D(6, 1)(g.layers.Concatenate()([shared(conv(g, x)), shared(conv(g, x))])))


@case()
def applied_to_itself(g: Any) -> Any:
    x = image(g)
    layer = g.layers.Conv2D(12, 3, padding="same", activation="relu")
    return head(g, x, layer(layer(conv(g, x, 12))))


@case()
def several_outputs(g: Any) -> Any:
    x = image(g)
    y = conv(g, x, 12)
    z = conv(g, y, 10)
    return g.Model(x, [g.layers.Conv2D(2, 1)(y), g.layers.Conv2D(4, 1)(z), g.layers.Dense(3)(g.layers.Flatten()(z))])


@case(frozen="model output")
def output_that_goes_on(g: Any) -> Any:
    x = image(g)
    y = conv(g, x, 12)
    return g.Model(x, [y, g.layers.Conv2D(4, 1)(conv(g, y, 10))])


@case(keras3=True)
def dict_inputs_and_outputs(g: Any) -> Any:
    x, z = g.Input((9, 9, 3), name="left"), g.Input((9, 9, 2), name="right")
    y = g.layers.Concatenate()([conv(g, x, 10), conv(g, z, 8)])
    outputs = {"mask": conv(g, y, 1), "score": g.layers.Dense(3)(g.layers.GlobalMaxPooling2D()(conv(g, y, 6)))}
    return g.Model({"left": x, "right": z}, outputs)


@case()
def open_spatial_sizes(g: Any) -> Any:
    x = g.Input((None, None, 3))
    y = g.layers.Concatenate()([conv(g, x), conv(g, x, 6)])
    return head(g, x, conv(g, g.layers.MaxPooling2D()(y), 8))


@case()
def open_sizes_flattened_over_space(g: Any) -> Any:
    x = g.Input((None, None, 3))
    y = g.layers.Reshape((-1, 12))(conv(g, x))
    return head(g, x, g.layers.Conv1D(6, 1)(y))


@case()
def channels_first_as_wide_as_deep(g: Any) -> Any:
    """Keras 3.15 adds the bias of such a map on the wrong axis when it runs eagerly."""
    x = g.Input((3, 12, 12))
    y = x
    for _ in range(2):
        y = g.layers.Conv2D(12, 3, padding="same", data_format="channels_first", activation="relu")(y)
    return g.Model(x, g.layers.Dense(3)(g.layers.Flatten(data_format="channels_first")(y)))


@case()
def open_sizes_around_a_fixed_model(g: Any) -> Any:
    a = g.Input((12, 12, 3))
    inner = g.Model(a, g.layers.GlobalMaxPooling2D()(conv(g, a, 8, strides=3)), name="inner")
    x = g.Input((None, None, 3))
    return g.Model(x, g.layers.Dense(3)(g.layers.Dense(10)(inner(x))))


@case()
def fixed_batch(g: Any) -> Any:
    x = g.Input(batch_shape=(2, 6, 6, 3)) if g is keras else g.Input((6, 6, 3), batch_size=2)
    y = g.layers.Flatten()(conv(g, x))
    return g.Model(x, g.layers.Dense(3)(y))


@case()
def call_keywords(g: Any) -> Any:
    x = image(g)
    y = g.layers.BatchNormalization()(conv(g, x), training=False)
    return head(g, x, conv(g, g.layers.Dropout(0.5)(y, training=False), 8))


@case()
def masked_sequence(g: Any) -> Any:
    x = g.Input((6,), dtype="int32")
    y = g.layers.Embedding(20, 12, mask_zero=True)(x)
    return g.Model(x, g.layers.Dense(3)(g.layers.LSTM(8)(y)))


@case(keras3=True)
def mixed_precision(g: Any) -> Any:
    x = image(g)
    y = conv(g, x, dtype="mixed_bfloat16")
    y = keras.layers.Activation("linear", dtype="float32")(conv(g, y, 8, dtype="mixed_bfloat16"))
    return head(g, x, y)


@case()
def channels_that_all_could_go(g: Any) -> Any:
    # Ranked with the others, the first four of these twelve are the weakest; a slice of them must not run empty.
    x = image(g)
    y = g.layers.Conv2D(12, 3, name="weak")(x)
    return head(g, x, g.layers.Concatenate()([conv(g, y[..., :4], 6), conv(g, y, 6)]))
