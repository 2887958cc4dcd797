"""Norms of each filter's kernel; bias and normalisation are ignored, as in the toolkit's `min_weight`.

L1: Li et al., "Pruning Filters for Efficient ConvNets", 2017, arXiv:1608.08710.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlt_prune.graph.channel_graph import Producer
from tlt_prune.pruning.importance.scores import Scores, criterion, magnitudes


@criterion("L2")
def l2(producer: Producer, weights: Sequence[NDArray[Any]]) -> Scores:
    """sqrt(sum w^2): the toolkit's `min_weight`."""
    return np.sqrt(magnitudes(producer, weights, 2))


@criterion("L1")
def l1(producer: Producer, weights: Sequence[NDArray[Any]]) -> Scores:
    """sum |w|."""
    return magnitudes(producer, weights, 1)
