"""Label arrays: which channel every slice of a tensor carries. Knows NumPy, knows no Keras.

A *label* is a positive integer that names one channel. A traced tensor carries a *label array*: an
int64 array of the tensor's rank (batch axis included, so that axis numbers mean the same as in the
model) whose size on each axis is 1 where the label does not vary along it, else the tensor's size.

Every array the tracer hands on varies along at most one axis (`settle` sees to it). That is what
keeps a pruned tensor rectangular: removing labels removes whole slices of that one axis.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Alive = NDArray[np.bool_]
"""`(n_labels,)`: True where the channel is retained."""
Shape = tuple[int | None, ...]


class LabelTable:
    """Issues labels, records which of them must live and die together, and which are frozen."""

    def __init__(self) -> None:
        self._count = 0
        self._edges: list[tuple[Labels, Labels]] = []
        self._frozen: list[tuple[Labels, str]] = []
        self._approximate: list[tuple[Labels, str]] = []
        self._dependent: list[tuple[int, Labels, str]] = []

    def fresh(self, count: int) -> Labels:
        """Returns `count` new labels, shape `(count,)`."""
        first, self._count = self._count, self._count + count
        return np.arange(first, self._count, dtype=np.int64)

    @property
    def count(self) -> int:
        """Number of labels issued."""
        return self._count

    def unify(self, a: Labels, b: Labels) -> None:
        """Couples `a[i]` with `b[i]` after broadcasting: they are removed together or not at all."""
        a, b = np.broadcast_arrays(a, b)
        different = a != b
        if different.any():
            self._edges.append((a[different], b[different]))

    def freeze(self, labels: Labels, reason: str, *, foremost: bool = False) -> None:
        """Forbids the removal of `labels` and of everything coupled to them.

        Of several reasons the first is told, or one that is `foremost`.
        """
        self._frozen.insert(0 if foremost else len(self._frozen), (np.unique(labels), reason))

    def freeze_if(self, trigger: int, labels: Labels, reason: str) -> None:
        """Freezes `labels` if the label `trigger` is frozen by anything."""
        self._dependent.append((trigger, np.unique(labels), reason))

    def mark_approximate(self, labels: Labels, reason: str) -> None:
        """Notes that removing `labels` changes more than the consumers' rows (a statistic, say)."""
        self._approximate.append((np.unique(labels), reason))

    def resolve(self) -> Bundles:
        """Closes the coupling: which labels form one bundle, which bundles are frozen, and why."""
        root = _components(self._count, self._edges)
        frozen = _reasons(root, self._frozen)
        for trigger, labels, reason in self._dependent:
            if root[trigger] in frozen:
                self._frozen.append((labels, reason))
        return Bundles(root, _reasons(root, self._frozen), _reasons(root, self._approximate))


@dataclasses.dataclass(frozen=True, eq=False)
class Bundles:
    """The connected components of the labels.

    Attributes:
        root: `(n_labels,)`, the smallest label of each label's bundle.
        frozen: bundle root -> why nothing of it may be removed.
        approximate: bundle root -> why its removal is not exact.
    """

    root: Labels
    frozen: dict[int, str]
    approximate: dict[int, str]


def _components(count: int, edges: list[tuple[Labels, Labels]]) -> Labels:
    """Smallest label of each connected component, by hooking and pointer jumping.

    Shiloach and Vishkin, "An O(log n) parallel connectivity algorithm", 1982: every round is a few
    array operations, so the time does not depend on Python's speed a channel.
    """
    root = np.arange(count, dtype=np.int64)
    if not edges:
        return root
    a = np.concatenate([x for x, _ in edges])
    b = np.concatenate([y for _, y in edges])
    while True:
        root_a, root_b = root[a], root[b]
        apart = root_a != root_b
        if not apart.any():
            return root
        a, b, root_a, root_b = a[apart], b[apart], root_a[apart], root_b[apart]
        np.minimum.at(root, np.maximum(root_a, root_b), np.minimum(root_a, root_b))
        while True:
            jumped = root[root]
            if np.array_equal(jumped, root):
                break
            root = jumped


def _reasons(root: Labels, events: list[tuple[Labels, str]]) -> dict[int, str]:
    reasons: dict[int, str] = {}
    for labels, reason in events:
        for bundle in np.unique(root[labels]).tolist():
            reasons.setdefault(bundle, reason)
    return reasons


def varying_axes(labels: Labels) -> tuple[int, ...]:
    """The axes along which `labels` has more than one entry."""
    return tuple(axis for axis, size in enumerate(labels.shape) if size > 1)


def kept_shape(shape: Shape, labels: Labels, alive: Alive) -> Shape:
    """`shape` with its labeled axis reduced to what is retained."""
    new = list(shape)
    for axis in varying_axes(labels):
        new[axis] = int(alive[labels.reshape(-1)].sum())
    return tuple(new)


