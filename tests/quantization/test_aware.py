"""Training with quantization in the loop: what is trained is what is exported."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import keras
import numpy as np
import onnx
import pytest
from helpers import randomize
from tensorrt_graph import check_tensorrt, pictures

from tlt_prune import export, models, quantization
from tlt_prune.errors import ExportError, PlanError, QuantizationError
from tlt_prune.graph import trace
from tlt_prune.pruning.cost import costs
from tlt_prune.quantization import layers
from tlt_prune.quantization.layers import FakeQuantize, fake_quantize
from tlt_prune.quantization.qdq import quantized_weight


def run(model: keras.Model, x: object) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(x, training=False))


def residual() -> keras.Model:
    keras.utils.set_random_seed(0)
    return randomize(models.build("resnet10", (24, 24, 3), 5, width=0.25))


def inner() -> keras.Model:
    """A model in a model, called twice, with a shared convolution and one that two read."""
    a = keras.Input((8, 8, 4))
    conv = keras.layers.Conv2D(4, 3, padding="same", name="shared")
    inside = keras.Model(a, keras.layers.BatchNormalization()(conv(keras.layers.ReLU()(conv(a)))), name="inside")
    x = keras.Input((8, 8, 4), name="image")
    y = keras.layers.Conv2D(4, 1, name="twice_read")(x)
    y = keras.layers.BatchNormalization()(y) + y
    y = inside(inside(y))
    return randomize(keras.Model(x, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(y))))


def mobile() -> keras.Model:
    return randomize(models.build("mobilenet_v2", (24, 24, 3), 4, width=0.25))


def channels_first() -> keras.Model:
    return randomize(models.build("resnet10", (24, 24, 3), 5, width=0.25, data_format="channels_first"))


def mixed() -> keras.Model:
    x = keras.Input((8, 8, 4), name="image")
    y = keras.layers.Conv2DTranspose(6, 2, strides=2, use_bias=False)(x)
    y = keras.layers.BatchNormalization(scale=False)(y)
    y = keras.layers.DepthwiseConv2D(3, depth_multiplier=2)(keras.layers.ReLU()(y))
    y = keras.layers.BatchNormalization(center=False)(y)
    y = keras.layers.Conv2D(4, 3, activation="relu")(y)
    y = keras.layers.BatchNormalization(name="after_activation")(y)
    y = keras.layers.BatchNormalization(name="after_dense")(keras.layers.Dense(5)(keras.layers.Flatten()(y)))
    return randomize(keras.Model(x, keras.layers.Dense(3, activation="softmax")(y)))


NETS: list[Callable[[], keras.Model]] = [residual, inner, mobile, channels_first, mixed]


@pytest.mark.parametrize("make", NETS)
def test_folding_is_exact(make: Callable[[], keras.Model]) -> None:
    model = make()
    x = pictures(model, 6)
    before = run(model, x)
    folded = quantization.fold_batch_norms(model)
    np.testing.assert_allclose(run(folded, x), before, rtol=1e-4, atol=1e-5 * np.abs(before).max())
    np.testing.assert_array_equal(run(model, x), before)
    left = [layer.name for layer in folded.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if make is mixed:
        assert left == ["after_activation"]
    elif make is inner:
        # One follows a layer that is called twice, one what another reads too.
        assert len(left) == 2
    else:
        assert left == []


@pytest.mark.parametrize("make", NETS)
def test_what_is_trained_is_what_is_exported(make: Callable[[], keras.Model], tmp_path: pathlib.Path) -> None:
    model = make()
    x = pictures(model, 48)
    aware = quantization.quantization_aware(model, x)
    expected = run(aware, x)
    assert np.abs(expected - run(model, x)).max() < 0.25 * np.abs(expected).max()
    # It changes what is computed, in training as in inference.
    assert not np.array_equal(expected, run(quantization.fold_batch_norms(model), x))
    export.export_onnx(aware, tmp_path / "aware.onnx", x)
    check_tensorrt(tmp_path / "aware.onnx")
    graph = onnx.load(tmp_path / "aware.onnx").graph
    scales = {float(onnx.numpy_helper.to_array(c)) for c in graph.initializer if len(c.dims) == 0 and c.data_type == 1}
    ranges = [np.float32(layer.maximum.numpy()) / np.float32(127) for layer in aware.layers if isinstance(layer, FakeQuantize)]
    assert all(min(abs(r / s - 1) for s in scales) < 1e-6 for r in ranges)
    aware.save(tmp_path / "aware.keras")
    np.testing.assert_array_equal(run(keras.models.load_model(tmp_path / "aware.keras"), x), expected)


def test_both_ways_quantize_the_same_places(tmp_path: pathlib.Path) -> None:
    model = residual()
    x = pictures(model)
    export.export_onnx(model, tmp_path / "float.onnx", x[:4])
    quantization.quantize_onnx(tmp_path / "float.onnx", tmp_path / "after.onnx", x, excluded=[])
    export.export_onnx(quantization.quantization_aware(model, x), tmp_path / "aware.onnx", x[:4])
    counts = []
    for name in ("after", "aware"):
        kinds = [node.op_type for node in onnx.load(tmp_path / f"{name}.onnx").graph.node]
        counts.append({kind: kinds.count(kind) for kind in ("QuantizeLinear", "DequantizeLinear", "Conv", "Add")})
    assert counts[0] == counts[1]


def test_fake_quantization_by_hand() -> None:
    x = np.array([-3.0, -0.51, -0.5, 0.0, 0.004, 0.5, 1.0, 7.0], np.float32)
    step = np.float32(1.0) / 127
    expected = np.clip(np.rint(x / step), -127, 127) * step
    np.testing.assert_allclose(keras.ops.convert_to_numpy(fake_quantize(x, 1.0)), expected, rtol=1e-6)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(layers._for_inference(x, np.float32(1.0))),
        keras.ops.convert_to_numpy(fake_quantize(x, np.float32(1.0))),
    )


def test_gradients_go_straight_through() -> None:
    import tensorflow as tf

    x, maximum = tf.constant([-3.0, -0.3, 0.4, 2.0]), tf.constant(1.0)
    with tf.GradientTape() as tape:
        tape.watch([x, maximum])
        y = tf.reduce_sum(fake_quantize(x, maximum))
    by_x, by_maximum = tape.gradient(y, [x, maximum])
    np.testing.assert_array_equal(by_x, [0, 1, 1, 0])
    # d/ds of s round(x / s), less what moves with x: round(x / s) - x / s inside, -127 and 127 outside.
    inside = [np.rint(v * 127) - v * 127 for v in (-0.3, 0.4)]
    np.testing.assert_allclose(by_maximum, (-127 + sum(inside) + 127) / 127, rtol=1e-3, atol=1e-5)


def test_a_kernel_is_quantized_while_it_is_called_only() -> None:
    layer = layers.QUANTIZED["Conv2D"](3, 1, use_bias=False)
    layer.build((None, 4, 4, 2))
    weight = np.array([1.0, 0.3, -0.004, 0.5, -2.0, 0.01], np.float32).reshape(1, 1, 2, 3)
    layer.set_weights([weight])
    integers, scales = quantized_weight(weight, 3)
    np.testing.assert_allclose(layer(np.eye(2, dtype="float32").reshape(1, 1, 2, 2))[0, 0], (integers * scales)[0, 0], rtol=1e-6)
    np.testing.assert_array_equal(layer.kernel, weight)


@pytest.mark.parametrize("learned", [False, True])
def test_training_moves_ranges_and_lowers_the_loss(learned: bool) -> None:
    model = residual()
    x, y = pictures(model, 64), np.eye(5)[np.arange(64) % 5]
    aware = quantization.quantization_aware(model, x, learned=learned)
    before = [float(layer.maximum.numpy()) for layer in aware.layers if isinstance(layer, FakeQuantize)]
    assert all(
        layer.trainable_weights == ([layer.maximum] if learned else []) for layer in aware.layers if "quantized" in layer.name
    )
    aware.compile(keras.optimizers.SGD(0.01, momentum=0.9), "categorical_crossentropy")
    losses = aware.fit(x, y, batch_size=16, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    after = [float(layer.maximum.numpy()) for layer in aware.layers if isinstance(layer, FakeQuantize)]
    assert all(a != b and a > 0 for a, b in zip(after, before, strict=True))


def test_some_layers_stay_float() -> None:
    model = residual()
    aware = quantization.quantization_aware(model, pictures(model, 8), excluded=["conv1", "head_*"])
    kinds = {layer.name: type(layer).__name__ for layer in aware.layers}
    assert (kinds["conv1"], kinds["head_fc5"], kinds["block_1a_conv_1"]) == ("Conv2D", "Dense", "QuantizedWithNorm")


def test_bad_input(tmp_path: pathlib.Path) -> None:
    model = residual()
    x = pictures(model, 4)
    with pytest.raises(QuantizationError, match=r"excluded: .* has no layer 'conv11'\. Did you mean 'conv1'\?"):
        quantization.quantization_aware(model, x, excluded=["conv11"])
    with pytest.raises(QuantizationError, match="expected one of min_max"):
        quantization.quantization_aware(model, x, method="best")
    with pytest.raises(PlanError, match="quantization_aware: the data is empty"):
        quantization.quantization_aware(model, x[:0])
    with pytest.raises(PlanError, match="quantization_aware: the model takes inputs of shape"):
        quantization.quantization_aware(model, x[:, 1:])
    sequence = keras.Input((4, 6))
    attention = keras.Model(sequence, keras.layers.MultiHeadAttention(2, 3, name="heads")(sequence, sequence))
    with pytest.raises(QuantizationError, match=r"Layer 'heads' of type MultiHeadAttention has no quantized form.*excluded="):
        quantization.quantization_aware(attention, np.zeros((2, 4, 6), "float32"))
    model.get_layer("conv1").set_weights([np.full_like(w, np.nan) for w in model.get_layer("conv1").get_weights()])
    with pytest.raises(QuantizationError, match="values that are not finite"):
        quantization.quantization_aware(model, x)
    aware = quantization.quantization_aware(mixed(), pictures(mixed(), 4))
    with pytest.raises(ExportError, match="a quantized model is written in int8"):
        export.export_onnx(aware, tmp_path / "a.onnx", pictures(mixed(), 4), precision="float16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [residual, inner, mobile, channels_first, mixed])
def test_it_costs_what_the_float_model_costs(make: Callable[[], keras.Model]) -> None:
    model = make()
    expected = costs(trace(model)).total_macs
    aware = quantization.quantization_aware(model, [(pictures(model, 4),)])
    assert expected > 0
    assert costs(trace(aware)).total_macs == costs(trace(quantization.folded(aware))).total_macs == expected
