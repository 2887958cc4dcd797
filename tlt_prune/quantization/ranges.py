"""Ranges of activations: the magnitude at which int8 saturates, from the values on a calibration set.

A histogram of magnitudes grows with the data. Three methods turn it into a range:

- "min_max": the largest magnitude seen;
- "percentile": the magnitude that this percentage of the values does not exceed;
- "entropy": the clipping whose 128 levels lose the least information about the distribution (Migacz, "8-bit Inference with
  TensorRT", GTC 2017, pages 20 to 26).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlt_prune.errors import QuantizationError

METHODS = ("min_max", "percentile", "entropy")
LEVELS = 127
"""Symmetric int8 goes from -127 to 127: -128 would have no positive counterpart."""

_BINS = 2048
# Candidate clippings lie this many bins apart: finer ones differ by less than 1 % of the range.
_STRIDE = 8


def check_method(method: str, percentile: float) -> None:
    """Raises QuantizationError where a method is none of `METHODS`, or a percentile out of range."""
    if method not in METHODS:
        raise QuantizationError(f"Calibration method: expected one of {', '.join(METHODS)}. Received: {method!r}.")
    if not 50 < percentile <= 100:
        raise QuantizationError(f"percentile: expected more than 50 and at most 100. Received: {percentile}.")


@dataclasses.dataclass(frozen=True)
class Range:
    """Range of one tensor that int8 has to cover.

    Attributes:
        low, high: smallest and largest value, after clipping to `maximum`.
        maximum: the magnitude at which symmetric int8 saturates; positive.
    """

    low: float
    high: float
    maximum: float

    @property
    def scale(self) -> float:
        """Size of one step of symmetric int8."""
        return self.maximum / LEVELS


# Less counts as zero: bins of it have no width in float32.
_SMALLEST = 1e-30


class Histogram:
    """Magnitudes of one tensor, batch by batch, in bins of equal width from zero."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, np.int64)
        self._limit = 0.0
        self._low, self._high, self._largest = np.inf, -np.inf, 0.0

    def add(self, values: NDArray[Any]) -> None:
        """Adds values, of any shape.

        Raises:
            QuantizationError: a value is NaN or infinite.
        """
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not np.isfinite(low) or not np.isfinite(high):
            raise QuantizationError("values that are not finite")
        self._low, self._high = min(self._low, low), max(self._high, high)
        largest = max(abs(low), abs(high))
        if largest < _SMALLEST:
            return
        self._largest = max(self._largest, largest)
        if self._limit == 0:
            self._limit = largest
        while self._limit < largest:
            # Twice the range in the same number of bins: pairs of bins are merged.
            self._counts = np.concatenate([self._counts.reshape(-1, 2).sum(axis=1), np.zeros(_BINS // 2, np.int64)])
            self._limit *= 2
        # Zeros are exact in int8 at any scale, so they are not counted.
        magnitudes = np.abs(values[values != 0], dtype=np.float32)
        bins = np.minimum((magnitudes * np.float32(_BINS / self._limit)).astype(np.int64), _BINS - 1)
        self._counts += np.bincount(bins, minlength=_BINS)

    def range(self, method: str, percentile: float) -> Range:
        """The range by a method of `METHODS`. A tensor that was always zero gets 1, as good as any other."""
        if self._largest == 0:
            return Range(0.0, 0.0, 1.0)
        maximum = min(self._clipping(method, percentile), self._largest)
        return Range(max(self._low, -maximum), min(self._high, maximum), maximum)

    def _clipping(self, method: str, percentile: float) -> float:
        width = self._limit / _BINS
        if method == "percentile":
            share = np.cumsum(self._counts) / self._counts.sum()
            return float(width * (np.searchsorted(share, percentile / 100 - 1e-12) + 1))
        if method == "entropy":
            # Values near zero round to zero at any clipping: channels with tiny activations must not dominate the choice.
            counts = self._counts.copy()
            counts[0] = counts[1]
            return width * least_divergent(counts, LEVELS + 1, _STRIDE)
        return self._largest


def least_divergent(counts: NDArray[np.int64], levels: int, stride: int = 1) -> int:
    """The number of bins to keep so that `levels` equal levels over them lose the least information.

    For each candidate i: P is the distribution with everything beyond bin i added to the last one, Q what is left of it after the
    bins of each level share their mean (over those that are not empty); the smallest KL(P || Q) wins.
    """
    least, kept_bins = np.inf, len(counts)
    for i in [*range(levels, len(counts), stride), len(counts)]:
        kept = counts[:i].astype(np.float64)
        reference = kept.copy()
        reference[-1] += counts[i:].sum()
        starts = np.arange(levels) * i // levels
        filled = np.maximum(np.add.reduceat(kept > 0, starts), 1)
        mean = np.add.reduceat(kept, starts) / filled
        quantized = np.repeat(mean, np.diff([*starts, i])) * (kept > 0)
        divergence = _divergence(reference, quantized)
        if divergence < least:
            least, kept_bins = divergence, i
    return kept_bins


def _divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """KL(P || Q) of two histograms, in nats; empty bins of Q count as 1e-5 where P has values."""
    if not p.sum() or not q.sum():
        return float(np.inf)
    p, q = p / p.sum(), q / q.sum()
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / np.maximum(q[used], 1e-5))))
