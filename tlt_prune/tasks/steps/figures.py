"""Pictures of a training and of a classifier's mistakes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tlt_prune.io import AFTER, OTHER, new_figure
from tlt_prune.tasks.task import Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Cells of larger matrices have no room for a number.
_MOST_NUMBERS = 30


def draw_training(history: pd.DataFrame, measure: Measure) -> Figure:
    """Draws the loss (left axis) and the measure on held-out data (right axis, per cent) of every epoch.

    Args:
        history: one row per epoch: "epoch", "loss", and where they were computed "val_loss" and the measure.
        measure: its column and its name.
    """
    figure, axis = new_figure("Drawing a training", (6, 3.6))
    epochs = history["epoch"]
    axis.plot(epochs, history["loss"], color=OTHER, label="training loss")
    if "val_loss" in history:
        axis.plot(epochs, history["val_loss"], "--", color=OTHER, label="validation loss")
    axis.set(xlabel="epoch", ylabel="loss")
    lines = list(axis.get_lines())
    if measure.column in history:
        scored = history[history[measure.column].notna()]
        right = axis.twinx()
        lines += right.plot(scored["epoch"], 100 * scored[measure.column], "o-", color=AFTER, markersize=3, label=measure.title)
        right.set_ylabel(f"{measure.label}, %")
        right.spines["top"].set_visible(False)
    axis.legend(lines, [str(x.get_label()) for x in lines], frameon=False, fontsize=8, loc="center right")
    figure.tight_layout()
    return figure


def draw_confusion(confusion: pd.DataFrame) -> Figure:
    """Draws a confusion matrix: rows are true classes, columns predicted ones; colors are shares of the row."""
    side = min(max(3.5, 0.42 * len(confusion)), 24)
    figure, axis = new_figure("Drawing a confusion matrix", (side + 1, side))
    fill_confusion(axis, confusion)
    figure.tight_layout()
    return figure


def fill_confusion(axis: Axes, confusion: pd.DataFrame) -> None:
    """Draws a confusion matrix into an axis."""
    counts = confusion.to_numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Greens", vmin=0, vmax=1)
    names = [str(x) for x in confusion.columns]
    if len(names) <= _MOST_NUMBERS:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                dark = "white" if shares[row, column] > 0.6 else "black"
                axis.text(column, row, f"{count:,}", ha="center", va="center", fontsize=7, color=dark)
    step = -(-len(names) // 60)
    ticks = range(0, len(names), step)
    axis.set_xticks(ticks, names[::step], rotation=90, fontsize=7)
    axis.set_yticks(ticks, names[::step], fontsize=7)
    # Names are text, whatever characters they have.
    for label in (*axis.get_xticklabels(), *axis.get_yticklabels()):
        label.set_parse_math(False)
    axis.set(xlabel="predicted", ylabel="true")
