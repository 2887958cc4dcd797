#!/usr/bin/env python3
"""What whole residual blocks are worth in milliseconds, beside widths alone, at the same MACs and batch 1.

    python tools/bench/bench_depth.py [FOLDER]

ResNet-50 and MobileNetV2 at 224 x 224, untrained (speed does not depend on values), at 50 and 35 % of the MACs: widths alone, and
two, four and six blocks, then widths. In onnxruntime on this machine's CPU, on one thread; all variants of a row take turns. ONNX
files go to FOLDER (a temporary one by default), and those there are taken. Writes docs/pages/benchmarks/depth.csv. Ten minutes.
"""

from __future__ import annotations

import itertools
import os
import pathlib
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pandas as pd
from bench_latency import SIZE, by_onnxruntime, run_in_folder, side_by_side

import tlt_prune
from tlt_prune import export

TABLE = pathlib.Path(__file__).resolve().parents[2] / "docs/pages/benchmarks/depth.csv"
NETWORKS = {"ResNet-50": keras.applications.ResNet50, "MobileNetV2": keras.applications.MobileNetV2}
SHARES = (0.5, 0.35)
BLOCKS = (0, 2, 4, 6)


def variants(network: str, folder: pathlib.Path) -> pd.DataFrame:
    """A row a file: share, blocks that are gone, macs, params, path; the dense network first."""
    keras.utils.set_random_seed(0)
    model = NETWORKS[network](weights=None, input_shape=SIZE)
    x = np.random.default_rng(0).standard_normal((1, *SIZE)).astype("float32")
    rows = []
    for share, blocks in [(1.0, 0), *itertools.product(SHARES, BLOCKS)]:
        plan = tlt_prune.plan_pruning(model, macs=share, blocks=blocks) if share < 1 else None
        path = folder / f"{network}_{share:g}_{blocks}.onnx"
        if not path.exists():
            export.export_onnx(plan.apply(model) if plan else model, path, x, layout="NCHW", tolerance=1e-3)
        counted = plan or tlt_prune.plan_pruning(model, ratio=0.01)
        macs, params = (plan.macs_after, plan.params_after) if plan else (counted.macs_before, counted.params_before)
        rows.append({"share": share, "blocks": blocks, "macs": macs, "params": params, "path": path})
    return pd.DataFrame(rows)


def depth_rows(table: pd.DataFrame) -> list[str]:
    """Rows of the documentation, one per network and share: milliseconds by blocks."""
    rows = []
    for (network, share), part in table[table.share < 1].groupby(["network", "share"], sort=False):
        dense = float(table[(table.network == network) & (table.share == 1)].ms.iloc[0])
        alone = float(part[part.blocks == 0].ms.iloc[0])
        cells = [
            f"{ms:.1f} ms ({100 * (ms / alone - 1):+.0f} %)" if n else f"{ms:.1f} ms"
            for n, ms in zip(part.blocks, part.ms, strict=True)
        ]
        rows.append(f"| {network}, {100 * share:.0f} % of the MACs | {dense:.1f} ms | {' | '.join(cells)} |")
    return rows


def main(folder: pathlib.Path) -> None:
    rows: list[dict[str, Any]] = []
    x = np.random.default_rng(1).standard_normal((1, SIZE[2], *SIZE[:2])).astype("float32")
    for network in NETWORKS:
        files = variants(network, folder)
        found = side_by_side([by_onnxruntime(path, 1) for path in files.path], x)
        rows += [
            {"network": network, **file.drop("path").to_dict(), "ms": ms}
            for (_, file), ms in zip(files.iterrows(), found, strict=True)
        ]
        table = pd.DataFrame(rows)
        print(table.tail(len(found)).round(3).to_string(header=False), flush=True)
        table.to_csv(TABLE, index=False, float_format="%.5g")
    print(*depth_rows(pd.DataFrame(rows)), sep="\n")


if __name__ == "__main__":
    run_in_folder(main, __doc__)
