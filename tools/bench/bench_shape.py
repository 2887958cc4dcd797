#!/usr/bin/env python3
"""Where to cut: narrower layers, fewer blocks, or what a search finds, at the same MACs; straight after pruning and retrained.

    python tools/bench/bench_shape.py [DATA]

The ResNet-20 of docs/pages/benchmarks/resnet20_cifar10.keras. DATA is a folder with cifar10.npz; without it Keras downloads it.
Chosen by Taylor, fitted by LeastSquares, and scored by whatever chooses, on 1,000 training pictures, others for each of three
seeds; accuracy on the 10,000 test pictures; retrained by `tlt_prune.retrain`, two epochs on 10,000 training pictures, the best
state by 2,000 others. Rows are written as soon as they are measured: run again, it goes on. Writes shape.csv in
docs/pages/benchmarks. An hour on two CPU cores.
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
from by_scripts import PAGES, Experiment, accuracy, begun

import tlt_prune
from tlt_prune import criteria

TABLE = PAGES / "shape.csv"
SPEC, WEIGHTS = "specs/cifar10_resnet20_full.yaml", PAGES / "resnet20_cifar10.keras"
SEEDS, BUDGETS = (1, 2, 3), (0.5, 0.35)
WAYS = {
    "widths": "widths alone",
    "1": "1 block, then widths",
    "2": "2 blocks, then widths",
    "auto": 'blocks="auto"',
    "search": "widths, by search",
}
CALIBRATION, TRAINED, HELD_OUT, SCORED, CANDIDATES = 1000, 10_000, 2000, 10_000, 24
KEYS = ["seed", "budget", "way"]
OPTIONS = {"granularity": 4, "min_num_filters": 4}


def cut(model: Any, way: str, macs: float, few: tuple[Any, Any], seed: int) -> Any:
    """The pruned model."""
    options = {**OPTIONS, "criterion": criteria.Taylor(few, "categorical_crossentropy", batch_size=250)}
    options["compensation"] = tlt_prune.LeastSquares(few[0], batch_size=250)
    if way == "search":
        return tlt_prune.search(model, lambda m: accuracy(m, *few), macs=macs, candidates=CANDIDATES, seed=seed, **options).model
    blocks: Any = {"widths": (), "auto": "auto"}.get(way)
    if blocks is None:
        blocks = tlt_prune.block_sensitivity(model, few, metric="categorical_crossentropy", batch_size=250).weakest(int(way))
    return tlt_prune.prune_model(model, macs=macs, blocks=blocks, **options)


def main(folder: pathlib.Path | None) -> None:
    rows, done = begun(TABLE, KEYS, way=str)
    experiment = Experiment(SPEC, str(folder / "cifar10.npz") if folder is not None else "")
    train, test = experiment.pictures(TRAINED + HELD_OUT, SCORED)
    model = keras.models.load_model(WEIGHTS, compile=False)
    for seed, budget, way in itertools.product(SEEDS, BUDGETS, WAYS):
        if (seed, budget, way) in done:
            continue
        chosen = np.random.default_rng(seed).choice(TRAINED, CALIBRATION, replace=False)
        pruned = cut(model, way, budget, (train[0][chosen], train[1][chosen]), seed)
        plan = tlt_prune.plan_pruning(pruned, ratio=0)
        row = {"seed": seed, "budget": budget, "way": way, "macs": plan.macs_before, "params": plan.params_before}
        row["accuracy"] = accuracy(pruned, *test)
        keras.utils.set_random_seed(seed)
        most, held_out = (tuple(z[part] for z in train) for part in (slice(TRAINED), slice(TRAINED, None)))
        tlt_prune.retrain(pruned, most, held_out, teacher=model, epochs=2, loss="categorical_crossentropy", verbose=0)
        rows.append({**row, "retrained": accuracy(pruned, *test)})
        print(rows[-1], flush=True)
        pd.DataFrame(rows).to_csv(TABLE, index=False, float_format="%.5g", lineterminator="\n")
    print("\n".join(shape_rows(pd.DataFrame(rows))))


def shape_rows(table: pd.DataFrame) -> list[str]:
    """Markdown: a row for each budget and way, means of the seeds."""
    rows = []
    for (budget, way), part in table.astype({"way": str}).groupby(["budget", "way"], sort=False):
        means = part.mean(numeric_only=True)
        cells = f"{100 * means.accuracy:.1f} % | {100 * means.retrained:.1f} %"
        rows.append(f"| {100 * float(budget):.0f} % | {WAYS[str(way)]} | {means.params / 1000:.0f} k | {cells} |")  # type: ignore[arg-type]
    return rows


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) == 2 else None)
