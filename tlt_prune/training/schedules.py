"""Learning rate a step: the toolkit's soft start with annealing, and cosine."""

from __future__ import annotations

import math

from tlt_prune.specs import LRConfig


def learning_rate(config: LRConfig, step: int, total_steps: int) -> float:
    """The rate at a step, 0 <= step <= total_steps.

    Both schedules rise linearly from 0 over the first `soft_start` share of the training. "soft_anneal"
    then stays, and is divided by `annealing_divider` at each of `annealing_points`; "cosine" falls as
    half a cosine to 0. Neither falls below `min_lr_ratio * learning_rate`.
    """
    progress = min(step / total_steps, 1.0)
    base, lowest = config.learning_rate, config.min_lr_ratio * config.learning_rate
    if progress < config.soft_start:
        # One step ahead, so that the first step is not wasted at rate 0.
        return max(base * min((step + 1) / total_steps / config.soft_start, 1.0), lowest)
    if config.scheduler == "soft_anneal":
        passed = sum(progress > point for point in config.annealing_points)
        return max(base / config.annealing_divider**passed, lowest)
    share = (progress - config.soft_start) / (1.0 - config.soft_start) if config.soft_start < 1 else 1.0
    return max(base * 0.5 * (1.0 + math.cos(math.pi * share)), lowest)
