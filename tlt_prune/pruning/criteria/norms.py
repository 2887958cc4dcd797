"""Norms of each filter's kernel, and what follows from them; bias and normalization are ignored, as in TLT's `min_weight`."""

from __future__ import annotations

import numpy as np

from tlt_prune.config import CRITERIA
from tlt_prune.pruning.criteria.network import Filters, FilterScores, Network


@CRITERIA.register("L2")
class L2:
    """sqrt(sum w^2): the toolkit's `min_weight`."""

    def __call__(self, network: Network) -> dict[str, FilterScores]:
        return {x.name: _l2(x) for x in network.layers}


@CRITERIA.register("L1")
class L1:
    """sum |w|: Li et al., "Pruning Filters for Efficient ConvNets", 2017, arXiv:1608.08710, section 3.1."""

    def __call__(self, network: Network) -> dict[str, FilterScores]:
        return {x.name: x.power_sums(1) for x in network.layers}


@CRITERIA.register("Linf")
class Linf:
    """max |w|."""

    def __call__(self, network: Network) -> dict[str, FilterScores]:
        return {x.name: np.abs(x.matrix).max(axis=1, initial=0.0) for x in network.layers}


@CRITERIA.register("FPGM")
class FPGM:
    """Sum of the distances to all other filters of the layer: what lies nearest to their geometric median can best be replaced.

    He et al., "Filter Pruning via Geometric Median", CVPR 2019, arXiv:1811.00250, equation 7 (the geometric median itself is
    relaxed to the filter of the smallest sum).
    """

    def __call__(self, network: Network) -> dict[str, FilterScores]:
        return {x.name: _distances(x.matrix) for x in network.layers}


@CRITERIA.register("LAMP")
class LAMP:
    """Squared L2 norm over the sum of the squared norms of all filters of the layer that are not smaller.

    Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021, arXiv:2010.07611, equation 2, with
    filters in the place of single weights. The largest of every layer scores 1: scores of different layers compare as they are.
    """

    comparable = True

    def __call__(self, network: Network) -> dict[str, FilterScores]:
        return {x.name: _lamp(x.power_sums(2)) for x in network.layers}


def _l2(filters: Filters) -> FilterScores:
    return np.sqrt(filters.power_sums(2))


def _distances(rows: FilterScores) -> FilterScores:
    """Sum of the Euclidean distances of each row to all rows, shape `(n,)`."""
    squares = np.einsum("ij,ij->i", rows, rows)
    between = squares[:, None] + squares[None, :] - 2 * rows @ rows.T
    np.fill_diagonal(between, 0.0)
    distances: FilterScores = np.sqrt(np.maximum(between, 0.0)).sum(axis=1)
    return distances


def _lamp(squares: FilterScores) -> FilterScores:
    order = np.argsort(-squares, kind="stable")
    larger = np.cumsum(squares[order])
    scores = np.empty_like(squares)
    scores[order] = np.divide(squares[order], larger, out=np.zeros_like(larger), where=larger > 0)
    return scores
