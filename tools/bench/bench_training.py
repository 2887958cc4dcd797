#!/usr/bin/env python3
"""What training has to do with pruning, in two tables, on the networks of bench_criteria.py, by the project's own scripts.

    python tools/bench/bench_training.py RESULTS [DATA]

1. Is it worth it? Pruned by tlt-prune's default and retrained by tlt-train's recipe, without and with the dense network as its
teacher, against the same small architecture trained from scratch for as many epochs as both trainings of the pruned one had.
Three seeds.
docs/pages/benchmarks/scratch.csv
2. Does weight decay make filters prunable? The network trained without, with L2, with L1: its accuracy, and the share of filters
whose norm is at most a threshold times their layer's largest. docs/pages/benchmarks/decay.csv

RESULTS and DATA as for bench_criteria.py. Trainings are kept and not repeated. About six hours on two CPU cores.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import sys

import bench_criteria
import keras
import numpy as np
import pandas as pd
from bench_criteria import dense, experiment
from by_scripts import BY_RECIPE, PAGES, ROOT, untrained

from tlt_prune import criteria
from tlt_prune.config.specs import load_spec
from tlt_prune.graph.tracer import trace

SCRATCH, DECAY = PAGES / "scratch.csv", PAGES / "decay.csv"


@dataclasses.dataclass(frozen=True)
class Retraining:
    """Epochs of retraining by the default recipe, shares of the MACs to keep."""

    epochs: int
    shares: tuple[float, ...]


RETRAININGS = {"resnet20": Retraining(8, (0.25,)), "vgg16": Retraining(6, (0.25,))}
DECAYED = "vgg16"
PENALTIES = {
    "none": ["train.reg_config.type=none"],
    "L2, 2.5e-4": [],
    "L2, 1e-3": ["train.reg_config.weight_decay=1.0e-3"],
    "L1, 5e-5": ["train.reg_config.type=L1", "train.reg_config.weight_decay=5.0e-5"],
    "L1, 2e-4": ["train.reg_config.type=L1", "train.reg_config.weight_decay=2.0e-4"],
}
THRESHOLDS = (0.3, 0.5, 0.6, 0.7, 0.8)


def dense_epochs(network: str) -> int:
    return load_spec(ROOT / bench_criteria.NETWORKS[network][0]).train.num_epochs


def scratch(results: pathlib.Path, folder: pathlib.Path | None) -> pd.DataFrame:
    rows = []
    for (network, recipe), seed in itertools.product(RETRAININGS.items(), bench_criteria.SEEDS):
        unpruned, trainings = dense(network, folder, results, seed), experiment(network, folder, seed)
        for share in recipe.shares:
            place = results / f"{network}_s{seed}/scratch_{share}"
            # The same pictures say what goes, whatever the seed.
            pruned = experiment(network, folder).pruned(unpruned, place / "pruned.keras", share, "-nf", 8)
            twin = untrained(pruned, place / "twin.keras", 100 + seed)
            short = (*BY_RECIPE, f"train.num_epochs={recipe.epochs}", f"train.pretrained_model_path={pruned}")
            whole = (f"train.num_epochs={dense_epochs(network) + recipe.epochs}", f"train.pretrained_model_path={twin}")
            models = {
                "dense": unpruned,
                "pruned": pruned,
                "retrained": trainings.trained(place / "retrained", *short, "train.distill.teacher="),
                "retrained with a teacher": trainings.trained(place / "taught", *short),
                "from scratch": trainings.trained(place / "alone", *whole),
            }
            scores = {name: trainings.scores(model)["accuracy"] for name, model in models.items()}
            rows.append({"network": network, "seed": seed, "macs": share, **scores})
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def decay(results: pathlib.Path, folder: pathlib.Path | None) -> pd.DataFrame:
    rows = []
    for name, overrides in PENALTIES.items():
        for seed in bench_criteria.SEEDS:
            # The spec's own penalty is that of the dense network.
            place = results / f"{DECAYED}_s{seed}/decay_{name.replace(', ', '_')}"
            trainings = experiment(DECAYED, folder, seed)
            path = trainings.trained(place, *overrides) if overrides else dense(DECAYED, folder, results, seed)
            norms = criteria.L2()(criteria.Network(trace(keras.models.load_model(path, compile=False))))
            shares = np.concatenate([x / x.max() for layer, x in norms.items() if layer != "predictions"])
            below = {f"below {t}": float(np.mean(shares <= t)) for t in THRESHOLDS}
            rows.append({"seed": seed, "penalty": name, "accuracy": trainings.scores(path)["accuracy"], **below})
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def scratch_rows(table: pd.DataFrame) -> list[str]:
    """Rows of the documentation, one per network: top-1 of the three seeds."""
    shown = ["dense", "pruned", "retrained", "retrained with a teacher", "from scratch"]
    rows = []
    for (network, share), part in table.groupby(["network", "macs"], sort=False):
        recipe, cells = RETRAININGS[str(network)], [" / ".join(f"{100 * x:.1f}" for x in part[name]) for name in shown]
        title = f"{bench_criteria.TITLES[str(network)]}, {100 * share:g} % of the MACs"
        rows.append(f"| {title}, {dense_epochs(str(network))} + {recipe.epochs} epochs | {' | '.join(cells)} |")
    return rows


def decay_rows(table: pd.DataFrame) -> list[str]:
    """Rows of the documentation, one per penalty: means of the seeds."""
    means = table.groupby("penalty", sort=False).mean(numeric_only=True)
    cells = {x: " | ".join(f"{100 * row[f'below {t}']:.1f} %" for t in THRESHOLDS) for x, row in means.iterrows()}
    return [f"| {x} | {100 * means.accuracy[x]:.1f} % | {cells[x]} |" for x in means.index]


def main(results: pathlib.Path, folder: pathlib.Path | None) -> None:
    for path, measure, rows in ((SCRATCH, scratch, scratch_rows), (DECAY, decay, decay_rows)):
        measure(results, folder).to_csv(path, index=False, float_format="%.5g")
        print("\n".join(rows(pd.read_csv(path))))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve() if len(sys.argv) == 3 else None)
