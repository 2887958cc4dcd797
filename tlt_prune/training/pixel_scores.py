"""Scores of a segmentation from its confusion matrix: precision, recall, F1 and IoU of each class."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlt_prune.io import files


@dataclasses.dataclass(frozen=True, eq=False)
class PixelScores:
    """Scores over all pixels of a set.

    Attributes:
        confusion: pixels; rows are true classes, columns predicted ones.
    """

    confusion: pd.DataFrame

    @property
    def per_class(self) -> pd.DataFrame:
        """One row a class: precision, recall, f1, iou (NaN where they are 0 / 0) and the number of its pixels."""
        counts = self.confusion.to_numpy().astype(np.float64)
        right, true, said = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision, recall = right / said, right / true
            table = {
                "precision": precision,
                "recall": recall,
                "f1": 2 * precision * recall / (precision + recall),
                "iou": right / (true + said - right),
            }
        return pd.DataFrame({**table, "pixels": true.astype(np.int64)}, index=pd.Index(self.confusion.index, name="class"))

    @property
    def means(self) -> dict[str, float]:
        """Means over classes, each without those where it is 0 / 0; and weighted by the classes' pixels; and pixel accuracy."""
        table = self.per_class
        found: dict[str, float] = {}
        for name in ("precision", "recall", "f1", "iou"):
            there = table[name].notna()
            values, pixels = table[name][there], table["pixels"][there]
            found[f"mean_{name}"] = float(values.mean()) if len(values) else float("nan")
            found[f"weighted_{name}"] = float((values * pixels).sum() / pixels.sum()) if pixels.sum() else float("nan")
        counts = self.confusion.to_numpy()
        found["pixel_accuracy"] = float(np.trace(counts) / max(counts.sum(), 1))
        return found

    def save(self, folder: pathlib.Path) -> None:
        """Writes per_class.csv and confusion_matrix.csv."""
        files.write_text(folder / "per_class.csv", self.per_class.to_csv())
        files.write_text(folder / "confusion_matrix.csv", self.confusion.to_csv())


def pixel_confusion(true: NDArray[Any], said: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Pixels by true class (rows) and predicted class (columns); those of no class, below 0, are left out."""
    counted = true >= 0
    pairs = true[counted].astype(np.int64) * classes + said[counted].astype(np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def scores_of_pixels(confusion: NDArray[np.int64], names: Sequence[str]) -> PixelScores:
    """Scores of a confusion matrix."""
    return PixelScores(pd.DataFrame(confusion, index=pd.Index(names, name="true"), columns=list(names)))
