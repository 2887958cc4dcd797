"""Inputs of a convolution's or dense layer's kernel at chosen positions, as rows of a matrix.

`window_rows(x, op, positions) @ kernel_rows(kernel, op)` is what the layer computes there, before its bias and activation.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from tlt_prune.graph import Convolution, Projection, TensorLike


def _has_windows(op: Projection) -> TypeGuard[Convolution]:
    """Whether a layer is a convolution; a dense one reads single positions."""
    return hasattr(op, "kernel_size")


def _is_transposed(op: Projection) -> bool:
    """Whether a layer is a transposed convolution: the last axis of its kernel is the channels of its input."""
    return hasattr(op, "output_padding")


def filter_count(op: Projection) -> int:
    """Channels of a layer's output."""
    return int(op.kernel.shape[-2 if _is_transposed(op) else -1])


def kernel_rows(kernel: NDArray[Any], op: Projection) -> NDArray[Any]:
    """A kernel as `(kernel size * channels, filters)`."""
    kernel = np.swapaxes(kernel, -1, -2) if _is_transposed(op) else kernel
    return kernel.reshape(-1, kernel.shape[-1])


def as_kernel(rows: NDArray[Any], op: Projection) -> NDArray[Any]:
    """The kernel that `kernel_rows` makes such rows of."""
    shape = list(op.kernel.shape)
    if not _is_transposed(op):
        return rows.reshape(shape)
    return np.swapaxes(rows.reshape(*shape[:-2], shape[-1], shape[-2]), -1, -2)


def _spatial(op: Projection) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], str]:
    """(kernel size, strides, dilation, padding) of a convolution; of a dense layer none."""
    if not _has_windows(op):
        return (), (), (), "valid"
    return tuple(op.kernel_size), tuple(op.strides), tuple(op.dilation_rate), str(op.padding)


def _sizes(x: TensorLike, op: Projection) -> tuple[int, ...]:
    """Sizes of the spatial axes of an input."""
    if not _has_windows(op):
        return ()
    return tuple(x.shape[2:] if op.data_format == "channels_first" else x.shape[1:-1])


def _out_sizes(x: TensorLike, op: Projection) -> tuple[int, ...]:
    kernel, strides, dilation, padding = _spatial(op)
    if _is_transposed(op):
        return tuple(
            size * s + (max(k - s, 0) if padding == "valid" else 0)
            for size, k, s in zip(_sizes(x, op), kernel, strides, strict=True)
        )
    sizes = []
    for size, k, s, d in zip(_sizes(x, op), kernel, strides, dilation, strict=True):
        reach = d * (k - 1) + 1
        sizes.append(-(-size // s) if padding in ("same", "causal") else (size - reach) // s + 1)
    return tuple(sizes)


def padding_before(sizes: tuple[int, ...], op: Projection) -> list[tuple[int, int]]:
    """(before, after) zeros that a convolution puts around each spatial axis."""
    kernel, strides, dilation, padding = _spatial(op)
    padding_of_axes = []
    for size, k, s, d in zip(sizes, kernel, strides, dilation, strict=True):
        reach = d * (k - 1) + 1
        if padding == "valid":
            padding_of_axes.append((0, 0))
        elif padding == "causal":
            padding_of_axes.append((reach - 1, 0))
        else:
            total = max((-(-size // s) - 1) * s + reach - size, 0)
            padding_of_axes.append((total // 2, total - total // 2))
    return padding_of_axes


@dataclasses.dataclass(frozen=True, eq=False)
class WindowPositions:
    """Positions in the output of a layer: index arrays of the example and of each spatial axis (for a dense layer: of every
    axis but the last)."""

    indices: tuple[NDArray[np.int64], ...]

    @staticmethod
    def shape(x: TensorLike, op: Projection) -> tuple[int, ...]:
        return (x.shape[0], *_out_sizes(x, op)) if _has_windows(op) else tuple(x.shape[:-1])

    @staticmethod
    def count(x: TensorLike, op: Projection) -> int:
        return math.prod(WindowPositions.shape(x, op))

    @staticmethod
    def of(x: TensorLike, op: Projection, flat: NDArray[np.int64]) -> WindowPositions:
        return WindowPositions(tuple(np.unravel_index(flat, WindowPositions.shape(x, op))))


def window_rows(x: NDArray[Any], op: Projection, positions: WindowPositions) -> NDArray[Any]:
    """`(n_positions, kernel size * channels)`, in the order of the kernel's axes."""
    if not _has_windows(op):
        return np.asarray(x[positions.indices])
    if op.data_format == "channels_first":
        x = np.moveaxis(x, 1, -1)
    if _is_transposed(op):
        return _transposed_rows(x, op, positions)
    kernel, strides, dilation, _ = _spatial(op)
    around = padding_before(tuple(x.shape[1:-1]), op)
    padded = np.pad(x, [(0, 0), *around, (0, 0)])
    rank = len(kernel)
    example, *where = positions.indices
    index: list[Any] = [example.reshape(-1, *[1] * rank)]
    for axis, (at, k, s, d) in enumerate(zip(where, kernel, strides, dilation, strict=True)):
        offsets = at[:, None] * s + np.arange(k) * d
        index.append(offsets.reshape(len(at), *[k if i == axis else 1 for i in range(rank)]))
    return np.asarray(padded[tuple(index)].reshape(len(example), -1))


def _transposed_rows(x: NDArray[Any], op: Projection, positions: WindowPositions) -> NDArray[Any]:
    """The same of a transposed convolution: output p is the sum of input i times tap t where i * stride + t - before = p."""
    kernel, strides, _, padding = _spatial(op)
    rank = len(kernel)
    example, *where = positions.indices
    index: list[Any] = [example.reshape(-1, *[1] * rank)]
    met: Any = True
    for axis, (at, k, s) in enumerate(zip(where, kernel, strides, strict=True)):
        before = 0 if padding == "valid" else max(k - s, 0) // 2
        reached = at[:, None] + before - np.arange(k)
        place, there = reached // s, (reached % s == 0) & (reached >= 0) & (reached // s < x.shape[axis + 1])
        shape = (len(at), *[k if i == axis else 1 for i in range(rank)])
        index.append(np.where(there, place, 0).reshape(shape))
        met = met & there.reshape(shape)
    taken = np.where(met[..., None], x[tuple(index)], 0)
    return np.asarray(taken.reshape(len(example), -1))
