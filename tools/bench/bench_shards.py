#!/usr/bin/env python3
"""A million small pictures: made, converted into shards, trained on, with the resident memory of each command.

    python tools/bench/bench_shards.py RESULTS [--pictures N]        about an hour on two cores

Makes pictures of 32 x 32 pixels in class folders below RESULTS (a file of about 2 KB each), runs tlt-convert and one epoch of
tlt-train on the shards, and reads both sets without a training. Prints a table and puts its rows into
docs/pages/benchmarks/shards.csv; the resident memory over time is in RESULTS/memory.csv. --only measures some of it again.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
from PIL import Image

TABLE = pathlib.Path(__file__).resolve().parents[2] / "docs/pages/benchmarks/shards.csv"
ORDER = ["tlt-convert", "tlt-train", "reading shards", "reading files"]
CLASSES = 10
SPEC = """
results_dir: {results}/results
dataset: {{train_dataset_path: {results}/pictures, test_fraction: 0.01, preprocess_mode: unit}}
model: {{backbone: resnet_10, width: 0.0625, input_width: 32, input_height: 32, input_channels: 3}}
train: {{num_epochs: 1, batch_size_per_gpu: 256, tensorboard: false, keep_best: false}}
"""


def make_pictures(folder: pathlib.Path, count: int) -> None:
    """Noise around a brightness that depends on the class."""
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True, exist_ok=True)
    for i in range(count):
        label = i % CLASSES
        coarse = rng.integers(0, 40, (8, 8, 3)) + 20 * label
        pixels = np.repeat(np.repeat(coarse, 4, 0), 4, 1) + rng.integers(0, 8, (32, 32, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"class{label}/{i:07d}.png", compress_level=1)


def resident_mb(pid: int) -> float:
    """Resident memory of a process, in megabytes; 0 when it has ended."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(float(x.split()[1]) for x in lines if x.startswith("VmRSS:")) / 1e3


def watched(what: str, command: list[str], memory: list[dict[str, object]]) -> tuple[float, float]:
    """(seconds, peak of the resident memory in MB) of a command."""
    print("$", *command, flush=True)
    started, peak = time.perf_counter(), 0.0
    process = subprocess.Popen(command)
    while process.poll() is None:
        time.sleep(1)
        now = resident_mb(process.pid)
        peak = max(peak, now)
        memory.append({"command": what, "seconds": round(time.perf_counter() - started), "resident_mb": round(now)})
    if process.returncode:
        sys.exit(f"{what} ended with code {process.returncode}")
    return time.perf_counter() - started, peak


READ = """
import sys, time
from tlt_prune import config, data
source, val, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
dataset = config.Dataset(train_dataset_path=source, val_dataset_path=val, preprocess_mode="unit")
form = data.PictureFormat(32, 32, 3)
split, _ = data.load_splits(dataset, form)
order = data.BatchOrder(batch_size=256, seed=1, first_epoch=0, epochs=1)
pipeline = data.training_pipeline(split, dataset, form, order, channels_first=False)
steps = min(count // 256, pipeline.steps)
started = None
for i, _ in enumerate(pipeline.batches.take(steps + 1)):
    # The first batch waits for what is made once.
    started = started or time.perf_counter()
print(steps * 256 / (time.perf_counter() - started))
"""


def read(source: pathlib.Path, held_out: str, count: int) -> float:
    """Pictures a second of the training pipeline alone."""
    command = [sys.executable, "-c", READ, str(source), held_out, str(count)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(run.stdout.split()[-1])


def shard_rows(table: pd.DataFrame) -> list[str]:
    """The rows of the guide."""
    return [
        f"| {row['command']} | {row['pictures']:,} | {row['pictures_per_second']:,.0f} | "
        f"{'' if np.isnan(row['peak_mb']) else format(row['peak_mb'], ',.0f')} |"
        for _, row in table.iterrows()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--only", nargs="+", default=["convert", "train", "read"], choices=["convert", "train", "read"])
    arguments = parser.parse_args()
    place, count, only = arguments.results.resolve(), arguments.pictures, arguments.only
    place.mkdir(parents=True, exist_ok=True)
    spec, shards = place / "spec.yaml", place / "shards"
    spec.write_text(SPEC.format(results=place))
    if not (place / "made").exists():
        make_pictures(place / "pictures", count)
        (place / "made").touch()
    memory: list[dict[str, object]] = []
    scripts = pathlib.Path(sys.executable).parent
    commands = {"convert": ["-o", str(shards)], "train": ["--restart", f"dataset.train_dataset_path={shards}"]}
    rows: dict[str, dict[str, object]] = {}
    for name, words in commands.items():
        if name in only:
            if name == "convert":
                shutil.rmtree(shards, ignore_errors=True)
            seconds, peak = watched(name, [str(scripts / f"tlt-{name}"), "-e", str(spec), *words], memory)
            rows[f"tlt-{name}"] = {"pictures": count, "pictures_per_second": count / seconds, "peak_mb": peak}
    if "read" in only:
        # A few pictures in the place of those held out.
        for label in range(CLASSES):
            (place / f"few/class{label}").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32)).save(place / f"few/class{label}/0.png")
        some = min(100_000, count)
        rows["reading shards"] = {"pictures": some, "pictures_per_second": read(shards, "", some)}
        rows["reading files"] = {"pictures": some, "pictures_per_second": read(place / "pictures", str(place / "few"), some)}
    before = pd.read_csv(TABLE, index_col="command") if TABLE.exists() else pd.DataFrame()
    frame = pd.DataFrame(rows).T.rename_axis("command").reindex(columns=["pictures", "pictures_per_second", "peak_mb"])
    frame = pd.concat([frame, before[~before.index.isin(frame.index)]]).astype(float).round(0)
    frame = frame.reindex([x for x in ORDER if x in frame.index])
    print(frame.to_string())
    frame.astype({"pictures": int}).to_csv(TABLE)
    pd.DataFrame(memory).to_csv(place / "memory.csv", index=False)


if __name__ == "__main__":
    main()
