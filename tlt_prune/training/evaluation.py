"""Scores as tables: top-k accuracy, loss, precision and recall a class, confusion matrix."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlt_prune.io import files

Predict = Callable[[NDArray[Any]], NDArray[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class ClassificationScores:
    """What a model achieves on a split.

    Attributes:
        accuracy: share of pictures whose most probable class is right (top-1).
        top_k_accuracy: share whose right class is among the k most probable.
        loss: mean cross-entropy, in nats.
        per_class: a row a class: precision, recall, f1, support (number of pictures).
        confusion: rows are true classes, columns predicted ones.
        predictions: `(n,)` most probable classes.
    """

    accuracy: float
    top_k: int
    top_k_accuracy: float
    loss: float
    per_class: pd.DataFrame
    confusion: pd.DataFrame
    predictions: NDArray[np.int64]

    def to_frame(self) -> pd.DataFrame:
        rows = {"accuracy": self.accuracy, f"top_{self.top_k}_accuracy": self.top_k_accuracy, "loss": self.loss}
        return pd.DataFrame({"value": rows})

    def save(self, folder: pathlib.Path) -> list[pathlib.Path]:
        """Writes scores.csv, per_class.csv and confusion_matrix.csv."""
        tables = {"scores": self.to_frame(), "per_class": self.per_class, "confusion_matrix": self.confusion}
        paths = [folder / f"{name}.csv" for name in tables]
        for path, table in zip(paths, tables.values(), strict=True):
            files.write_text(path, table.to_csv())
        return paths


def score(predict: Predict, batches: Iterable[Any], classes: Sequence[str], top_k: int = 3) -> ClassificationScores:
    """Scores a model.

    Args:
        predict: pictures of one batch -> class probabilities `(n, classes)`.
        batches: (pictures, one-hot labels) pairs.
        classes: class names.
        top_k: the k of `top_k_accuracy`; capped at the number of classes.

    Raises:
        ValueError: the model has another number of outputs than there are classes.
    """
    outputs, truth = [], []
    for images, labels in batches:
        outputs.append(np.asarray(predict(np.asarray(images)), dtype=np.float64))
        truth.append(np.argmax(np.asarray(labels), axis=-1))
    probabilities, target = np.concatenate(outputs), np.concatenate(truth)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(classes):
        raise ValueError(f"Expected outputs (n, {len(classes)}), one column a class. Received: {probabilities.shape}.")
    predictions = probabilities.argmax(axis=1)
    k = min(top_k, len(classes))
    ranked = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (target, predictions), 1)
    chosen = probabilities[np.arange(len(target)), target]
    return ClassificationScores(
        accuracy=float(np.mean(predictions == target)),
        top_k=k,
        top_k_accuracy=float(np.mean((ranked == target[:, None]).any(axis=1))),
        loss=float(-np.mean(np.log(np.clip(chosen, 1e-7, 1.0)))),
        per_class=_per_class(confusion, classes),
        confusion=pd.DataFrame(confusion, index=pd.Index(classes, name="true"), columns=list(classes)),
        predictions=predictions,
    )


def _per_class(confusion: NDArray[np.int64], classes: Sequence[str]) -> pd.DataFrame:
    right = np.diag(confusion).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.nan_to_num(right / confusion.sum(axis=0))
        # NaN for a class that there are no pictures of.
        recall = right / confusion.sum(axis=1)
        f1 = np.where(np.isnan(recall), np.nan, np.nan_to_num(2 * precision * recall / (precision + recall)))
    return pd.DataFrame(
        {"precision": precision, "recall": recall, "f1": f1, "support": confusion.sum(axis=1)},
        index=pd.Index(classes, name="class"),
    )
