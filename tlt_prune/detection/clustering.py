"""Clustering of the boxes of many cells to one per object: DBSCAN, non-maximum suppression, or both in turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlt_prune import extras
from tlt_prune.errors import SpecError

Array = NDArray[Any]
Compatibility = Literal["", "tao", "tao_inference"]


@dataclasses.dataclass(frozen=True)
class ClusteringConfig:
    """Settings for clustering the boxes of a class. The names are the toolkit's.

    Attributes:
        clustering_algorithm: "DBSCAN"; "NMS"; or "HYBRID": NMS over the members of the clusters that DBSCAN finds.
        coverage_threshold: cells at or below it are left out, 0 to 1.
        dbscan_eps: largest distance, 1 - IoU, of neighbors, above 0 and at most 1.
        dbscan_min_samples: a cell is the core of a cluster if the coverages within `dbscan_eps`, its own included, sum to
            this (0 is taken for 1).
        dbscan_confidence_threshold: clusters below it are left out; a confidence is a sum of coverages and may exceed 1.
        minimum_bounding_box_height: boxes as high as that, or lower, are left out, in pixels.
        nms_iou_threshold: boxes that overlap a better one by more are left out, 0 to 1.
        nms_confidence_threshold: boxes at or below it are left out by NMS.
        confidence_model: of a DBSCAN cluster: "aggregate_cov", the sum of its coverages, or "mean_cov": where their mean lies
            between the lowest and the highest, 0 to 1.
    """

    clustering_algorithm: Literal["DBSCAN", "NMS", "HYBRID"] = "DBSCAN"
    coverage_threshold: float = 0.005
    dbscan_eps: float = 0.15
    dbscan_min_samples: float = 1
    dbscan_confidence_threshold: float = 0.9
    minimum_bounding_box_height: int = 4
    nms_iou_threshold: float = 0.3
    nms_confidence_threshold: float = 0.1
    confidence_model: Literal["aggregate_cov", "mean_cov"] = "aggregate_cov"


@dataclasses.dataclass(frozen=True, eq=False)
class Detections:
    """Boxes of one class in one picture, the most confident first.

    Attributes:
        boxes: `(k, 4)`: x1, y1, x2, y2.
        confidences: `(k,)`.
        cells: `(k,)`: how many cells a box was made of; 1 for NMS.
    """

    boxes: Array
    confidences: Array
    cells: Array

    def __len__(self) -> int:
        return len(self.boxes)


def boxes_of(picture: Mapping[str, Detections]) -> list[tuple[str, Array, float]]:
    """(class, corners, confidence) of all that was found in a picture."""
    return [(name, *one) for name, x in picture.items() for one in zip(x.boxes, x.confidences.tolist(), strict=True)]


def cluster(boxes: Array, coverages: Array, config: ClusteringConfig, compatibility: Compatibility = "") -> Detections:
    """Boxes of one class in one picture.

    Args:
        boxes: `(k, 4)`, of every cell.
        coverages: `(k,)`.
        config: how.
        compatibility: "tao": as the toolkit's evaluation clusters, "tao_inference": as its inference tool does, defects included:
            evaluation swaps the two confidence thresholds, gives NMS' boxes the confidences of others, and has no HYBRID; the
            inference tool drops a cluster whose confidence equals the threshold, and takes 0 for thresholds that were not set.

    Raises:
        SpecError: a setting is out of range.
    """
    rules = _RULES[compatibility]
    config = rules.settings(config)
    kept = coverages > np.float32(config.coverage_threshold)
    boxes, coverages = np.asarray(boxes, np.float32)[kept], np.asarray(coverages, np.float32)[kept]
    if config.clustering_algorithm == "NMS":
        return _by_nms(boxes, coverages, config, rules)
    found, members = _by_dbscan(boxes, coverages, config, rules)
    if config.clustering_algorithm == "DBSCAN":
        return found
    return _by_nms(boxes[members], coverages[members], config, rules)


@dataclasses.dataclass(frozen=True)
class _Rules:
    """Details in which the toolkit's implementations differ."""

    defects: bool = False
    # Added to a union of areas, in square pixels.
    epsilon: float = 1e-5
    eps_added: float = 0.0
    swapped_thresholds: bool = False
    hybrid: bool = True
    at_threshold: bool = True
    unset: bool = False

    def settings(self, config: ClusteringConfig) -> ClusteringConfig:
        changes: dict[str, Any] = {}
        if self.swapped_thresholds:
            changes["dbscan_confidence_threshold"] = config.nms_confidence_threshold
            changes["nms_confidence_threshold"] = config.dbscan_confidence_threshold
        if self.unset:
            changes["nms_iou_threshold"] = config.nms_iou_threshold or 0.3
            changes["nms_confidence_threshold"] = config.nms_confidence_threshold or 0.1
        config = dataclasses.replace(config, **changes)
        # The inference tool takes 0, and finds nothing.
        if config.clustering_algorithm != "NMS" and not self.eps_added and not 0 < config.dbscan_eps <= 1:
            raise SpecError(f"dbscan_eps: expected a number above 0 and at most 1. Received: {config.dbscan_eps!r}.")
        if config.clustering_algorithm == "HYBRID" and not self.hybrid:
            raise SpecError("clustering_algorithm: the toolkit's evaluation has no HYBRID. Expected DBSCAN or NMS.")
        return config


