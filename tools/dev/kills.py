#!/usr/bin/env python3
"""Signals at random moments over the five scripts: every chain must end with the weights of an undisturbed one.

    python tools/dev/kills.py [SIGNALS] [--seed N]          default 50, about ten minutes

A chain trains, prunes, retrains, evaluates, infers and exports on made-up pictures. Each of its commands is started again until
it ends by itself; before that it is ended by SIGKILL, SIGTERM or SIGINT after a random time. Prints a line for each chain.
"""

from __future__ import annotations

import argparse
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import zipfile

import numpy as np
from PIL import Image

SPEC = """
results_dir: {results}
dataset: {{train_dataset_path: {data}/train, val_dataset_path: {data}/val, preprocess_mode: unit}}
model: {{backbone: resnet_10, width: 0.125, input_width: 8, input_height: 8, input_channels: 3}}
train: {{num_epochs: 25, batch_size_per_gpu: 8, tensorboard: false, lr_config: {{learning_rate: 0.01}}}}
prune: {{ratio: 0.5, min_num_filters: 4, granularity: 4}}
export: {{formats: [onnx, saved_model]}}
"""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def make_pictures(folder: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 6)):
        for level, name in ((60, "dark"), (190, "light")):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(level, 40, (8, 8, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")


def commands(spec: pathlib.Path, results: pathlib.Path) -> list[list[str]]:
    common = ["-e", str(spec)]
    retrained = f"{results}/retrain/model.keras"
    return [
        ["train", *common],
        ["prune", *common, "-m", f"{results}/train/model.keras", "-o", f"{results}/prune/model.keras"],
        ["train", *common, "-o", f"{results}/retrain", f"train.pretrained_model_path={results}/prune/model.keras"],
        ["evaluate", *common, "-m", retrained, "-o", f"{results}/evaluate"],
        ["infer", *common, "-m", retrained, "-d", f"{spec.parent}/data/val", "-o", f"{results}/infer"],
        ["export", *common, "-m", retrained],
    ]


def chain(folder: pathlib.Path, results: pathlib.Path, rng: random.Random | None, budget: int) -> tuple[dict[str, object], int]:
    """What a chain leaves behind, and how many signals it got of at most `budget`."""
    spec = results.with_suffix(".yaml")
    spec.write_text(SPEC.format(results=results, data=folder / "data"))
    sent = 0
    for command in commands(spec, results):
        disturbed = rng is not None
        while True:
            code = f"from tlt_prune.cli import scripts; scripts.{command[0]}()"
            words = [sys.executable, "-c", code, *command[1:]]
            process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            if rng is not None and disturbed and sent < budget:
                try:
                    process.wait(rng.uniform(0.2, 7.0))
                except subprocess.TimeoutExpired:
                    process.send_signal(rng.choice(SIGNALS))
                    sent += 1
                    disturbed = rng.random() < 0.6
            _, err = process.communicate(timeout=300)
            if process.returncode == 0:
                break
            if process.returncode == 1:
                sys.exit(f"{command}: {err.decode()}")
    return left_behind(results), sent


def left_behind(results: pathlib.Path) -> dict[str, object]:
    """Checksums of weights; texts of tables; that nothing unfinished is there."""
    found: dict[str, object] = {}
    for name in ("train", "prune", "retrain"):
        with zipfile.ZipFile(results / name / "model.keras") as archive:
            found[name] = archive.getinfo("model.weights.h5").CRC
    found["evaluate"] = (results / "evaluate/confusion_matrix.csv").read_text("utf-8")
    found["infer"] = (results / "infer/predictions.csv").read_text("utf-8")
    found["onnx"] = (results / "export/model.onnx").stat().st_size
    found["saved_model"] = (results / "export/saved_model/saved_model.pb").is_file()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("signals", nargs="?", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    print(f"{arguments.signals} signals, seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        make_pictures(folder / "data")
        expected, _ = chain(folder, folder / "undisturbed", None, 0)
        total = number = 0
        while total < arguments.signals:
            number += 1
            started = time.perf_counter()
            found, sent = chain(folder, folder / f"chain{number}", rng, arguments.signals - total)
            total += sent
            wrong = [name for name, value in expected.items() if found[name] != value]
            outcome = f"differs: {wrong}" if wrong else "equal"
            print(f"chain {number}: {sent} signals, {time.perf_counter() - started:.0f} s, {outcome}", flush=True)
            if wrong:
                sys.exit(1)
    print(f"{total} signals in {number} chains; all end as the undisturbed one.")


if __name__ == "__main__":
    main()
