#!/usr/bin/env python3
"""Every criterion, with every compensation, at three budgets: accuracy straight after pruning and after a short retraining.

    python tools/bench/bench_criteria.py RESULTS [DATA]

Two networks, three seeds each, trained by tlt-train from specs/cifar10_resnet20.yaml and specs/fashion_vgg16.yaml into
RESULTS/NETWORK_sSEED (kept, and not trained again). DATA is a folder with cifar10.npz and fashion_mnist.npz; without it, Keras
downloads the sets. Rows are written as soon as they are measured: run again, it goes on. Writes criteria.csv and criteria.png in
docs/pages/benchmarks. Hours on two CPU cores.

Fixed in all: granularity 8, at least 8 filters a layer, 1,000 training pictures for whatever takes data, accuracy on the first
5,000 test pictures; retraining is `tlt_prune.retrain` by its defaults, with the dense network as the teacher: one pass over 5,000
training pictures, without augmentation. It keeps the better of the states before and after, by the accuracy that is shown.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pandas as pd
from by_scripts import PAGES, Experiment, Pictures, accuracy, begun

import tlt_prune
from tlt_prune import criteria

TABLE = PAGES / "criteria.csv"
NETWORKS = {"vgg16": ("specs/fashion_vgg16.yaml", "fashion_mnist"), "resnet20": ("specs/cifar10_resnet20.yaml", "cifar10")}
TITLES = {"vgg16": "narrow VGG-16 on Fashion-MNIST", "resnet20": "ResNet-20 on CIFAR-10"}
SEEDS = (1, 2, 3)
MACS = (0.75, 0.5, 0.35)
CALIBRATION, SCORED, RETRAINED = 1000, 5000, 5000
KEYS = ["network", "seed", "macs", "criterion", "compensation"]
MADE_UP = "least squares, made-up pictures"
WITHOUT_DATA = ("L2", "L1", "Linf", "FPGM", "BNScale", "LAMP", "Random")
RETRAINED_TOO = ("none", "bias", "least squares")
HALF = 0.5
# What is measured at half the MACs alone, and of which criteria.
AT_HALF = {MADE_UP: WITHOUT_DATA, "batch norm": ("L2", "LAMP", "Taylor", "Fisher")}
BATCH = 250
# The order of the documentation's table, and what it adds to names.
ROWS = ("Random", "L2", "L1", "Linf", "FPGM", "BNScale", "LAMP", "APoZ", "Activation", "Ablation", "Taylor", "Fisher")
REMARKS = {"L2": " (TLT's `min_weight`)", "Ablation": " (chunks of 8)"}


class Once:
    """A criterion that is asked once a network, whatever the budget."""

    def __init__(self, criterion: Any) -> None:
        self._criterion, self.comparable = criterion, getattr(criterion, "comparable", False)
        self.said: Any = None
        self.seconds = 0.0

    def __call__(self, network: Any) -> Any:
        if self.said is None:
            start = time.perf_counter()
            self.said = self._criterion(network)
            self.seconds = time.perf_counter() - start
        return self.said


def criteria_of(x: Any, y: Any, seed: int) -> dict[str, Any]:
    loss = "categorical_crossentropy"
    return {
        "L2": criteria.L2(),
        "Random": criteria.Random(seed),
        "Taylor": criteria.Taylor((x, y), loss),
        "LAMP": criteria.LAMP(),
        "FPGM": criteria.FPGM(),
        "Fisher": criteria.Fisher((x, y), loss),
        "BNScale": criteria.BNScale(),
        "L1": criteria.L1(),
        "Linf": criteria.Linf(),
        "Activation": criteria.Activation(x, batch_size=BATCH),
        "APoZ": criteria.APoZ(x, batch_size=BATCH),
        "Ablation": criteria.Ablation((x[:500], y[:500]), loss, chunk=8, batch_size=BATCH),
    }


def compensations_of(x: Any) -> dict[str, Any]:
    return {
        "none": None,
        "bias": "bias",
        "least squares": tlt_prune.LeastSquares(x, batch_size=BATCH),
        MADE_UP: tlt_prune.LeastSquares(batch_size=BATCH),
        "batch norm": tlt_prune.RecalibrateBatchNorm(x, batch_size=BATCH),
    }


def experiment(network: str, folder: pathlib.Path | None, seed: int = 1) -> Experiment:
    """A network's spec, with the set in `folder` where it is at hand."""
    spec, name = NETWORKS[network]
    return Experiment(spec, f"{folder / name}.npz" if folder is not None else "", seed)


