"""Every architecture through every verb: a training step, pruning, the law, saving, ONNX."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
from helpers import assert_law, assert_same_after_reload, randomize

import tlt_prune
from tlt_prune import export, models
from tlt_prune.pruning.rewrite.law import random_inputs
from tlt_prune.training import subsampled_first

# One of each shape.
SHAPES = [
    "resnet18",
    "vgg16",
    "alexnet",
    "mobilenet_v1",
    "mobilenet_v2",
    "squeezenet",
    "darknet19",
    "cspdarknet19",
    "cspdarknet_tiny",
    "efficientnet_b0",
    "shufflenet",
    "helnet10",
    "detectnet_v2_resnet18",
]
# The same backbones with other repeats and widths, and the same head on other backbones: `-m slow`.
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in models.names() if name not in SHAPES]
OPTIONS: dict[str, dict[str, Any]] = {
    **{f"vgg{n}": {"hidden": 128} for n in (16, 19)},
    "alexnet": {"hidden": 128},
    "shufflenet": {"groups": 2, "width": 1.0},
}


@pytest.mark.parametrize("name", [*SHAPES, *OTHERS])
def test_every_verb(name: str, tmp_path: pathlib.Path) -> None:
    classes = {"color": 5, "size": 3} if name.startswith("multitask") else 5
    model = models.build(name, size_of(name), classes, **{"width": 0.25, **OPTIONS.get(name, {})})
    train_one_step(model)
    randomize(model)
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=8, min_num_filters=8)
    assert plan.removed
    assert not plan.unknown
    for layer in plan.layers:
        if layer.filters_before % 8 == 0 and layer.groups:
            assert layer.filters_after % 8 == 0, layer
    for output in model.outputs:
        producer = output._keras_history.operation.name
        if producer in plan.kept:
            assert len(plan.kept[producer]) == next(x.filters_before for x in plan.layers if x.layer == producer)
    pruned = plan.apply(model)
    channels = assert_law(model, plan, pruned, tolerance=2e-5)
    inputs = random_inputs(channels, 0, 2)
    assert_same_after_reload(pruned, inputs)
    export.export_onnx(pruned, tmp_path / "model.onnx", inputs)


def size_of(name: str) -> tuple[int, int, int]:
    """No feature map is as wide as it has channels (see tests/models/test_resnet.py)."""
    if name == "unet_vanilla":
        # What its convolutions without padding take away leaves four positions.
        return 188, 188, 3
    # Those that join maps of several strides take multiples of 32.
    return (64, 224, 3) if name.startswith(("retinanet", "yolo", "unet")) else (72, 72, 3)


def train_one_step(model: keras.Model) -> None:
    before = [np.asarray(w) for w in model.trainable_weights]
    model.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=True)
    x = np.random.default_rng(0).standard_normal((2, *model.input_shape[1:])).astype("float32")
    with subsampled_first(model):
        loss = model.train_on_batch(x, [np.zeros((2, *y.shape[1:]), "float32") for y in model.outputs])
    assert np.isfinite(np.atleast_1d(loss)).all()
    assert any(not np.array_equal(a, np.asarray(b)) for a, b in zip(before, model.trainable_weights, strict=True))


@pytest.mark.parametrize("groups", [1, 3, 8])
def test_shufflenet_groups(groups: int) -> None:
    model = randomize(models.build("shufflenet", (64, 64, 3), 5, groups=groups))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=1, min_num_filters=1)
    assert plan.params_after < 0.6 * plan.params_before
    assert_law(model, plan, plan.apply(model), tolerance=2e-5)


def test_stride16_is_a_stride_of_16() -> None:
    assert models.build("efficientnet_b0", (64, 64, 3), stride16=True).output_shape[1:3] == (4, 4)
    for name in ("mobilenet_v1", "mobilenet_v2"):
        assert models.build(name, (64, 64, 3), stride=16).output_shape[1:3] == (4, 4)
        with pytest.raises(ValueError, match="16 or 32"):
            models.build(name, (64, 64, 3), stride=8)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "mish", "swish"])
def test_activations(activation: str) -> None:
    model = models.build("vgg16", (32, 32, 3), width=0.125, activation=activation)
    first = model.get_layer(f"block_1a_{activation}")
    x = np.linspace(-3, 3, 13).astype("float32")
    expected = {"leaky_relu": lambda v: np.where(v > 0, v, 0.1 * v)}.get(
        activation, lambda v: np.asarray(getattr(keras.activations, {"swish": "silu"}.get(activation, activation))(v))
    )
    np.testing.assert_allclose(np.asarray(first(x)), expected(x), rtol=1e-5, atol=1e-6)


def test_unknown_activations_are_named() -> None:
    with pytest.raises(ValueError, match=r"leaky_relu.*Received: 'rely'"):
        models.build("vgg16", (32, 32, 3), activation="rely")


def test_names_are_forgiving() -> None:
    assert models.build("EfficientNet-B0", (32, 32, 3), width=0.25).name == "efficientnet-b0"
    assert models.build("vgg_16", (32, 32, 3), width=0.125).name == "vgg16_bn"


def test_kernel_regularizers_reach_depthwise_layers() -> None:
    model = models.build("mobilenet_v1", (32, 32, 3), kernel_regularizer=keras.regularizers.L2(1e-3), alpha=0.25)
    kernels = [w for w in model.trainable_weights if len(w.shape) == 4]
    assert len(model.losses) == len(kernels)
