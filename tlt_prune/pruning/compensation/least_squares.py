"""The consumers' kernels fitted again, so that they compute from what stays what they computed from all.

For each layer, in topological order: minimize over W (and b, where the layer or what follows has room for a constant)

    sum over positions |x' W + b - y|^2  +  r |W - W0|^2

x' is what the pruned layer is given, all layers before it being fitted already, so that errors do not pile up; y is what
the original computes there from all of its channels; W0 the kernel that was left. The normal equations
(X'X + r I)(W - W0) = X'y - X'X W0 are computed in float32 for blocks of rows, summed and solved in float64. He et al., "Channel
Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, arXiv:1707.06168, section 3.1, step (ii); ridge toward W0 rather
than toward zero. Where something is added to what the layer computes (a shortcut), y includes what that has lost already, as in
section 3.3 there, be it by channels or by whole residual blocks that are gone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlt_prune.config import COMPENSATIONS
from tlt_prune.errors import PlanError
from tlt_prune.graph import (
    Alive,
    BatchNormalization,
    ChannelGraph,
    Family,
    KerasModel,
    Projection,
    as_array,
    assign_finite,
    chosen_blocks,
    dtype_name,
    has_kernel,
    without_blocks,
)
from tlt_prune.io import workers
from tlt_prune.pruning.compensation.consumers import Home, Shortcut, homes, is_linear, shortcuts
from tlt_prune.pruning.compensation.equations import BLOCK, solved, summed
from tlt_prune.pruning.compensation.synthetic import pictures_for
from tlt_prune.pruning.compensation.windows import WindowPositions, as_kernel, filter_count, kernel_rows, window_rows
from tlt_prune.pruning.running.batches import Batches, TakesData, UserData
from tlt_prune.pruning.running.walk import Step, Values, side_by_side, watched

# Rows of the equations for each unknown of a column: more of them change the solution less than other pictures would.
_ROWS_PER_UNKNOWN = 20
_FEWEST_ROWS = 20_000
# Of a layer's largest batch normalization scale: below it, a channel has no means to make up for a shortcut's loss.
_SMALLEST_SCALE = 1e-2


@dataclasses.dataclass(frozen=True, eq=False)
class _Fit:
    """Constants of the equations of one layer.

    Attributes:
        home: where its constant lives; None where there is no room for one.
        keep: `(filters,)`, which of the original's filters are retained.
        constant: of each retained filter, what the original adds and the pruned layer does not yet.
        shortcut: what is added to its output, in the original and in the pruned model.
        shared: whether several workers have a part of the equations each.
    """

    home: Home | None
    keep: NDArray[np.bool_]
    constant: NDArray[np.float64]
    shortcut: tuple[Shortcut | None, Shortcut | None]
    shared: bool


@COMPENSATIONS.register("least_squares", needs="inputs")
class LeastSquares(TakesData):
    """Fits the kernels of convolutions, transposed ones too, and dense layers again after a prune.

    Args:
        data: inputs, labeled or not (a thousand pictures are plenty): arrays, a `tf.data.Dataset`, a `PyDataset` or batches.
            What one stage of both models computes of all of them is kept in memory. None makes pictures up: see `synthetic`.
        ridge: r, as a share of the mean diagonal of X'X.
        steps: batches to read; None for all.
        batch_size: of arrays.
        seed: of the positions in feature maps that equations are made of, where there are more than needed.

    Attributes:
        used: after a call: how much data it was.
    """

    def __init__(
        self, data: UserData | None = None, *, ridge: float = 1e-3, steps: int | None = None, batch_size: int = 64, seed: int = 0
    ) -> None:
        if isinstance(ridge, (str, bytes)) or not 0 <= ridge < np.inf:
            raise PlanError(f"LeastSquares: expected ridge >= 0. Received: {ridge!r}.")
        super().__init__(data, steps, batch_size)
        self._ridge, self._seed = ridge, seed

    def __call__(self, channels: ChannelGraph, alive: Alive, pruned: KerasModel) -> pd.DataFrame:
        # With its residual blocks: what the branches of those that are gone have added is missing in a sum, too.
        graph = channels.original.graph
        family = graph.family
        if self._data is None:
            synthetic = pictures_for(graph, self._seed)
            batches = Batches(synthetic, graph, batch_size=self._batch_size, what="LeastSquares")
            self.used = f"{len(synthetic)} synthetic pictures"
        else:
            batches = self._read(graph, "LeastSquares")
        pruned_graph = channels.graph_of(pruned)
        kept = without_blocks(graph, chosen_blocks(graph, channels.left_out))
        # A home is the same in both: a batch normalization may be the only reader where blocks are gone.
        rooms, old_rooms = homes(pruned_graph), homes(kept)
        sums, old_sums = shortcuts(pruned_graph), shortcuts(graph)
        outputs = {(id(a.op), a.index): alive[a.labels] for a in channels.axes if a.role == "out"}
        readers = channels.readers
        rng = np.random.default_rng(self._seed)
        rows = []
        # Of several workers, each runs some of the batches, and their equations are added up.
        shared = 1 < workers.count() <= len(batches)
        steps = side_by_side(graph, kept, pruned_graph, workers.mine(batches) if shared else batches)
        for old, new in watched(steps, kept, f"Least squares on {self.used}"):
            path, op = old.call.path, old.call.op
            if id(op) not in readers or old.call.inner is not None or not _differ(old, new, shared=shared):
                continue
            reason = _reason_not_fitted(family, old)
            if reason:
                rows.append((path, False, reason))
                continue
            home = rooms.get(id(new.call.op))
            keep = outputs.get((id(op), 0), np.ones(filter_count(op), dtype=bool))
            constant = np.zeros(int(keep.sum()))
            if home is not None:
                # Of what is compared, the original's constant belongs to what is to be reached.
                constant = old_rooms[id(op)].value(family)[keep] - home.value(family)
            shortcut = (old_sums.get(id(op)), sums.get(id(new.call.op)))
            self._fit(family, old, new, _Fit(home, keep, constant, shortcut, shared), rng)
            rows.append((path, True, "" if home is not None else "without a constant: it has no bias, and no BN follows"))
        return pd.DataFrame(rows, columns=["layer", "done", "note"])

    def _fit(self, family: Family, old: Step, new: Step, fit: _Fit, rng: np.random.Generator) -> None:
        after = new.call.op
        start = kernel_rows(family.numpy(after.kernel), after).astype(np.float32)
        unknowns = len(start)
        most = max(_FEWEST_ROWS, _ROWS_PER_UNKNOWN * unknowns) // (workers.count() if fit.shared else 1)
        reached = _Reached(family, old, new, fit)

        def block(batch: int, chosen: NDArray[np.int64], x: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            positions = WindowPositions.of(x, after, chosen)
            return window_rows(x, after, positions).astype(np.float32, copy=False), reached(batch, positions)

        blocks = (functools.partial(block, *x) for x in _chosen(after, new.input(), most, max(1, BLOCK // unknowns), rng))
        gram, moment = summed(blocks, unknowns, start.shape[1])
        if fit.shared:
            gram, moment = workers.total(gram), workers.total(moment)
        # Of the targets, what the kernel that was left reaches already.
        moment -= gram[:, :-1] @ start
        if fit.home is None:
            gram, moment = gram[:-1, :-1], moment[:-1]
        change = solved(gram, moment, self._ridge, unknowns, old.call.path)
        who = f"LeastSquares, at '{old.call.path}'"
        assign_finite(family, after.kernel, as_kernel(start + change[:unknowns], after), who)
        if fit.home is not None:
            fit.home.add(family, change[unknowns], who)


class _Reached:
    """What a fitted kernel is to compute: what the original's does, and what its shortcut has lost.

    Called with the number of a batch and positions in the layer's output; returns `(n_positions, filters)`.
    """

    def __init__(self, family: Family, old: Step, new: Step, fit: _Fit) -> None:
        self._old, self._new, self._fit = old, new, fit
        op = old.call.op
        self._first = getattr(op, "data_format", "") == "channels_first"
        self._constant = fit.constant
        # What the layer puts out is what its kernel computes, where it has no activation and whole precision.
        self._values = old.outputs()[0] if is_linear(op) and dtype_name(old.call.outputs[0]) == "float32" else None
        if self._values is None:
            self._kernel = kernel_rows(family.numpy(op.kernel), op).astype(np.float32)[:, fit.keep]
        elif op.use_bias:
            self._constant = fit.constant - family.numpy(op.bias).astype(np.float64)[fit.keep]
        after = fit.shortcut[1]
        self._factor = _units(family, after.norm) if after is not None and after.norm is not None else None

    def __call__(self, batch: int, positions: WindowPositions) -> NDArray[np.float32]:
        if self._values is not None:
            computed = self._at(self._values[batch], positions)[:, self._fit.keep]
        else:
            rows = window_rows(as_array(self._old.input()[batch]), self._old.call.op, positions)
            computed = rows.astype(np.float32, copy=False) @ self._kernel
        more = self._constant + self._lost_by_shortcut(batch, positions)
        reached: NDArray[np.float32] = computed + more.astype(np.float32)
        return reached

    def _at(self, values: Any, positions: WindowPositions) -> NDArray[Any]:
        """Values of a tensor like the layer's output, `(n_positions, channels)`."""
        array = as_array(values)
        at: NDArray[Any] = (np.moveaxis(array, 1, -1) if self._first else array)[positions.indices]
        return at

    def _lost_by_shortcut(self, batch: int, positions: WindowPositions) -> Any:
        """Loss of the shortcut that is added to the layer's output, at these positions, in units of that output."""
        before, after = self._fit.shortcut
        if before is None or after is None:
            return 0.0
        missing: Any = 0.0
        for a, b in zip(before.others, after.others, strict=True):
            if a in self._old.known and b in self._new.known:
                x = self._at(self._old.known[a][batch], positions)[:, self._fit.keep]
                missing = missing + x.astype(np.float64) - self._at(self._new.known[b][batch], positions)
        return missing if self._factor is None else missing * self._factor


