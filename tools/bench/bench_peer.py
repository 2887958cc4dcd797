#!/usr/bin/env python3
"""The same trained networks in torch_pruning: its criteria against ours, straight after pruning and after equal retraining.

    python tools/bench/bench_peer.py RESULTS TORCH_PYTHON [DATA]

RESULTS and DATA as for bench_criteria.py, whose networks it takes; TORCH_PYTHON is a Python that has torch and torch_pruning.
Writes docs/pages/benchmarks/peer.csv: half the MACs, three seeds per network. Ours are the rows of criteria.csv beside it.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile

import bench_criteria
import keras
import numpy as np
import pandas as pd
from by_scripts import PAGES

TABLE = PAGES / "peer.csv"
# Of our rows, those that the documentation sets beside.
OURS = (
    ("L2", "none"),
    ("Taylor", "none"),
    ("Fisher", "none"),
    ("Taylor", "least squares"),
    ("Fisher", "least squares"),
)


def case(path: pathlib.Path, network: str, model: keras.Model, train: tuple[object, object], test: tuple[object, object]) -> None:
    """Everything that the other process needs, in one file."""
    values = {}
    for layer in model.layers:
        for weight in layer.weights:
            values[f"{layer.name}/{weight.name}"] = np.asarray(weight)
    epsilon = next(x.epsilon for x in model.layers if isinstance(x, keras.layers.BatchNormalization))
    expected = model.predict(test[0][:64], verbose=0)
    np.savez(
        path,
        **values,
        network=network,
        epsilon=epsilon,
        share=bench_criteria.HALF,
        expected=expected,
        x_train=train[0],
        y_train=train[1],
        x_test=test[0],
        y_test=test[1],
    )


def main(results: pathlib.Path, python: str, folder: pathlib.Path | None) -> None:
    rows = []
    for network in bench_criteria.NETWORKS:
        train, test = bench_criteria.pictures(network, folder)
        for seed in bench_criteria.SEEDS:
            model = keras.models.load_model(bench_criteria.dense(network, folder, results, seed), compile=False)
            with tempfile.TemporaryDirectory() as scratch:
                path = pathlib.Path(scratch) / "case.npz"
                case(path, network, model, train, test)
                script = pathlib.Path(__file__).with_name("bench_torch_criteria.py")
                done = subprocess.run([python, str(script), str(path)], capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"bench_peer: {done.stderr.strip().splitlines()[-1]}")
            found = json.loads(done.stdout.strip().splitlines()[-1])
            rows += [{"network": network, "seed": seed, **row} for row in found]
            print(pd.DataFrame(rows).tail(len(found)).to_string(header=False), flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(TABLE, index=False, float_format="%.5g")
    print("\n".join(peer_rows(table)))


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


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]).resolve(), sys.argv[2], pathlib.Path(sys.argv[3]).resolve() if len(sys.argv) == 4 else None)
