"""What benchmarks do by the project's own scripts: train, prune, retrain by the default recipe, score, export. Nothing twice."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys
from typing import Any, TypeAlias

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlt_prune import data
from tlt_prune.config.specs import load_spec
from tlt_prune.tasks.classification.pictures import picture_format

Pictures: TypeAlias = tuple[NDArray[Any], NDArray[Any]]

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs/pages/benchmarks"
# A spec's own rates and decay are those of the dense training; without them retraining goes by its recipe.
BY_RECIPE = ("train.lr_config=", "train.reg_config=")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One spec on one set, with a seed.

    Attributes:
        spec: its file, from the root of the repository.
        data: the set, in the place of the spec's; empty for the spec's own.
        seed: of weights, order and what is chosen.
    """

    spec: str
    data: str = ""
    seed: int = 1

    @property
    def overrides(self) -> list[str]:
        """What the spec says otherwise."""
        return [f"train.random_seed={self.seed}", *([f"dataset.train_dataset_path={self.data}"] if self.data else [])]

    def run(self, name: str, *words: object, settings: tuple[str, ...] = ()) -> None:
        """Runs a script with the spec."""
        given = [*settings, *self.overrides]
        command = [sys.executable, "-m", f"tlt_prune.cli.{name}", "-e", self.spec, *map(str, words)]
        subprocess.run([*command, *(x for word in given for x in ("--set", word))], cwd=ROOT, check=True)

    def trained(self, out: pathlib.Path, *settings: str) -> pathlib.Path:
        """The model that tlt-train leaves in `out`."""
        if not (out / "model.keras").exists():
            self.run("train", "-o", out, settings=("train.tensorboard=false", *settings))
        return out / "model.keras"

    def pruned(self, dense: pathlib.Path, path: pathlib.Path, share: float, *words: object) -> pathlib.Path:
        """A network with that share of the MACs."""
        if not path.exists():
            self.run("prune", "-m", dense, "-o", path, "--macs", share, *words)
        return path

    def retrained(self, pruned: pathlib.Path, out: pathlib.Path, epochs: int) -> pathlib.Path:
        """A pruned network after retraining by the default recipe, in batches of 64."""
        start = (f"train.pretrained_model_path={pruned}", f"train.num_epochs={epochs}", "train.batch_size_per_gpu=64")
        return self.trained(out, *BY_RECIPE, *start)

    def scores(self, model: pathlib.Path) -> dict[str, float]:
        """What tlt-evaluate says of a model: accuracy, MACs (0 where they are not known) and parameters."""
        out = model.parent / f"{model.stem}_scores"
        if not (out / "evaluation.json").exists():
            self.run("evaluate", "-m", model, "-o", out)
        found = json.loads((out / "evaluation.json").read_text("utf-8"))
        return {name: float(found[name] or 0) for name in ("accuracy", "macs", "params")}

    def pictures(self, trained: int, scored: int) -> tuple[Pictures, Pictures]:
        """(x, y) to train with and (x, y) to score with, as the network takes them: the first so many of both splits."""
        spec = load_spec(ROOT / self.spec, self.overrides)
        form = picture_format(spec)
        found = []
        for split, count in zip(data.load_splits(spec.dataset, form), (trained, scored), strict=True):
            few = split.head(count)
            pipeline = data.evaluation_pipeline(few, spec.dataset, form, batch_size=500, channels_first=False)
            x, y = zip(*[(a.numpy(), b.numpy()) for a, b in pipeline.batches], strict=True)
            found.append((np.concatenate(x), np.concatenate(y)))
        return found[0], found[1]

    def int8(self, model: pathlib.Path) -> pathlib.Path:
        """Its ONNX file in int8, beside it."""
        path = model.parent / "int8.onnx"
        if not path.exists():
            self.run("export", "-m", model, "-o", path, settings=("export.data_type=int8",))
        return path


def begun(path: pathlib.Path, keys: list[str], **types: type) -> tuple[list[dict[Any, Any]], set[tuple[Any, ...]]]:
    """Rows of a table that an earlier run began, and the keys of each; none where there is no file."""
    table = pd.read_csv(path, dtype=types) if path.exists() else pd.DataFrame(columns=keys)
    return table.to_dict("records"), set(table[keys].itertuples(index=False, name=None))


def accuracy(model: Any, x: NDArray[Any], y: NDArray[Any]) -> float:
    """Top-1 accuracy; labels are one-hot."""
    return float(np.mean(model.predict(x, batch_size=500, verbose=0).argmax(1) == y.argmax(1)))


def untrained(model: pathlib.Path, path: pathlib.Path, seed: int) -> pathlib.Path:
    """The architecture of a model with random weights."""
    if not path.exists():
        keras.utils.set_random_seed(seed)
        keras.models.clone_model(keras.models.load_model(model, compile=False)).save(path)
    return path
