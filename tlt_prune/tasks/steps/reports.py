"""The lines of evaluation.json that are the same for every task."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlt_prune.onnx import Predictor


def model_facts(predictor: Predictor, path: str) -> dict[str, Any]:
    """Kind, parameters, multiply-accumulates and size of a model file."""
    return {
        "model": path,
        "kind": predictor.kind,
        "params": predictor.params,
        "macs": macs(predictor),
        "file_bytes": predictor.file_bytes,
    }


def macs(predictor: Predictor) -> float | None:
    """Multiply-accumulates of a Keras model for one picture; None where they cannot be counted."""
    if predictor.model is None:
        return None
    from tlt_prune.graph.tracer import trace
    from tlt_prune.pruning.cost.costs import costs
    from tlt_prune.quantization import folded

    total = costs(trace(folded(predictor.model))).total_macs
    return None if math.isnan(total) else total
