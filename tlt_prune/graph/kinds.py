"""Kinds of layers, by the traits that their rules state: criteria, compensation, costs and the law ask alike."""

from __future__ import annotations

from tlt_prune.graph import rules
from tlt_prune.graph.family import Family


def has_trait(family: Family, op: object, trait: rules.Trait) -> bool:
    """Whether an operation computes what a built-in one with that trait does."""
    return rules.states_trait(op, trait, is_layer=family.is_layer(op))


def is_batch_norm(family: Family, op: object) -> bool:
    """Whether an operation is a batch normalization."""
    return has_trait(family, op, "batch normalization")


def is_convolution(family: Family, op: object) -> bool:
    """An ordinary one: every output channel sees every input channel."""
    return has_trait(family, op, "convolution") and getattr(op, "groups", 1) == 1


def is_dense(family: Family, op: object) -> bool:
    """Whether an operation is a dense layer."""
    return has_trait(family, op, "dense")
