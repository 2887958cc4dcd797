"""Scores: how much each filter matters. One file a family, in one registry."""

from tlt_prune.pruning.importance.norms import l1, l2
from tlt_prune.pruning.importance.scores import CRITERIA, Criterion, magnitudes

__all__ = ["CRITERIA", "Criterion", "l1", "l2", "magnitudes"]
