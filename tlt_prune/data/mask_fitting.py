"""How pictures and masks of any size become those that a segmentation model takes, and its classes masks of pictures again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tlt_prune.data.formats import PictureFormat
from tlt_prune.data.pictures import resampling

Size = tuple[int, int]
"""(height, width)."""
# TensorFlow's name of an interpolation that the toolkit has, by Pillow's.
TOOLKIT_METHODS = {"bilinear": "bilinear", "bicubic": "bicubic", "nearest": "nearest", "box": "area"}


@dataclasses.dataclass(frozen=True)
class Tile:
    """A part of a picture.

    Attributes:
        top, left: its first row and column.
        done_rows, done_columns: how many of its first rows and columns are in an earlier tile as well.
    """

    top: int
    left: int
    done_rows: int = 0
    done_columns: int = 0


@dataclasses.dataclass(frozen=True)
class MaskFitting:
    """How pictures and masks are brought to the size of a model.

    They are scaled to the size of its output, which is in the middle of its input where it is smaller; with `tiles` they are cut
    up into parts of that size and not scaled.

    Attributes:
        form: the model's input.
        output: (height, width) of the model's output.
        padding: scale both sides alike and leave the rest black, without a class.
        tiles: cut pictures up.
        like_toolkit: scale as TensorFlow 1 did, with values between those of 8 bits.
    """

    form: PictureFormat
    output: Size
    padding: bool = False
    tiles: bool = False
    like_toolkit: bool = False

    @property
    def dtype(self) -> type[np.generic]:
        """Of fitted pictures."""
        return np.float32 if self.like_toolkit else self.form.dtype

    def picture(self, picture: Image.Image, tile: Tile | None = None) -> NDArray[Any]:
        """A decoded picture as `(height, width, channels)` of the input."""
        if tile is not None:
            top, left = (a - b for a, b in zip((tile.top, tile.left), self._margin, strict=True))
            return _part(self._as_values(picture), (top, left), self.form.size[:2], 0).reshape(self.form.size)
        if not self.like_toolkit:
            scaled = self._as_values(picture.resize(self._scaled(picture.size)[::-1], resampling(self.form.resample)))
        else:
            scaled = _toolkit_resized(np.asarray(picture), self._scaled(picture.size), TOOLKIT_METHODS[self.form.resample])
        return self._placed(scaled.reshape(*scaled.shape[:2], self.form.channels), 0, self._place(picture.size))

    def mask(self, classes: NDArray[np.int32], nothing: int, tile: Tile | None = None) -> NDArray[np.int32]:
        """The class of every pixel `(height, width)` at the input's size; `nothing` around."""
        if tile is not None:
            part = _part(classes, (tile.top, tile.left), self.output, nothing)
            part[: tile.done_rows] = nothing
            part[:, : tile.done_columns] = nothing
            return self._placed(part, nothing, (0, 0))
        of_mask: Size = classes.shape[::-1]  # type: ignore[assignment]
        size = self._scaled(of_mask)
        if self.like_toolkit:
            scaled = _toolkit_resized(classes[..., None], size, "nearest")[..., 0].astype(np.int32)
        else:
            scaled = np.asarray(Image.fromarray(classes).resize(size[::-1], Image.Resampling.NEAREST))
        return self._placed(scaled, nothing, self._place(of_mask))

    def tiles_of(self, size: Size, overlap: float = 0.0) -> list[Tile]:
        """The tiles of a picture of `size`; neighbors overlap by that share, and more where the picture ends."""
        tops, lefts = (list(_starts(a, b, overlap)) for a, b in zip(size, self.output, strict=True))
        return [Tile(top, left, done_rows, done_columns) for top, done_rows in tops for left, done_columns in lefts]

    def classes_of(
        self, predict: Callable[[NDArray[Any]], NDArray[Any]], picture: Image.Image, overlap: float = 0.25
    ) -> NDArray[np.int64]:
        """The class of every pixel of a picture, in its own size.

        Args:
            predict: a fitted picture -> scores `(height, width, classes)` of the output's size.
            picture: the picture.
            overlap: share of a tile that its neighbor covers too; there, the scores are mixed, those of the middle most.
        """
        width, height = picture.size
        if not self.tiles:
            found = predict(self.picture(picture)).argmax(-1).astype(np.int32)
            rows, columns = self._scaled(picture.size)
            top, left = self._place(picture.size)
            part = Image.fromarray(found[top : top + rows, left : left + columns])
            return np.asarray(part.resize((width, height), Image.Resampling.NEAREST)).astype(np.int64)
        # A pixel at the border of a tile is seen with less around it than one in the middle.
        rising = [np.minimum(np.arange(n) + 1, n - np.arange(n)) / n for n in self.output]
        weight, total = (rising[0][:, None] * rising[1])[..., None], np.zeros((height, width, 1))
        for tile in self.tiles_of((height, width), overlap):
            scores = predict(self.picture(picture, tile)) * weight
            if total.shape[2] < scores.shape[2]:
                total = np.zeros((height, width, scores.shape[2]))
            place = total[tile.top : tile.top + self.output[0], tile.left : tile.left + self.output[1]]
            place += scores[: place.shape[0], : place.shape[1]]
        classes: NDArray[np.int64] = total.argmax(-1)
        return classes

    @property
    def _margin(self) -> Size:
        """What the input has above and left of the output."""
        return (self.form.height - self.output[0]) // 2, (self.form.width - self.output[1]) // 2

    def _scaled(self, size: Size) -> Size:
        """(height, width) that a picture of (width, height) is scaled to."""
        return tuple(max(int(x), 1) for x in self._exactly(size))  # type: ignore[return-value]

    def _exactly(self, size: Size) -> tuple[float, float]:
        """The same before it is rounded down."""
        if not self.padding:
            return self.output
        ratio = max(size[1] / self.output[0], size[0] / self.output[1])
        return size[1] / ratio, size[0] / ratio

    def _place(self, size: Size) -> tuple[int, int]:
        """(row, column) of the output where a scaled picture of (width, height) begins."""
        # TensorFlow 1 takes the half of what is left before it rounds.
        there = self._exactly(size) if self.like_toolkit else self._scaled(size)
        top, left = (int((a - b) // 2) for a, b in zip(self.output, there, strict=True))
        return top, left

    def _placed(self, part: NDArray[Any], nothing: int, place: Size) -> NDArray[Any]:
        """A scaled part in the input, which begins at a place of the output."""
        whole = np.full((self.form.height, self.form.width, *part.shape[2:]), nothing, part.dtype)
        top, left = (margin + x for margin, x in zip(self._margin, place, strict=True))
        whole[top : top + part.shape[0], left : left + part.shape[1]] = part
        return whole

    def _as_values(self, picture: Image.Image) -> NDArray[Any]:
        values = np.asarray(picture)
        return np.clip(np.round(values), 0, 65535).astype(np.uint16) if self.form.depth == 16 else values


def _part(values: NDArray[Any], start: Size, size: Size, nothing: int) -> NDArray[Any]:
    """The part of `size` that begins at (row, column) `start`; `nothing` where the values end."""
    part = np.full((*size, *values.shape[2:]), nothing, values.dtype)
    (rows, to_rows), (columns, to_columns) = map(_overlapping, start, size, values.shape[:2])
    part[to_rows, to_columns] = values[rows, columns]
    return part


def _overlapping(start: int, length: int, whole: int) -> tuple[slice, slice]:
    """(rows of a whole, rows of a part) where a part of `length` that begins at `start` has rows of the whole."""
    first, last = max(start, 0), min(start + length, whole)
    return slice(first, last), slice(first - start, last - start)


def _starts(length: int, part: int, overlap: float) -> Iterator[tuple[int, int]]:
    """(start, how much is covered before) of parts that cover a length; the last one ends where it ends."""
    step, start, covered = max(int(part * (1 - overlap)), 1), 0, 0
    while True:
        start = min(start, max(length - part, 0))
        yield start, covered - start
        covered = start + part
        if covered >= length:
            return
        start += step


def _toolkit_resized(values: NDArray[Any], size: Size, method: str) -> NDArray[Any]:
    """`(h, w[, c])` scaled as TensorFlow 1 did: corners, not centers, of pixels lie on each other."""
    import tensorflow as tf

    values = values if values.ndim == 3 else values[..., None]
    methods = tf.image.ResizeMethod
    scaled = tf.compat.v1.image.resize(
        values.astype(np.float32)[None], size, getattr(methods, {"nearest": "NEAREST_NEIGHBOR"}.get(method, method.upper()))
    )
    return np.asarray(scaled[0])
