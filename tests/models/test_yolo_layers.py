"""YOLO: its layers by hand-computed values, and the networks' options."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
from helpers import assert_law, assert_same_after_reload, randomize

import tlt_prune
from tlt_prune import models
from tlt_prune.models.yolo_layers import BBoxPostProcessingLayer, YOLOAnchorBox

BOXES = [[0.5, 0.25], [0.125, 0.75]]
FORMATS = ["channels_first", "channels_last"]


def picture(height: int | None, width: int | None, channels: int, data_format: str) -> tuple[int | None, ...]:
    return (channels, height, width) if data_format == "channels_first" else (height, width, channels)


@pytest.mark.parametrize("data_format", FORMATS)
def test_anchor_boxes(data_format: str) -> None:
    layer = YOLOAnchorBox(BOXES, data_format)
    received = layer(np.ones((2, *picture(2, 4, 7, data_format)), np.float32))
    # Top and left of the cell, height and width of the box, height and width of a cell.
    first_row = [[0, x, h, w, 0.5, 0.25] for x in (0, 0.25, 0.5, 0.75) for h, w in ((0.25, 0.5), (0.75, 0.125))]
    second_row = [[0.5, *rest] for _, *rest in first_row]
    np.testing.assert_allclose(received, [first_row + second_row] * 2)
    assert layer.compute_output_shape((None, *picture(2, 4, 7, data_format))) == (None, 16, 6)


@pytest.mark.parametrize("data_format", FORMATS)
def test_anchor_boxes_of_a_map_of_open_size(data_format: str) -> None:
    layer = YOLOAnchorBox(BOXES, data_format)
    image = keras.Input(picture(None, None, 3, data_format))
    model = keras.Model(image, layer(image))
    assert model.output_shape == (None, None, 6)
    for height, width in ((2, 3), (5, 1)):
        x = np.zeros((2, *picture(height, width, 3, data_format)), np.float32)
        np.testing.assert_array_equal(model.predict(x, verbose=0), layer(x))


def test_post_processing() -> None:
    x = np.array([[[0, math.log(3), 0, math.log(2), -5, 7], [-100, 100, 8.5, 100, 0, 1]]], np.float32)
    # A scale of 1.2: centers from -0.1 to 1.1; exp(8) is the largest factor.
    expected = [[[0.5, 0.8, 1, 2, -5, 7], [-0.1, 1.1, math.exp(8), math.exp(8), 0, 1]]]
    np.testing.assert_allclose(BBoxPostProcessingLayer(1.2)(x), expected, rtol=1e-5, atol=1e-6)
    plain = BBoxPostProcessingLayer()(x)
    np.testing.assert_allclose(plain[0, :, :2], [[0.5, 0.75], [0, 1]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("boxes", [[], "0.5", 0.5, [0.5, 0.25], [[0.5]], [[0.5, 0.0]], [[0.5, math.nan]], [["a", "b"]]])
def test_bad_boxes(boxes: Any) -> None:
    with pytest.raises(ValueError, match=r"anchor_size: expected a list of \(width, height\).*Received"):
        YOLOAnchorBox(boxes)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"grid_scale_xy: expected a positive number\. Received: 0"):
        BBoxPostProcessingLayer(0)
    with pytest.raises(ValueError, match=r"expected 'channels_first' or 'channels_last'.*'NCHW'"):
        YOLOAnchorBox(BOXES, "NCHW")


def head(data_format: str, size: int | None) -> keras.Model:
    """Two convolutions, and what a YOLO does with the second."""
    image = keras.Input(picture(size, size, 3, data_format))
    x = keras.layers.Conv2D(16, 3, activation="relu", data_format=data_format, name="before")(image)
    x = keras.layers.Conv2D(len(BOXES) * 7, 1, data_format=data_format, name="head")(x)
    boxes = YOLOAnchorBox(BOXES, data_format, name="boxes")(x)
    x = keras.layers.Permute((2, 3, 1))(x) if data_format == "channels_first" else x
    x = BBoxPostProcessingLayer(1.05, name="decoded")(keras.layers.Reshape((-1, 7))(x))
    return randomize(keras.Model(image, keras.layers.Concatenate()([boxes, x])))


@pytest.mark.parametrize("data_format", FORMATS)
def test_saved_and_pruned(data_format: str) -> None:
    model = head(data_format, 9)
    assert_same_after_reload(model, np.random.default_rng(0).standard_normal((2, *model.input_shape[1:])).astype(np.float32))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=1, min_num_filters=1)
    assert not plan.unknown
    assert {name: len(kept) for name, kept in plan.kept.items()} == {"before": 8, "head": 14}
    pruned = plan.apply(model)
    assert_law(model, plan, pruned)
    assert pruned.get_layer("boxes").get_config() == model.get_layer("boxes").get_config()
    assert pruned.get_layer("decoded").grid_scale_xy == 1.05


def test_pruned_with_an_open_size() -> None:
    model = head("channels_last", None)
    pruned = tlt_prune.prune_model(model, ratio=0.5, granularity=1, min_num_filters=1)
    assert pruned.get_layer("before").filters == 8
    assert pruned(np.zeros((1, 6, 9, 3), np.float32)).shape == (1, 4 * 7 * 2, 13)


# One of each neck: from a backbone that is expanded, from one that is not, and both of YOLOv4-tiny.
NETWORKS: dict[str, tuple[str, dict[str, Any], int]] = {
    "v3": ("yolov3_resnet10", {"arch_conv_blocks": 1}, 3),
    "v4": ("yolov4_squeezenet", {}, 3),
    "tiny": ("yolov4_cspdarknet_tiny", {}, 2),
}


@pytest.mark.parametrize("which", NETWORKS)
def test_networks_with_channels_last(which: str) -> None:
    name, options, heads = NETWORKS[which]
    model = randomize(models.build(name, (64, 96, 3), 2, width=0.25, data_format="channels_last", **options))
    assert not [x for x in model.layers if isinstance(x, keras.layers.Permute)]
    assert model.output_shape == (None, 3 * sum(6 * 4**i for i in range(heads)), 13)
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=4, min_num_filters=4)
    assert not plan.unknown
    pruned = plan.apply(model)
    assert_law(model, plan, pruned, tolerance=2e-5)
    for part in ("big", "mid", "sm")[:heads]:
        assert pruned.get_layer(f"conv_{part}_object").filters == 21


@pytest.mark.parametrize(("blocks", "last"), [(0, 1), (1, 3), (2, 5)])
def test_convolutions_in_front_of_a_head(blocks: int, last: int) -> None:
    model = models.build("yolov3_darknet19", (32, 32, 3), 1, width=0.125, arch_conv_blocks=blocks)
    found = {x.name for x in model.layers if isinstance(x, keras.layers.Conv2D) and x.name.startswith("yolo_conv1_")}
    assert found == {*(f"yolo_conv1_{i}" for i in range(1, last + 1)), "yolo_conv1_6"}


def test_activation() -> None:
    relu = models.build("yolov4_cspdarknet_tiny", (32, 32, 3), 1, width=0.125, activation="relu")
    assert not [x for x in relu.layers if isinstance(x, keras.layers.LeakyReLU)]
    mish = models.build("yolov4_cspdarknet_tiny", (32, 32, 3), 1, width=0.125, activation="mish")
    assert mish.get_layer("conv_5_mish").activation is keras.activations.mish
    assert isinstance(mish.get_layer("yolo_conv2_lrelu"), keras.layers.LeakyReLU)
    assert models.build("yolov3_vgg16", (32, 32, 3), 1, width=0.125, activation="elu").get_layer("block_4c_elu")
    assert models.build("yolov3_mobilenet_v1", (32, 32, 3), 1, width=0.125, activation="relu6").get_layer("conv_pw_relu6_11")


def test_as_many_heads_as_lists_of_anchors() -> None:
    anchors = [[[0.9, 0.8]], [[0.4, 0.3], [0.2, 0.3]], [[0.1, 0.1]]]
    build = models.build("yolov4_cspdarknet_tiny", (32, 32, 3), 1, width=0.125, anchors=anchors)
    assert [build.get_layer(f"conv_{x}_object").filters for x in ("big", "mid", "sm")] == [6, 12, 6]
    assert build.get_layer("sm_bbox_processor").grid_scale_xy == 1.2
    assert build.output_shape == (None, 1 + 2 * 4 + 16, 12)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("yolov3_resnet10", {"arch_conv_blocks": 3}, "arch_conv_blocks: expected 0, 1 or 2. Received: 3"),
        ("yolov3_resnet10", {"anchors": [[[0.5, 0.5]]] * 2}, r"anchors: expected three \(big, middle-sized, small"),
        ("yolov4_resnet10", {"anchors": "many"}, "anchors: expected three .* Received: 'many'"),
        ("yolov4_cspdarknet_tiny", {"anchors": [[[0.5, 0.5]]]}, "anchors: expected two .* or three"),
        ("yolov4_resnet10", {"anchors": [[[0.5, 0.5]], [[0.5, -1]], [[0.1, 0.1]]]}, r"anchors\[1\]: expected .*-1"),
        ("yolov4_cspdarknet_tiny", {"grid_scale_xy": [1.05]}, r"expected 2 numbers, .* Received: \[1.05\]"),
        ("yolov4_cspdarknet_tiny", {"grid_scale_xy": 1.05}, "expected 2 numbers, .* Received: 1.05"),
        ("yolov4_cspdarknet_tiny", {"classes": None}, "expected the number of object classes"),
        ("yolov3_resnet10", {"input_shape": (80, 64, 3)}, r"multiples of 32.*\(height, width\)=\(80, 64\)"),
        ("yolov3_resnet10", {"use_pooling": True}, "no option of the backbone that changes its strides"),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], message: str) -> None:
    given = {"input_shape": (64, 64, 3), "classes": 2, "width": 0.125, **options}
    with pytest.raises(ValueError, match=message):
        models.build(name, **given)
