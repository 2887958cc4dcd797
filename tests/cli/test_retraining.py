"""`tlt-train` of a pruned model: the recipe that it takes by default, and that it never takes away."""

from __future__ import annotations

import json
import pathlib
import shutil

import keras
import numpy as np
import pandas as pd
import pytest
from scripts import run

SPEC = """
results_dir: {results}
dataset: {{train_dataset_path: sklearn_digits, augmentation: {{disable_horizontal_flip: true}}}}
model: {{backbone: resnet_10, width: 0.25, input_width: 8, input_height: 8, input_channels: 1, use_pooling: false}}
train: {{num_epochs: 3, bn_config: {{momentum: 0.8}}, batch_size_per_gpu: 128, tensorboard: false}}
prune: {{ratio: 0.8, min_num_filters: 8, compensation: [least_squares], criterion: L2}}
"""


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with spec.yaml, results/train/model.keras and results/prune/model.keras."""
    folder = tmp_path_factory.mktemp("retraining")
    (folder / "spec.yaml").write_text(SPEC.format(results="results"))
    run("train", "-e", "spec.yaml", cwd=folder)
    run("prune", "-e", "spec.yaml", "-m", "results/train/model.keras", "-o", "results/prune/model.keras", cwd=folder)
    return folder


def retrain(folder: pathlib.Path, name: str, *words: str) -> tuple[str, pd.DataFrame]:
    path = "train.pretrained_model_path=results/prune/model.keras"
    out, _ = run("train", "-e", "spec.yaml", "-o", f"results/{name}", "--set", path, *words, cwd=folder)
    return out, pd.read_csv(folder / f"results/{name}/history.csv")


def accuracy(folder: pathlib.Path, model: str, name: str) -> float:
    run("evaluate", "-e", "spec.yaml", "-m", model, "-o", f"results/scores_{name}", cwd=folder)
    return float(json.loads((folder / f"results/scores_{name}/evaluation.json").read_text())["accuracy"])


def test_the_recipe_is_the_default_and_is_said_in_one_line(pruned: pathlib.Path) -> None:
    out, history = retrain(pruned, "recipe")
    line = next(x for x in out.splitlines() if x.startswith("Retraining a pruned model"))
    assert "the learning rate is measured, there is no weight decay, results/train/model.keras teaches" in line
    start = history.iloc[0]
    assert start.epoch == 0
    assert f"Before retraining: accuracy {100 * start.val_accuracy:.2f} %" in out
    assert f"rises to {start.peak_learning_rate:.2g}, by a range test" in out
    # It is the pruned model that was scored, and the rate that was found is the highest of the training.
    assert start.val_accuracy == pytest.approx(accuracy(pruned, "results/prune/model.keras", "pruned"), abs=1e-4)
    assert list(history.epoch) == [0, 1, 2, 3]
    assert history.learning_rate[1:].max() < start.peak_learning_rate
    assert history.val_accuracy.max() > start.val_accuracy
    best = keras.models.load_model(pruned / "results/recipe/model.keras")
    assert not any(getattr(x, "kernel_regularizer", None) for x in best.layers)
    assert accuracy(pruned, "results/recipe/model.keras", "recipe") == pytest.approx(history.val_accuracy.max(), abs=1e-4)


def test_keys_of_the_spec_say_otherwise(pruned: pathlib.Path) -> None:
    keys = ("train.lr_config.learning_rate=0.02", "train.distill.teacher=", "train.reg_config.type=L1", "train.num_epochs=1")
    out, history = retrain(pruned, "otherwise", *(x for key in keys for x in ("--set", key)))
    assert "Retraining a pruned model" not in out
    assert "range test" not in out
    assert "peak_learning_rate" not in history
    assert list(history.epoch) == [0, 1]


def test_a_retraining_that_ruins_the_model_ends_with_the_pruned_one(pruned: pathlib.Path) -> None:
    keys = ("train.lr_config.learning_rate=5", "train.num_epochs=1", "train.distill.teacher=")
    out, history = retrain(pruned, "ruined", *(x for key in keys for x in ("--set", key)))
    assert history.val_accuracy[1] < history.val_accuracy[0]
    assert "the pruned model, which no epoch improved" in out
    before, after = (keras.models.load_model(pruned / f"results/{x}/model.keras") for x in ("prune", "ruined"))
    for a, b in zip(before.get_weights(), after.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_the_unpruned_model_labels_teach_and_it_is_said(pruned: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(pruned, folder)
    (folder / "results/train/model.keras").unlink()
    out, _ = retrain(folder, "alone", "--set", "train.num_epochs=1")
    assert "labels alone teach, since results/train/model.keras is not there as it was pruned" in out
