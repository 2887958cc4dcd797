"""Attention and recurrent layers."""

from __future__ import annotations

from typing import Any

import keras

from gallery.cases import case, head


@case(keras3=True)
def multi_head_attention(g: Any) -> Any:
    x = g.Input((6, 10))
    y = keras.layers.Dense(16, activation="relu")(x)
    y = keras.layers.MultiHeadAttention(4, 5, value_dim=3)(y, y)
    return head(g, x, keras.layers.Dense(8)(y))


@case(keras3=True)
def cross_attention_residual(g: Any) -> Any:
    x, z = g.Input((6, 10)), g.Input((4, 7))
    y = keras.layers.Dense(16, activation="relu")(x)
    y = y + keras.layers.MultiHeadAttention(2, 4, use_bias=False)(y, keras.layers.Dense(9)(z))
    return head(g, [x, z], keras.layers.Dense(8)(y))


@case(keras3=True)
def single_head_attention(g: Any) -> Any:
    x = g.Input((6, 10))
    y = keras.layers.MultiHeadAttention(1, 4, value_dim=8)(x, x)
    return head(g, x, keras.layers.Dense(8)(y))


@case(keras3=True)
def grouped_query_attention(g: Any) -> Any:
    x = g.Input((6, 10))
    y = keras.layers.Dense(16)(x)
    y = y + keras.layers.GroupQueryAttention(4, 8, 4)(y, y)
    return head(g, x, keras.layers.Dense(8)(y))


@case()
def attention_layer(g: Any) -> Any:
    x = g.Input((6, 10))
    y = g.layers.Attention()([g.layers.Dense(8)(x), g.layers.Dense(12)(x), g.layers.Dense(8)(x)])
    return head(g, x, g.layers.Dense(6)(y))


@case()
def attention_layer_with_masks(g: Any) -> Any:
    x, a, b = g.Input((6, 10)), g.Input((6,), dtype="bool"), g.Input((6,), dtype="bool")
    y = g.layers.Attention()([g.layers.Dense(12)(x), g.layers.Dense(12)(x)], mask=[a, b])
    y = g.layers.Dense(12)(y)
    # The values alone pass: their width is pruned where the keys are others.
    y = g.layers.Attention()([g.layers.Dense(8)(y), y, g.layers.Dense(8)(y)], mask=[a, b])
    return head(g, [x, a, b], g.layers.Dense(6)(y))


@case(keras3=True)
def multi_head_attention_with_a_mask(g: Any) -> Any:
    x, mask = g.Input((6, 10)), g.Input((6, 6), dtype="bool")
    y = keras.layers.Dense(16)(x)
    y = keras.layers.MultiHeadAttention(4, 5)(y, y, attention_mask=mask)
    return head(g, [x, mask], keras.layers.Dense(8)(y))


@case()
def simple_rnn(g: Any) -> Any:
    x = g.Input((5, 6))
    y = g.layers.SimpleRNN(12, return_sequences=True)(x)
    return g.Model(x, g.layers.Dense(3)(g.layers.SimpleRNN(8)(y)))


@case()
def recurrent_cells(g: Any) -> Any:
    """One cell, then a stack of two, of which each has its states."""
    x = g.Input((5, 6))
    y = g.layers.RNN(g.layers.GRUCell(10), return_sequences=True)(x)
    y, *states = g.layers.RNN([g.layers.LSTMCell(12), g.layers.SimpleRNNCell(8)], return_sequences=True, return_state=True)(y)
    y = g.layers.GlobalAveragePooling1D()(y)
    return g.Model(x, g.layers.Dense(3)(g.layers.Concatenate()([y, *keras.tree.flatten(states)])))


@case()
def recurrent_cells_both_ways(g: Any) -> Any:
    x = g.Input((5, 6))
    cells = [g.layers.GRUCell(8), g.layers.LSTMCell(6)]
    y = g.layers.Bidirectional(g.layers.RNN(cells, return_sequences=True))(x)
    return g.Model(x, g.layers.Dense(3)(g.layers.Bidirectional(g.layers.RNN(g.layers.LSTMCell(7)), merge_mode="sum")(y)))


