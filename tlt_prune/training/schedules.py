"""Learning rate by step: the toolkit's soft start with annealing, cosine, steps and exponential decay."""

from __future__ import annotations

import math

from tlt_prune.config import LRConfig


def soft_start_annealing(
    progress: float, minimum: float, maximum: float, soft_start: float = 0.1, annealing: float = 0.7
) -> float:
    """The toolkit's rate at `progress`, the share of all steps that is done.

    It rises until `soft_start`, stays, and falls from `annealing` on, evenly on a logarithmic scale;
    0 <= soft_start <= annealing, soft_start < 1.
    """
    if progress < soft_start:
        share = progress / soft_start
    elif progress > annealing:
        share = (1 - progress) / (1 - annealing)
    else:
        share = 1.0
    return rate_between(minimum, maximum, share)


def rate_between(minimum: float, maximum: float, share: float) -> float:
    """The rate at a share of the way from `minimum` to `maximum`, evenly on a logarithmic scale."""
    return math.exp(math.log(minimum) + share * (math.log(maximum) - math.log(minimum)))


def learning_rate(config: LRConfig, step: int, total_steps: int) -> float:
    """Learning rate at a step, 0 <= step <= total_steps.

    All rise linearly from 0 over the first `soft_start` share of the training. "soft_anneal"
    then stays, and is divided by `annealing_divider` at each of `annealing_points`; "cosine" falls as
    half a cosine to 0; "step" is multiplied by `gamma` after every `step_size` per cent of the training, "exponential" by the
    same factor evenly (which is what the toolkit's own "step" computes). None falls below `min_lr_ratio * learning_rate`.

    "soft_start_annealing" rises from `min_lr_ratio * learning_rate` over `soft_start` and falls there again from `annealing` on,
    both evenly on a logarithmic scale.

    "constant", "cosine_decay" and "exponential_decay" are those of the toolkit's UNet: they do not rise, and count steps, however
    long the training is.
    """
    if config.scheduler in ("constant", "cosine_decay", "exponential_decay"):
        return _by_steps(config, step + config.rewind_to * total_steps)
    rewound = config.rewind_to
    progress = min(rewound + (1 - rewound) * step / total_steps, 1.0)
    base, lowest = config.peak, config.min_lr_ratio * config.peak
    if config.scheduler == "soft_start_annealing":
        return soft_start_annealing(progress, lowest, base, config.soft_start, config.annealing)
    if progress < config.soft_start:
        # One step ahead, so that the first step is not wasted at rate 0.
        return max(base * min((rewound + (1 - rewound) * (step + 1) / total_steps) / config.soft_start, 1.0), lowest)
    if config.scheduler == "soft_anneal":
        passed = sum(progress > point for point in config.annealing_points)
        return max(base / config.annealing_divider**passed, lowest)
    if config.scheduler in ("step", "exponential"):
        steps = 100 * progress / config.step_size
        return max(base * config.gamma ** (math.floor(steps + 1e-9) if config.scheduler == "step" else steps), lowest)
    share = (progress - config.soft_start) / (1.0 - config.soft_start) if config.soft_start < 1 else 1.0
    return max(base * 0.5 * (1.0 + math.cos(math.pi * share)), lowest)


def _by_steps(config: LRConfig, step: float) -> float:
    """The rate of a schedule that counts batches, whatever the length of the training."""
    if config.scheduler == "cosine_decay":
        share = min(step / config.decay_steps, 1.0)
        return config.peak * (config.min_lr_ratio + (1 - config.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * share)))
    falls = step // config.decay_steps if config.scheduler == "exponential_decay" else 0
    return max(config.peak * config.gamma**falls, config.min_lr_ratio * config.peak)