def _units(family: Family, norm: BatchNormalization) -> NDArray[np.float64]:
    """What a batch normalization divides each channel by: 0 where it has no scale to speak of."""
    scale = np.sqrt(family.numpy(norm.moving_variance).astype(np.float64) + norm.epsilon)
    gamma = family.numpy(norm.gamma).astype(np.float64) if norm.gamma is not None else np.ones(len(scale))
    return np.divide(scale, gamma, out=np.zeros_like(scale), where=np.abs(gamma) > _SMALLEST_SCALE * np.abs(gamma).max(initial=0))


def _differ(old: Step, new: Step, *, shared: bool) -> bool:
    """Whether both are given something else, by their first batch: where not, there is nothing to make up for."""
    differ = not np.array_equal(as_array(old.input()[0]), as_array(new.input()[0]))
    return bool(workers.total(np.array([differ], np.int64))[0]) if shared else differ


def _reason_not_fitted(family: Family, step: Step) -> str:
    op = step.call.op
    if not step.only_call:
        return "it is called several times"
    if not has_kernel(family, op):
        return (
            f"{type(op).__name__} is not fitted: expected a dense layer, or a convolution without groups and, where it is "
            "transposed, without dilation"
        )
    return "" if len(step.call.inputs) == 1 else "it is called with several tensors"


def _chosen(
    op: Projection, values: Values, most: int, in_block: int, rng: np.random.Generator
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[Any]]]:
    """(number of a batch, flat positions, inputs of the pruned layer) for each block: at most `most` positions in all."""
    sizes = [WindowPositions.count(x, op) for x in values]
    share = min(1.0, most / max(sum(sizes), 1))
    for i, (x, size) in enumerate(zip(values, sizes, strict=True)):
        wanted = max(1, round(size * share))
        chosen = np.arange(size) if wanted >= size else np.sort(rng.choice(size, wanted, replace=False))
        array = as_array(x)
        for begin in range(0, len(chosen), in_block):
            yield i, chosen[begin : begin + in_block], array
