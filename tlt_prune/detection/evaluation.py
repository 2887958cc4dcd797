"""Average precision of a detector on labeled pictures."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlt_prune.detection.average_precision import (
    Curve,
    EvaluationBox,
    Mode,
    average_precision_table,
    curve_of,
    mean_average_precision,
)
from tlt_prune.detection.clustering import ClusteringConfig, Compatibility, Detections, cluster
from tlt_prune.detection.dataset import BoxSplit
from tlt_prune.detection.decoding import decode
from tlt_prune.detection.geometry import Grid
from tlt_prune.io import new_figure, save_figure

Array = NDArray[Any]
Outputs = Callable[[Array], tuple[Array, Array]]
"""Pictures `(n, height, width, channels)`, float32 of 0 to 1 -> (output_bbox, output_cov), channels first."""


@dataclasses.dataclass(frozen=True)
class Postprocessing:
    """From outputs to boxes, a class each.

    Attributes:
        grid: of the model.
        clustering: class name -> how, in the order of the network's channels.
        compatibility: see `clustering.cluster`.
    """

    grid: Grid
    clustering: Mapping[str, ClusteringConfig]
    compatibility: Compatibility = ""

    def __call__(self, bbox: Array, cov: Array) -> list[dict[str, Detections]]:
        """Detections of every class, a picture each.

        Args:
            bbox, cov: the model's outputs, channels first: `(n, 4 c, rows, columns)`, `(n, c, rows, columns)`.
        """
        boxes = decode(bbox, self.grid, clip=self.compatibility != "tao_inference")
        return [
            {
                name: cluster(boxes[i, j].reshape(-1, 4), cov[i, j].ravel(), config, self.compatibility)
                for j, (name, config) in enumerate(self.clustering.items())
            }
            for i in range(len(cov))
        ]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Evaluation result of a detector.

    Attributes:
        curves: class -> precision against recall.
        detections: a picture each, by class.
        mode: of average precision.
        compatible: as the toolkit computes it.
        objects: how many there are in the pictures.
        largest_coverage: of any cell of any picture; None where only detections were scored.
    """

    curves: dict[str, Curve]
    detections: list[dict[str, Detections]]
    mode: Mode = "INTEGRATE"
    compatible: bool = False
    objects: int = 0
    largest_coverage: float | None = None

    def __repr__(self) -> str:
        return f"<Evaluation of {len(self.detections)} pictures: mean average precision {self.mean_average_precision:.4f}>"

    def explained(self) -> str:
        """The reason for a mean average precision of 0; empty where it is higher."""
        if self.mean_average_precision > 0:
            return ""
        boxes = sum(len(found.boxes) for picture in self.detections for found in picture.values())
        coverage = "" if self.largest_coverage is None else f"; the largest coverage of a cell is {self.largest_coverage:.3g}"
        advice = (
            "none overlaps an object enough" if boxes else "no cell is sure enough: train longer, or lower coverage_threshold"
        )
        return f"{boxes} boxes for {self.objects} objects{coverage}: {advice}."

    @property
    def mean_average_precision(self) -> float:
        """0 to 1."""
        return mean_average_precision(self.curves, self.mode, compatible=self.compatible)

    def to_frame(self) -> pd.DataFrame:
        """A row a class."""
        return average_precision_table(self.curves, self.mode, compatible=self.compatible)

    def plot(self, path: str | pathlib.Path | None = None) -> Any:
        """Precision against recall, one line per class; saved to `path`, or returned as a figure."""
        figure, axis = new_figure("Drawing precision against recall", (5, 4))
        lines = []
        for name, curve in self.curves.items():
            score = curve.average_precision(self.mode, compatible=self.compatible)
            (line,) = axis.plot(curve.recall, curve.precision)
            lines.append((line, f"{name}, {100 * score:.1f} %"))
        axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01))
        # Names are text, whatever characters they have.
        for text in axis.legend(*zip(*lines, strict=True), frameon=False, fontsize=8).get_texts():
            text.set_parse_math(False)
        figure.tight_layout()
        if path is not None:
            save_figure(figure, pathlib.Path(path))
        return figure


def evaluate_detector(
    outputs: Outputs,
    split: BoxSplit,
    postprocessing: Postprocessing,
    boxes: Mapping[str, EvaluationBox] | None = None,
    *,
    mode: Mode = "INTEGRATE",
    compatible: bool = False,
    batch_size: int = 16,
) -> Evaluation:
    """Scores a detector.

    Args:
        outputs: the detector.
        split: what is there.
        postprocessing: how boxes follow from outputs.
        boxes: class name -> what counts; `EvaluationBox()` where not given.
        mode, compatible: see `Curve.average_precision`.
        batch_size: of pictures at once.
    """
    found: list[dict[str, Detections]] = []
    largest = 0.0
    for i in range(0, len(split), batch_size):
        bbox, cov = outputs(split.pictures[i : i + batch_size].astype(np.float32) / 255)
        largest = max(largest, float(np.max(cov, initial=0.0)))
        found += postprocessing(bbox, cov)
    result = scored(found, split, boxes, mode=mode, compatible=compatible)
    return dataclasses.replace(result, largest_coverage=largest)


def scored(
    found: list[dict[str, Detections]],
    split: BoxSplit,
    boxes: Mapping[str, EvaluationBox] | None = None,
    *,
    mode: Mode = "INTEGRATE",
    compatible: bool = False,
) -> Evaluation:
    """Average precision of given detections, one mapping per picture of the split; arguments as for `evaluate_detector`."""
    curves = {
        name: curve_of(
            [(x[name].boxes, x[name].confidences) for x in found],
            split.of_class(split.classes.index(name)),
            (boxes or {}).get(name),
        )
        for name in split.classes
    }
    return Evaluation(curves, found, mode, compatible, int(split.is_object.sum()))


def outputs_of(run: Callable[[Any], list[Array]], channels_first: bool, outputs_first: bool | None = None) -> Outputs:
    """A model's run as `evaluate_detector` takes it.

    Args:
        run: pictures in the model's layout -> `[output_bbox, output_cov]`.
        channels_first: of the pictures.
        outputs_first: of the outputs, where that is another layout.
    """
    said_first = channels_first if outputs_first is None else outputs_first

    def outputs(pictures: Array) -> tuple[Array, Array]:
        bbox, cov = run(as_input(pictures, channels_first))
        return (bbox, cov) if said_first else (np.transpose(bbox, (0, 3, 1, 2)), np.transpose(cov, (0, 3, 1, 2)))

    return outputs


def as_input(pictures: Array, channels_first: bool) -> Array:
    """Pictures `(n, height, width, channels)` in a model's layout."""
    return np.ascontiguousarray(np.transpose(pictures, (0, 3, 1, 2))) if channels_first else pictures


def output_layout(shapes: Sequence[Sequence[int]]) -> tuple[int, int, bool] | None:
    """(columns, rows, channels first) of outputs `[output_bbox, output_cov]` of such shapes; None of what is no detector's."""
    if len(shapes) != 2 or any(len(shape) != 4 for shape in shapes):
        return None
    (bbox, cov) = shapes
    if bbox[3] == 4 * cov[3]:
        return int(cov[2]), int(cov[1]), False
    return (int(cov[3]), int(cov[2]), True) if bbox[1] == 4 * cov[1] else None
