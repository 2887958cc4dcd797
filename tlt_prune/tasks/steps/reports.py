"""The lines of evaluation.json that are the same for every task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

    from tlt_prune.onnx import Predictor


def model_facts(predictor: Predictor, path: str) -> dict[str, Any]:
    """Kind, parameters, multiply-accumulates and size of a model file."""
    return {
        "model": path,
        "kind": predictor.kind,
        "params": predictor.params,
        "macs": macs_of(predictor.model) if predictor.model is not None else None,
        "file_bytes": predictor.file_bytes,
    }


def macs_of(model: keras.Model) -> float | None:
    """Multiply-accumulates of a model for one picture; None where they cannot be counted."""
    from tlt_prune.graph import trace
    from tlt_prune.pruning.cost import costs
    from tlt_prune.quantization import folded

    total = costs(trace(folded(model))).total_macs
    return None if math.isnan(total) else total


def cost_line(report: Mapping[str, Any]) -> str:
    """Parameters, MACs (of a Keras model) and latency of a report, for a line."""
    macs = f"MACs {report['macs']:,.0f}   " if report["macs"] is not None else ""
    one = ", one thread" if report["kind"] == "onnx" else ""
    return f"parameters {report['params']:,}   {macs}latency at batch 1{one} {report['latency_ms']:.2f} ms"
