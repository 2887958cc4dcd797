#!/usr/bin/env python3
"""How many pictures a second go from a detector's outputs to boxes, on one core.

    python tools/bench/bench_clustering.py [OBJECTS]

Pictures of 400 x 400 with 200 objects each (or OBJECTS) of one class: outputs as a good network gives them, targets with noise,
decoded and clustered by each of the three algorithms. The fastest of five passes over 32 pictures, the network not included.
"""

from __future__ import annotations

import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# One core: no library is to use more.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np

from tlt_prune.detection.clustering import ClusteringConfig
from tlt_prune.detection.evaluation import Postprocessing
from tlt_prune.detection.geometry import Grid
from tlt_prune.detection.targets import Ellipse, Rasterizer

PICTURES, PASSES = 32, 5
GRID = Grid(400, 400, 25, 25)
ALGORITHMS = {
    "DBSCAN": {"coverage_threshold": 0.005, "dbscan_eps": 0.3, "dbscan_min_samples": 0.3, "dbscan_confidence_threshold": 0.1},
    "NMS": {"coverage_threshold": 0.05, "nms_iou_threshold": 0.3, "nms_confidence_threshold": 0.1},
    "HYBRID": {"coverage_threshold": 0.005, "dbscan_eps": 0.3, "dbscan_min_samples": 0.3, "dbscan_confidence_threshold": 0.1},
}


def outputs(objects: int) -> tuple[np.ndarray, np.ndarray]:
    """(output_bbox, output_cov) of all pictures: objects on a jittered grid, 20 to 40 pixels large."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(objects**0.5))
    places = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)[:objects] * (400 / side)
    centers = places + 200 / side + rng.uniform(-4, 4, (PICTURES, objects, 2))
    halves = rng.uniform(10, 20, (PICTURES, objects, 2))
    boxes = np.concatenate([centers - halves, centers + halves], -1).clip(0, 400)
    targets = Rasterizer(GRID, {"tree": Ellipse(min_radius=0.75)})(boxes, np.zeros((PICTURES, objects), np.int32))
    bbox, cov = np.array(targets["bbox"]), np.array(targets["cov"])
    bbox += rng.normal(0, 0.03, bbox.shape)
    return bbox.astype(np.float32), (cov * rng.uniform(0.5, 1, cov.shape) + rng.uniform(0, 0.01, cov.shape)).clip(0, 1).astype(
        np.float32
    )


def main(objects: int) -> None:
    bbox, cov = outputs(objects)
    for name, values in ALGORITHMS.items():
        post = Postprocessing(GRID, {"tree": ClusteringConfig(clustering_algorithm=name, **values)})  # type: ignore[arg-type]
        best = float("inf")
        for _ in range(PASSES):
            started = time.perf_counter()
            found = post(bbox, cov)
            best = min(best, time.perf_counter() - started)
        boxes = sum(len(x["tree"]) for x in found) / PICTURES
        print(
            f"{name:7} {PICTURES / best:6.0f} pictures a second, {1000 * best / PICTURES:5.2f} ms each, {boxes:.0f} boxes found"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) == 2 else 200)
