#!/usr/bin/env python3
"""Transfer learning: networks from ImageNet, trained on for CIFAR-10 at 96 x 96, pruned, retrained, exported by the scripts.

    python tools/bench/bench_transfer.py RESULTS DATA

DATA is a folder with cifar10.npz (arrays x_train, y_train, x_test, y_test). The networks are those of
tools/datasets/get_pretrained.py; 10,000 training pictures, 2,000 test pictures. Three seeds, 50 and 25 % of the MACs. Beside each
pruned network the same small architecture, trained without the big one's weights for as many epochs as both trainings. RESULTS
receives everything. Rows are added to docs/pages/benchmarks/transfer.csv; what is there, or in RESULTS, is not made again. An
hour and a half for a network and a seed on one CPU core.
"""

from __future__ import annotations

import itertools
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
from by_scripts import PAGES, ROOT, Experiment, begun, untrained

TABLE, SPEC = PAGES / "transfer.csv", "specs/cifar10_transfer.yaml"
NETWORKS = {"mobilenet_v2": "MobileNetV2", "efficientnet_lite0": "EfficientNet-Lite0"}
SHARES, SEEDS = (0.5, 0.25), (1, 2, 3)
TRAINED, SCORED, EPOCHS, RETRAINED = 10_000, 2_000, 4, 4


def subset(folder: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """The first pictures of CIFAR-10's two parts."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        counts = {"x_train": TRAINED, "y_train": TRAINED, "x_test": SCORED, "y_test": SCORED}
        with np.load(folder / "cifar10.npz") as found:
            np.savez(path, **{name: found[name][:count] for name, count in counts.items()})
    return path


def from_imagenet(network: str, folder: pathlib.Path) -> pathlib.Path:
    """The network that training starts from."""
    path = folder / f"{network}.keras"
    if not path.exists():
        command = [sys.executable, str(ROOT / "tools/datasets/get_pretrained.py"), str(folder), network]
        subprocess.run(command, check=True)
    return path


def main(results: pathlib.Path, folder: pathlib.Path) -> None:
    data = subset(folder, results / "cifar10_10k.npz")
    rows, done = begun(TABLE, ["network", "seed", "macs"])
    for seed, network in itertools.product(SEEDS, NETWORKS):
        shares = [share for share in SHARES if (network, seed, share) not in done]
        if not shares:
            continue
        experiment, start = Experiment(SPEC, str(data), seed), from_imagenet(network, results / "pretrained")
        dense = experiment.trained(
            results / f"{network}_s{seed}/train", f"train.pretrained_model_path={start}", f"train.num_epochs={EPOCHS}"
        )
        whole = experiment.scores(dense)
        for share in shares:
            place = results / f"{network}_s{seed}/{share}"
            pruned = experiment.pruned(dense, place / "pruned.keras", share)
            retrained = experiment.retrained(pruned, place / "retrained", RETRAINED)
            twin = untrained(pruned, place / "twin.keras", 100 + seed)
            alone = experiment.trained(
                place / "alone", f"train.pretrained_model_path={twin}", f"train.num_epochs={EPOCHS + RETRAINED}"
            )
            models = {"pruned": pruned, "retrained": retrained, "int8": experiment.int8(retrained), "from scratch": alone}
            found = {name: experiment.scores(model) for name, model in models.items()}
            rows.append(
                {
                    "network": network,
                    "seed": seed,
                    "macs": share,
                    "macs_left": found["pruned"]["macs"] / whole["macs"],
                    "params_left": found["pruned"]["params"] / whole["params"],
                    "dense": whole["accuracy"],
                    **{name: x["accuracy"] for name, x in found.items()},
                }
            )
            pd.DataFrame(rows).to_csv(TABLE, index=False, float_format="%.5g")
            print(rows[-1], flush=True)
    print("\n".join(transfer_rows(pd.DataFrame(rows))))


def transfer_rows(table: pd.DataFrame) -> list[str]:
    """Rows of the documentation, one per network and budget: means of the seeds, in per cent."""
    shown = ["dense", "pruned", "retrained", "int8", "from scratch"]
    rows = []
    for (network, share), part in table.groupby(["network", "macs"], sort=False):
        means = part.mean(numeric_only=True)
        cells = " | ".join(f"{100 * means[name]:.1f} %" for name in shown)
        left = f"{100 * means.macs_left:.0f} % | {100 * means.params_left:.0f} %"
        rows.append(f"| {NETWORKS[str(network)]}, {100 * float(share):g} % of the MACs | {left} | {cells} |")
    return rows


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve())
