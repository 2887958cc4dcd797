#!/usr/bin/env python3
"""What training has to do with pruning, in two tables, on the networks of bench_criteria.py, by the project's own scripts.

    python tools/bench_training.py RESULTS [DATA]

1. Is it worth it? Pruned by tlt-prune's default and retrained, without and with the dense network as its teacher, against the
same small architecture trained from scratch for as many epochs as both trainings of the pruned one had. Three seeds.
tools/bench_scratch.csv
2. Does weight decay make filters prunable? The network trained without, with L2, L1, group lasso: its accuracy, and the share
of filters whose norm lies below a threshold times their layer's largest. tools/bench_decay.csv

RESULTS and DATA as for bench_criteria.py. Trainings are kept and not repeated. About four hours on two CPU cores.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import subprocess
import sys
from typing import Any

import bench_criteria
import keras
import numpy as np
import pandas as pd

from tlt_prune import criteria
from tlt_prune.graph.tracer import trace

HERE = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Epochs of the dense training (the spec's), epochs and peak learning rate of retraining, shares of the MACs to keep."""

    dense_epochs: int
    epochs: int
    rate: float
    shares: tuple[float, ...]


RECIPES = {"resnet20": Recipe(8, 4, 0.03, (0.5,)), "vgg16": Recipe(6, 3, 0.02, (0.5, 0.25))}
DECAYED = "vgg16"
PENALTIES = {
    "none": ["train.reg_config.type=none"],
    "L2": [],
    "L1": ["train.reg_config.type=L1", "train.reg_config.weight_decay=5.0e-5"],
    "group lasso": ["train.reg_config.type=group_lasso", "train.reg_config.weight_decay=5.0e-5"],
}
THRESHOLDS = (0.1, 0.2, 0.3, 0.5)


def script(name: str, network: str, folder: pathlib.Path | None, *words: Any) -> None:
    given = [x for word in bench_criteria.overrides(network, folder) for x in ("--set", word)]
    spec = bench_criteria.NETWORKS[network][0]
    command = [sys.executable, "-m", f"tlt_prune.cli.{name}", "-e", spec, *map(str, words), *given]
    subprocess.run(command, cwd=bench_criteria.ROOT, check=True, stdout=subprocess.DEVNULL)


def accuracy(model: pathlib.Path, network: str, folder: pathlib.Path | None) -> float:
    out = model.parent / f"{model.stem}_scores"
    if not (out / "evaluation.json").exists():
        script("evaluate", network, folder, "-m", model, "-o", out)
    return float(json.loads((out / "evaluation.json").read_text("utf-8"))["accuracy"])


def trained(network: str, folder: pathlib.Path | None, out: pathlib.Path, seed: int, *overrides: str) -> pathlib.Path:
    if not (out / "model.keras").exists():
        words = [f"train.random_seed={seed}", *overrides]
        script("train", network, folder, "-o", out, *(x for word in words for x in ("--set", word)))
    return out / "model.keras"


def scratch(results: pathlib.Path, folder: pathlib.Path | None) -> pd.DataFrame:
    rows = []
    for (network, recipe), seed in itertools.product(RECIPES.items(), bench_criteria.SEEDS):
        dense = bench_criteria.trained(results, network, seed, folder)
        for share in recipe.shares:
            place = results / f"{network}_s{seed}/scratch_{share}"
            pruned, twin = place / "pruned.keras", place / "twin.keras"
            if not pruned.exists():
                script("prune", network, folder, "-m", dense, "-o", pruned, "--macs", share, "-nf", 8)
            if not twin.exists():
                keras.utils.set_random_seed(100 + seed)
                keras.models.clone_model(keras.models.load_model(pruned, compile=False)).save(twin)
            short = [
                f"train.num_epochs={recipe.epochs}",
                f"train.lr_config.learning_rate={recipe.rate}",
                f"train.pretrained_model_path={pruned}",
            ]
            whole = [f"train.num_epochs={recipe.dense_epochs + recipe.epochs}", f"train.pretrained_model_path={twin}"]
            models = {
                "dense": dense,
                "pruned": pruned,
                "retrained": trained(network, folder, place / "retrained", seed, *short),
                "retrained with a teacher": trained(
                    network, folder, place / "taught", seed, *short, f"train.distill.teacher={dense}"
                ),
                "from scratch": trained(network, folder, place / "alone", seed, *whole),
            }
            scores = {name: accuracy(model, network, folder) for name, model in models.items()}
            rows.append({"network": network, "seed": seed, "macs": share, **scores})
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def decay(results: pathlib.Path, folder: pathlib.Path | None) -> pd.DataFrame:
    rows = []
    for name, overrides in PENALTIES.items():
        for seed in bench_criteria.SEEDS:
            if name == "L2":
                path = bench_criteria.trained(results, DECAYED, seed, folder)
            else:
                place = results / f"{DECAYED}_s{seed}/decay_{name.replace(' ', '_')}"
                path = trained(DECAYED, folder, place, seed, *overrides)
            norms = criteria.L2()(criteria.Network(trace(keras.models.load_model(path, compile=False))))
            shares = np.concatenate([x / x.max() for layer, x in norms.items() if layer != "predictions"])
            below = {f"below {t}": float(np.mean(shares <= t)) for t in THRESHOLDS}
            rows.append({"seed": seed, "penalty": name, "accuracy": accuracy(path, DECAYED, folder), **below})
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def main(results: pathlib.Path, folder: pathlib.Path | None) -> None:
    for name, measure in (("bench_scratch.csv", scratch), ("bench_decay.csv", decay)):
        measure(results, folder).to_csv(HERE / name, index=False, float_format="%.5g")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve() if len(sys.argv) == 3 else None)
