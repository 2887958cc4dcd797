#!/usr/bin/env python3
"""Transfer learning: networks from ImageNet, trained on for CIFAR-10 at 96 x 96, pruned, retrained and exported by the five scripts.

    python tools/bench/bench_transfer.py RESULTS DATA

DATA is a folder with cifar10.npz (arrays x_train, y_train, x_test, y_test). The networks are those of
tools/datasets/get_pretrained.py; 10,000 training pictures, 2,000 test pictures. Three seeds, 50 and 25 % of the MACs. Beside each
pruned network the same small architecture, trained without the big one's weights for as many epochs as both trainings. RESULTS
receives everything, and what is there is not made again. Writes docs/pages/benchmarks/transfer.csv. Hours on two CPU cores.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pandas as pd

ROOT = pathlib.Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs/pages/benchmarks/transfer.csv"
SPEC, RETRAIN_SPEC = "specs/cifar10_transfer.yaml", "specs/cifar10_transfer_retrain.yaml"
NETWORKS = {"mobilenet_v2": "MobileNetV2", "efficientnet_lite0": "EfficientNet-Lite0"}
SHARES, SEEDS = (0.5, 0.25), (1, 2, 3)
TRAINED, SCORED, EPOCHS, RETRAINED = 10_000, 2_000, 6, 6


def script(name: str, spec: str, data: pathlib.Path, *words: object) -> None:
    command = [sys.executable, "-m", f"tlt_prune.cli.{name}", "-e", spec, *map(str, words)]
    subprocess.run([*command, "--set", f"dataset.train_dataset_path={data}"], cwd=ROOT, check=True)


def settings(**values: object) -> list[str]:
    return [x for key, value in values.items() for x in ("--set", f"train.{key}={value}")]


def scores(model: pathlib.Path, data: pathlib.Path) -> dict[str, float]:
    """What tlt-evaluate says of a model: accuracy, MACs, parameters."""
    out = model.parent / f"{model.stem}_scores"
    if not (out / "evaluation.json").exists():
        script("evaluate", RETRAIN_SPEC, data, "-m", model, "-o", out)
    found = json.loads((out / "evaluation.json").read_text("utf-8"))
    return {name: float(found[name] or 0) for name in ("accuracy", "macs", "params")}


def subset(folder: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """The first pictures of CIFAR-10's two parts."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with np.load(folder / "cifar10.npz") as found:
            parts = {
                x: found[x][: TRAINED if x.endswith("train") else SCORED] for x in ("x_train", "y_train", "x_test", "y_test")
            }
        np.savez(path, **parts)
    return path


def trained(spec: str, data: pathlib.Path, out: pathlib.Path, seed: int, **values: object) -> pathlib.Path:
    if not (out / "model.keras").exists():
        script("train", spec, data, "-o", out, *settings(random_seed=seed, tensorboard="false", **values))
    return out / "model.keras"


def exported(model: pathlib.Path, data: pathlib.Path) -> pathlib.Path:
    path = model.parent / "int8.onnx"
    if not path.exists():
        script("export", RETRAIN_SPEC, data, "-m", model, "-o", path, "--set", "export.data_type=int8")
    return path


def main(results: pathlib.Path, folder: pathlib.Path) -> None:
    data, rows = subset(folder, results / "cifar10_10k.npz"), []
    for seed, network in itertools.product(SEEDS, NETWORKS):
        start = results / f"pretrained/{network}.keras"
        if not start.exists():
            command = [sys.executable, str(ROOT / "tools/datasets/get_pretrained.py"), str(start.parent), network]
            subprocess.run(command, check=True)
        dense = trained(SPEC, data, results / f"{network}_s{seed}/train", seed, pretrained_model_path=start, num_epochs=EPOCHS)
        whole = scores(dense, data)
        for share in SHARES:
            place = results / f"{network}_s{seed}/{share}"
            pruned, twin = place / "pruned.keras", place / "twin.keras"
            if not pruned.exists():
                script("prune", SPEC, data, "-m", dense, "-o", pruned, "--macs", share, *settings(random_seed=seed))
            retrained = trained(RETRAIN_SPEC, data, place / "retrained", seed, pretrained_model_path=pruned, num_epochs=RETRAINED)
            if not twin.exists():
                keras.utils.set_random_seed(100 + seed)
                keras.models.clone_model(keras.models.load_model(pruned, compile=False)).save(twin)
            alone = trained(SPEC, data, place / "alone", seed, pretrained_model_path=twin, num_epochs=EPOCHS + RETRAINED)
            found = {
                "pruned": scores(pruned, data),
                "retrained": scores(retrained, data),
                "int8": scores(exported(retrained, data), data),
                "from scratch": scores(alone, data),
            }
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