def first_label(labels: Labels) -> Labels:
    """`labels` with size 1 on every axis: what is left of channels that were coupled or frozen as one."""
    return labels.reshape(-1)[:1].reshape((1,) * labels.ndim)


def without_constant_axes(labels: Labels) -> Labels:
    """`labels` with size 1 on every axis along which they are all the same."""
    for axis in varying_axes(labels):
        first = np.take(labels, [0], axis=axis)
        if np.array_equal(np.broadcast_to(first, labels.shape), labels):
            labels = first
    return labels


def settle(labels: Labels, table: LabelTable, keep: int | None = None) -> Labels:
    """Returns `labels` reduced to one varying axis, coupling what that requires.

    Axes along which the array is constant are reduced to size 1. If several are left, the axis `keep`, or that with
    the most distinct slices, keeps its labels and the labels that meet in one slice are unified:
    offset-wise coupling across groups, for a `(groups, channels)` split.
    """
    labels = without_constant_axes(labels)
    axes = varying_axes(labels)
    if len(axes) < 2:
        return labels
    if keep is None:
        # Ties go to the last axis: it is where Keras keeps channels.
        keep = max(axes, key=lambda axis: (_distinct_slices(labels, axis), axis))
    first = np.moveaxis(labels, keep, 0).reshape(labels.shape[keep], -1)[:, :1]
    table.unify(np.moveaxis(labels, keep, 0).reshape(labels.shape[keep], -1), first)
    shape = [1] * labels.ndim
    shape[keep] = labels.shape[keep]
    return first.reshape(shape)


def _distinct_slices(labels: Labels, axis: int) -> int:
    rows = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)
    # By the bytes of each: unique rows by numpy took a quarter of the time of a trace with anchors.
    return len({row.tobytes() for row in np.sort(rows, axis=1)})


# Stand-ins for unknown sizes: distinct primes, so that a reshape whose result depends on the true
# size shows up as labels that vary along the unknown axis.
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)
# Larger arrays than this are not made to follow a reshape across an axis of unknown size.
_MOST_ENTRIES = 2**24


def reshape(labels: Labels, shape: Shape, new_shape: Shape) -> Labels | None:
    """Labels of `x.reshape(new_shape)` for `x` of `shape`, or None if they cannot be known.

    Both shapes include the batch axis and may hold None. At most one None of `new_shape` is
    inferred; a leading None in both is the same batch.
    """
    whole = _whole_axis(labels, shape, new_shape)
    if whole is not None:
        return labels.reshape([-1 if axis == whole else 1 for axis in range(len(new_shape))])
    primes = iter(_PRIMES)
    sizes = [size if size is not None else next(primes) for size in shape]
    target = list(new_shape)
    if shape and target and shape[0] is None and target[0] is None and None in target[1:]:
        target[0] = sizes[0]
    unknown = [axis for axis, size in enumerate(target) if size is None]
    if unknown:
        rest = math.prod(size for size in target if size is not None)
        if len(unknown) > 1 or not rest:
            return None
        if math.prod(sizes) % rest and None in shape:
            # What is unknown must be a multiple of this: windows, say, that are put together to pictures again.
            sizes[shape.index(None)] *= rest // math.gcd(math.prod(sizes), rest)
            if math.prod(sizes) > _MOST_ENTRIES:
                return None
        target[unknown[0]] = math.prod(sizes) // rest
    total = math.prod(sizes)
    if math.prod(target) != total:  # type: ignore[arg-type]
        return None
    moved = np.broadcast_to(labels, sizes).reshape(target)  # type: ignore[arg-type]
    for axis in varying_axes(moved):
        if new_shape[axis] is None:
            first = np.take(moved, [0], axis=axis)
            if not np.array_equal(np.broadcast_to(first, moved.shape), moved):
                return None
            moved = first
    return moved


def _whole_axis(labels: Labels, shape: Shape, new_shape: Shape) -> int | None:
    """The axis of the new shape that is the one along which `labels` vary, where a reshape leaves that as it is.

    It does if the axis has the same size and as many entries behind it, or before it; whatever happens to the others.
    """
    axes = varying_axes(labels)
    if len(axes) != 1:
        return None
    (axis,) = axes
    same_batch = shape.count(None) == new_shape.count(None) == 1 and _product(shape) == _product(new_shape)
    for new_axis, size in enumerate(new_shape):
        if size == shape[axis]:
            sides = ((shape[axis + 1 :], new_shape[new_axis + 1 :]), (shape[:axis], new_shape[:new_axis]))
            if any(_product(a) == _product(b) and a.count(None) == b.count(None) <= same_batch for a, b in sides):
                return new_axis
    return None


def _product(shape: Shape) -> int:
    """Of the known sizes."""
    return math.prod(size for size in shape if size is not None)
