"""COCO's scores, held against what a tiny case comes to by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tlt_prune.detection.clustering import Detections
from tlt_prune.detection.coco import coco_scores
from tlt_prune.detection.dataset import BoxSplit


def split(factor: float = 1.0) -> BoxSplit:
    boxes = np.array([[[0, 0, 20, 20], [30, 30, 50, 50]], [[10, 10, 30, 30], [0, 0, 0, 0]]], np.float32)
    numbers = np.array([[0, 1], [0, -1]], np.int32)
    return BoxSplit(
        names=("p", "q"),
        pictures=np.zeros((2, 64, 64, 1), np.uint8),
        boxes=boxes,
        numbers=numbers,
        factors=np.full((2, 2), factor),
        classes=("a", "b"),
        sources=np.zeros(2, np.int32),
        weights=np.ones(2, np.float32),
    )


def found(*boxes: list[float]) -> Detections:
    """Boxes with confidences: x1, y1, x2, y2, confidence."""
    array = np.array(boxes, np.float32).reshape(-1, 5)
    return Detections(array[:, :4], array[:, 4], np.ones(len(array)))


def test_by_hand() -> None:
    nothing = found()
    # Of class a one box of two is hit exactly, the other by a box with an overlap of 0.92, less sure; of b
    # the only box is hit by 0.76, enough for six of the ten overlaps.
    said = [
        {"a": found([0, 0, 20, 20, 0.9]), "b": found([30, 30, 45.2, 50, 0.8])},
        {"a": found([10, 10, 28.4, 30, 0.5]), "b": nothing},
    ]
    scores, classes = coco_scores(split(), said)
    # a: both are right up to an overlap of .9 (nine of ten), at .95 the second is wrong: precision 1 up to a recall of one half,
    # that is at 51 of 101 levels.
    assert classes.loc["a", "AP"] == pytest.approx((9 + 51 / 101) / 10)
    assert classes.loc["b", "AP"] == pytest.approx(0.6)
    assert classes[["AP50", "AP75"]].to_numpy() == pytest.approx(np.ones((2, 2)))
    assert scores["AP"] == pytest.approx(classes["AP"].mean())
    assert [scores["AP50"], scores["AP75"]] == pytest.approx([1, 1])
    assert scores["AP_small"] == scores["AP"]
    assert scores["AP_large"] is None


def test_sizes_are_those_of_the_picture_files() -> None:
    # Three times as large: boxes of 60 x 60 are of medium size.
    scores, _ = coco_scores(split(3.0), [{"a": found([0, 0, 20, 20, 0.9]), "b": found()}] * 2)
    assert scores["AP_small"] is None
    assert scores["AP_medium"] == scores["AP"] > 0


def test_nothing_found_scores_nothing() -> None:
    scores, classes = coco_scores(split(), [{"a": found(), "b": found()}] * 2)
    assert set(scores.values()) == {0.0}
    assert classes.index.tolist() == ["a", "b"]
    assert (classes == 0).all().all()
