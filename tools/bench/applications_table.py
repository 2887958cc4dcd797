#!/usr/bin/env python3
"""Every model of keras.applications at its native input, pruned by half: what it saves and how long it takes.

python tools/bench/applications_table.py [MODEL ...]
"""

from __future__ import annotations

import gc
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import pandas as pd

import tlt_prune


def row(name: str) -> dict[str, object]:
    model = getattr(keras.applications, name)(weights=None)
    start = time.perf_counter()
    plan = tlt_prune.plan_pruning(model, ratio=0.5, min_num_filters=8)
    pruned = plan.apply(model)
    seconds = time.perf_counter() - start
    assert pruned.count_params() == plan.params_after
    approximate = any("approximate" in x.note for x in plan.layers)
    del pruned, model
    keras.backend.clear_session()
    gc.collect()
    return {
        "model": name,
        "parameters, M": f"{plan.params_before / 1e6:.2f} -> {plan.params_after / 1e6:.2f}",
        "MACs, G": f"{plan.macs_before / 1e9:.2f} -> {plan.macs_after / 1e9:.2f}",
        "parameters removed": f"{100 * (1 - plan.params_after / plan.params_before):.0f} %",
        "seconds": round(seconds, 2),
        "note": "approximate: LayerNormalization" if approximate else "",
    }


def main(names: list[str]) -> None:
    names = names or sorted(name for name in dir(keras.applications) if name[0].isupper())
    print(pd.DataFrame([row(name) for name in names]).set_index("model").to_string())


if __name__ == "__main__":
    main(sys.argv[1:])