@case(keras3=True)
def recurrent_cell_with_states(g: Any) -> Any:
    x = g.Input((5, 6))
    h, c = keras.layers.Dense(8, activation="tanh")(x[:, 0]), keras.layers.Dense(8)(x[:, 1])
    return g.Model(x, keras.layers.Dense(3)(keras.layers.RNN(keras.layers.LSTMCell(8))(x, initial_state=[h, c])))


@case()
def gru(g: Any) -> Any:
    x = g.Input((5, 6))
    y = g.layers.GRU(12, return_sequences=True)(x)
    return g.Model(x, g.layers.Dense(3)(g.layers.GRU(8, reset_after=False)(y)))


@case()
def lstm_with_states(g: Any) -> Any:
    x = g.Input((5, 6))
    y, h, c = g.layers.LSTM(12, return_sequences=True, return_state=True)(g.layers.Dense(10)(x))
    z = g.layers.LSTM(12)(y, initial_state=[h, c])
    return g.Model(x, g.layers.Dense(3)(z))


@case()
def bidirectional(g: Any) -> Any:
    x = g.Input((5, 6))
    y = g.layers.Bidirectional(g.layers.LSTM(10, return_sequences=True))(x)
    y = g.layers.Bidirectional(g.layers.GRU(8, return_sequences=True), merge_mode="sum")(y)
    return head(g, x, g.layers.Dense(6)(y))


@case()
def conv_lstm(g: Any) -> Any:
    x = g.Input((3, 6, 6, 2))
    y = g.layers.ConvLSTM2D(8, 3, return_sequences=True)(x)
    return head(g, x, g.layers.ConvLSTM2D(6, 3)(y))


@case()
def time_distributed(g: Any) -> Any:
    x = g.Input((3, 6, 6, 2))
    y = g.layers.TimeDistributed(g.layers.Conv2D(8, 3, activation="relu"))(x)
    y = g.layers.TimeDistributed(g.layers.BatchNormalization())(y)
    y = g.layers.TimeDistributed(g.layers.Flatten())(y)
    return head(g, x, g.layers.TimeDistributed(g.layers.Dense(10))(y))


@case()
def time_distributed_recurrent(g: Any) -> Any:
    x = g.Input((3, 5, 6))
    y = g.layers.TimeDistributed(g.layers.LSTM(8, return_sequences=True))(x)
    y = g.layers.TimeDistributed(g.layers.Bidirectional(g.layers.GRU(6)))(y)
    return head(g, x, g.layers.Dense(10)(y))


@case(keras3=True)
def time_distributed_augmentation(g: Any) -> Any:
    x = g.Input((3, 6, 6, 3))
    y = keras.layers.TimeDistributed(keras.layers.RandomGrayscale())(x)
    y = keras.layers.TimeDistributed(keras.layers.Conv2D(8, 3, activation="relu"))(y)
    return g.Model(x, keras.layers.Dense(3)(keras.layers.Dense(10)(keras.layers.TimeDistributed(keras.layers.Flatten())(y))))


@case()
def stateful_recurrent(g: Any) -> Any:
    x = g.Input(batch_shape=(2, 5, 6)) if g is keras else g.Input((5, 6), batch_size=2)
    y = g.layers.LSTM(12, return_sequences=True, stateful=True)(x)
    return g.Model(x, g.layers.Dense(3)(g.layers.GRU(8, stateful=True)(y)))


@case()
def masked_recurrent_as_long_as_wide(g: Any) -> Any:
    """A mask (batch, time) has the shape of a state (batch, units) where there are as many steps as units."""
    x = g.Input((8, 6))
    mask = g.Input((8,), dtype="bool")
    y = g.layers.GRU(8, return_sequences=True)(x, mask=mask)
    return g.Model([x, mask], g.layers.Dense(3)(g.layers.LSTM(8)(y, mask=mask)))
