#!/usr/bin/env python3
"""Pictures a second that several workers train on, each on a core of its own; and what links between machines would cost.

    python tools/bench/scaling.py [--workers 1 2 4]        more workers than cores are left out

tlt-train of a ResNet-20 (batches of 64 pictures of 32 x 32 for each worker), of the whole network and of one pruned to half of
the MACs, through TF_CONFIG as on several machines. The fastest epoch of three after the first counts, which compiles. Writes
docs/pages/benchmarks/scaling.csv and prints the rows of the guide.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

import numpy as np
import pandas as pd

ROOT = pathlib.Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs/pages/benchmarks/scaling.csv"
BATCH, STEPS, EPOCHS = 64, 40, 4
# Parameters of networks whose gradients are sent.
LINKS = {"1 Gbit/s": 1e9, "10 Gbit/s": 1e10, "100 Gbit/s": 1e11}
SENT = {"ResNet-50": 25_557_032, "ResNet-20": 272_474}


def spec_of(folder: pathlib.Path, pretrained: str = "") -> pathlib.Path:
    """The spec of a training on made pictures: what they show takes no time."""
    path = folder / "spec.json.yaml"
    dataset = {"train_dataset_path": str(folder / "made.npz"), "preprocess_mode": "torch"}
    model = {"backbone": "resnet20", "input_width": 32, "input_height": 32}
    rate = {"learning_rate": 0.01}
    train = {"num_epochs": EPOCHS, "batch_size_per_gpu": BATCH, "lr_config": rate, "tensorboard": False, "keep_best": False}
    train |= {"pretrained_model_path": pretrained, "distill": {"teacher": ""}}
    path.write_text(json.dumps({"dataset": dataset, "model": model, "train": train, "results_dir": str(folder / "results")}))
    return path


def made(folder: pathlib.Path, workers: int) -> None:
    """As many pictures as `STEPS` batches of all workers have."""
    random = np.random.default_rng(0)
    sizes = {"train": BATCH * STEPS * workers, "test": BATCH}
    x = {f"x_{part}": random.integers(0, 256, (n, 32, 32, 3), np.uint8) for part, n in sizes.items()}
    y = {f"y_{part}": np.arange(n) % 10 for part, n in sizes.items()}
    np.savez(folder / "made.npz", **x, **y)


def rate(workers: int, pretrained: str = "") -> float:
    """Pictures a second of all workers."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        made(folder, workers)
        spec = spec_of(folder, pretrained)
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(workers)]
        hosts = [f"127.0.0.1:{x.getsockname()[1]}" for x in sockets]
        for each in sockets:
            each.close()
        running = []
        for i in range(workers):
            task = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": i}}
            one_core = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "2"}
            command = ["taskset", "-c", str(i), sys.executable, "-m", "tlt_prune.cli.train", "-e", str(spec)]
            environment = {**os.environ, **one_core, "TF_CONFIG": json.dumps(task)}
            running.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))
        if any(process.wait() for process in running):
            raise SystemExit("A worker has failed; see above.")
        seconds = pd.read_csv(folder / "results/train/history.csv")["seconds"]
        return BATCH * STEPS * workers / float(seconds[1:].min())


def pruned(folder: pathlib.Path) -> str:
    """A ResNet-20 with half of the MACs."""
    import tlt_prune
    from tlt_prune import models

    model = tlt_prune.prune_model(models.build("resnet20", (32, 32, 3), 10), macs=0.5)
    path = folder / "pruned.keras"
    model.save(path)
    return str(path)


def seconds_to_share(parameters: float, workers: int, bits: float) -> float:
    """Of a ring all-reduce of float32 gradients: each worker sends 2 (n - 1) / n times their bytes (Patarasuk and Yuan,
    "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009)."""
    return 2 * (workers - 1) / workers * 4 * parameters / (bits / 8)


def scaling_rows(table: pd.DataFrame) -> list[str]:
    """Rows of the page."""
    found = []
    for network, rows in table.groupby("network", sort=False):
        alone = float(rows.loc[rows["workers"] == 1, "pictures_per_second"].iloc[0])
        for workers, speed in zip(rows["workers"], rows["pictures_per_second"], strict=True):
            found.append(f"| {network} | {workers} | {speed:,.0f} | {100 * speed / (workers * alone):.0f} % |")
    return found


def link_rows() -> list[str]:
    """Rows of the page: milliseconds that gradients take between eight machines, as a whole and with half the parameters."""
    found = []
    for network, parameters in SENT.items():
        for link, bits in LINKS.items():
            both = [1000 * seconds_to_share(parameters * share, 8, bits) for share in (1.0, 0.5)]
            found.append(f"| {network} | {link} | {both[0]:,.1f} | {both[1]:,.1f} |")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    counts = [n for n in parser.parse_args().workers if n <= (os.cpu_count() or 1)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for network, start in (("ResNet-20", ""), ("ResNet-20, half the MACs", pruned(pathlib.Path(folder)))):
            for workers in counts:
                rows.append({"network": network, "workers": workers, "pictures_per_second": round(rate(workers, start), 1)})
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(TABLE, index=False)
    print("\n".join([*scaling_rows(table), *link_rows()]))


if __name__ == "__main__":
    main()
