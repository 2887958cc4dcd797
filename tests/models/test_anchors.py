"""Anchor boxes: values by hand, files, pruning; and the networks that are made of them."""

from __future__ import annotations

import math
import pathlib
from typing import Any

import keras
import numpy as np
import pytest
from helpers import assert_law, randomize

import tlt_prune
from tlt_prune import models
from tlt_prune.models.anchors import AnchorBoxes, AnchorOptions, RetinaAnchorBoxes

# A picture of 100 x 200 pixels: sizes are shares of 100, corners of both.
PICTURE: dict[str, Any] = {"img_height": 100, "img_width": 200, "this_scale": 0.2, "next_scale": 0.45}
VARIANCES = [0.1, 0.1, 0.2, 0.2]


def boxes(layer: AnchorBoxes, height: int, width: int, batch: int = 1) -> np.ndarray:
    return keras.ops.convert_to_numpy(layer(np.zeros((batch, height, width, 3), "float32")))


def test_boxes_stand_around_the_center_of_every_cell() -> None:
    found = boxes(AnchorBoxes(**PICTURE, aspect_ratios=[1.0, 4.0]), 1, 2, batch=3)
    assert found.shape == (3, 2, 3, 8)
    # 20 x 20, then 30 x 30 = 100 sqrt(0.2 * 0.45), then 40 x 10, around (50, 50); and around (150, 50).
    first = np.array([[0.2, 0.4, 0.3, 0.6], [0.175, 0.35, 0.325, 0.65], [0.15, 0.45, 0.35, 0.55]])
    expected = np.stack([first, first + np.array([0.5, 0, 0.5, 0])])
    np.testing.assert_allclose(found[..., :4], np.broadcast_to(expected, (3, 2, 3, 4)), atol=1e-6)
    np.testing.assert_allclose(found[..., 4:], np.broadcast_to(np.array(VARIANCES), (3, 2, 3, 4)), atol=1e-7)


def test_the_second_box_follows_the_first_where_the_list_has_it() -> None:
    found = boxes(AnchorBoxes(**PICTURE, aspect_ratios=[4.0, 1.0]), 1, 1)[0, 0]
    np.testing.assert_allclose(200 * (found[:, 2] - found[:, 0]), [40, 20, 30], rtol=1e-5)
    one = boxes(AnchorBoxes(**PICTURE, aspect_ratios=[4.0, 1.0], two_boxes_for_ar1=False), 1, 1)[0, 0]
    np.testing.assert_allclose(one, found[:2])


def test_steps_and_offsets() -> None:
    layer = AnchorBoxes(**PICTURE, aspect_ratios=[1.0], two_boxes_for_ar1=False, steps=(30, 40), offsets=(1, 0.25))
    # Centers (10, 30) and (10, 60).
    np.testing.assert_allclose(boxes(layer, 2, 1)[0, :, 0, :4], [[0.0, 0.2, 0.1, 0.4], [0.0, 0.5, 0.1, 0.7]], atol=1e-6)
    same = AnchorBoxes(**PICTURE, aspect_ratios=[1.0], two_boxes_for_ar1=False, steps=50, offsets=0.5)
    np.testing.assert_allclose(boxes(same, 1, 1)[0, 0, 0, :4], [0.075, 0.15, 0.175, 0.35], atol=1e-6)


def test_clipped_to_the_last_pixel() -> None:
    layer = AnchorBoxes(img_height=10, img_width=20, this_scale=4.0, next_scale=4.0, aspect_ratios=[1.0], clip_boxes=True)
    np.testing.assert_allclose(boxes(layer, 1, 1)[0, 0, 0, :4], [0, 0, 0.95, 0.9], atol=1e-6)


def test_levels_repeat_all_boxes() -> None:
    found = boxes(RetinaAnchorBoxes(**PICTURE, aspect_ratios=[1.0, 4.0], n_anchor_levels=2), 1, 1)[0, 0]
    widths = np.array([20, 30, 40])
    np.testing.assert_allclose(200 * (found[:, 2] - found[:, 0]), np.concatenate([widths, widths * math.sqrt(2)]), rtol=1e-5)


def test_channels_first_reads_the_other_axes() -> None:
    layer = AnchorBoxes(**PICTURE, data_format="channels_first")
    found = keras.ops.convert_to_numpy(layer(np.zeros((1, 7, 2, 3), "float32")))
    np.testing.assert_array_equal(found, boxes(AnchorBoxes(**PICTURE), 2, 3))
    assert layer.compute_output_shape((None, 7, 2, 3)) == (None, 6, 4, 8)


