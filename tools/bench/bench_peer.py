#!/usr/bin/env python3
"""The same trained networks in torch_pruning: its criteria against ours, straight after pruning and after equal retraining.

    python tools/bench/bench_peer.py RESULTS TORCH_PYTHON [--data DATA]
    python tools/bench/bench_peer.py RESULTS TORCH_PYTHON [--data DATA] --published

RESULTS and DATA as for bench_criteria.py, whose networks it takes; TORCH_PYTHON is a Python that has torch and torch_pruning.
Writes docs/pages/benchmarks/peer.csv: half the MACs, three seeds per network. Ours are the rows of criteria.csv beside it.
With --published: the ResNet-20 and the budgets of bench_published.py, straight after pruning, into published_peer.csv; half an
hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import bench_criteria
import bench_published
import keras
import numpy as np
import pandas as pd
from by_scripts import PAGES, Experiment, Pictures

TABLE, PUBLISHED = PAGES / "peer.csv", PAGES / "published_peer.csv"
# As tlt-prune takes them there.
CALIBRATION, SCORED = 5000, 10_000
# Of our rows, those that the documentation sets beside.
OURS = (
    ("L2", "none"),
    ("Taylor", "none"),
    ("Fisher", "none"),
    ("Taylor", "least squares"),
    ("Fisher", "least squares"),
)


def measured(python: str, network: str, model: Any, train: Pictures, test: Pictures, **settings: Any) -> list[dict[str, Any]]:
    """What bench_torch_criteria.py finds; everything that it needs goes there in one file.

    Args:
        python: has torch_pruning.
        network: "resnet20" or "vgg16".
        model: it, trained.
        train, test: (x, y), to choose and retrain with, and to score with.
        **settings: "shares" of the MACs; "calibration": pictures to choose with; "retrains".
    """
    values = {f"{layer.name}/{w.name}": np.asarray(w) for layer in model.layers for w in layer.weights}
    values["epsilon"] = next(x.epsilon for x in model.layers if isinstance(x, keras.layers.BatchNormalization))
    values |= {"x_train": train[0], "y_train": train[1], "x_test": test[0], "y_test": test[1]}
    values["expected"] = model.predict(test[0][:64], verbose=0)
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / "case.npz"
        np.savez(path, network=network, **values, **settings)
        script = pathlib.Path(__file__).with_name("bench_torch_criteria.py")
        done = subprocess.run([python, str(script), str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"bench_peer: {done.stderr.strip().splitlines()[-1]}")
    found: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def of_criteria(results: pathlib.Path, python: str, folder: pathlib.Path | None) -> None:
    """Beside bench_criteria.py."""
    rows = []
    for network in bench_criteria.NETWORKS:
        train, test = bench_criteria.pictures(network, folder)
        for seed in bench_criteria.SEEDS:
            model = keras.models.load_model(bench_criteria.dense(network, folder, results, seed), compile=False)
            settings = {"shares": [bench_criteria.HALF], "calibration": bench_criteria.CALIBRATION, "retrains": True}
            found = pd.DataFrame(measured(python, network, model, train, test, **settings)).drop(columns="macs")
            rows += [{"network": network, "seed": seed, **row} for row in found.to_dict("records")]
            print(found.to_string(header=False), flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(TABLE, index=False, float_format="%.5g")
    print("\n".join(peer_rows(table)))


def of_published(python: str, folder: pathlib.Path | None) -> None:
    """Beside bench_published.py."""
    network = bench_published.NETWORKS["resnet20"]
    experiment = Experiment(network.spec, str(folder / "cifar10.npz") if folder is not None else "")
    train, test = experiment.pictures(CALIBRATION, SCORED)
    model = keras.models.load_model(network.stored, compile=False)
    settings = {"shares": list(network.budgets), "calibration": CALIBRATION, "retrains": False}
    table = pd.DataFrame(measured(python, "resnet20", model, train, test, **settings))
    table.to_csv(PUBLISHED, index=False, float_format="%.5g")
    print("\n".join(published_peer_rows(table)))


def published_peer_rows(table: pd.DataFrame) -> list[str]:
    """Rows of the documentation, one per criterion, of both rankings the better; ours from bench_published.py's file."""
    ours = pd.read_csv(bench_published.TABLE).query("network == 'resnet20'")
    measured = {
        **{
            ("torch_pruning", name): rows.accuracy.groupby(rows.macs).max()
            for name, rows in table.groupby("criterion", sort=False)
        },
        ("tlt_prune", "Fisher, least squares"): ours.accuracy.groupby(ours.macs).mean(),
    }
    rows = []
    for (library, name), best in measured.items():
        cells = ["not reached" if np.isnan(x) else f"{100 * x:.1f} %" for x in best.sort_index(ascending=False)]
        rows.append(f"| `{library}` | {name} | {' | '.join(cells)} |")
    return rows


def peer_rows(table: pd.DataFrame) -> list[str]:
    """Rows of the documentation, one per criterion, means of the seeds; ours from the file of bench_criteria.py."""
    ours = pd.read_csv(bench_criteria.TABLE).query("macs == @bench_criteria.HALF")
    measured = {
        **{("torch_pruning", name): rows for name, rows in table[table.ranking == "global"].groupby("criterion", sort=False)},
        **{("tlt_prune", name): ours.query("criterion == @name[0] and compensation == @name[1]") for name in OURS},
    }
    found = []
    for (library, name), rows in measured.items():
        means = rows.groupby("network")[["accuracy", "retrained"]].mean()
        label = name if isinstance(name, str) else ", ".join(x for x in name if x != "none")
        cells = [bench_criteria.arrow(means.loc[network]) for network in ("resnet20", "vgg16")]
        found.append(f"| `{library}` | {label} | {' | '.join(cells)} |")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("torch_python")
    parser.add_argument("--data", type=lambda x: pathlib.Path(x).resolve())
    parser.add_argument("--published", action="store_true")
    given = parser.parse_args()
    if given.published:
        of_published(given.torch_python, given.data)
    else:
        of_criteria(given.results.resolve(), given.torch_python, given.data)


if __name__ == "__main__":
    main()
