"""What kind of layer one is: what criteria, compensation and latency ask alike."""

from __future__ import annotations

from typing import Any

from tlt_prune.graph.family import Family

_BATCH_NORMS = ("BatchNormalization", "SyncBatchNormalization", "BatchNormalizationV1", "BatchNormalizationV2")
_CONVOLUTIONS = ("Conv1D", "Conv2D", "Conv3D")


def is_any(family: Family, op: Any, names: tuple[str, ...]) -> bool:
    """Whether a layer computes what one of Keras' layer classes does."""
    return any(family.is_a(op, name) for name in names)


def is_batch_norm(family: Family, op: Any) -> bool:
    return is_any(family, op, _BATCH_NORMS)


def is_convolution(family: Family, op: Any) -> bool:
    """An ordinary one: every output channel sees every input channel."""
    return is_any(family, op, _CONVOLUTIONS) and op.groups == 1


def is_dense(family: Family, op: Any) -> bool:
    return family.is_a(op, "Dense")