def model(layer: AnchorBoxes) -> keras.Model:
    """A network with one map: each output is offsets and boxes."""
    first = layer.data_format == "channels_first"
    image = keras.Input((3, 8, 12) if first else (8, 12, 3))
    settings: dict[str, Any] = {"padding": "same", "data_format": layer.data_format}
    x = keras.layers.Conv2D(16, 3, activation="relu", name="trunk", **settings)(image)
    x = keras.layers.Conv2D(4 * layer.grid.count, 3, strides=2, name="offsets", **settings)(x)
    y = keras.layers.Permute((2, 3, 1))(x) if first else x
    y = keras.layers.Concatenate()([keras.layers.Reshape((-1, 4))(y), keras.layers.Reshape((-1, 8))(layer(x))])
    return randomize(keras.Model(image, y))


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(("cls", "further"), [(AnchorBoxes, {}), (RetinaAnchorBoxes, {"n_anchor_levels": 3})])
def test_files_and_pruned_models_keep_steps_and_offsets(
    cls: type[AnchorBoxes], further: dict[str, Any], data_format: str, tmp_path: pathlib.Path
) -> None:
    given = {**PICTURE, "aspect_ratios": (1.0, 3.0), "steps": (30, 40), "offsets": (1, 0.25), "clip_boxes": True, **further}
    network = model(cls(**given, data_format=data_format, name="boxes"))
    plan = tlt_prune.plan_pruning(network, ratio=0.5, granularity=1, min_num_filters=1)
    pruned = plan.apply(network)
    assert_law(network, plan, pruned)
    assert pruned.get_layer("trunk").filters == 8
    assert pruned.get_layer("offsets").filters == network.get_layer("offsets").filters
    assert not plan.unknown
    pruned.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    config = network.get_layer("boxes").get_config()
    assert config["steps"] == [30, 40]
    assert config["offsets"] == [1, 0.25]
    assert set(further) <= set(config)
    assert ("n_anchor_levels" in config) is bool(further)
    assert pruned.get_layer("boxes").get_config() == loaded.get_layer("boxes").get_config() == config
    x = np.random.default_rng(0).standard_normal((5, *network.input_shape[1:])).astype("float32")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), pruned.predict(x, verbose=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"aspect_ratios": [1.0, -2.0]}, r"aspect ratios above 0.*-2.0"), ({"variances": [0.1, 0.1]}, "four variances"),
        ({"this_scale": 0}, "scales above 0.*this_scale=0"), ({"steps": [1, 2, 3]}, r"\(height, width\).*steps=\[1, 2, 3\]"),
        ({"data_format": "NCHW"}, "data_format: expected.*NCHW"), ({"img_width": 0}, "at least one pixel"),
    ],
)  # fmt: skip
def test_wrong_options_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnchorBoxes(**{**PICTURE, **given})


def test_a_map_of_open_size_has_no_boxes() -> None:
    with pytest.raises(ValueError, match="fixed height and width"):
        AnchorBoxes(**PICTURE)(keras.Input((None, 4, 3)))


def test_options_of_all_maps() -> None:
    grids = AnchorOptions(min_scale=0.1, max_scale=0.4, steps=[8, (16, 18), None]).grids((64, 64), (0.0,) * 4)
    assert [x["this_scale"] for x in grids] == pytest.approx([0.1, 0.2, 0.3])
    assert grids[2]["next_scale"] == pytest.approx(0.4)
    assert [x["steps"] for x in grids] == [8, (16, 18), None]
    ratios = [[1.0], [1.0, 2.0], [0.5]]
    assert [x["aspect_ratios"] for x in AnchorOptions(aspect_ratios=ratios).grids((8, 8), (0.1,) * 4)] == ratios
    for options, message in [
        (AnchorOptions(scales=[0.1, 0.2]), "scales: expected 4 entries, for 3 feature maps. Received: 2"),
        (AnchorOptions(aspect_ratios=ratios[:2]), "aspect_ratios: expected 3 entries"),
        (AnchorOptions(offsets=[0.5]), "offsets: expected 3 entries"),
        (AnchorOptions(min_scale=0.1), "both min_scale and max_scale"),
    ]:
        with pytest.raises(ValueError, match=message):
            options.grids((8, 8), (0.1,) * 4)


@pytest.mark.parametrize(
    ("name", "size", "options", "boxes_per_position"),
    [
        ("ssd_resnet10", (72, 80, 3), {}, 6),
        ("dssd_resnet10", (72, 80, 3), {"pred_num_channels": 256, "aspect_ratios": [1.0]}, 2),
        ("retinanet_resnet10", (64, 96, 3), {"n_kernels": 2, "n_anchor_levels": 2}, 6),
    ],
)
def test_detectors_are_pruned_and_their_heads_stay_whole(
    name: str, size: tuple[int, int, int], options: dict[str, Any], boxes_per_position: int
) -> None:
    network = randomize(models.build(name, size, 3, data_format="channels_last", width=0.125, **options))
    positions = sum(
        math.prod(math.ceil(n / stride) for n in size[:2]) for stride in (8, 16, 32, 64, 128, 256)[: 5 + ("ssd" in name)]
    )
    assert network.output_shape == (None, positions * boxes_per_position, 3 + 12)
    plan = tlt_prune.plan_pruning(network, ratio=0.5, granularity=1, min_num_filters=1)
    pruned = plan.apply(network)
    assert_law(network, plan, pruned, tolerance=2e-5)
    ends = ("retinanet_conf_regressor", "retinanet_loc_regressor", *(f"ssd_{x}_{i}" for x in ("conf", "loc") for i in range(6)))
    heads = [x for x in network.layers if x.name in ends]
    assert len(heads) == (2 if "retinanet" in name else 12)
    assert all(pruned.get_layer(x.name).filters == x.filters for x in heads)
    assert pruned.count_params() < 0.5 * network.count_params()


@pytest.mark.parametrize(
    ("name", "size", "options", "message"),
    [
        ("ssd_resnet10", (64, 64, 3), {"pred_num_channels": 128}, r"pred_num_channels to be one of \(0, 256, 512, 1024\).*128"),
        ("ssd_resnet10", (64, 64, 3), {"use_pooling": True}, "stride 16"),
        ("ssd_resnet10", (None, 64, 3), {}, "fixed input size.*height=None"),
        ("retinanet_resnet10", (72, 64, 3), {}, "multiples of 32.*height=72"),
        ("retinanet_resnet10", (64, 64, 3), {"n_kernels": -1}, "n_kernels=-1"),
        ("retinanet_resnet10", (64, 64, 3), {"aspect_ratios": [[1.0]] * 4 + [[1.0, 2.0]]}, r"boxes for each map.*\[1, 2\]"),
        ("dssd_resnet10", (64, 64, 3), {"classes": 1}, "two classes.*classes=1"),
    ],
)
def test_options_that_do_not_fit(name: str, size: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.build(name, size, **{"classes": 3, "width": 0.125, **options})
