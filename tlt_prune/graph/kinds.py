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


def is_transposed_convolution(family: Family, op: object) -> bool:
    """One whose output is as large as its padding says: neither dilated nor with an `output_padding` of its own."""
    if not has_trait(family, op, "transposed convolution"):
        return False
    dilation = getattr(op, "dilation_rate", 1)
    given = getattr(op, "output_padding", None)
    return given is None and all(x == 1 for x in (dilation if isinstance(dilation, (tuple, list)) else (dilation,)))


def has_kernel(family: Family, op: object) -> bool:
    """Whether an operation multiplies its input with a kernel, every output channel with every input channel."""
    return is_convolution(family, op) or is_dense(family, op) or is_transposed_convolution(family, op)
