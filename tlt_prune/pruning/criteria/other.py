"""Criteria that look at no kernel: batch normalization's scales, and chance."""

from __future__ import annotations

import numpy as np

from tlt_prune.config import CRITERIA
from tlt_prune.errors import PlanError
from tlt_prune.graph import is_batch_norm
from tlt_prune.pruning.criteria.network import FilterScores, Network


@CRITERIA.register("BNScale")
class BNScale:
    """|gamma| of the batch normalization that follows; a layer that none follows is not scored.

    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, arXiv:1708.06519. It
    says something after training with an L1 penalty on the scales (`train.reg_config.bn_scale_decay` in a spec).
    """

    def __call__(self, network: Network) -> dict[str, FilterScores]:
        family = network.channels.graph.family
        scale = np.full(network.channels.n_labels, np.nan)
        for axis in network.channels.axes:
            if not is_batch_norm(family, axis.op) or family.weights(axis.op)[axis.index] is not axis.op.gamma:
                continue
            # The first one behind a layer is its own; one behind an Add or a Concatenate comes later.
            new = np.isnan(scale[axis.labels])
            scale[axis.labels[new]] = np.abs(network.weights(axis.op)[axis.index])[new]
        scores = {x.name: scale[x.labels] for x in network.layers}
        if not any(np.isfinite(x).any() for x in scores.values()):
            raise PlanError(
                f"criterion BNScale: no layer of '{network.model.name}' is followed by a batch normalization with a scale. "
                'Expected one; "L2" needs none.'
            )
        return scores


@CRITERIA.register("Random")
class Random:
    """A seeded random number: the baseline that every other criterion has to beat.

    Args:
        seed: of the numbers; a layer gets the same whatever other layers there are.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, network: Network) -> dict[str, FilterScores]:
        return {x.name: np.random.default_rng([self.seed, *x.name.encode()]).uniform(size=x.count) for x in network.layers}

    def __repr__(self) -> str:
        return f"Random(seed={self.seed})"
