"""The grid of a DetectNet_v2 and its relation to the picture."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Grid:
    """Cells over a picture, and how boxes are told of each.

    Attributes:
        width, height: of the picture, in pixels.
        columns, rows: of the network's output.
        scale: pixels that 1.0 in `output_bbox` stands for.
        offset: pixels from a cell's left upper corner to the point that its box is told from. The toolkit's networks look at
            half a pixel, since they pad on every side (`models.build(..., padding="tao")`).
    """

    width: int
    height: int
    columns: int
    rows: int
    scale: float = 35.0
    offset: float = 0.5

    @property
    def stride_x(self) -> float:
        return self.width / self.columns

    @property
    def stride_y(self) -> float:
        return self.height / self.rows
