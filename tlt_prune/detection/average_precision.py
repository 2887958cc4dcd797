"""Average precision of detections, as the toolkit's evaluation has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlt_prune.detection.clustering import overlaps
from tlt_prune.errors import SpecError

Array = NDArray[Any]
Mode = Literal["SAMPLE", "INTEGRATE"]


@dataclasses.dataclass(frozen=True)
class EvaluationBox:
    """Objects of a class that are evaluated: inclusive limits in pixels, and the overlap that makes a hit.

    Attributes:
        minimum_height, maximum_height, minimum_width, maximum_width: boxes outside are left out, detections and objects each.
        minimum_overlap: intersection over union, 0 to 1.
    """

    minimum_height: float = 0
    maximum_height: float = 9999
    minimum_width: float = 0
    maximum_width: float = 9999
    minimum_overlap: float = 0.5

    def holds(self, boxes: Array) -> Array:
        width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        wide = (self.minimum_width <= width) & (width <= self.maximum_width)
        return np.asarray(wide & (self.minimum_height <= height) & (height <= self.maximum_height))


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """Precision against recall of one class.

    Attributes:
        objects: how many there are.
        hits: `(k,)`: whether each detection found an object, the most confident first.
        confidences: `(k,)`.
    """

    objects: int
    hits: Array
    confidences: Array

    @property
    def precision(self) -> Array:
        """After each detection."""
        return np.cumsum(self.hits) / np.arange(1, len(self.hits) + 1)

    @property
    def recall(self) -> Array:
        """After each detection; 0 where there is no object."""
        return np.cumsum(self.hits) / max(self.objects, 1)

    def average_precision(self, mode: Mode = "INTEGRATE", *, compatible: bool = False) -> float:
        """Area under the precision that is still reached at a recall or beyond.

        Args:
            mode: "SAMPLE": the mean over recalls 0, .1, ..., 1 (PASCAL VOC 2007); "INTEGRATE": the area itself (VOC 2010).
            compatible: the toolkit's INTEGRATE, which leaves out what lies before the first recall reached and the precision of
                the last: a perfect detector of n objects has 1 - 1/n.
        """
        if not self.objects or not len(self.hits):
            return 0.0
        precision, recall = self.precision, self.recall
        best = np.maximum.accumulate(precision[::-1])[::-1]
        if mode == "SAMPLE":
            # Three of ten are .3, and not less than the fourth of eleven levels.
            first = np.searchsorted(recall, np.linspace(0, 1, 11) - (0.0 if compatible else 1e-9))
            return float(np.mean([best[i] if i < len(best) else 0.0 for i in first]))
        levels, first = np.unique(recall, return_index=True)
        if compatible:
            known = precision[: first[-1]]
            best = np.maximum.accumulate(known[::-1])[::-1]
            return float(np.sum(np.diff(levels) * best[first[:-1]]))
        return float(np.sum(np.diff(np.concatenate([[0.0], levels])) * best[first]))


def curve_of(detections: Sequence[tuple[Array, Array]], objects: Sequence[Array], box: EvaluationBox | None = None) -> Curve:
    """Matches the detections of one class with its objects.

    Over all pictures, by falling confidence (ties stay in order), each detection is held against the object of its picture that
    it overlaps most, the first of several. It is a hit if they overlap enough and the object is free; there is no second choice.

    Args:
        detections: a picture each: boxes `(k, 4)` and confidences `(k,)`.
        objects: a picture each: boxes `(m, 4)`.
        box: what counts.

    Raises:
        SpecError: they are not of the same number of pictures.
    """
    box = box or EvaluationBox()
    if len(detections) != len(objects):
        raise SpecError(f"Expected detections and objects of the same pictures. Received: {len(detections)} and {len(objects)}.")
    truth = [np.round(x[box.holds(x)]) for x in (np.asarray(y, np.float64).reshape(-1, 4) for y in objects)]
    # (confidence, the object's number or -1), picture by picture.
    claims: list[tuple[float, int, int]] = []
    for picture, (boxes, confidences) in enumerate(detections):
        found = np.asarray(boxes, np.float64).reshape(-1, 4)
        kept = box.holds(found)
        overlap = overlaps(np.round(found[kept]), truth[picture], pixel=1.0)
        for row, confidence in zip(overlap, np.asarray(confidences)[kept], strict=True):
            best = int(row.argmax()) if len(row) else -1
            claims.append((float(confidence), picture, best if best >= 0 and row[best] >= box.minimum_overlap else -1))
    claims.sort(key=lambda claim: -claim[0])
    taken: set[tuple[int, int]] = set()
    hits = []
    for _, picture, number in claims:
        hits.append(number >= 0 and (picture, number) not in taken)
        if number >= 0:
            taken.add((picture, number))
    return Curve(sum(map(len, truth)), np.array(hits, bool), np.array([claim[0] for claim in claims]))


def mean_average_precision(curves: dict[str, Curve], mode: Mode = "INTEGRATE", *, compatible: bool = False) -> float:
    """The plain mean over classes; one without objects has 0 and counts, but for `compatible=False` it is left out."""
    found = [x.average_precision(mode, compatible=compatible) for x in curves.values() if compatible or x.objects]
    return float(np.mean(found)) if found else 0.0


def average_precision_table(curves: dict[str, Curve], mode: Mode = "INTEGRATE", *, compatible: bool = False) -> pd.DataFrame:
    """A row a class: objects, detections, hits, precision and recall of all detections, average precision."""
    rows = {
        name: {
            "objects": x.objects,
            "detections": len(x.hits),
            "hits": int(x.hits.sum()),
            "precision": float(x.precision[-1]) if len(x.hits) else 0.0,
            "recall": float(x.recall[-1]) if len(x.hits) else 0.0,
            "average precision": x.average_precision(mode, compatible=compatible),
        }
        for name, x in curves.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("class")
