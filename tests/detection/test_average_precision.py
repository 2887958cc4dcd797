"""Average precision against the toolkit's own; and the whole chain from what the heads say."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from golden_detection import cases, ids

from tlt_prune.detection.average_precision import Curve, EvaluationBox, average_precision_table, curve_of, mean_average_precision
from tlt_prune.detection.clustering import ClusteringConfig, cluster
from tlt_prune.detection.decoding import decode
from tlt_prune.detection.geometry import Grid
from tlt_prune.errors import SpecError

CASES, CHAINS = cases("average_precision.json.gz"), cases("evaluate_chain.json.gz")


def boxes_of(objects: Any, name: str) -> Any:
    return np.array([x["bbox"] for x in objects if x["target_class"] == name]).reshape(-1, 4)


def curves_of(case: Any) -> dict[str, Curve]:
    curves = {}
    for name in case["target_classes"]:
        box = EvaluationBox(
            **case["evaluation_box_config"][name], minimum_overlap=case["minimum_detection_ground_truth_overlap"][name]
        )
        found = [
            (np.array([x["bbox"] for x in picture]).reshape(-1, 4), np.array([x["confidence"] for x in picture]))
            for picture in case["detections"][name]
        ]
        curves[name] = curve_of(found, [boxes_of(picture, name) for picture in case["ground_truth"]], box)
    return curves


def test_all_golden_cases_are_there() -> None:
    assert (len(CASES), len(CHAINS)) == (22, 5)


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_golden(case: Any) -> None:
    curves = curves_of(case)
    expected = case["expected"]
    assert [x.objects for x in curves.values()] == expected["num_ground_truth"]
    assert [x.hits.astype(int).tolist() for x in curves.values()] == expected["true_positive_in_confidence_order"]
    for mode in ("SAMPLE", "INTEGRATE"):
        for name, curve in curves.items():
            wanted = expected[mode]["average_precisions"][name]
            assert curve.average_precision(mode, compatible=True) == pytest.approx(wanted, abs=1e-9)
        assert mean_average_precision(curves, mode, compatible=True) == pytest.approx(expected[mode]["mAP"], abs=1e-9)


@pytest.mark.parametrize("case", CHAINS, ids=ids(CHAINS))
def test_from_heads_to_average_precision(case: Any) -> None:
    bbox, cov = np.array(case["output_bbox"], np.float32), np.array(case["output_cov"], np.float32)
    grid = Grid(case["input_width"], case["input_height"], *bbox.shape[:1:-1], case["bbox_scale"], case["bbox_offset"])
    boxes = decode(bbox, grid)
    settings: dict[str, Any] = {"dbscan_confidence_threshold": 0.0, "nms_iou_threshold": 0.0, "nms_confidence_threshold": 0.0}
    for key, value in re.findall(r"(\w+): (\S+)", case["clustering_config"]):
        settings[key] = value if value.isalpha() else float(value)
    box = EvaluationBox(*[case["minimum_size"], 9999] * 2, case["minimum_overlap"])
    curves = {}
    for i, name in enumerate(case["target_classes"]):
        found = [
            cluster(boxes[n, i].reshape(-1, 4), cov[n, i].ravel(), ClusteringConfig(**settings), "tao") for n in range(len(cov))
        ]
        for received, expected in zip(found, case["expected"]["detections"][name], strict=True):
            np.testing.assert_allclose(received.boxes, np.array([x["bbox"] for x in expected]).reshape(-1, 4), atol=1e-3)
            np.testing.assert_allclose(received.confidences, [x["confidence"] for x in expected], rtol=1e-5, atol=1e-6)
        truth = [np.array([b for n, b in picture if n == name]).reshape(-1, 4) for picture in case["ground_truth"]]
        curves[name] = curve_of([(x.boxes, x.confidences) for x in found], truth, box)
    mode, wanted = case["average_precision_mode"], case["expected"]
    for name, curve in curves.items():
        assert curve.average_precision(mode, compatible=True) == pytest.approx(wanted["average_precisions"][name], abs=1e-9)
    assert mean_average_precision(curves, mode, compatible=True) == pytest.approx(wanted["mAP"], abs=1e-9)


def test_a_perfect_detector_has_1() -> None:
    case = next(x for x in CASES if x["id"] == "ten_perfect")
    (curve,) = curves_of(case).values()
    assert curve.average_precision("INTEGRATE") == pytest.approx(1.0)
    assert curve.average_precision("INTEGRATE", compatible=True) < 1.0


def test_by_hand() -> None:
    # Two objects; hit, miss, hit: precisions 1, 1/2, 2/3 at recalls 1/2, 1/2, 1.
    curve = Curve(2, np.array([True, False, True]), np.array([0.9, 0.8, 0.7]))
    assert curve.average_precision("INTEGRATE") == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert curve.average_precision("INTEGRATE", compatible=True) == pytest.approx(0.5 * 1)
    assert curve.average_precision("SAMPLE") == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    frame = average_precision_table({"car": curve, "tree": Curve(0, np.zeros(1, bool), np.ones(1))})
    assert frame.loc["car"].tolist() == [2, 3, 2, pytest.approx(2 / 3), 1.0, pytest.approx(5 / 6)]
    assert frame.loc["tree", "average precision"] == 0
    assert mean_average_precision({"car": curve, "tree": Curve(0, np.zeros(0, bool), np.zeros(0))}) == pytest.approx(5 / 6)


def test_other_pictures() -> None:
    with pytest.raises(SpecError, match=r"of the same pictures. Received: 0 and 1"):
        curve_of([], [np.zeros((0, 4))])
