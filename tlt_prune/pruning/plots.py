"""Tables as pictures and HTML: what is drawn, and nothing about how it was decided."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from tlt_prune.io import AFTER, BEFORE, OTHER, new_figure, new_row


def draw_channels(frame: pd.DataFrame, title: str) -> Any:
    """A matplotlib figure: one bar per layer, its channels before and after.

    Args:
        frame: one row per layer (the index), with columns "filters_before" and "filters_after".
    """
    names = [str(x) for x in frame.index]
    figure, axis = new_figure("Drawing a plan", (9, 0.32 * len(names) + 1.2))
    axis.barh(names, frame["filters_before"], color=BEFORE, label="before")
    axis.barh(names, frame["filters_after"], color=AFTER, label="after", height=0.5)
    for i, (before, after) in enumerate(zip(frame["filters_before"], frame["filters_after"], strict=True)):
        axis.text(before, i, f" {before} → {after}", va="center", fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("channels")
    axis.set_title(title, loc="left", fontsize=11)
    axis.margins(x=0.12)
    axis.legend(loc="lower right", frameon=False)
    figure.tight_layout()
    return figure


def draw_sweep(frame: pd.DataFrame) -> Any:
    """A matplotlib figure: what is left of channels, parameters and MACs at each threshold."""
    figure, axis = new_figure("Drawing a sweep", (7, 4))
    for column, color in (("channels", "#444444"), ("parameters", AFTER), ("MACs", OTHER)):
        if frame[column].notna().all():
            axis.plot(
                frame.index, 100 * frame[column] / frame.attrs["whole"][column], "o-", color=color, label=column, markersize=4
            )
    axis.set_xlabel("threshold")
    axis.set_ylabel("left, %")
    axis.set_ylim(0, 103)
    axis.legend(frameon=False)
    figure.tight_layout()
    return figure


def draw_sensitivity(frame: pd.DataFrame, whole: float, metric: str, layers: Mapping[str, tuple[str, ...]]) -> Any:
    """A matplotlib figure: a heat map of what the metric loses.

    Args:
        frame: the metric, one row per group and one column per share of its channels that is switched off.
        whole: the metric of the whole model.
        metric: its name.
        layers: row -> all layers of the group.
    """
    lost = whole - frame
    size = 1.6 + 0.75 * len(lost.columns), 1.2 + 0.28 * len(lost)
    figure, axis = new_figure("Drawing a sensitivity", size)
    image = axis.imshow(lost.to_numpy(), aspect="auto", cmap="YlOrRd", vmin=0)
    for (row, column), value in np.ndenumerate(frame.to_numpy()):
        dark = value < whole - 0.6 * max(float(np.nanmax(lost.to_numpy())), 1e-12)
        axis.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
    names = [f"{row} (+{len(layers[row]) - 1})" if len(layers[row]) > 1 else row for row in lost.index]
    axis.set_xticks(range(len(lost.columns)), [f"{100 * r:g} %" for r in lost.columns])
    axis.set_yticks(range(len(lost)), names, fontsize=8)
    axis.set_xlabel("share of channels switched off")
    axis.set_title(f"{metric}, whole: {whole:.4g}", loc="left", fontsize=10)
    figure.colorbar(image, label="lost")
    figure.tight_layout()
    return figure


def draw_blocks(frame: pd.DataFrame, whole: float, metric: str) -> Any:
    """A matplotlib figure: what the metric loses without each residual block, beside the MACs that go with it.

    Args:
        frame: one row per block (the index), with columns "metric", that of the model without it, and "macs", a share.
        whole: the metric of the whole model.
        metric: its name.
    """
    figure, (lost, gone) = new_row("Drawing a sensitivity", (9, 0.32 * len(frame) + 1.2), 2, sharey=True)
    names = [str(x) for x in frame.index]
    for each, values, color in ((lost, whole - frame["metric"], OTHER), (gone, 100 * frame["macs"], AFTER)):
        each.barh(names, values, color=color)
        for i, value in enumerate(values):
            each.text(value, i, f" {value:.3g}", va="center", fontsize=8)
        each.margins(x=0.15)
    lost.invert_yaxis()
    lost.set_xlabel(f"{metric} lost without the block (whole: {whole:.4g})")
    gone.set_xlabel("MACs that go with it, %")
    figure.tight_layout()
    return figure


def draw_search(frame: pd.DataFrame, shares: pd.Series[float]) -> Any:
    """A matplotlib figure: the score of every candidate and the best so far, beside the shares of the best one.

    Args:
        frame: one row per candidate in the order they were tried, with columns "origin" and "score".
        shares: group -> share of its channels that goes in the best candidate.
    """
    size = 10, max(3.2, 0.26 * len(shares) + 1.2)
    figure, (scores, groups) = new_row("Drawing a search", size, 2, width_ratios=(3, 2))
    colors = {"options": "#444444", "sensitivity": OTHER, "start": "#999999", "best": AFTER}
    for origin, rows in frame.groupby("origin", sort=False):
        scores.plot(rows.index, rows["score"], "o", color=colors[str(origin)], label=f"from {origin}", markersize=5)
    scores.plot(frame.index, frame["score"].cummax(), color=AFTER, linewidth=1, label="best so far")
    scores.set_xlabel("candidate")
    scores.set_ylabel("score")
    scores.legend(frameon=False, fontsize=8)
    groups.barh([str(x) for x in shares.index], 100 * shares, color=AFTER)
    groups.invert_yaxis()
    groups.set_xlim(0, 100)
    groups.set_xlabel("channels that go in the best candidate, %")
    groups.tick_params(axis="y", labelsize=8)
    figure.tight_layout()
    return figure


def channels_as_html(frame: pd.DataFrame, text: str) -> str:
    """A table with one bar per layer, for notebooks, under a line of text.

    Args:
        frame: one row per layer (the index), with columns "filters_...", "params_...", "macs_..." (before and after) and "note".
    """
    widest = int(frame["filters_before"].max()) if len(frame) else 1
    rows = "".join(
        f"<tr><td style='text-align:left'>{html.escape(str(layer))}</td>"
        f"<td style='width:220px'>{_bar(x['filters_before'], x['filters_after'], widest)}</td>"
        f"<td>{x['filters_before']} → {x['filters_after']}</td><td>{x['params_before']:,} → {x['params_after']:,}</td>"
        f"<td>{x['macs_before']:,.0f} → {x['macs_after']:,.0f}</td>"
        f"<td style='text-align:left'>{html.escape(x['note'])}</td></tr>"
        for layer, x in frame.iterrows()
    )
    head = "<tr><th style='text-align:left'>layer</th><th></th><th>channels</th><th>parameters</th><th>MACs</th><th></th></tr>"
    return f"<p>{html.escape(text)}</p><table>{head}{rows}</table>"


def _bar(before: int, after: int, widest: int) -> str:
    outer, inner = (f"{100 * n / widest:.1f}%" for n in (before, after))
    style = "height:10px;position:absolute;left:0;top:0"
    return (
        "<div style='position:relative;height:10px;width:200px'>"
        f"<div style='{style};width:{outer};background:{BEFORE}'></div>"
        f"<div style='{style};width:{inner};background:{AFTER}'></div></div>"
    )
