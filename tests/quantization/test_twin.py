"""The tf_keras twin computes the same, and what comes back from it is 2:4 sparse."""

from __future__ import annotations

import os
import pathlib

import keras
import numpy as np
import onnx
import pytest
from helpers import randomize
from tensorrt_graph import pictures

from tlt_prune import export, models, prune_model
from tlt_prune.errors import QuantizationError, UnsupportedModelError
from tlt_prune.quantization import cluster_table, cluster_weights, sparsify, sparsity_table, to_keras, to_tf_keras


def nested() -> keras.Model:
    a = keras.Input((8, 8, 4))
    inside = keras.Model(a, keras.layers.ReLU()(keras.layers.Conv2D(4, 3, padding="same", name="inner")(a)), name="inside")
    x, z = keras.Input((8, 8, 4), name="image"), keras.Input((5,), name="other")
    y = inside(inside(x)) + x
    y = keras.layers.SeparableConv2D(6, 3)(keras.layers.PReLU(shared_axes=[1, 2])(y))
    y = keras.layers.LayerNormalization()(keras.layers.GlobalMaxPooling2D()(y))
    y = keras.layers.Concatenate()([y, keras.layers.Dense(3, activation="tanh", kernel_regularizer="l2")(z)])
    return randomize(keras.Model([x, z], [keras.layers.Dropout(0.3)(y), keras.layers.Dense(2)(y)]))


@pytest.mark.parametrize("name", ["resnet10", "vgg16", "mobilenet_v2", "googlenet", "squeezenet", "darknet19", "efficientnet_b0"])
def test_architectures_go_there_and_back(name: str) -> None:
    model = randomize(models.build(name, (32, 32, 3), 4))
    twin, there = to_tf_keras(model)
    again, back = to_keras(twin)
    assert there < 1e-5
    assert back < 1e-5
    assert [x.name for x in twin.layers] == [x.name for x in again.layers] == [x.name for x in model.layers]
    x = pictures(model, 2)
    np.testing.assert_allclose(again(x, training=False), model(x, training=False), rtol=1e-4, atol=1e-6)


def test_nested_and_several_inputs() -> None:
    _, difference = to_tf_keras(nested())
    assert difference < 1e-5


def test_what_has_no_twin() -> None:
    x = keras.Input((8, 8, 4))
    with pytest.raises(UnsupportedModelError, match=r"Operation 'softmax.*' of type Softmax has no twin"):
        to_tf_keras(keras.Model(x, keras.ops.softmax(x)))

    class Own(keras.layers.Layer):
        def call(self, inputs: object) -> object:
            return inputs

    with pytest.raises(UnsupportedModelError, match="Layer 'own' of type Own has no twin in tf_keras"):
        to_tf_keras(keras.Model(x, Own(name="own")(x)))
    with pytest.raises(UnsupportedModelError, match="Expected a tf_keras model"):
        to_keras(keras.Model(x, keras.layers.ReLU()(x)))


def test_two_of_four(tmp_path: pathlib.Path) -> None:
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    model = prune_model(randomize(models.build("resnet10", (16, 16, 3), 4, width=0.5)), ratio=0.5, granularity=16)
    before = [np.array(w) for w in model.get_weights()]
    x, y = pictures(model, 64), np.eye(4, dtype="float32")[np.arange(64) % 4]
    environment = dict(os.environ)
    sparse, difference = sparsify(model, tf.data.Dataset.from_tensor_slices((x, y)).batch(16), epochs=2)
    assert dict(os.environ) == environment
    assert difference < 1e-5
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    table = sparsity_table(sparse)
    assert table.loc["conv1", "note"] == "input channels are no multiple of 4"
    eligible = table[table["eligible"]]
    assert len(eligible) == 13
    assert (eligible["sparse"] == 1).all()
    assert eligible.drop("head_fc4")["suits"].all()
    assert not table.loc["head_fc4", "suits"]
    for name in eligible.index:
        kernel = np.asarray(sparse.get_layer(name).kernel)
        groups = np.moveaxis(kernel, -2, -1).reshape(-1, 4)
        np.testing.assert_array_equal((groups != 0).sum(axis=1), 2)
    assert (sparsity_table(model)["sparse"].dropna() < 0.2).all()
    # Nothing is densified on the way: the exported kernels have the same zeros, batch normalization folded in.
    export.export_onnx(sparse, tmp_path / "sparse.onnx", x[:4])
    for weight in onnx.load(tmp_path / "sparse.onnx").graph.initializer:
        if len(weight.dims) == 4 and weight.dims[1] != 3:
            kernel = np.moveaxis(onnx.numpy_helper.to_array(weight), 1, -1).reshape(-1, 4)
            np.testing.assert_array_equal((kernel != 0).sum(axis=1), 2)
    sparse.save(tmp_path / "sparse.keras")
    np.testing.assert_array_equal(
        keras.models.load_model(tmp_path / "sparse.keras").predict(x, verbose=0), sparse.predict(x, verbose=0)
    )


def test_nothing_to_make_sparse() -> None:
    x = keras.Input((8, 8, 3))
    with pytest.raises(QuantizationError, match=r"no layer of '.*' is eligible: input channels are no multiple of 4"):
        sparsify(keras.Model(x, keras.layers.Conv2D(3, 1)(x)), None)


def test_clusters() -> None:
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    model = randomize(models.build("resnet10", (16, 16, 3), 4, width=0.25))
    before = [np.array(w) for w in model.get_weights()]
    x, y = pictures(model, 64), np.eye(4, dtype="float32")[np.arange(64) % 4]
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    clustered, difference = cluster_weights(model, data, clusters=8)
    assert difference < 1e-5
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    table = cluster_table(clustered)
    assert len(table) == 14
    assert table["values"].max() == 8
    assert (cluster_table(model)["values"] > 8).all()
    # Each near what the kernel held.
    old, new = (np.asarray(m.get_layer("conv1").kernel) for m in (model, clustered))
    assert np.corrcoef(old.ravel(), new.ravel())[0, 1] > 0.9
    with pytest.raises(QuantizationError, match=r"clusters: expected at least 2\. Received: 1"):
        cluster_weights(model, data, clusters=1)
    with pytest.raises(QuantizationError, match=r"no kernel of .* has more than 1000000 weights"):
        cluster_weights(model, data, clusters=10**6)
