#!/usr/bin/env python3
"""Milliseconds at equal accuracy: widths alone, or whole residual blocks and then widths.

    python tools/bench/bench_blocks.py TRANSFER

TRANSFER is the folder of results of bench_transfer.py: the MobileNetV2 of each of its seeds (CIFAR-10 at 96 x 96) is pruned to
four budgets, without and with two and four blocks, by Fisher and fitted by LeastSquares on 1,000 training pictures. Retrained by
`tlt_prune.retrain` for one epoch on 9,000 others, the best state by those 1,000. Accuracy on the 2,000 test pictures;
milliseconds in onnxruntime at batch 1 on one thread, all variants of a seed in turns. Rows of retraining are kept in
TRANSFER/blocks: run again, it goes on. Writes docs/pages/benchmarks/blocks.csv. An hour for a seed on two CPU cores.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pandas as pd
from bench_latency import by_onnxruntime, side_by_side
from bench_transfer import SCORED, SEEDS, SPEC, TRAINED
from by_scripts import PAGES, Experiment, Pictures, accuracy, begun

import tlt_prune
from tlt_prune import criteria, export

TABLE = PAGES / "blocks.csv"
NETWORK = "mobilenet_v2"
BLOCKS, SHARES = (0, 2, 4), (0.7, 0.5, 0.35, 0.25)
CALIBRATION = 1000
LOSS = "categorical_crossentropy"
# Points below the dense network.
LEVELS = (1, 2, 4, 8)


def main(transfer: pathlib.Path) -> None:
    tables = [of_seed(seed, transfer) for seed in SEEDS if dense_path(transfer, seed).exists()]
    if not tables:
        sys.exit(f"bench_blocks: there is no {dense_path(transfer, SEEDS[0])}. Run bench_transfer.py first.")
    table = pd.concat(tables, ignore_index=True)
    table.to_csv(TABLE, index=False, float_format="%.5g")
    print(table.round(3).to_string(), *block_rows(table), sep="\n")


def dense_path(transfer: pathlib.Path, seed: int) -> pathlib.Path:
    return transfer / f"{NETWORK}_s{seed}/train/model.keras"


def of_seed(seed: int, transfer: pathlib.Path) -> pd.DataFrame:
    """A row a variant: seed, blocks, share, macs, params, accuracy, retrained, ms; the dense network first."""
    folder = transfer / f"blocks/s{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    train, test = Experiment(SPEC, str(transfer / "cifar10_10k.npz"), seed).pictures(TRAINED, SCORED)
    model = keras.models.load_model(dense_path(transfer, seed), compile=False)
    rows, done = begun(folder / "rows.csv", ["share", "blocks"])
    for share, blocks in [(1.0, 0), *itertools.product(SHARES, BLOCKS)]:
        if (share, blocks) in done:
            continue
        path = folder / f"{share:g}_{blocks}.onnx"
        rows.append({"seed": seed, "share": share, "blocks": blocks, **variant(model, share, blocks, train, test, path)})
        print(rows[-1], flush=True)
        pd.DataFrame(rows).to_csv(folder / "rows.csv", index=False)
    table = pd.DataFrame(rows)
    x = np.ascontiguousarray(test[0][:1].transpose(0, 3, 1, 2))
    runs = [by_onnxruntime(folder / f"{row.share:g}_{row.blocks}.onnx", 1) for row in table.itertuples()]
    return table.assign(ms=side_by_side(runs, x))


def variant(model: Any, share: float, blocks: int, train: Pictures, test: Pictures, path: pathlib.Path) -> dict[str, float]:
    """What is left of the network, its accuracy before and after retraining; its ONNX file goes to `path`."""
    few, most = (tuple(z[part] for z in train) for part in (slice(CALIBRATION), slice(CALIBRATION, None)))
    network = model
    if share < 1:
        criterion = criteria.Fisher(few, LOSS)
        compensation = tlt_prune.LeastSquares(few[0])
        network = tlt_prune.prune_model(
            model, macs=share, blocks=blocks, criterion=criterion, compensation=compensation, granularity=8, min_num_filters=8
        )
    counted = tlt_prune.plan_pruning(network, ratio=0)
    row = {"macs": counted.macs_before, "params": counted.params_before, "accuracy": accuracy(network, *test)}
    if share < 1:
        keras.utils.set_random_seed(0)
        tlt_prune.retrain(network, most, few, teacher=model, epochs=1, loss=LOSS, verbose=0)
    export.export_onnx(network, path, test[0][:1], layout="NCHW", tolerance=1e-3)
    return {**row, "retrained": accuracy(network, *test)}


def block_rows(table: pd.DataFrame) -> list[str]:
    """Rows of the documentation, one per level of accuracy: milliseconds by blocks, means of the seeds."""
    found = {
        level: {blocks: [at_level(part, blocks, level) for _, part in table.groupby("seed")] for blocks in BLOCKS}
        for level in LEVELS
    }
    rows = []
    for level, by_blocks in found.items():
        cells = []
        for milliseconds in by_blocks.values():
            cells.append("not reached" if np.isnan(milliseconds).any() else f"{np.mean(milliseconds):.2f} ms")
        rows.append(f"| MobileNetV2, {level} {'point' if level == 1 else 'points'} below dense | {' | '.join(cells)} |")
    return rows


def at_level(table: pd.DataFrame, blocks: int, points: float) -> float:
    """Milliseconds at which a curve has that accuracy, between two of its networks; NaN outside them."""
    dense = table[table.share == 1].iloc[0]
    curve = pd.concat([table[(table.blocks == blocks) & (table.share < 1)], dense.to_frame().T]).sort_values("ms")
    wanted = float(dense.retrained) - points / 100
    # A network that is slower and worse than another is none to choose.
    best = curve.retrained.astype(float).cummax()
    if best.iloc[0] > wanted:
        return float("nan")
    return float(np.interp(wanted, best, curve.ms.astype(float)))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]).resolve())
