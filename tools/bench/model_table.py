#!/usr/bin/env python3
"""The architectures of `tlt_prune.models` at their native inputs: layers, parameters, MACs, and what can be pruned.

    python tools/bench/model_table.py [MODEL ...]

"prunable" is the share of parameters in layers whose channels may go, or that read channels that may.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import pandas as pd

from tlt_prune import models
from tlt_prune.graph.tracer import trace
from tlt_prune.pruning.cost.costs import costs

NATIVE = {
    "efficientnet_b1": 240,
    "efficientnet_b2": 260,
    "efficientnet_b3": 300,
    "efficientnet_b4": 380,
    "efficientnet_b5": 456,
}


def row(name: str) -> dict[str, object]:
    detector = name.startswith("detectnet")
    size = (544, 960, 3) if detector else (NATIVE.get(name, 224),) * 2 + (3,)
    model = models.build(name, size, 3 if detector else 1000)
    channels = trace(model)
    total = costs(channels)
    frozen = channels.bundles.frozen
    root = channels.bundles.root
    free = {id(a.op) for a in channels.axes if any(b not in frozen for b in set(root[a.labels].tolist()))}
    prunable = sum(n for op, n in total.params.items() if op in free)
    keras.backend.clear_session()
    return {
        "model": name,
        "input": "x".join(map(str, size)),
        "layers": len(model.layers),
        "parameters, M": round(total.total_params / 1e6, 2),
        "MACs, G": round(total.total_macs / 1e9, 2),
        "prunable, %": round(100 * prunable / total.total_params, 1),
    }


def main(names: list[str]) -> None:
    print(pd.DataFrame([row(name) for name in names or models.names()]).set_index("model").to_string())


if __name__ == "__main__":
    main(sys.argv[1:])
