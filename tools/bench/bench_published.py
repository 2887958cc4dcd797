#!/usr/bin/env python3
"""Networks that publications prune, from an accuracy that they start from: straight after pruning, and retrained.

    python tools/bench/bench_published.py RESULTS [--data DATA] [--networks resnet20 ...] [--epochs DIVISOR]

resnet20 takes the trained network docs/pages/benchmarks/resnet20_cifar10.keras, and about an hour on two CPU cores; resnet56,
vgg16 and vgg19 are trained first, for hours on a GPU, where TensorFlow sees one. Pruned by tlt-prune's defaults, retrained by
tlt-train's recipe; three seeds. --epochs divides the epochs of all trainings, to try it. RESULTS receives the models, which are
kept and not made again; DATA is a folder with cifar10.npz; without it, Keras downloads the set. Writes
docs/pages/benchmarks/published.csv, whose rows of other networks stay.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Mapping

import pandas as pd
from by_scripts import PAGES, ROOT, Experiment

from tlt_prune.config import load_spec

TABLE = PAGES / "published.csv"
SEEDS = (1, 2, 3)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of the table.

    Attributes:
        title: its name there.
        spec: of its training.
        budgets: share of the MACs that may stay -> epochs of retraining.
        stored: the trained network, where the repository has it.
    """

    title: str
    spec: str
    budgets: Mapping[float, int]
    stored: pathlib.Path | None = None


NETWORKS = {
    "resnet20": Network(
        "ResNet-20", "specs/cifar10_resnet20_full.yaml", {0.73: 6, 0.5: 10, 0.25: 16}, PAGES / "resnet20_cifar10.keras"
    ),
    # 2.11 and 2.5 times fewer, as DepGraph, CHIP and ResRep print them; 8 times for VGG-19.
    "resnet56": Network("ResNet-56", "specs/cifar10_resnet56.yaml", {0.474: 100, 0.4: 100}),
    "vgg16": Network("VGG-16", "specs/cifar10_vgg16.yaml", {0.5: 100, 0.4: 100}),
    "vgg19": Network("VGG-19", "specs/cifar10_vgg19.yaml", {0.125: 100}),
}


def rows_of(name: str, results: pathlib.Path, data: pathlib.Path | None, divisor: int = 1) -> Iterator[dict[str, object]]:
    """Trains, prunes, retrains and scores a network; one row per seed and budget."""
    network = NETWORKS[name]
    for seed, (share, epochs) in itertools.product(SEEDS, network.budgets.items()):
        experiment = Experiment(network.spec, str(data / "cifar10.npz") if data is not None else "", seed)
        dense = network.stored
        if dense is None:
            whole = load_spec(ROOT / network.spec).train.num_epochs
            dense = experiment.trained(results / f"{name}_s{seed}/train", f"train.num_epochs={max(whole // divisor, 1)}")
        place = results / f"{name}_s{seed}/{share}"
        pruned = experiment.pruned(dense, place / "pruned.keras", share)
        retrained = experiment.retrained(pruned, place / "retrained", max(epochs // divisor, 1))
        before, cut, after = (experiment.scores(x) for x in (dense, pruned, retrained))
        yield {
            "network": name,
            "seed": seed,
            "macs": share,
            "epochs": epochs,
            "macs_left": cut["macs"] / before["macs"],
            "params_left": cut["params"] / before["params"],
            "dense": before["accuracy"],
            "accuracy": cut["accuracy"],
            "retrained": after["accuracy"],
        }


def published_rows(table: pd.DataFrame) -> list[str]:
    """Rows of the documentation, one per network and budget: means of the seeds, in per cent."""
    rows = []
    for (name, share), part in table.groupby(["network", "macs"], sort=False):
        means = part.mean(numeric_only=True)
        left = f"{100 * means.macs_left:.0f} % | {100 * means.params_left:.0f} %"
        accuracies = " | ".join(f"{100 * means[x]:.2f} %" for x in ("dense", "accuracy", "retrained"))
        gained = 100 * (means.retrained - means.dense)
        rows.append(f"| {NETWORKS[str(name)].title}, {100 * float(share):g} % | {left} | {accuracies} | {gained:+.2f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=["resnet20"])
    parser.add_argument("--epochs", type=int, default=1, metavar="DIVISOR")
    given = parser.parse_args()
    stored = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame({"network": []})
    rows = stored[~stored.network.isin(given.networks)].to_dict("records")
    for name in given.networks:
        for row in rows_of(name, given.results.resolve(), given.data and given.data.resolve(), given.epochs):
            rows.append(row)
            print(row, flush=True)
            pd.DataFrame(rows).to_csv(TABLE, index=False, float_format="%.5g")
    print("\n".join(published_rows(pd.DataFrame(rows))))


if __name__ == "__main__":
    main()
