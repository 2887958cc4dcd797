"""Every option of the ResNet builder: built, pruned exactly, saved."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
from helpers import assert_law, assert_same_after_reload, randomize

import tlt_prune
from tlt_prune import models
from tlt_prune.config.specs import load_spec
from tlt_prune.pruning.rewrite.law import random_inputs


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(("layers", "variant"), [(10, "plain"), (10, "projections"), (10, "nopool"), (50, "projections")])
def test_pruning_is_exact(layers: int, data_format: str, variant: str) -> None:
    # 36 pixels: Keras' eager channels-first bias goes astray where the width equals the channel count (`add` in its
    # TensorFlow backend guesses the layout from the last axis); 18, 9, 5, 3 never do.
    options = {"all_projections": variant == "projections", "use_pooling": variant != "nopool", "width": 0.25}
    model = randomize(models.build(f"resnet{layers}", (36, 36, 3), 10, data_format=data_format, **options))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, min_num_filters=8)
    pruned = plan.apply(model)
    channels = assert_law(model, plan, pruned)
    assert pruned.count_params() < 0.45 * model.count_params()
    assert all(x.filters_after % 8 == 0 for x in plan.layers if x.filters_before % 8 == 0)
    if layers == 10:
        assert_same_after_reload(pruned, random_inputs(channels, 0, 2))


@pytest.mark.parametrize(("layers", "data_format"), [(34, "channels_first"), (101, "channels_last")])
def test_deep_ones_are_exact(layers: int, data_format: str) -> None:
    model = randomize(models.build(f"resnet{layers}", (36, 36, 3), 10, width=0.125, data_format=data_format))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, min_num_filters=4, granularity=4)
    assert_law(model, plan, plan.apply(model))


def test_the_demo_network_is_exact(root: pathlib.Path) -> None:
    spec = load_spec(root / "specs" / "demo_digits.yaml")
    m = spec.model
    size = (m.input_height, m.input_width, m.input_channels)
    model = randomize(models.build(m.backbone, size, 10, width=m.width, use_pooling=m.use_pooling, use_bias=m.use_bias))
    plan = tlt_prune.plan_pruning(model, macs=spec.prune.macs, min_num_filters=8)
    assert plan.removed
    assert_law(model, plan, plan.apply(model))


def test_options_reach_the_layers() -> None:
    model = models.build(
        "resnet_18",
        (32, 32, 1),
        3,
        use_bias=False,
        kernel_regularizer=keras.regularizers.L2(1e-3),
        freeze_blocks=[0, 2],
        bn_momentum=0.9,
        width=0.5,
    )
    assert model.name == "resnet18_bn_fc3"
    assert model.get_layer("conv1").filters == 32
    frozen = {x.name for x in model.layers if not x.trainable}
    assert "conv1" in frozen
    assert all(name == "conv1" or name.startswith("block_2") for name in frozen)
    assert model.get_layer("block_1a_conv_1").kernel_regularizer.l2 == pytest.approx(1e-3)
    assert model.get_layer("bn_conv1").momentum == 0.9
    assert model.get_layer("conv1").bias is None


def test_frozen_batch_norm_stays_in_inference_mode_after_pruning() -> None:
    model = randomize(models.build("resnet10", (32, 32, 3), 10, freeze_bn=True, width=0.25))
    pruned = tlt_prune.prune_model(model, ratio=0.5, min_num_filters=8)
    x = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype("float32")
    for m in (model, pruned):
        # Keras hands training=True of an outer call on to layers called with training=False; BN must be frozen for good.
        np.testing.assert_allclose(np.asarray(m(x, training=True)), np.asarray(m(x, training=False)), rtol=1e-5)


def test_without_batch_norm_and_head() -> None:
    model = models.build("resnet10", (64, 64, 3), use_batch_norm=False, use_pooling=False, width=0.125)
    assert not any(isinstance(x, keras.layers.BatchNormalization) for x in model.layers)
    assert model.output_shape == (None, 4, 4, 64)


def test_unknown_names_and_options() -> None:
    with pytest.raises(ValueError, match="Did you mean 'resnet18'"):
        models.build("resnet1")
    with pytest.raises(ValueError, match="all_projection"):
        models.build("resnet10", all_projection=True)


def test_names_do_not_depend_on_the_session() -> None:
    first = [x.name for x in models.build("resnet10", (32, 32, 3), 2, width=0.125).layers]
    second = [x.name for x in models.build("resnet10", (32, 32, 3), 2, width=0.125).layers]
    assert first == second
    assert "add_1" in first