_RULES = {
    "": _Rules(),
    "tao": _Rules(defects=True, swapped_thresholds=True, hybrid=False),
    "tao_inference": _Rules(defects=True, epsilon=0.01, eps_added=1e-12, at_threshold=False, unset=True),
}


def _by_dbscan(boxes: Array, coverages: Array, config: ClusteringConfig, rules: _Rules) -> tuple[Detections, Array]:
    """The clusters, and the numbers of the boxes in them, cluster by cluster."""
    extras.require("detection", "Clustering by DBSCAN", "scipy", "sklearn")
    from sklearn.cluster import dbscan

    if not len(boxes):
        return _detections([], [], []), np.zeros(0, int)
    least = max(int(config.dbscan_min_samples), 1) if rules.defects else config.dbscan_min_samples or 1
    eps = config.dbscan_eps + rules.eps_added
    # A box so small, or an eps so near 0, that the box is no neighbor of itself has no other either.
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    (own,) = np.nonzero(rules.epsilon / (area.astype(np.float64) + rules.epsilon) <= eps)
    first, second, near = _neighbors(boxes[own], eps, rules.epsilon)
    _, labels_of_own = (
        dbscan(
            _graph(first, second, near, len(own)),
            eps=eps,
            # A sum of coverages below 1 can be enough: scikit-learn wants a whole number here.
            min_samples=1,
            metric="precomputed",
            sample_weight=coverages[own] / np.float32(least),
        )
        if len(own)
        else (None, np.zeros(0, int))
    )
    labels = np.full(len(boxes), -1)
    labels[own] = labels_of_own
    members = np.argsort(labels, kind="stable")[np.count_nonzero(labels < 0) :]
    if not len(members):
        return _detections([], [], []), members
    counts = np.bincount(labels[members])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    weights = coverages[members].astype(np.float64)
    confidences = np.add.reduceat(weights, starts)
    found = np.add.reduceat(weights[:, None] * boxes[members], starts, axis=0) / confidences[:, None]
    if config.confidence_model == "mean_cov":
        low, high = np.minimum.reduceat(weights, starts), np.maximum.reduceat(weights, starts)
        confidences = np.divide(confidences / counts - low, high - low, out=np.zeros_like(low), where=high > low)
    threshold = config.dbscan_confidence_threshold
    kept = confidences >= threshold if rules.at_threshold else confidences > threshold
    kept &= found[:, 3] - found[:, 1] > config.minimum_bounding_box_height
    return _detections(found[kept], confidences[kept], counts[kept]), members[kept[labels[members]]]


def _by_nms(boxes: Array, coverages: Array, config: ClusteringConfig, rules: _Rules) -> Detections:
    if rules.defects:
        kept, confidences = _nms_in_place(boxes, coverages, config)
        return _detections(boxes[kept], confidences, np.ones(len(kept), int))
    tall = boxes[:, 3] - boxes[:, 1] > config.minimum_bounding_box_height
    boxes, coverages = boxes[tall], coverages[tall]
    kept = suppress(boxes, coverages, config.nms_iou_threshold)
    kept = kept[coverages[kept] > config.nms_confidence_threshold]
    return _detections(boxes[kept], coverages[kept], np.ones(len(kept), int))


def suppress(boxes: Array, scores: Array, iou: float) -> Array:
    """Greedy non-maximum suppression: numbers of the boxes that stay, the best first."""
    order: Array = np.argsort(-scores, kind="stable")
    first, second, overlap = overlapping(boxes[order], pixel=1.0)
    near = overlap > iou
    graph = _graph(first[near], second[near], overlap[near], len(order))
    alive = np.ones(len(order), bool)
    for i in range(len(order)):
        if alive[i]:
            others = graph.indices[graph.indptr[i] : graph.indptr[i + 1]]
            alive[others[others > i]] = False
    return np.asarray(order[alive])


