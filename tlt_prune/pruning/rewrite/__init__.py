"""The smaller model, and the check that it computes the same."""

from tlt_prune.pruning.rewrite.rewrite import rewrite

__all__ = [
    "rewrite",
]
