"""The channel multiple that a GPU's tensor cores want, by number format.

NVIDIA, "Deep Learning Performance: Matrix Multiplication Background", section on tensor core
requirements: dimensions that are multiples of 16 bytes, i.e. of 8 elements in float16 and bfloat16, 16 in
int8, 4 in TF32 (float32).
"""

from __future__ import annotations

from typing import Any

from tlt_prune.graph import Graph

GRANULARITY = {"float16": 8, "bfloat16": 8, "int8": 16, "float8": 16, "float32": 4, "float64": 2}


def granularity_of(graph: Graph) -> int:
    """The multiple for the dtype policy a model computes in; the largest where layers differ."""
    layers = [call.op for call in graph.walk() if call.inner is None]
    names = [name for layer in layers if (name := _compute_dtype(layer)) is not None]
    return max((GRANULARITY[name] for name in names), default=GRANULARITY["float32"])


def chosen_granularity(graph: Graph, granularity: int | str) -> int:
    """The multiple that an option says; "auto" asks the model."""
    return granularity_of(graph) if isinstance(granularity, str) else granularity


def _compute_dtype(layer: Any) -> str | None:
    if not getattr(layer, "weights", ()):
        return None
    policy = getattr(layer, "dtype_policy", None)
    if getattr(policy, "quantization_mode", None) in ("int8", "float8"):
        return str(policy.quantization_mode)  # type: ignore[union-attr]
    name = str(layer.compute_dtype)
    return name if name in GRANULARITY else None
