"""A task of another package, in one file, goes through all five scripts."""

from __future__ import annotations

import json
import pathlib

import keras
import numpy as np
import pandas as pd
import pytest
from scripts import one_line, run

from tlt_prune import tasks
from tlt_prune.config import spec_from_dict
from tlt_prune.errors import SpecError

TOY = pathlib.Path(__file__).with_name("toy_task")
SPEC = """
task: brightness
results_dir: {results}
brightness_config: {{pictures: 256}}
train: {{num_epochs: 20, batch_size_per_gpu: 32, lr_config: {{learning_rate: 0.1}}, reg_config: {{type: none}}}}
prune: {{macs: 0.5, min_num_filters: 8, samples: 64}}
"""


def toy(name: str, *arguments: object, code: int = 0) -> tuple[str, str]:
    return run(name, *arguments, code=code, packages=str(TOY))


def test_a_task_in_one_file_goes_through_all_five_scripts(tmp_path: pathlib.Path) -> None:
    spec, results = tmp_path / "spec.yaml", tmp_path / "results"
    spec.write_text(SPEC.format(results=results), "utf-8")
    out, _ = toy("train", "-e", spec)
    assert "Share of the variance explained on the held-out pictures: 9" in out
    assert ", R2 9" in out
    history = pd.read_csv(results / "train/history.csv")
    assert history["val_r2"].iloc[-1] > 0.9

    dense, pruned = results / "train/best.keras", results / "prune/model.keras"
    out, _ = toy("prune", "-e", spec, "-m", dense, "-o", pruned)
    assert "Compensated by LeastSquares on 256 examples" in out
    assert f"Next: tlt-train -e {spec} --set train.pretrained_model_path={pruned}" in out
    assert keras.models.load_model(pruned).get_layer("features").filters == 16

    toy("train", "-e", spec, "-o", results / "retrain", f"train.pretrained_model_path={pruned}", "train.num_epochs=3")
    model = results / "retrain/best.keras"
    out, _ = toy("export", "-e", spec, "-m", model)
    assert "equal to Keras on 256 pictures" in out
    errors = []
    for path in (model, results / "export/model.onnx", results / "export/saved_model"):
        toy("evaluate", "-e", spec, "-m", path, "-o", tmp_path / path.name)
        errors.append(json.loads((tmp_path / path.name / "evaluation.json").read_text())["rmse"])
    assert errors[0] < 0.05
    np.testing.assert_allclose(errors, errors[0], rtol=1e-3)

    toy("infer", "-e", spec, "-m", model)
    assert len(pd.read_csv(results / "infer/brightness.csv")) == 256

    # Its mistakes are reported as all others are, and where it is not installed, specs do not know it.
    _, err = toy("train", "-e", spec, "brightness_config.colors=3", code=1)
    assert "expected the key 'pictures'" in one_line(err, "train")
    _, err = run("train", "-e", spec, code=1)
    names = " or ".join(repr(x) for x in ("classification", "detection", "multitask_classification", "segmentation"))
    assert f"'task': expected {names}. Received: 'brightness'" in one_line(err, "train")


def test_names_of_tasks_are_taken_once() -> None:
    (detection,) = [x for x in tasks.all_tasks() if x.name == "detection"]
    with pytest.raises(ValueError, match="'detection' is registered already"):
        tasks.register(detection)

    class Toy(detection):  # type: ignore[misc, valid-type]
        name = "toy"
        sections = ("toy_config",)

    with tasks.registered(Toy):
        spec = spec_from_dict({"task": "toy", "toy_config": {"a": 1}})
        assert spec.experiment == {"toy_config": {"a": 1}}
        assert type(tasks.task_of(spec)) is Toy
    with pytest.raises(SpecError, match="'task'"):
        spec_from_dict({"task": "toy"})
    with pytest.raises(SpecError, match="dataset_config, with task: detection"):
        spec_from_dict({"dataset_config": {}})
