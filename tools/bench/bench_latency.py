#!/usr/bin/env python3
"""What pruning and int8 are worth in milliseconds: dense, pruned and pruned int8 networks, side by side in one run.

    python tools/bench/bench_latency.py [FOLDER]

ResNet-18, ResNet-50 and VGG-16 at 224 x 224, untrained (speed does not depend on values), pruned to 75, 50 and 25 %
of the MACs; batch 1 and 32, one thread and all; in onnxruntime, and in OpenVINO where it is installed, on this machine's CPU. And
half the MACs at granularity 1, 4, 8 and 16. ONNX files go to FOLDER (a temporary one by default), and those there are taken.
Writes docs/pages/benchmarks/latency.csv and docs/pages/benchmarks/latency.png. Half an hour on two cores.

All variants of a row take turns, so that what else the machine does hits them alike; a figure is the median of its turns.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pandas as pd

import tlt_prune
from tlt_prune import export, models, quantization

TABLE = pathlib.Path(__file__).resolve().parents[2] / "docs/pages/benchmarks/latency.csv"
NETWORKS = {"ResNet-18": "resnet18", "ResNet-50": "resnet50", "VGG-16": "vgg16"}
SHARES = (1.0, 0.75, 0.5, 0.25)
GRANULARITIES = (1, 4, 8, 16)
BATCHES = (1, 32)
SIZE = (224, 224, 3)
# Turns of each variant: as many as fit, within these.
FEWEST, MOST, SECONDS = 3, 50, 20.0


def variants(name: str, folder: pathlib.Path) -> pd.DataFrame:
    """A row a file: share, granularity, precision, macs, path."""
    keras.utils.set_random_seed(0)
    model = models.classifier(NETWORKS[name], SIZE, 1000)
    x = np.random.default_rng(0).standard_normal((8, *SIZE)).astype("float32")
    rows = []
    for share, granularity in [*((s, 8) for s in SHARES), *((0.5, g) for g in GRANULARITIES if g != 8)]:
        plan = None
        if share < 1:
            plan = tlt_prune.plan_pruning(
                model, macs=share, criterion="Random", granularity=granularity, min_num_filters=granularity
            )
        macs = tlt_prune.plan_pruning(model, ratio=0.01, granularity=1).macs_before if plan is None else plan.macs_after
        path, quantized = (folder / f"{NETWORKS[name]}_{share:g}_{granularity}_{kind}.onnx" for kind in ("fp32", "int8"))
        if not path.exists():
            export.export_onnx(plan.apply(model) if plan else model, path, x[:1], layout="NCHW", tolerance=1e-3)
        rows.append({"share": share, "granularity": granularity, "precision": "fp32", "macs": macs, "path": path})
        if granularity == 8:
            turned = np.ascontiguousarray(np.transpose(x, (0, 3, 1, 2)))
            if not quantized.exists():
                quantization.quantize_onnx(path, quantized, turned, method="min_max", target="onnxruntime")
            rows.append({**rows[-1], "precision": "int8", "path": quantized})
    return pd.DataFrame(rows)


def by_onnxruntime(path: pathlib.Path, threads: int) -> Callable[[Any], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Of the sessions that take turns, one computes at a time: none is to keep a core busy while it waits.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})


def by_openvino(path: pathlib.Path, threads: int) -> Callable[[Any], Any]:
    import openvino

    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"})
    return lambda x: compiled([x])


def runtimes() -> dict[str, Callable[[pathlib.Path, int], Callable[[Any], Any]]]:
    found: dict[str, Any] = {"onnxruntime": by_onnxruntime}
    if importlib.util.find_spec("openvino") is not None:
        found["openvino"] = by_openvino
    return found


def side_by_side(runs: list[Callable[[Any], Any]], x: Any) -> list[float]:
    """Median milliseconds of each, taking turns."""
    start = time.perf_counter()
    for run in runs:
        run(x)
    turns = int(np.clip(SECONDS / (time.perf_counter() - start), FEWEST, MOST))
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(turns):
        for run, own in zip(runs, times, strict=True):
            begin = time.perf_counter()
            run(x)
            own.append(1000 * (time.perf_counter() - begin))
    return [statistics.median(own) for own in times]


def main(folder: pathlib.Path) -> None:
    rows: list[dict[str, Any]] = []
    for network in NETWORKS:
        files = variants(network, folder)
        for (runtime, load), threads, batch in itertools.product(runtimes().items(), (1, os.cpu_count() or 1), BATCHES):
            x = np.random.default_rng(1).standard_normal((batch, SIZE[2], *SIZE[:2])).astype("float32")
            found = side_by_side([load(path, threads) for path in files.path], x)
            place = {"network": network, "runtime": runtime, "threads": threads, "batch": batch}
            for (_, file), ms in zip(files.iterrows(), found, strict=True):
                rows.append({**place, **file.drop("path").to_dict(), "ms": ms, "faster": found[0] / ms})
            table = pd.DataFrame(rows)
            print(table.tail(len(found)).round(3).to_string(header=False), flush=True)
            table.to_csv(TABLE, index=False, float_format="%.5g")
    draw(pd.DataFrame(rows))


def draw(table: pd.DataFrame) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    part = table[(table.batch == 1) & (table.threads == 1) & (table.granularity == 8)]
    figure, axes = plt.subplots(1, len(NETWORKS), figsize=(13, 4))
    colors = {"fp32": "#1f77b4", "int8": "#76b900"}
    for axis, network in zip(axes, NETWORKS, strict=True):
        for (runtime, precision), own in part[part.network == network].groupby(["runtime", "precision"]):
            style = "-" if runtime == "onnxruntime" else "--"
            axis.plot(own.macs / 1e9, own.ms, style, marker="o", color=colors[str(precision)], label=f"{runtime}, {precision}")
        axis.set_title(f"{network}, batch 1, one thread", fontsize=10, loc="left")
        axis.set_xlabel("MACs, billions")
        axis.set_ylabel("ms")
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8, handlelength=4)
    figure.tight_layout()
    figure.savefig(TABLE.with_suffix(".png"), dpi=110)


def run_in_folder(job: Callable[[pathlib.Path], None], usage: str | None) -> None:
    """Runs a job in the folder that the command line names, or in a temporary one."""
    if len(sys.argv) > 2:
        sys.exit(usage)
    if len(sys.argv) == 2:
        pathlib.Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        job(pathlib.Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            job(pathlib.Path(scratch))


if __name__ == "__main__":
    run_in_folder(main, __doc__)
