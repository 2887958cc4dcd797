#!/usr/bin/env python3
"""A million small pictures: made, converted into shards, trained on, with the resident memory of each command.

    python tools/bench/bench_shards.py RESULTS [--pictures N]        about an hour on two cores

Makes pictures of 32 x 32 pixels in class folders below RESULTS (a file of about 2 KB each), runs tlt-convert and one epoch of
tlt-train on the shards, and reads both sets without a training. Prints a table and writes it to RESULTS/shards.csv; the
resident memory over time is in RESULTS/memory.csv.
"""

from __future__ import annotations

import argparse
import pathlib
import subprocess
import sys
import time

import numpy as np
import pandas as pd
from PIL import Image

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    arguments = parser.parse_args()
    place, count = arguments.results.resolve(), arguments.pictures
    place.mkdir(parents=True, exist_ok=True)
    spec = place / "spec.yaml"
    spec.write_text(SPEC.format(results=place))
    if not (place / "made").exists():
        make_pictures(place / "pictures", count)
        (place / "made").touch()
    memory: list[dict[str, object]] = []
    scripts = pathlib.Path(sys.executable).parent
    rows = []
    command = [str(scripts / "tlt-convert"), "-e", str(spec), "-o", str(place / "shards")]
    seconds, peak = watched("tlt-convert", command, memory)
    rows.append({"command": "tlt-convert", "pictures": count, "pictures_per_second": count / seconds, "peak_mb": peak})
    shards = f"dataset.train_dataset_path={place / 'shards'}"
    seconds, peak = watched("tlt-train", [str(scripts / "tlt-train"), "-e", str(spec), "--restart", shards], memory)
    rows.append({"command": "tlt-train", "pictures": count, "pictures_per_second": count / seconds, "peak_mb": peak})
    for name, words in {
        "reading shards": [place / "shards", ""],
        "reading files": [place / "pictures", place / "pictures/../few"],
    }.items():
        if name == "reading files":
            # A few pictures in the place of those held out.
            for label in range(CLASSES):
                (place / f"few/class{label}").mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32)).save(place / f"few/class{label}/0.png")
        run = subprocess.run([sys.executable, "-c", READ, *map(str, words), "100000"], capture_output=True, text=True, check=True)
        rows.append({"command": name, "pictures": min(100_000, count), "pictures_per_second": float(run.stdout.split()[-1])})
    frame = pd.DataFrame(rows).round({"pictures_per_second": 0, "peak_mb": 0})
    print(frame.to_string(index=False))
    frame.to_csv(place / "shards.csv", index=False)
    pd.DataFrame(memory).to_csv(place / "memory.csv", index=False)


if __name__ == "__main__":
    main()
