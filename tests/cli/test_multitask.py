"""Multitask classification through the five scripts: two tasks, one of them with labels that are not known."""

from __future__ import annotations

import json
import pathlib

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scripts import one_line, run, with_overrides

# As the toolkit's documentation has them.
SPEC = """
random_seed: 3
model_config {{
  arch: "resnet"
  n_layers: 10
  input_image_size: "3,32,32"
  use_batch_norm: true
  use_pooling: true
}}
training_config {{
  batch_size_per_gpu: 16
  num_epochs: 15
  checkpoint_interval: 5
  learning_rate {{
    soft_start_annealing_schedule {{ min_learning_rate: 0.005 max_learning_rate: 0.05 soft_start: 0.1 annealing: 0.5 }}
  }}
  regularizer {{ type: L2 weight: 1e-6 }}
  optimizer {{ sgd {{ momentum: 0.9 nesterov: true }} }}
}}
dataset_config {{
  train_csv_path: "{folder}/train.csv"
  val_csv_path: "{folder}/val.csv"
  image_directory_path: "{folder}/pictures"
}}
"""
# What the toolkit has no keys for.
tlt = with_overrides((
    "results_dir={folder}/results", "model.width=0.125", "train.bn_config.momentum=0.9", "train.tensorboard=false",
    "prune.macs=0.6", "prune.granularity=4", "prune.min_num_filters=4", "prune.samples=64", "export.formats=[onnx]",
    "export.batches=2",
))  # fmt: skip
COLORS, SHADES = {"blue": (20, 20, 200), "green": (20, 200, 20), "red": (200, 20, 20)}, {"dark": 0.5, "light": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Pictures of a color and a shade, with noise; a third of the shades are not known."""
    place = tmp_path_factory.mktemp("multitask")
    (place / "pictures").mkdir()
    rng, rows = np.random.default_rng(0), []
    for i in range(144):
        color, shade = list(COLORS)[i % 3], list(SHADES)[(i // 3) % 2]
        pixels = SHADES[shade] * np.array(COLORS[color]) + rng.normal(0, 12, (32, 32, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"pictures/{i:03d}.png")
        rows.append({"file": f"{i:03d}.png", "shade": shade if i % 5 else None, "color": color})
    frame = pd.DataFrame(rows)
    frame[:96].to_csv(place / "train.csv", index=False)
    frame[96:].to_csv(place / "val.csv", index=False)
    (place / "spec.txt").write_text(SPEC.format(folder=place), "utf-8")
    return place


def test_through_all_five_scripts(folder: pathlib.Path) -> None:
    results = folder / "results"
    out, _ = tlt("train", folder)
    assert "Training: labels of 2 tasks: color 96, shade 76." in out
    assert "Mean accuracy over the tasks on the held-out pictures" in out
    history = pd.read_csv(results / "train/history.csv")
    both = history[["val_color_accuracy", "val_shade_accuracy"]].mean(axis=1)
    np.testing.assert_allclose(history["val_accuracy"], both, rtol=1e-6)
    mapping = json.loads((results / "train/class_mapping.json").read_text())
    assert mapping["tasks"] == ["color", "shade"]
    assert mapping["class_mapping"]["color"] == {"0": "blue", "1": "green", "2": "red"}

    dense = results / "train/best.keras"
    tlt("evaluate", folder, "-m", dense, "-o", results / "dense")
    found = json.loads((results / "dense/evaluation.json").read_text())
    # Held out are 48 pictures, of which 39 have a shade.
    assert {name: x["labels"] for name, x in found["tasks"].items()} == {"color": 48, "shade": 39}
    assert found["accuracy"] == pytest.approx(history["val_accuracy"].max(), abs=1e-6)
    assert found["accuracy"] > 0.9
    counts = pd.read_csv(results / "dense/confusion.csv").groupby("task")["pictures"].sum()
    assert counts.to_dict() == {"color": 48, "shade": 39}

    pruned = results / "prune/model.keras"
    out, _ = tlt("prune", folder, "-m", dense, "-o", pruned)
    assert "Compensated by LeastSquares on 64 examples" in out
    model = keras.models.load_model(pruned)
    assert [x.shape[1:] for x in model.outputs] == [(3,), (2,)]
    assert model.count_params() < keras.models.load_model(dense).count_params()

    retrained = ["train.num_epochs=1", f"train.pretrained_model_path={pruned}"]
    out, _ = tlt("train", folder, "-o", results / "retrain", *retrained)
    assert "Before retraining: mean accuracy" in out
    history = pd.read_csv(results / "retrain/history.csv")
    assert history["epoch"].tolist() == [0, 1]
    assert np.isfinite(history["val_accuracy"]).all()

    export(folder, results / "retrain/model.keras", pytest.approx(history["val_accuracy"].max(), abs=1e-6))


def export(folder: pathlib.Path, model: pathlib.Path, accuracy: object) -> None:
    """Exported in float and int8, and inferred from both."""
    import onnx

    results = folder / "results"
    for data_type in ("fp32", "int8"):
        path = results / f"{data_type}/model.onnx"
        tlt("export", folder, "-m", model, "-o", path, "--data_type", data_type)
        assert [x.name for x in onnx.load(path).graph.output] == ["color", "shade"]
        tlt("evaluate", folder, "-m", path, "-o", results / data_type)
        found = json.loads((results / data_type / "evaluation.json").read_text())
        assert found["accuracy"] == accuracy if data_type == "fp32" else found["accuracy"] > 0.8
    tlt("infer", folder, "-m", results / "fp32/model.onnx", "--contact_sheet")
    frame = pd.read_csv(results / "infer/predictions.csv")
    assert frame.columns.tolist() == ["file", "color", "color probability", "shade", "shade probability"]
    assert len(frame) == 48
    assert (results / "infer/contact_sheet.png").stat().st_size > 10_000
    # Held-out pictures of one color: the classes are the model's.
    (folder / "blue.csv").write_text("file,color,shade\n000.png,blue,dark\n003.png,blue,light\n", "utf-8")
    tlt("infer", folder, "-m", model, "-o", results / "blue", f"dataset_config.val_csv_path={folder}/blue.csv")
    assert pd.read_csv(results / "blue/predictions.csv")["file"].tolist() == ["000.png", "003.png"]
    tlt("infer", folder, "-m", model, "-d", folder / "pictures/000.png", "-o", results / "one")
    assert pd.read_csv(results / "one/predictions.csv")["color"].tolist() == ["blue"]


def test_mistakes_get_one_line(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    _, err = tlt("train", folder, "-o", tmp_path / "a", "dataset_config.train_csv=x", code=1)
    assert "dataset_config" in one_line(err, "train")
    assert "train_csv_path" in err
    _, err = tlt("train", folder, "-o", tmp_path / "a", "model.backbone=alexnet", code=1)
    assert "There is no architecture name='multitask_alexnet'" in one_line(err, "train")
    (tmp_path / "spec.yaml").write_text("task: multitask_classification\n", "utf-8")
    _, err = run("train", "-e", tmp_path / "spec.yaml", "-o", tmp_path / "a", code=1)
    assert "expects the section dataset_config" in one_line(err, "train")
    (tmp_path / "val.csv").write_text("file,color\n000.png,blue\n", "utf-8")
    _, err = tlt("train", folder, "-o", tmp_path / "a", f"dataset_config.val_csv_path={tmp_path}/val.csv", code=1)
    assert "expected a column for each of the tasks color, shade, and no other. Received: color." in one_line(err, "train")
