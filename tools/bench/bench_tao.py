#!/usr/bin/env python3
"""CPU seconds of `prune_model` on the models for which the toolkit's own time was recorded (tests/data/tao_golden/times.json).

python tools/bench/bench_tao.py
"""

from __future__ import annotations

import os
import pathlib
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "conformance"))

import golden
import keras
import pandas as pd

import tlt_prune


def cpu_seconds(model: keras.Model) -> float:
    times = []
    for _ in range(4):
        start = time.process_time()
        tlt_prune.prune_model(model, threshold=0.5, excluded_layers=["predictions"])
        times.append(time.process_time() - start)
    return statistics.median(times[1:])


def main() -> None:
    recorded = golden.load("times.json")
    rows = {}
    for name in ("resnet50_proj", "resnet50_id", "mobilenet_v2_id", "vgg16", "darknet53"):
        model = golden.set_deterministic_weights(golden.build_model(golden.load(f"models/{name}.json.gz")))
        times = {k: next(x for x in recorded[f"templates_{k}"] if x["model"] == name)["prune_cpu_s"] for k in ("tf1", "tf2")}
        rows[name] = {"TLT 3 (tf1)": times["tf1"], "TAO 5 (tf2)": times["tf2"], "here": round(cpu_seconds(model), 2)}
    print(pd.DataFrame(rows).T.to_string())


if __name__ == "__main__":
    main()
