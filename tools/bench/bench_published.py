#!/usr/bin/env python3
"""ResNet-20 on CIFAR-10 from an accuracy that publications start from: pruned to three budgets, straight after and retrained.

    python tools/bench/bench_published.py RESULTS [DATA]

Takes the trained network docs/pages/benchmarks/resnet20_cifar10.keras, and tlt-prune, tlt-train and tlt-evaluate with
specs/cifar10_resnet20_retrain.yaml, whose recipe of retraining is the default one. Three seeds of the choice and of retraining.
RESULTS receives the models, which are kept and not made again; DATA is a folder with cifar10.npz; without it, Keras downloads
the set. Writes docs/pages/benchmarks/published.csv. About an hour on two CPU cores.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import subprocess
import sys

import pandas as pd

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs/pages/benchmarks"
TABLE, DENSE = PAGES / "published.csv", PAGES / "resnet20_cifar10.keras"
SPEC = "specs/cifar10_resnet20_retrain.yaml"
# Share of the MACs -> epochs of retraining.
BUDGETS = {0.73: 10, 0.5: 12, 0.25: 16}
SEEDS = (1, 2, 3)


def script(name: str, folder: pathlib.Path | None, *words: object) -> None:
    data = ["--set", f"dataset.train_dataset_path={folder / 'cifar10.npz'}"] if folder is not None else []
    command = [sys.executable, "-m", f"tlt_prune.cli.{name}", "-e", SPEC, *map(str, words), *data]
    subprocess.run(command, cwd=ROOT, check=True)


def scores(model: pathlib.Path, folder: pathlib.Path | None, out: pathlib.Path) -> dict[str, float]:
    """What tlt-evaluate says of a model: accuracy, MACs, parameters."""
    path = out / "evaluation.json"
    if not path.exists():
        script("evaluate", folder, "-m", model, "-o", out)
    found = json.loads(path.read_text("utf-8"))
    return {name: float(found[name]) for name in ("accuracy", "macs", "params")}


def main(results: pathlib.Path, folder: pathlib.Path | None) -> None:
    dense = scores(DENSE, folder, results / "published/dense")
    rows = []
    for seed, (share, epochs) in itertools.product(SEEDS, BUDGETS.items()):
        place = results / f"published/{share}_s{seed}"
        pruned, seeded = place / "pruned.keras", ("--set", f"train.random_seed={seed}")
        if not pruned.exists():
            script("prune", folder, "-m", DENSE, "-o", pruned, "--macs", share, *seeded)
        if not (place / "retrained/model.keras").exists():
            settings = (f"train.num_epochs={epochs}", f"train.pretrained_model_path={pruned}", "train.tensorboard=false")
            script("train", folder, "-o", place / "retrained", *seeded, *(x for word in settings for x in ("--set", word)))
        before = scores(pruned, folder, place / "pruned_scores")
        after = scores(place / "retrained/model.keras", folder, place / "retrained_scores")
        rows.append(
            {
                "seed": seed,
                "macs": share,
                "epochs": epochs,
                "macs_left": before["macs"] / dense["macs"],
                "params_left": before["params"] / dense["params"],
                "dense": dense["accuracy"],
                "accuracy": before["accuracy"],
                "retrained": after["accuracy"],
            }
        )
        pd.DataFrame(rows).to_csv(TABLE, index=False, float_format="%.5g")
        print(rows[-1], flush=True)
    print("\n".join(published_rows(pd.DataFrame(rows))))


def published_rows(table: pd.DataFrame) -> list[str]:
    """Rows of the documentation, one per budget: means of the seeds, in per cent."""
    rows = []
    for share, part in table.groupby("macs", sort=False):
        means = part.mean(numeric_only=True)
        lost = 100 * (means.dense - means.retrained)
        cells = (f"{100 * means.macs_left:.0f} %", f"{100 * means.params_left:.0f} %", f"{100 * means.dense:.2f} %")
        figures = (f"{100 * means.accuracy:.2f} %", f"{100 * means.retrained:.2f} %", f"{lost:.2f}", f"{means.epochs:.0f}")
        rows.append(f"| `tlt_prune`, {100 * float(str(share)):g} % asked for | {' | '.join((*cells, *figures))} |")
    return rows


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve() if len(sys.argv) == 3 else None)
