"""Regions where the loss counts less: under labels of chosen kinds, such as KITTI's "dontcare".

The toolkit's `loss_mask_label_filter`. Such labels are boxes of a `BoxSplit` whose class number is that of the last class and
more, so that they follow the picture through its augmentation; they are no objects.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tlt_prune.detection.geometry import Grid
from tlt_prune.detection.losses import OBJECTIVES
from tlt_prune.errors import SpecError


@dataclasses.dataclass(frozen=True)
class LabelFilter:
    """Which labels mask the loss, and of what.

    Attributes:
        source_classes: names in the label files, in lower case; empty for all.
        width, height: (least, most) in pixels of the model, inclusive.
        inside: (left, top, right, bottom) that a label must have a part in; None for anywhere.
        classes: of the model, whose loss is masked; empty for all.
        objectives: "cov", "bbox".
    """

    source_classes: tuple[str, ...] = ()
    width: tuple[float, float] = (0.0, float("inf"))
    height: tuple[float, float] = (0.0, float("inf"))
    inside: tuple[float, float, float, float] | None = None
    classes: tuple[str, ...] = ()
    objectives: tuple[str, ...] = OBJECTIVES

    def __post_init__(self) -> None:
        unknown = [x for x in self.objectives if x not in OBJECTIVES]
        if unknown:
            raise SpecError(
                f"loss_mask_label_filter.objective_names: expected {', '.join(OBJECTIVES)}. Received: {unknown[0]!r}."
            )

    def holds(self, name: str, box: Sequence[float]) -> bool:
        """Whether a label with this name and these corners masks the loss."""
        x1, y1, x2, y2 = box
        sized = self.width[0] <= x2 - x1 <= self.width[1] and self.height[0] <= y2 - y1 <= self.height[1]
        left, top, right, bottom = self.inside or (-float("inf"), -float("inf"), float("inf"), float("inf"))
        there = x1 < right and x2 > left and y1 < bottom and y2 > top
        return sized and there and (not self.source_classes or name in self.source_classes)


@dataclasses.dataclass(frozen=True)
class LossMask:
    """Weights of the cells in the loss.

    Attributes:
        filters: of labels; the i-th one's boxes have the class number of the last class plus 1 + i.
        multiplier: what a cell counts whose middle is under such a label.
        preserve: cells that an object of the class covers count fully all the same.
    """

    filters: tuple[LabelFilter, ...] = ()
    multiplier: float = 0.0
    preserve: bool = False

    def check(self, classes: Sequence[str]) -> None:
        """Raises SpecError where a filter names a class that is none of the model's."""
        unknown = [name for x in self.filters for name in x.classes if name not in classes]
        if unknown:
            raise SpecError(
                f"loss_mask_label_filter.target_class_names: expected some of {', '.join(classes)}. Received: {unknown[0]!r}."
            )

    def weights(
        self, grid: Grid, classes: Sequence[str], boxes: tf.Tensor, numbers: tf.Tensor, cov: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Objective -> `(n, c, rows, columns)`: what each cell counts.

        Args:
            grid: of the model.
            classes: of the model.
            boxes, numbers: as a `Rasterizer` takes them.
            cov: `(n, c, rows, columns)`: where objects are.
        """
        x = (tf.range(grid.columns, dtype=tf.float32) + 0.5) * grid.stride_x
        y = (tf.range(grid.rows, dtype=tf.float32) + 0.5) * grid.stride_y
        under_x = (boxes[..., 0, None] <= x) & (x < boxes[..., 2, None])
        under_y = (boxes[..., 1, None] <= y) & (y < boxes[..., 3, None])
        under = under_y[..., :, None] & under_x[..., None, :]
        found = {}
        for objective in OBJECTIVES:
            masked = tf.zeros_like(cov, tf.bool)
            for i, one in enumerate(self.filters):
                if objective in one.objectives:
                    mine = tf.reduce_any(under & tf.equal(numbers, len(classes) + i)[..., None, None], axis=1)
                    chosen = tf.constant([not one.classes or name in one.classes for name in classes])
                    masked |= mine[:, None] & chosen[:, None, None]
            if self.preserve:
                masked &= cov <= 0
            found[objective] = tf.where(masked, self.multiplier, 1.0)
        return found
