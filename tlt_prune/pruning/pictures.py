"""Plans and sweeps as pictures and HTML: what is drawn, and nothing about how it was decided."""

from __future__ import annotations

import html
import io
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tlt_prune import extras
from tlt_prune.io import files

if TYPE_CHECKING:
    from tlt_prune.pruning.plan import PruningPlan
    from tlt_prune.pruning.sensitivity import Sensitivity

BEFORE, AFTER = "#d9d9d9", "#76b900"


def draw_plan(plan: PruningPlan) -> Any:
    """A matplotlib figure: a bar a layer, its channels before and after."""
    names = [x.layer for x in plan.layers]
    figure, axis = picture("Drawing a plan", (9, 0.32 * len(names) + 1.2))
    axis.barh(names, [x.filters_before for x in plan.layers], color=BEFORE, label="before")
    axis.barh(names, [x.filters_after for x in plan.layers], color=AFTER, label="after", height=0.5)
    for i, x in enumerate(plan.layers):
        axis.text(x.filters_before, i, f" {x.filters_before} → {x.filters_after}", va="center", fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("channels")
    axis.set_title(f"Channels a layer: {plan.params_before:,} → {plan.params_after:,} parameters", loc="left", fontsize=11)
    axis.margins(x=0.12)
    axis.legend(loc="lower right", frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def draw_sweep(frame: pd.DataFrame) -> Any:
    """A matplotlib figure: what is left of channels, parameters and MACs at each threshold."""
    figure, axis = picture("Drawing a sweep", (7, 4))
    for column, color in (("channels", "#444444"), ("parameters", AFTER), ("MACs", "#1f77b4")):
        if frame[column].notna().all():
            axis.plot(
                frame.index, 100 * frame[column] / frame.attrs["whole"][column], "o-", color=color, label=column, markersize=4
            )
    axis.set_xlabel("threshold")
    axis.set_ylabel("left, %")
    axis.set_ylim(0, 103)
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def draw_sensitivity(found: Sensitivity) -> Any:
    """A matplotlib figure: a heat map of what the metric loses, a row a group, a column a ratio."""
    lost = found.whole - found.frame
    size = 1.6 + 0.75 * len(lost.columns), 1.2 + 0.28 * len(lost)
    figure, axis = picture("Drawing a sensitivity", size)
    image = axis.imshow(lost.to_numpy(), aspect="auto", cmap="YlOrRd", vmin=0)
    for (row, column), value in np.ndenumerate(found.frame.to_numpy()):
        dark = value < found.whole - 0.6 * max(float(np.nanmax(lost.to_numpy())), 1e-12)
        axis.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
    names = [f"{row} (+{len(found.layers[row]) - 1})" if len(found.layers[row]) > 1 else row for row in lost.index]
    axis.set_xticks(range(len(lost.columns)), [f"{100 * r:g} %" for r in lost.columns])
    axis.set_yticks(range(len(lost)), names, fontsize=8)
    axis.set_xlabel("share of channels switched off")
    axis.set_title(f"{found.metric}, whole: {found.whole:.4g}", loc="left", fontsize=10)
    figure.colorbar(image, label="lost")
    figure.tight_layout()
    return figure


def save(figure: Any, path: pathlib.Path) -> None:
    """Writes a figure, whole or not at all."""
    with files.whole_file(path) as partial:
        figure.savefig(partial, dpi=150)


def plan_as_html(plan: PruningPlan) -> str:
    """A table with a bar a layer, for notebooks."""
    widest = max((x.filters_before for x in plan.layers), default=1)
    rows = "".join(
        f"<tr><td style='text-align:left'>{html.escape(x.layer)}</td>"
        f"<td style='width:220px'>{_bar(x.filters_before, x.filters_after, widest)}</td>"
        f"<td>{x.filters_before} → {x.filters_after}</td><td>{x.params_before:,} → {x.params_after:,}</td>"
        f"<td style='text-align:left'>{html.escape(x.note)}</td></tr>"
        for x in plan.layers
    )
    head = "<tr><th style='text-align:left'>layer</th><th></th><th>channels</th><th>parameters</th><th></th></tr>"
    summary = html.escape(f"{plan.summary()}. {plan.advice()}" if plan.advice() else plan.summary())
    return f"<p>{summary}</p><table>{head}{rows}</table>"


def _bar(before: int, after: int, widest: int) -> str:
    outer, inner = (f"{100 * n / widest:.1f}%" for n in (before, after))
    style = "height:10px;position:absolute;left:0;top:0"
    return (
        "<div style='position:relative;height:10px;width:200px'>"
        f"<div style='{style};width:{outer};background:{BEFORE}'></div>"
        f"<div style='{style};width:{inner};background:{AFTER}'></div></div>"
    )


def picture(what: str, size: tuple[float, float]) -> tuple[Any, Any]:
    """(figure, axis) of `size` in inches. The figure is the caller's alone: a notebook shows it once, as a cell's result."""
    extras.require("train", what, "matplotlib")
    from matplotlib.figure import Figure

    class Picture(Figure):
        def _repr_png_(self) -> bytes:
            content = io.BytesIO()
            self.savefig(content, format="png", dpi=100)
            return content.getvalue()

    figure = Picture(figsize=size)
    return figure, figure.subplots()
