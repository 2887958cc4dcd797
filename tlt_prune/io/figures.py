"""Figures: made by matplotlib, shown once in a notebook, written whole."""

from __future__ import annotations

import io
import pathlib
from typing import TYPE_CHECKING, Any

from tlt_prune import extras
from tlt_prune.io import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE, AFTER, OTHER = "#d9d9d9", "#76b900", "#1f77b4"
"""Colors of a model before and after pruning, and of a third curve."""


def new_figure(what: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """A figure with one axis. It is the caller's alone: a notebook shows it once, as a cell's result.

    Args:
        what: the drawing, for the error: "Drawing a plan".
        size: width and height in inches.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    figure, (axis,) = new_row(what, size, 1)
    return figure, axis


def new_row(what: str, size: tuple[float, float], columns: int, **layout: Any) -> tuple[Figure, list[Axes]]:
    """The same with several axes beside each other; `layout` as for matplotlib's `subplots`."""
    figure = _notebook_figure(what, size)
    axes = [*figure.subplots(1, columns, squeeze=False, **layout).flat]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def new_grid(what: str, size: tuple[float, float], rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    """The same with a grid of axes for pictures, without frames and ticks, row by row."""
    figure = _notebook_figure(what, size)
    axes = [*figure.subplots(rows, columns, squeeze=False).flat]
    for axis in axes:
        axis.axis("off")
    return figure, axes


def _notebook_figure(what: str, size: tuple[float, float]) -> Figure:
    extras.require("train", what, "matplotlib")
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        def _repr_png_(self) -> bytes:
            content = io.BytesIO()
            self.savefig(content, format="png", dpi=100)
            return content.getvalue()

    return NotebookFigure(figsize=size)


def save_figure(figure: Figure, path: pathlib.Path) -> None:
    """Writes a figure as a picture, whole or not at all."""
    with files.whole_file(path) as partial:
        figure.savefig(partial, dpi=150)
