#!/usr/bin/env python3
"""The same trained networks in torch_pruning: its criteria against ours, straight after pruning and after equal retraining.

    python tools/bench_peer.py RESULTS TORCH_PYTHON [DATA]

RESULTS and DATA as for bench_criteria.py, whose networks and rows (tools/bench_criteria.csv) it takes; TORCH_PYTHON is a Python
that has torch and torch_pruning. Writes tools/bench_peer.csv: half the MACs, three seeds a network.
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

SHARE = 0.5
TABLE = pathlib.Path(__file__).with_name("bench_peer.csv")


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
        share=SHARE,
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
            model = keras.models.load_model(bench_criteria.trained(results, network, seed, folder), compile=False)
            with tempfile.TemporaryDirectory() as scratch:
                path = pathlib.Path(scratch) / "case.npz"
                case(path, network, model, train, test)
                script = pathlib.Path(__file__).with_name("bench_torch_criteria.py")
                done = subprocess.run([python, str(script), str(path)], capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"bench_peer: {done.stderr.strip().splitlines()[-1]}")
            found = json.loads(done.stdout.strip().splitlines()[-1])
            rows += [{"library": "torch_pruning", "network": network, "seed": seed, **row} for row in found]
            print(pd.DataFrame(rows).tail(len(found)).to_string(header=False), flush=True)
    ours = pd.read_csv(bench_criteria.TABLE).query("macs == @SHARE")
    ours = ours.assign(library="tlt_prune", criterion=ours.criterion + " + " + ours.compensation)
    columns = ["library", "network", "seed", "criterion", "ranking", "macs_left", "accuracy", "retrained"]
    table = pd.concat([pd.DataFrame(rows), ours]).reindex(columns=columns)
    table.to_csv(TABLE, index=False, float_format="%.5g")
    print("\n".join(readme_rows(table)))


OURS = ("L2 + none", "Taylor + none", "Fisher + none", "Taylor + least squares", "Fisher + least squares")


def readme_rows(table: pd.DataFrame) -> list[str]:
    """The README's rows, a criterion each: straight after pruning -> retrained, means of the seeds."""
    theirs = table[(table.library == "torch_pruning") & (table.ranking == "global")]
    ours = table[(table.library == "tlt_prune") & table.criterion.isin(OURS)]
    rows = []
    for library, part in (("torch_pruning", theirs), ("tlt_prune", ours)):
        means = part.groupby(["criterion", "network"])[["accuracy", "retrained"]].mean()
        for name in OURS if library == "tlt_prune" else dict.fromkeys(part.criterion):
            cells = [means.loc[name, network] for network in ("resnet20", "vgg16")]
            label = name.replace(" + none", "").replace(" + ", ", ")
            shown = (f"{100 * x.accuracy:.1f} -> {100 * x.retrained:.1f} %" for x in cells)
            rows.append(f"| `{library}` | {label} | {' | '.join(shown)} |")
    return rows


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]).resolve(), sys.argv[2], pathlib.Path(sys.argv[3]).resolve() if len(sys.argv) == 4 else None)
