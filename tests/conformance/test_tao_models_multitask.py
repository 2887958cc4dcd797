"""The recorded cases of multitask classification: tables, losses, accuracies, rates, optimizers, regularizers.

`DEVIATIONS` lists where ours differs, by what the case is about.
"""

from __future__ import annotations

import io
import math
import pathlib
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tao_models
from PIL import Image

from tlt_prune import data, training
from tlt_prune.config.specs import Dataset, Train
from tlt_prune.errors import DataError
from tlt_prune.training.multitask import mean_accuracy

PICTURES = "cases/multitask_pictures.json.gz"
CASES = [case for case in tao_models.load("cases/multitask.json.gz")["cases"] if case["kind"] in ("csv", "loss")]
# Kind of table -> what the toolkit does with it, and what ours does.
DEVIATIONS = {
    "a missing value": "fails while sorting; here the label is not known, and has no loss",
    "a missing picture": "fails when a batch is read; here before the training begins",
    "one class": "trains on it; here it is refused",
}


@pytest.mark.parametrize("case", CASES, ids=[x["id"] for x in CASES])
def test_tao_models_case(case: dict[str, Any], tmp_path: pathlib.Path) -> None:
    {"csv": table, "loss": losses}[case["kind"]](case, tmp_path)


def table(case: dict[str, Any], folder: pathlib.Path) -> None:
    for name, pixels in tao_models.load(PICTURES)["pictures"].items():
        Image.fromarray(np.asarray(pixels, np.uint8)).save(folder / name)
    (folder / "table.csv").write_text(case["csv"], "utf-8")
    form = data.PictureFormat(*case["target_hw"], channels=3, resample="nearest")
    expected = case["expected"]
    counts = expected.get("class_counts", {})
    if "batch_error" in expected or 1 in counts.values():
        with pytest.raises(DataError, match=r"that are not there|Expected two or more"):
            data.load_table(folder / "table.csv", folder, form)
        return
    split = data.load_table(folder / "table.csv", folder, form)
    if "error" in expected:
        rows = pd.read_csv(io.StringIO(case["csv"]), index_col=0)[list(split.tasks)]
        assert ((split.labels == -1) == rows.isna().to_numpy()).all()
        return
    assert list(split.tasks) == expected["tasks"]
    found = {task: {name: i for i, name in enumerate(names)} for task, names in split.tasks.items()}
    assert found == expected["class_mapping"]
    pipeline = data.evaluation_pipeline(split, Dataset(), form, batch_size=case["batch_size"], channels_first=True)
    assert pipeline.steps == expected["batches"]
    pictures, targets = next(iter(pipeline.batches))
    np.testing.assert_allclose(np.asarray(pictures), expected["batch_x"], atol=1e-3)
    for target, wanted in zip(keras.tree.flatten(targets), expected["batch_y"], strict=True):
        np.testing.assert_array_equal(np.asarray(target), wanted)


def losses(case: dict[str, Any], folder: pathlib.Path) -> None:
    weights, x = [np.asarray(w, np.float32) for w in case["weights"]], np.asarray(case["x"], np.float32)
    tasks = [f"t{i}" for i in range(len(weights) // 2)]
    image = keras.Input(x.shape[1:])
    heads = [keras.layers.Dense(len(b), "softmax", name=task) for task, b in zip(tasks, weights[1::2], strict=True)]
    model = keras.Model(image, [head(image) for head in heads])
    model.set_weights(weights)
    for received, wanted in zip(model.predict(x, verbose=0), case["expected"]["probabilities"], strict=True):
        np.testing.assert_allclose(received, wanted, atol=1e-5)
    y = [keras.utils.to_categorical(labels, len(b)) for labels, b in zip(case["labels"], weights[1::2], strict=True)]
    model.compile(**training.multitask_classification(Train(), tasks).compile_arguments())
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    for name, wanted in zip(case["expected"]["names"], case["expected"]["scores"], strict=True):
        assert logs[name.replace("_acc", "_accuracy")] == pytest.approx(wanted, rel=1e-5)
    assert mean_accuracy(logs, tasks)["accuracy"] == pytest.approx(case["expected"]["mean_accuracy_kpi"], rel=1e-5)


def test_a_label_that_is_not_known_has_no_loss_and_no_gradient() -> None:
    loss, probabilities = training.Distillation(0.0, 4.0, label_smoothing=0.1), np.array([[0.7, 0.3], [0.2, 0.8]], np.float32)
    known = np.array([[1, 0], [0, 0]], np.float32)
    smooth = -(0.95 * math.log(0.7) + 0.05 * math.log(0.3))
    assert float(loss(known, probabilities)) == pytest.approx(smooth / 2, rel=1e-6)
    accuracy = training.LabelAccuracy()
    accuracy.update_state(known, probabilities)
    assert float(accuracy.result()) == 1.0
