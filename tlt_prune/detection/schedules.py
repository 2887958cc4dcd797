"""DetectNet_v2's learning rates: up from a lowest to a highest and down again, evenly on a logarithmic scale."""

from __future__ import annotations

import math

from tlt_prune.errors import SpecError
from tlt_prune.training import rate_between, soft_start_annealing

__all__ = ["EarlyStoppingAnnealing", "soft_start_annealing"]


class EarlyStoppingAnnealing:
    """Falls once the validation cost has stopped falling, and ends the training when it has again.

    Args:
        minimum, maximum: rates.
        soft_start_steps: over which the rate rises at the start.
        annealing_steps: over which it falls.
        patience: validations without a lower cost, after which it falls; and as many after that, after which training ends.

    Attributes:
        annealing: whether the rate is falling, or has fallen.
        stopped: whether training is to end.

    Raises:
        SpecError: `patience` is below 1.
    """

    def __init__(self, minimum: float, maximum: float, *, soft_start_steps: int, annealing_steps: int, patience: int) -> None:
        if patience < 1:
            raise SpecError(f"patience_steps: expected at least 1. Received: {patience!r}.")
        self._rates, self._steps, self._patience = (minimum, maximum), (soft_start_steps, annealing_steps), patience
        self._began: int | None = None
        self._best, self._waited = math.inf, 0
        self.stopped = False

    @property
    def annealing(self) -> bool:
        return self._began is not None

    def rate(self, step: int) -> float:
        """At a step, counted from 0."""
        up, down = self._steps
        if self._began is None:
            share = min(step / up, 1.0) if up else 1.0
        else:
            share = max(1 - (step - self._began) / down, 0.0) if down else 1.0
        return rate_between(*self._rates, share)

    def validated(self, cost: float, next_step: int) -> None:
        """Takes the cost of a validation, before step `next_step`."""
        if cost < self._best:
            self._best, self._waited = cost, 0
            return
        self._waited += 1
        if self._waited < self._patience:
            return
        if self._began is not None:
            self.stopped = True
            return
        self._began, self._best, self._waited = next_step, math.inf, 0
