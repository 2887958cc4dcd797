"""Clustering against both of the toolkit's implementations, and what is right where they are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from golden_detection import cases

from tlt_prune.detection.clustering import ClusteringConfig, Compatibility, Detections, cluster, suppress
from tlt_prune.errors import SpecError

CASES = [case for case in cases("clustering.json.gz") if "images" in case]
PAIRS = [
    (case, key, how) for case in CASES for key, how in (("evaluation", "tao"), ("inference", "tao_inference")) if key in case
]


def config_of(case: Any) -> ClusteringConfig:
    return ClusteringConfig(**case["clustering_config"], confidence_model=case["confidence_model"])


def arrays(picture: Any) -> tuple[Any, Any]:
    return np.array([box for box, _ in picture]).reshape(-1, 4), np.array([coverage for _, coverage in picture], np.float32)


def test_all_golden_cases_are_there() -> None:
    assert len(CASES) == 34


@pytest.mark.parametrize(("case", "key", "how"), PAIRS, ids=[f"{case['id']}-{key}" for case, key, _ in PAIRS])
def test_golden(case: Any, key: str, how: Compatibility) -> None:
    # The recorded settings are those that reach the clustering, after evaluation has swapped the two thresholds.
    config = config_of(case)
    if how == "tao":
        swapped = {
            "dbscan_confidence_threshold": config.nms_confidence_threshold,
            "nms_confidence_threshold": config.dbscan_confidence_threshold,
        }
        config = ClusteringConfig(**{**vars(config), **swapped})
    if "error" in case[key]:
        with pytest.raises(SpecError):
            cluster(*arrays(case["images"][0]), config, how)
        return
    for picture, expected in zip(case["images"], case[key], strict=True):
        found = cluster(*arrays(picture), config, how)
        assert len(found) == len(expected)
        np.testing.assert_allclose(found.boxes, np.array([x["bbox"] for x in expected]).reshape(-1, 4), rtol=0, atol=1e-3)
        np.testing.assert_allclose(found.confidences, [x["confidence"] for x in expected], rtol=1e-5, atol=1e-6)
        counts = [x["num_raw_bboxes"] for x in expected]
        if None not in counts:
            assert list(found.cells) == counts


@pytest.mark.parametrize("case", [x for x in cases("clustering.json.gz") if x["id"] == "spec_to_config"])
def test_the_thresholds_change_places(case: Any) -> None:
    spec, used = case["spec"], case["used"]
    box, coverage = np.array([[10.0, 10, 50, 40]]), np.array([0.5], np.float32)
    for algorithm, key in (("DBSCAN", "dbscan_confidence_threshold"), ("NMS", "nms_confidence_threshold")):
        config = ClusteringConfig(clustering_algorithm=algorithm, dbscan_min_samples=0.1, **spec)  # type: ignore[arg-type]
        if algorithm == "NMS":
            assert len(cluster(box, coverage, config)) == (coverage[0] > spec[key])
            assert len(cluster(box, coverage, config, "tao")) == (coverage[0] > used[key])
        else:
            assert len(cluster(box, coverage, config)) == (coverage[0] >= spec[key])


def of(found: Detections) -> list[tuple[float, float]]:
    return [(float(box[0]), round(float(c), 3)) for box, c in zip(found.boxes, found.confidences, strict=True)]


def test_confidences_belong_to_their_boxes() -> None:
    case = next(x for x in CASES if x["id"] == "nms_unsorted_input")
    assert of(cluster(*arrays(case["images"][0]), config_of(case))) == [(100.0, 0.9), (200.0, 0.6), (10.0, 0.3)]
    case = next(x for x in CASES if x["id"] == "hybrid")
    found = cluster(*arrays(case["images"][0]), config_of(case))
    assert [c for _, c in of(found)] == [0.874, 0.676]


def test_nms_keeps_the_boxes_that_the_toolkit_keeps() -> None:
    for case in (x for x in CASES if x["clustering_config"]["clustering_algorithm"] == "NMS"):
        config = ClusteringConfig(**{**vars(config_of(case)), "minimum_bounding_box_height": -1})
        for picture in case["images"]:
            boxes = [
                sorted(cluster(*arrays(picture), config, how).boxes.tolist())
                for how in ("", "tao_inference")  # type: ignore[arg-type]
            ]
            if config.nms_iou_threshold and config.nms_confidence_threshold:
                assert boxes[0] == boxes[1]


def test_low_boxes_are_left_out_by_nms_too() -> None:
    boxes, coverages = np.array([[0.0, 0, 40, 4], [0, 50, 40, 54.5]]), np.array([0.9, 0.8], np.float32)
    assert of(cluster(boxes, coverages, ClusteringConfig(clustering_algorithm="NMS"))) == [(0.0, 0.8)]


def test_suppression_is_greedy() -> None:
    # The middle one goes for the first, so the third stays although it overlaps the middle one.
    boxes = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10]])
    np.testing.assert_array_equal(suppress(boxes, np.array([0.9, 0.8, 0.7]), 0.3), [0, 2])
    assert len(suppress(np.zeros((0, 4)), np.zeros(0), 0.3)) == 0


def test_eps_of_nothing() -> None:
    with pytest.raises(SpecError, match="dbscan_eps: expected a number above 0"):
        cluster(np.zeros((1, 4)), np.ones(1), ClusteringConfig(dbscan_eps=0.0))
