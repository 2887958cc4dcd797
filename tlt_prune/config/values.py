"""Types of values that several sections of a spec share, with their bounds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tlt_prune.config.settings import at_most

Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1), at_most(2**31 - 1, "it is counted in 32 bits")]
Batch = Annotated[int, Field(ge=1), at_most(65_536, "a batch is in memory at once")]
Pixels = Annotated[int, Field(ge=1), at_most(16_384, "a picture is decoded in memory")]
Epochs = Annotated[int, Field(ge=1), at_most(1_000_000, "every epoch has its line and its checkpoint")]
CalibrationMethod = Literal["min_max", "percentile", "entropy"]
Percentile = Annotated[float, Field(gt=50, le=100)]