def dense(network: str, folder: pathlib.Path | None, results: pathlib.Path, seed: int) -> pathlib.Path:
    """The model that tlt-train leaves; trained where it is not there yet."""
    return experiment(network, folder, seed).trained(results / f"{network}_s{seed}/train")


def pictures(network: str, folder: pathlib.Path | None) -> tuple[Pictures, Pictures]:
    """(x, y) to train with and (x, y) to score with, as the network takes them."""
    return experiment(network, folder).pictures(RETRAINED, SCORED)


def retrained(model: Any, dense: Any, train: tuple[Any, Any], test: tuple[Any, Any]) -> float:
    """Accuracy after `tlt_prune.retrain` by its defaults, for one pass."""
    keras.utils.set_random_seed(0)
    loss = "categorical_crossentropy"
    return tlt_prune.retrain(model, train, test, teacher=dense, epochs=1, loss=loss, verbose=0).best["val_accuracy"]


def main(results: pathlib.Path, folder: pathlib.Path | None) -> None:
    rows, done = begun(TABLE, KEYS)
    for seed, network in itertools.product(SEEDS, NETWORKS):
        path = dense(network, folder, results, seed)
        train, test = pictures(network, folder)
        few = (train[0][:CALIBRATION], train[1][:CALIBRATION])
        keras.backend.clear_session()
        model = keras.models.load_model(path, compile=False)
        before = accuracy(model, *test)
        chosen = {name: Once(criterion) for name, criterion in criteria_of(*few, seed).items()}
        for share, (name, criterion) in itertools.product(MACS, chosen.items()):
            wanted = {
                kind: compensation
                for kind, compensation in compensations_of(few[0]).items()
                if (network, seed, share, name, kind) not in done
                and (kind not in AT_HALF or (share == HALF and name in AT_HALF[kind]))
            }
            if wanted:
                first = {"network": network, "seed": seed, "macs": share, "criterion": name, "dense": before}
                rows += [{**first, **row} for row in measured(model, criterion, wanted, share, train, test)]
                print(pd.DataFrame(rows).tail(len(wanted)).to_string(header=False), flush=True)
                pd.DataFrame(rows).to_csv(TABLE, index=False, float_format="%.5g")
    table = pd.DataFrame(rows)
    draw(table)
    print("\n".join([*criterion_rows(table), *budget_rows(table)]))


def measured(
    model: Any, criterion: Once, compensations: dict[str, Any], share: float, train: tuple[Any, Any], test: tuple[Any, Any]
) -> Iterator[dict[str, Any]]:
    """A row for each compensation of one choice."""
    start = time.perf_counter()
    plan = tlt_prune.plan_pruning(model, macs=share, criterion=criterion, granularity=8, min_num_filters=8)
    chosen = max(criterion.seconds, time.perf_counter() - start)
    # One network for all, whose predictions are compiled once.
    network = plan.apply(model)
    for kind, compensation in compensations.items():
        start = time.perf_counter()
        network.set_weights(plan.apply(model, compensation=compensation).get_weights())
        row = {
            "compensation": kind,
            "macs_left": plan.macs_after / plan.macs_before,
            "params_left": plan.params_after / plan.params_before,
            "seconds": chosen + time.perf_counter() - start,
            "accuracy": accuracy(network, *test),
        }
        if kind in RETRAINED_TOO:
            row["retrained"] = retrained(network, model, train, test)
        yield row


