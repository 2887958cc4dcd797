"""Augmentation against the toolkit's own, for given draws; distributions of the draws; and what is right where it is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from golden_detection import cases, ids

from tlt_prune.detection import augmentation as aug
from tlt_prune.errors import SpecError

FILE = "augmentation.json.gz"
PIPELINES, PIXELS, CROPS = cases(FILE, "pipeline"), cases(FILE, "pixels"), cases(FILE, "crop_filter")
DISTRIBUTIONS = cases(FILE, "distribution")
STILL = {
    "flip": False,
    "vflip": False,
    "rotated": False,
    "translate_x": 0.0,
    "translate_y": 0.0,
    "zoom_ratio": 1.0,
    "zoom_x": 0.0,
    "zoom_y": 0.0,
    "angle": 0.0,
    "brightness": 0.0,
    "hue": 0.0,
    "saturation": 1.0,
    "contrast": 0.0,
}


def draws_of(**changes: Any) -> dict[str, Any]:
    return {
        key: tf.constant([value], tf.bool if isinstance(value, bool) else tf.float32)
        for key, value in {**STILL, **changes}.items()
    }


def draws_in(case: Any) -> dict[str, Any]:
    given = dict(case["draws"] or {})
    for name, key in (("angle", "angle_degrees"), ("hue", "hue_degrees")):
        if key in given:
            given[name] = math.radians(given.pop(key))
    return draws_of(**given)


def canvas_of(preprocessing: Any) -> aug.Canvas:
    crop = tuple(preprocessing[f"crop_{side}"] for side in ("left", "top", "right", "bottom"))
    scale = (preprocessing["scale_width"], preprocessing["scale_height"])
    return aug.Canvas(preprocessing["output_image_width"], preprocessing["output_image_height"], crop, scale)


def test_all_golden_cases_are_there() -> None:
    assert [len(cases(FILE, kind)) for kind in ("matrix", "pipeline", "pixels", "crop_filter", "distribution")] == [
        7,
        12,
        6,
        3,
        6,
    ]


@pytest.mark.parametrize("case", cases(FILE, "matrix"), ids=ids(cases(FILE, "matrix")))
def test_matrices(case: Any) -> None:
    args = case["args"]
    size = (args.get("width", 160), args.get("height", 96))
    changes = {
        "flip_h": {"flip": True},
        "translate": {"translate_x": args.get("x", 0), "translate_y": args.get("y", 0)},
        "zoom_1.25": {"zoom_ratio": args.get("ratio", 1.0)},
        "rotate_0.3": {"rotated": True, "angle": args.get("radians", 0.0)},
    }
    if case["id"] in changes:
        found = aug.spatial_matrices(draws_of(**changes[case["id"]]), np.eye(3), size)
    else:
        hue = {"hue": math.radians(args["hue_degrees"]), "saturation": args["saturation"]} if "hue_degrees" in args else {}
        contrast = {"contrast": args["contrast"]} if "contrast" in args else {}
        found = aug.Augmentation(contrast_center=args.get("center", 0.5)).color_matrices(draws_of(**hue, **contrast))
    np.testing.assert_allclose(found[0], case["matrix"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", PIPELINES, ids=ids(PIPELINES))
def test_pipelines(case: Any) -> None:
    settings = case["spatial_augmentation"] | case["color_augmentation"]
    config, canvas = aug.Augmentation(**settings, tao=True), canvas_of(case["preprocessing"])
    expected, draws = case["expected"], draws_in(case)
    assert list(canvas.size) == expected["output_size"]
    matrices = aug.spatial_matrices(draws, canvas.matrix, canvas.size)
    np.testing.assert_allclose(matrices[0], expected["spatial_matrix"], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(config.color_matrices(draws)[0], expected["color_matrix"], rtol=1e-5, atol=1e-5)
    boxes = tf.reshape(tf.constant(case["boxes"], tf.float32), (1, -1, 4))
    moved = aug.moved_boxes(boxes, matrices, tao=True)
    np.testing.assert_allclose(moved[0], np.reshape(expected["boxes"], (-1, 4)), rtol=1e-5, atol=1e-3)
    if any(canvas.crop):
        inside, there = aug.clipped(moved, tuple(map(float, canvas.crop)))
        moved = tf.boolean_mask(inside, there)[None]
    np.testing.assert_allclose(moved[0], np.reshape(expected["boxes_after_crop_filter"], (-1, 4)), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("case", PIXELS, ids=ids(PIXELS))
def test_pixels(case: Any) -> None:
    picture = np.moveaxis(np.array(case["image"], np.float32), 0, -1)[None]
    height, width = case["output_height_width"]
    found = picture
    if case["spatial_matrix"] is not None:
        found = aug.warp(picture, tf.constant([case["spatial_matrix"]], tf.float32), (width, height))
    if case["color_matrix"] is not None:
        found = aug.colored(found, tf.constant([case["color_matrix"]], tf.float32))
    np.testing.assert_allclose(np.moveaxis(found[0].numpy(), -1, 0), case["expected"], atol=1e-3)


@pytest.mark.parametrize("case", CROPS, ids=ids(CROPS))
def test_what_a_crop_leaves(case: Any) -> None:
    crop = tuple(case[f"crop_{side}"] for side in ("left", "top", "right", "bottom"))
    boxes = tf.constant([case["boxes"]], tf.float32)
    if "error" in case["expected"]:
        with pytest.raises(SpecError, match="crop_left below crop_right"):
            aug.Canvas(160, 96, crop)
        return
    if any(crop):
        inside, there = aug.clipped(boxes, tuple(map(float, crop)))
        boxes = tf.boolean_mask(inside, there)[None]
    np.testing.assert_allclose(boxes[0], case["expected"])


QUANTITIES = {
    "translation_x": "translate_x",
    "hue_degrees": "hue",
    "contrast": "contrast",
    "brightness": "brightness",
    "saturation": "saturation",
    "zoom_shift_over_limit": "zoom_x",
}


@pytest.mark.parametrize("case", DISTRIBUTIONS, ids=ids(DISTRIBUTIONS))
def test_distributions(case: Any) -> None:
    settings = {**case["args"], **({"zoom_min": 1.25, "zoom_max": 1.25} if case["id"] == "zoom_shift_over_limit" else {})}
    found = aug.Augmentation(**settings, tao=True).draw(20000, (3, 7), (160, 96))[QUANTITIES[case["id"]]].numpy()
    if case["id"] == "hue_degrees":
        found = np.degrees(found)
    if case["id"] == "zoom_shift_over_limit":
        found = found / (160 - 160 / 1.25)
    sample = case["sample"]
    error = sample["std"] * (1 / math.sqrt(sample["n"]) + 1 / math.sqrt(len(found)))
    assert found.mean() == pytest.approx(sample["mean"], abs=4 * error)
    assert found.std() == pytest.approx(sample["std"], rel=0.05)
    for share, value in sample["quantiles"].items():
        assert np.quantile(found, float(share)) == pytest.approx(value, abs=(0.1 + 4 / math.sqrt(sample["n"])) * sample["std"])


def test_draws_follow_the_seed() -> None:
    config = aug.Augmentation(zoom_max=1.5, rotate_rad_max=0.2, color_shift_stddev=0.1, vflip_probability=0.5)
    first, again, other = (config.draw(8, seed, (160, 96)) for seed in ((1, 2), (1, 2), (1, 3)))
    for key, value in first.items():
        np.testing.assert_array_equal(value, again[key])
    assert all(np.any(value != other[key]) for key, value in first.items() if key not in ("rotated", "flip", "vflip"))
    # Independent of each other.
    assert len({tuple(np.round(np.argsort(value), 3)) for key, value in first.items() if value.dtype == tf.float32}) == 10


def test_boxes_go_with_what_is_in_them() -> None:
    """A white rectangle on black: the box around what is white afterwards is the box that is computed."""
    picture = np.zeros((1, 96, 160, 3), np.float32)
    picture[:, 30:60, 40:100] = 1
    config = aug.Augmentation(zoom_min=0.8, zoom_max=1.4, rotate_rad_max=0.4, vflip_probability=0.5)
    for number in range(8):
        draws = config.draw(1, (number, 0), (160, 96))
        matrices = aug.spatial_matrices(draws, np.eye(3), (160, 96))
        seen = aug.warp(picture, matrices, (160, 96)).numpy()[0, ..., 0] > 0.75
        box = aug.moved_boxes(tf.constant([[[40.0, 30, 100, 60]]]), matrices)
        inside, there = aug.clipped(box, (0.0, 0.0, 160.0, 96.0))
        assert bool(there[0, 0])
        rows, columns = np.nonzero(seen.any(1))[0], np.nonzero(seen.any(0))[0]
        found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(inside[0, 0], found, atol=2.5)


def test_small_rests_are_left_out() -> None:
    boxes = tf.constant([[[-10.0, 10, 3, 40], [150.0, 10, 170, 40], [10.0, 10, 20, 20]]])
    _, there = aug.clipped(boxes, (0.0, 0.0, 160.0, 96.0), smallest=5.0)
    np.testing.assert_array_equal(there[0], [False, True, True])


def test_bad_settings() -> None:
    with pytest.raises(SpecError, match="hflip_probability: expected a number from 0 to 1"):
        aug.Augmentation(hflip_probability=1.5)
    with pytest.raises(SpecError, match="expected 0 < zoom_min <= zoom_max"):
        aug.Augmentation(zoom_min=0.0)
