"""A plan in words: its summary, and advice where it removes next to nothing. From plain values, whoever decided them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlt_prune.config import BUDGETS

# Below this share of channels, parameters and MACs alike, a prune has done next to nothing.
_NEXT_TO_NOTHING = 0.02
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 1.0)


@dataclasses.dataclass(frozen=True)
class Totals:
    """(before, after) of a whole model.

    Attributes:
        macs: multiply-accumulates for one input, NaN where a size is unknown.
        latency_ms: as predicted, None where it was not.
    """

    channels: tuple[int, int]
    params: tuple[int, int]
    macs: tuple[float, float]
    latency_ms: tuple[float, float] | None


def quantiles(scores: NDArray[np.float64]) -> tuple[float, ...]:
    """Quantiles (0, 5, 25, 50, 75 and 100 %) of the finite ones of some scores in any order; empty if there is none."""
    finite = scores[np.isfinite(scores)]
    return tuple(np.quantile(finite, _QUANTILES).tolist()) if len(finite) else ()


def summary(model_name: str, totals: Totals) -> str:
    """One line: channels, parameters, MACs and latency before and after."""
    if totals.channels[0] == totals.channels[1]:
        return f"{model_name}: nothing is removed"
    macs = "" if math.isnan(totals.macs[0]) else f", MACs {_change(*totals.macs)}"
    latency = ""
    if totals.latency_ms is not None:
        latency = f", latency {totals.latency_ms[0]:.3g} -> {totals.latency_ms[1]:.3g} ms (predicted)"
    return f"{model_name}: channels {_change(*totals.channels)}, parameters {_change(*totals.params)}{macs}{latency}"


def advice(
    totals: Totals, reasons: Sequence[str], scores: Sequence[float], first_threshold: float, settings: Mapping[str, Any]
) -> str:
    """The reason why next to nothing is removed, with what to do; empty where more is removed.

    Args:
        totals: of the model.
        reasons: why channels are frozen.
        scores: `quantiles` of the scores of what may go.
        first_threshold: the smallest threshold that removes anything; infinite where none does.
        settings: the options of the plan.
    """
    if any(1 - after / before >= _NEXT_TO_NOTHING for before, after in (totals.channels, totals.params, totals.macs) if before):
        return ""
    if not scores:
        return f"Every layer is frozen: {'; '.join(reasons[:3]) or 'the model has no prunable layer'}."
    threshold = settings.get("threshold")
    floor = f"granularity={settings['granularity']} and min_num_filters={settings['min_num_filters']}"
    if threshold is None:
        budget = next(name for name in BUDGETS if name in settings)
        how = "raise the ratio" if budget == "ratio" else "lower it"
        return f"{budget}={settings[budget]} with {floor} keeps nearly all channels: {how} or lower the others."
    names = ", ".join(f"{100 * q:.0f} %" for q in _QUANTILES)
    values = ", ".join(f"{x:.2f}" for x in scores)
    if scores[1] < threshold:
        why = f"Many lie below it, but {floor} keep them: lower those"
    elif scores[1] > 0.1:
        why = (
            "No channel is weak beside its layer's strongest: train with more weight decay (train.reg_config in a spec), so "
            "that channels become weak, raise the threshold"
        )
    else:
        why = "Nearly all lie above it: raise the threshold"
    return (
        f"threshold={threshold} keeps what scores above it, and the normalized scores are {values} (quantiles {names}). "
        f"{_first_threshold(first_threshold, floor)} "
        f"{why}, or say ratio=0.5 to remove half of every layer whatever its scores."
    )


def _first_threshold(value: float, floor: str) -> str:
    if not math.isfinite(value):
        return f"With {floor} no threshold removes anything."
    # Rounded up: rounded down it would remove nothing.
    return f"The smallest threshold that removes anything is {math.ceil(1000 * value) / 1000}."


def _change(before: float, after: float) -> str:
    return f"{_short(before)} -> {_short(after)} ({100 * (after - before) / before:+.1f} %)" if before else "0"


def _short(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"
