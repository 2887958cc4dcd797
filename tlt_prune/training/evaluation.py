"""Scores of a classifier as tables: top-k accuracy, loss, precision and recall per class, confusion matrix."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlt_prune import extras
from tlt_prune.io import files

Predict = Callable[[NDArray[Any]], NDArray[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class ClassificationScores:
    """Scores of a classifier on a split.

    Attributes:
        accuracy: share of pictures whose most probable class is right (top-1).
        top_k_accuracy: share whose right class is among the k most probable.
        loss: mean cross-entropy, in nats.
        per_class: one row per class: precision (0 where it is never predicted), recall and f1 (NaN where it has no pictures),
            support (number of pictures).
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
        """Accuracies and loss, one row each."""
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
        MissingPackageError: scikit-learn is not installed.
    """
    extras.require("train", "Scoring a classifier", "sklearn")
    from sklearn.metrics import confusion_matrix

    outputs, truth = [], []
    for images, labels in batches:
        outputs.append(np.asarray(predict(np.asarray(images)), dtype=np.float64))
        truth.append(np.argmax(np.asarray(labels), axis=-1))
    probabilities, target = np.concatenate(outputs), np.concatenate(truth)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(classes):
        raise ValueError(f"Expected outputs (n, {len(classes)}), one column for each class. Received: {probabilities.shape}.")
    predictions = probabilities.argmax(axis=1)
    k = min(top_k, len(classes))
    ranked = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    confusion = confusion_matrix(target, predictions, labels=range(len(classes)))
    chosen = probabilities[np.arange(len(target)), target]
    return ClassificationScores(
        accuracy=float(np.mean(predictions == target)),
        top_k=k,
        top_k_accuracy=float(np.mean((ranked == target[:, None]).any(axis=1))),
        loss=float(-np.mean(np.log(np.clip(chosen, 1e-7, 1.0)))),
        per_class=_per_class(target, predictions, classes),
        confusion=pd.DataFrame(confusion, index=pd.Index(classes, name="true"), columns=list(classes)),
        predictions=predictions,
    )


def _per_class(target: NDArray[np.int64], predictions: NDArray[np.int64], classes: Sequence[str]) -> pd.DataFrame:
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, support = precision_recall_fscore_support(
        target, predictions, labels=range(len(classes)), zero_division=0.0
    )
    empty = support == 0
    return pd.DataFrame(
        {
            "precision": precision,
            "recall": np.where(empty, np.nan, recall),
            "f1": np.where(empty, np.nan, f1),
            "support": support.astype(np.int64),
        },
        index=pd.Index(classes, name="class"),
    )
