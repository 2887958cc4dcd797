"""COCO's average precision, computed by its own package: averaged over overlaps from 0.5 to 0.95."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlt_prune import extras
from tlt_prune.detection.clustering import Detections, boxes_of
from tlt_prune.detection.dataset import BoxSplit

# What pycocotools' summary consists of, in its order.
_SIZES = ("small", "medium", "large")
NAMES = ("AP", "AP50", "AP75", *(f"AP_{x}" for x in _SIZES), "AR_1", "AR_10", "AR_100", *(f"AR_{x}" for x in _SIZES))


def coco_scores(split: BoxSplit, found: Sequence[Mapping[str, Detections]]) -> tuple[dict[str, float | None], pd.DataFrame]:
    """Scores of all classes together, and one row per class.

    Args:
        split: what is there.
        found: what a detector says of each of its pictures, by class, in pixels of the model.

    Returns:
        0 to 1, by COCO's names (https://cocodataset.org/#detection-eval); None where there is no object of a size. Sizes are in
        pixels of the picture files. Of a class: "AP", "AP50", "AP75".

    Raises:
        MissingPackageError: pycocotools is not installed.
    """
    extras.require("detection", "COCO's average precision")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    scales = np.tile(split.factors, 2)
    truth: dict[str, list[dict[str, Any]]] = {
        "images": [{"id": i} for i in range(len(split))],
        "categories": [{"id": i, "name": name} for i, name in enumerate(split.classes)],
        "annotations": [
            {"image_id": i, "category_id": int(number), "iscrowd": 0, **_box(box * scales[i])}
            for i, there in enumerate(split.is_object)
            for box, number in zip(split.boxes[i][there], split.numbers[i][there], strict=True)
        ],
    }
    for i, annotation in enumerate(truth["annotations"], 1):
        annotation["id"] = i
    said = [
        {"image_id": i, "category_id": split.classes.index(name), "score": score, **_box(box * scales[i])}
        for i, picture in enumerate(found)
        for name, box, score in boxes_of(picture)
    ]
    if not said:
        return dict.fromkeys(NAMES, 0.0), pd.DataFrame(0.0, index=pd.Index(split.classes, name="class"), columns=NAMES[:3])
    # It prints its progress and its table.
    with contextlib.redirect_stdout(io.StringIO()):
        there = COCO()
        there.dataset = {"info": {}, **truth}
        there.createIndex()
        evaluation = COCOeval(there, there.loadRes(said), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    overlaps, precision = evaluation.params.iouThrs, evaluation.eval["precision"]
    rows = {}
    for number, name in enumerate(split.classes):
        # By overlap and recall, of all sizes, with the most detections.
        own = precision[:, :, number, 0, -1]
        rows[name] = {"AP": _mean(own), **{f"AP{x}": _mean(own[np.isclose(overlaps, x / 100)]) for x in (50, 75)}}
    return {key: _known(value) for key, value in zip(NAMES, evaluation.stats, strict=True)}, (
        pd.DataFrame(rows).T.rename_axis("class").astype(float)
    )


def _box(corners: Iterable[float]) -> dict[str, Any]:
    x1, y1, x2, y2 = map(float, corners)
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}


def _known(value: float) -> float | None:
    return None if value < 0 else float(value)


def _mean(precision: NDArray[np.float64]) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else np.nan