def criterion_rows(table: pd.DataFrame) -> list[str]:
    """Rows of the documentation, one per criterion: straight after pruning -> retrained, means of the seeds at half the MACs."""
    means = table[table.macs == HALF].groupby(["network", "compensation", "criterion"])[["accuracy", "retrained"]].mean()
    rows = []
    for name in ROWS:
        cells = []
        for network, kind in itertools.product(("resnet20", "vgg16"), ("none", "least squares")):
            of_kind = means.loc[network, kind]
            cell = arrow(of_kind.loc[name])
            best = kind == "least squares" and of_kind.accuracy.idxmax() == name
            cells.append(f"**{cell}**" if best else cell)
        rows.append(f"| `{name}`{REMARKS.get(name, '')} | {' | '.join(cells)} |")
    return rows


def budget_rows(table: pd.DataFrame) -> list[str]:
    """Rows of the documentation for every budget, for chance, TLT's criterion and the two best."""
    means = table.groupby(["network", "macs", "criterion", "compensation"])[["accuracy", "retrained"]].mean()
    rows = []
    for name, kind in itertools.product(("Random", "L2", "Taylor", "Fisher"), ("none", "least squares")):
        places = itertools.product(("resnet20", "vgg16"), MACS)
        cells = [arrow(means.loc[network, share, name, kind]) for network, share in places]
        rows.append(f"| `{name}`{', least squares' if kind != 'none' else ''} | {' | '.join(cells)} |")
    return rows


def arrow(means: pd.Series) -> str:
    """Straight after pruning -> retrained."""
    return f"{100 * means.accuracy:.1f} -> {100 * means.retrained:.1f} %"


def draw(table: pd.DataFrame) -> None:
    """A row of panels for each budget, two panels for each network: straight after pruning, and retrained."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = {"none": "#999999", "bias": "#1f77b4", "least squares": "#76b900", MADE_UP: "#e69f00"}
    moments = {"accuracy": "straight after pruning", "retrained": "after a short retraining"}
    panels = list(itertools.product(NETWORKS, moments))
    figure, axes = plt.subplots(len(MACS), len(panels), figsize=(24, 12), sharey="col")
    for (row, share), (column, (network, measure)) in itertools.product(enumerate(MACS), enumerate(panels)):
        axis, part = axes[row, column], table[(table.network == network) & (table.macs == share)]
        order = part[part.compensation == "least squares"].groupby("criterion").accuracy.mean().sort_values().index
        for offset, (kind, color) in enumerate(kinds.items()):
            of_kind = part[part.compensation == kind].dropna(subset=[measure]).groupby("criterion")[measure]
            if not len(of_kind):
                continue
            mean, low, high = (getattr(of_kind, f)().reindex(order) for f in ("mean", "min", "max"))
            at = np.arange(len(order)) + 0.2 * (offset - 1.5)
            bars = np.clip(np.array([mean - low, high - mean]), 0, None)
            axis.bar(at, 100 * mean, 0.2, color=color, label=kind, yerr=100 * bars, error_kw={"lw": 0.8})
        axis.axhline(100 * part.dense.mean(), color="k", lw=0.8, ls=":")
        axis.set_xticks(np.arange(len(order)), order, rotation=40, ha="right", fontsize=8)
        axis.set_title(f"{network}, {share:.0%} of the MACs, {moments[measure]}", fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("top-1, %")
    # Made-up pictures were measured at half the MACs only.
    handles, names = axes[MACS.index(HALF), 0].get_legend_handles_labels()
    figure.legend(handles, names, ncols=len(kinds), frameon=False, loc="upper center")
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    figure.savefig(TABLE.with_suffix(".png"), dpi=80)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve() if len(sys.argv) == 3 else None)
