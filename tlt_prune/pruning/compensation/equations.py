"""Normal equations: summed over blocks of rows, several blocks at a time, and solved.

Every block is multiplied on one thread, and blocks share the cores: a BLAS that shares out a single product waits for threads
that something else on the machine keeps from running, and takes many times as long.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from tlt_prune.errors import PlanError

Block = Callable[[], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Makes `(rows, n_unknowns)` and `(rows, n_columns)`: what is multiplied by the unknowns, and what that is to be."""

# Numbers in a block's rows, and bytes that the blocks in work may take at once.
BLOCK = 2**22
_MEMORY = 2**29


def summed(blocks: Iterable[Block], unknowns: int, columns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of all blocks, each product in float32, their sum in float64 and in order: the same for any number of cores.

    Args:
        blocks: the rows.
        unknowns, columns: how many each block has.

    Returns:
        X'X and X'Y, of a matrix X that has a column of ones as its last.
    """
    gram = np.zeros((unknowns + 1, unknowns + 1))
    moment = np.zeros((unknowns + 1, columns))
    bytes_of_one = 4 * (4 * BLOCK + unknowns * (unknowns + columns))
    at_once = max(1, min(_cores(), _MEMORY // bytes_of_one))
    with threadpoolctl.threadpool_limits(1, "blas"), concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        for several in _batched(blocks, at_once):
            for rows_by_rows, rows_by_columns, sums, totals, count in pool.map(_products, several):
                gram[:-1, :-1] += rows_by_rows
                gram[-1, :-1] += sums
                gram[:-1, -1] += sums
                gram[-1, -1] += count
                moment[:-1] += rows_by_columns
                moment[-1] += totals
    return gram, moment


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _products(
    block: Block,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64], NDArray[np.float64], int]:
    rows, targets = block()
    sums, totals = rows.sum(axis=0, dtype=np.float64), targets.sum(axis=0, dtype=np.float64)
    return rows.T @ rows, rows.T @ targets, sums, totals, len(rows)


def _batched(blocks: Iterable[Block], size: int) -> Iterator[list[Block]]:
    iterator = iter(blocks)
    while several := list(itertools.islice(iterator, size)):
        yield several


def solved(gram: NDArray[np.float64], moment: NDArray[np.float64], ridge: float, unknowns: int, path: str) -> NDArray[np.float64]:
    """Solves the equations with a ridge.

    Args:
        gram, moment: see `summed`; without their last row and column where there is no constant.
        ridge: as a share of the mean diagonal of the unknowns that it is laid on.
        unknowns: how many these are: all but the constant.
        path: of the layer, for errors.

    Raises:
        PlanError: something is not finite.
    """
    if not (np.isfinite(gram).all() and np.isfinite(moment).all()):
        raise PlanError(f"LeastSquares: what '{path}' is given is not finite. Expected a model without NaN or infinity.")
    diagonal = np.diag(gram)[:unknowns]
    # A floor, so that inputs that are always zero leave their weights as they are.
    strength = max(ridge * float(diagonal.mean()), 1e-12 * float(diagonal.max(initial=0.0)), 1e-30)
    regular = gram.copy()
    regular[np.arange(unknowns), np.arange(unknowns)] += strength
    with threadpoolctl.threadpool_limits(1, "blas"):
        return np.asarray(np.linalg.solve(regular, moment), dtype=np.float64)
