"""The rasterizer against the toolkit's own, and its rules one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from golden_detection import cases, ids

from tlt_prune.detection.geometry import Grid
from tlt_prune.detection.targets import Ellipse, Rasterizer, padded
from tlt_prune.errors import SpecError

RASTERS = cases("rasterizer.json.gz")
KEYS = {
    "cov_center_x": "center_x",
    "cov_center_y": "center_y",
    "cov_radius_x": "radius_x",
    "cov_radius_y": "radius_y",
    "bbox_min_radius": "min_radius",
}


def rasterizer(case: Any) -> Rasterizer:
    sizes = (case["input_width"], case["input_height"], case["output_width"], case["output_height"])
    ellipses = {
        name: Ellipse(**{KEYS[key]: value for key, value in case["target_class_config"][name].items()})
        for name in case["target_classes"]
    }
    return Rasterizer(Grid(*sizes, case["bbox_scale"], case["bbox_offset"]), ellipses, case["deadzone_radius"])


def painted(case: Any) -> tuple[Rasterizer, dict[str, np.ndarray]]:
    raster = rasterizer(case)
    mapping = case["target_class_mapping"]
    pictures = [[(mapping.get(name, ""), box) for name, box in picture] for picture in case["images"]]
    return raster, {key: value.numpy() for key, value in raster(*padded(pictures, raster.classes)).items()}


@pytest.mark.parametrize("case", RASTERS, ids=ids(RASTERS))
def test_golden(case: Any) -> None:
    raster, found = painted(case)
    assert found["cov"].shape == (len(case["images"]), len(raster.classes), case["output_height"], case["output_width"])
    for i, name in enumerate(raster.classes):
        expected = np.zeros((*found["cov"][:, 0].shape, 6))
        for picture, y, x, *values in case["expected"][name]:
            expected[int(picture), int(y), int(x)] = values
        received = np.stack(
            [found["cov"][:, i], found["cov_norm"][:, i], *np.moveaxis(found["bbox"][:, 4 * i : 4 * i + 4], 1, 0)], axis=-1
        )
        np.testing.assert_allclose(received, expected, rtol=0, atol=2e-5)


def test_all_golden_cases_are_there() -> None:
    assert len(RASTERS) == 45


def test_in_a_pipeline() -> None:
    """Compiled, with an open number of pictures and boxes, as `tf.data` runs it."""
    case = next(x for x in RASTERS if x["id"] == "batch_empty_first_middle_last")
    raster, eager = painted(case)
    boxes, classes = padded(case["images"], raster.classes)
    specs = (tf.TensorSpec((None, None, 4)), tf.TensorSpec((None, None), tf.int32))
    dataset = tf.data.Dataset.from_tensor_slices((boxes, classes)).batch(2).map(tf.function(raster, input_signature=specs))
    batches = list(dataset)
    for key, value in eager.items():
        np.testing.assert_array_equal(np.concatenate([batch[key] for batch in batches]), value)


def test_bad_settings() -> None:
    for name, value in (
        ("radius_x", 0.0),
        ("radius_y", 1.1),
        ("min_radius", 0.0),
        ("center_x", -0.1),
        ("center_y", float("nan")),
    ):
        with pytest.raises(SpecError, match=f"{name}: expected a number"):
            Ellipse(**{name: value})
    grid = Grid(64, 64, 4, 4)
    with pytest.raises(SpecError, match="deadzone_radius: expected a number from 0 to 1"):
        Rasterizer(grid, {"car": Ellipse()}, 1.5)
    with pytest.raises(SpecError, match="expected at least one"):
        Rasterizer(grid, {})