def _nms_in_place(boxes: Array, coverages: Array, config: ClusteringConfig) -> tuple[Array, Array]:
    """The toolkit's: right boxes, but confidences read at their old places from what has been sorted and zeroed meanwhile."""
    numbers, scores = np.arange(len(boxes)), coverages.copy()
    overlap = overlaps(boxes, boxes, 0.0, pixel=1.0) > config.nms_iou_threshold
    for i in range(len(boxes)):
        rest = slice(i + 1, None)
        if i + 1 < len(boxes) and scores[rest].max() > scores[i]:
            best = i + 1 + int(scores[rest].argmax())
            numbers[[i, best]], scores[[i, best]] = numbers[[best, i]], scores[[best, i]]
        scores[rest][overlap[numbers[i], numbers[rest]]] = 0
    kept = numbers[scores > config.nms_confidence_threshold]
    return kept, scores[kept]


def _neighbors(boxes: Array, eps: float, epsilon: float) -> tuple[Array, Array, Array]:
    """Pairs (i, j) of boxes, in either order, that are no farther apart than `eps`, and how far."""
    if eps >= 1:
        # Then boxes that do not overlap are neighbors as well.
        first, second = np.triu_indices(len(boxes), 1)
        distances = 1 - overlaps(boxes, boxes, epsilon)[first, second]
    else:
        first, second, overlap = overlapping(boxes, epsilon)
        distances = 1 - overlap
    near = distances <= eps
    return first[near], second[near], distances[near]


def _graph(first: Array, second: Array, values: Array, count: int) -> Any:
    """A symmetric sparse matrix, the smallest value of a row first, as scikit-learn likes it; the diagonal is stored as 0."""
    from scipy.sparse import csr_array

    own = np.arange(count)
    rows, columns = np.concatenate([first, second, own]), np.concatenate([second, first, own])
    stored = np.concatenate([values, values, np.zeros(count)])
    order = np.lexsort((stored, rows))
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))])
    return csr_array((stored[order], columns[order], starts), shape=(count, count))


def overlapping(boxes: Array, epsilon: float = 0.0, *, pixel: float = 0.0) -> tuple[Array, Array, Array]:
    """Pairs of boxes that overlap: numbers of the one, of the other, and `overlaps` of the two; each pair once."""
    boxes = np.asarray(boxes, np.float64)
    by_left = np.argsort(boxes[:, 0], kind="stable")
    left = boxes[by_left, 0]
    # Of those that begin farther right, the ones that begin before a box ends.
    counts = np.maximum(np.searchsorted(left, boxes[by_left, 2] + pixel) - np.arange(len(boxes)) - 1, 0)
    first = np.repeat(np.arange(len(boxes)), counts)
    second = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts) + first + 1
    first, second = by_left[first], by_left[second]
    overlap = _iou(boxes[first].T, boxes[second].T, epsilon, pixel)
    found = overlap > 0
    return first[found], second[found], overlap[found]


def overlaps(first: Array, second: Array, epsilon: float = 0.0, *, pixel: float = 0.0) -> Array:
    """`(k, m)`: intersections over unions of boxes `(k, 4)` with boxes `(m, 4)`.

    Args:
        first, second: x1, y1, x2, y2.
        epsilon: added to the unions.
        pixel: 1.0 counts corners as pixels that belong to the box: widths and heights are one more.
    """
    a, b = np.asarray(first, np.float64).T[:, :, None], np.asarray(second, np.float64).T[:, None, :]
    return _iou(a, b, epsilon, pixel)


def _iou(a: Array, b: Array, epsilon: float, pixel: float) -> Array:
    """Of corners `(4, ...)`."""
    width = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]) + pixel
    height = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1]) + pixel
    common = np.maximum(width, 0) * np.maximum(height, 0)
    areas = [(x[2] - x[0] + pixel) * (x[3] - x[1] + pixel) for x in (a, b)]
    union = areas[0] + areas[1] - common + epsilon
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))


def _detections(boxes: ArrayLike, confidences: ArrayLike, cells: ArrayLike) -> Detections:
    boxes, confidences = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(confidences, np.float64)
    order = np.argsort(-confidences, kind="stable")
    return Detections(boxes[order], confidences[order], np.asarray(cells, int)[order])
