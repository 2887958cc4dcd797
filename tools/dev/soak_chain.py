"""A chain of all scripts on made-up data, for `soak.py`: its commands, their processes, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys
import tempfile
import time
import traceback
import zipfile
import zlib

import numpy as np
import pandas as pd
from PIL import Image

from tlt_prune.cli import scripts

SPEC = """
results_dir: {results}
dataset: {{train_dataset_path: {source}, val_dataset_path: "{val}", preprocess_mode: unit}}
model: {{backbone: helnet6, width: 0.125, input_width: 8, input_height: 8, input_channels: 3}}
train: {{num_epochs: 3, batch_size_per_gpu: 8, tensorboard: false, lr_config: {{learning_rate: 0.01}}}}
prune: {{ratio: 0.5, min_num_filters: 4, granularity: 4}}
export: {{formats: [onnx, saved_model]}}
"""


@dataclasses.dataclass
class Command:
    """One step of a chain.

    Attributes:
        name: of the script.
        words: its arguments.
        reads: files that it goes on with or reads, below the results; patterns.
        writes: what it leaves, below the results; patterns.
        seconds: how long it took, undisturbed.
    """

    name: str
    words: list[str]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    seconds: float = 5.0


def commands(spec: pathlib.Path, results: pathlib.Path, source: pathlib.Path) -> list[Command]:
    common = ["-e", str(spec)]
    shards = f"dataset.train_dataset_path={results}/shards"
    pruned, retrained = f"{results}/prune/model.keras", f"{results}/retrain/model.keras"
    folders = [f"dataset.train_dataset_path={source}/train", f"dataset.val_dataset_path={source}/val"]
    trained = ("model.keras", "best.keras", "history.csv")
    return [
        Command("convert", [*common, *folders, "-o", f"{results}/shards", "--num_shards", "4"], ("shards/*",), ("shards/*",)),
        Command("train", [*common, shards], ("train/checkpoints/*", "shards/*"), tuple(f"train/{x}" for x in trained)),
        Command(
            "prune", [*common, shards, "-m", f"{results}/train/model.keras", "-o", pruned],
            ("train/model.keras", "shards/*"), ("prune/*",),
        ),
        Command(
            "train", [*common, shards, "-o", f"{results}/retrain", f"train.pretrained_model_path={pruned}"],
            ("retrain/checkpoints/*", "retrain/best.keras", "prune/model.keras"), tuple(f"retrain/{x}" for x in trained),
        ),
        Command(
            "evaluate", [*common, shards, "-m", retrained, "-o", f"{results}/evaluate"],
            ("retrain/model.keras", "shards/*"), ("evaluate/*",),
        ),
        Command("infer", [*common, shards, "-m", retrained, "-o", f"{results}/infer"], ("retrain/model.keras",), ("infer/*",)),
        Command(
            "export", [*common, shards, "-m", retrained],
            ("retrain/model.keras",), ("export/model.onnx", "export/saved_model/*"),
        ),
    ]  # fmt: skip


def make_pictures(folder: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 6)):
        for level, name in ((60, "dark"), (190, "light")):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(level, 40, (8, 8, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")


class Process:
    """A script in a fork of this process, which has imported what takes seconds to import."""

    def __init__(self, command: Command, *more: str) -> None:
        self.err = pathlib.Path(tempfile.mkstemp(prefix="soak-", suffix=".err")[1])
        self.started = time.perf_counter()
        self.pid = os.fork()
        if not self.pid:
            os._exit(_child(command.name, [*command.words, *more], str(self.err)))

    def wait(self, seconds: float) -> int | None:
        """The exit code; None where it runs on after `seconds`. Signals are negative."""
        until = time.perf_counter() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.perf_counter() >= until:
                return None
            time.sleep(0.01)

    def said(self) -> str:
        text = self.err.read_text("utf-8", "replace")
        self.err.unlink()
        return text


def _child(name: str, words: list[str], err: str) -> int:
    for stream, path in enumerate((os.devnull, os.devnull, err)):
        handle = os.open(path, os.O_RDWR)
        os.dup2(handle, stream)
        os.close(handle)
    sys.argv = [f"tlt-{name}", *words]
    try:
        getattr(scripts, name)()
    except SystemExit as ended:
        return int(ended.code or 0)
    # As Python ends a process.
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        return 1
    return 0


def content(path: pathlib.Path) -> bytes:
    """What must stay equal: of an archive its parts, which hold no time; of a table of a training no seconds."""
    if path.suffix == ".keras" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return repr(sorted((x.filename, x.CRC) for x in archive.infolist() if x.filename == "model.weights.h5")).encode()
    if path.name == "history.csv":
        return pd.read_csv(path).filter(regex="^(?!seconds)").to_csv().encode()
    if path.suffix in (".onnx", ".pb", ".png", ".json"):
        return b"there" if path.stat().st_size else b""
    return path.read_bytes()


def left_behind(results: pathlib.Path) -> dict[str, object]:
    """What chains are compared by; names of what no command should leave."""
    names = ["shards/*.tfrecord", "train/model.keras", "prune/model.keras", "retrain/model.keras", "retrain/history.csv"]
    names += ["evaluate/confusion_matrix.csv", "evaluate/per_class.csv", "infer/predictions.csv", "export/model.onnx"]
    found: dict[str, object] = {
        str(x.relative_to(results)): zlib.crc32(content(x)) for pattern in names for x in sorted(results.glob(pattern))
    }
    found["saved_model"] = (results / "export/saved_model/saved_model.pb").is_file()
    found["leftovers"] = sorted(str(x.relative_to(results)) for x in results.rglob(".*"))
    return found
