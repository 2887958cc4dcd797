"""Detection by the real scripts: trained, killed and resumed, pruned, retrained, scored, exported, run on pictures; bad input."""

from __future__ import annotations

import json
import pathlib
import shutil
import signal
import time
from typing import Any

import make_digit_boxes
import numpy as np
import onnx
import pandas as pd
import pytest
from PIL import Image
from scripts import one_line, run, start

from tlt_prune.config.specs import load_spec
from tlt_prune.config.yaml_texts import dump_yaml, parse_yaml
from tlt_prune.errors import TltPruneError

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Forty pictures, and specs/demo_boxes.yaml made small."""
    folder = tmp_path_factory.mktemp("boxes")
    make_digit_boxes.main(folder / "digits", classes=3, pictures=40, size=64, seed=0)
    spec = parse_yaml((ROOT / "specs/demo_boxes.yaml").read_text("utf-8").replace("data/digits", f"{folder}/digits"))
    spec["results_dir"] = str(folder / "results")
    spec["augmentation_config"]["preprocessing"] |= {"output_image_width": 64, "output_image_height": 64}
    spec["training_config"] |= {"num_epochs": 3, "checkpoint_interval": 1}
    spec["evaluation_config"] |= {"first_validation_epoch": 1, "validation_period_during_training": 2}
    # Weak detections as well: this network has seen next to nothing.
    for config in spec["postprocessing_config"]["target_class_config"].values():
        config["clustering_config"] |= {"clustering_algorithm": "NMS", "nms_confidence_threshold": 0.01, "nms_iou_threshold": 0.3}
    spec["prune"]["samples"] = 16
    # Weights that follow the losses: a resumption must bring them back.
    spec["cost_function_config"]["enable_autoweighting"] = True
    (folder / "spec.yaml").write_text(dump_yaml(spec), "utf-8")
    return folder


def changed(folder: pathlib.Path, target: pathlib.Path, **changes: Any) -> pathlib.Path:
    """The spec with dotted keys replaced."""
    spec = parse_yaml((folder / "spec.yaml").read_text("utf-8"))
    for key, value in changes.items():
        *sections, last = key.split("__")
        part = spec
        for section in sections:
            part = part[int(section) if isinstance(part, list) else section]
        part[last] = value
    path = target / "changed.yaml"
    path.write_text(dump_yaml(spec), "utf-8")
    return path


@pytest.fixture(scope="module")
def trained(folder: pathlib.Path) -> str:
    """What the training of that spec said; it is in its folder of results."""
    return run("train", "-e", folder / "spec.yaml")[0]


def test_the_whole_job(folder: pathlib.Path, trained: str, tmp_path: pathlib.Path) -> None:
    spec, results, out = folder / "spec.yaml", folder / "results", trained
    assert "a new resnet10" in out
    lines = [x for x in out.splitlines() if x.startswith("epoch ")]
    assert [", mAP " in x for x in lines] == [True, False, True], lines
    history = pd.read_csv(results / "train/history.csv")
    assert len(history) == 3
    assert history["val_map"].notna().tolist() == [True, False, True]
    assert history["loss"].iloc[-1] < 0.7 * history["loss"].iloc[0]
    best = 1 + 2 * int(history["val_map"].iloc[2] > history["val_map"].iloc[0])
    assert f"Wrote {results}/train/best.keras: after epoch {best}, " in out
    pictures = [tag for path in (results / "train/tensorboard").glob("*.pictures") for tag in tags(path)]
    assert pictures == ["detections"] * 2

    out, _ = run("prune", "-e", spec, "-m", results / "train/model.keras", "-o", results / "prune/model.keras")
    assert "Verified: equal to the original" in out
    assert "Compensated by LeastSquares on 16 examples" in out
    assert f"Next: tlt-train -e {spec} --set model_config.pretrained_model_file={results}/prune/model.keras" in out

    out, _ = run(
        "train",
        "-e",
        spec,
        "-o",
        results / "retrain",
        f"model_config.pretrained_model_file={results}/prune/model.keras",
        f"train.distill.teacher={results}/train/model.keras",
    )
    assert f"Training {results}/prune/model.keras" in out
    model = results / "retrain/model.keras"
    out, _ = run(
        "export",
        "-e",
        spec,
        "-m",
        model,
        "--data_type",
        "int8",
        "--set",
        "export.formats=[saved_model, onnx, litert]",
        "export.decoding=true",
    )
    assert [x.name for x in onnx.load(results / "export/model_decoded.onnx").graph.output] == ["boxes", "scores"]
    names = [x.name for x in onnx.load(results / "export/model_fp32.onnx").graph.output]
    assert names == ["output_bbox", "output_cov"]
    scores = {}
    for path in (model, results / "export/model_fp32.onnx", results / "export/saved_model", results / "export/model.onnx"):
        run("evaluate", "-e", spec, "-m", path, "-o", tmp_path / path.name)
        scores[path.name] = json.loads((tmp_path / path.name / "evaluation.json").read_text())
        assert {x.name for x in (tmp_path / path.name).iterdir()} == {"evaluation.json", "per_class.csv", "precision_recall.png"}
    # COCO's own average precision beside the toolkit's, of all classes and of each.
    for x in scores.values():
        assert 0 <= x["coco"]["AP"] <= x["coco"]["AP50"] <= 1
    exact = [scores[name]["mean_average_precision"] for name in ("model.keras", "model_fp32.onnx", "saved_model")]
    assert exact == [pytest.approx(exact[0], abs=1e-6)] * 3
    dense = json.loads((results / "prune/model.plan.json").read_text())
    assert scores["model.keras"]["params"] == dense["params_after"] <= 0.2 * dense["params_before"]

    shutil.copytree(folder / "digits/images", tmp_path / "pictures", ignore=lambda _, names: [x for x in names if "val" not in x])
    with Image.open(tmp_path / "pictures/val_00000.png") as picture:
        picture.resize((96, 128)).save(tmp_path / "pictures/val_00000.png")
    out, _ = run(
        "infer", "-e", spec, "-m", results / "export/model_fp32.onnx", "-d", tmp_path / "pictures", "-o", tmp_path / "found"
    )
    assert "objects in 8 pictures" in out
    labels = {x.stem: x.read_text() for x in (tmp_path / "found/labels").iterdir()}
    assert len(labels) == 8
    lines = [line.split() for text in labels.values() for line in text.splitlines()]
    assert lines
    assert {len(line) for line in lines} == {16}
    # In pixels of the picture file, whatever its size.
    boxes = np.array([[float(x) for x in line.split()[4:8]] for line in labels["val_00000"].splitlines()]).reshape(-1, 4)
    assert (boxes <= [96, 128, 96, 128]).all()
    assert len(list((tmp_path / "found/images").iterdir())) == 8


@pytest.mark.usefixtures("trained")
def test_killed_and_resumed_it_ends_the_same(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    import keras

    process = start("train", "-e", folder / "spec.yaml", "-o", tmp_path / "killed")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed/checkpoints").glob("epoch_*.keras")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    out, _ = run("train", "-e", folder / "spec.yaml", "-o", tmp_path / "killed")
    assert "Going on after epoch" in out
    folders = (folder / "results/train", tmp_path / "killed")
    models = [keras.models.load_model(x / "model.keras") for x in folders]
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(a, b)
    histories = [pd.read_csv(x / "history.csv").drop(columns="seconds") for x in folders]
    pd.testing.assert_frame_equal(*histories)


def test_the_toolkits_own_text(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    from google.protobuf import text_format

    from tlt_prune.detection import messages

    sections = {
        key: value
        for key, value in parse_yaml((folder / "spec.yaml").read_text("utf-8")).items()
        if key not in ("task", "results_dir", "prune")
    }
    message = messages.from_dict(sections, "spec")
    (tmp_path / "experiment_spec.txt").write_text(text_format.MessageToString(message), "utf-8")
    out, _ = run("train", "-e", tmp_path / "experiment_spec.txt", "-r", tmp_path, "training_config.num_epochs=1")
    assert "Mean average precision on the held-out pictures" in out


BAD = [
    ({"augmentation_config__preprocessing__output_image_width": 403}, "output_image_width: expected a multiple of 16"),
    ({"dataset_config__data_sources__0__image_directory_path": "nowhere"}, "nowhere: expected pictures"),
    ({"dataset_config__data_sources__0__label_directory_path": "nowhere"}, "expected a label file for every picture"),
    ({"dataset_config__data_sources__0__label_directory_path": ""}, "data_sources.*tfrecords_path: expected"),
    ({"dataset_config__target_class_mapping": {"zero": "zero"}}, "'one' is the target of nothing"),
    ({"dataset_config__target_class_mapping": {"Zero": "zero", "one": "one", "two": "two"}}, "expected keys in lower case"),
    ({"dataset_config__val_names_path": "nowhere.txt"}, "val_names_path: cannot read 'nowhere.txt'"),
    ({"bbox_rasterizer_config__target_class_config": {}}, "bbox_rasterizer_config.target_class_config: expected it to be set"),
    ({"training_config__regularizer__type": "L3"}, "expected the keys of the toolkit's train spec.*L3"),
    (
        {"training_config__batch_size": 3},
        "unknown key 'training_config.batch_size'. Did you mean 'training_config.batch_size_per_gpu'",
    ),
    ({"compatibility": "tlt"}, "compatibility: expected '' or 'tao'. Received: 'tlt'"),
    ({"train": {"num_epochs": 3}}, "train.num_epochs: this describes classification. Expected.*training_config"),
    ({"dataset": {"num_classes": 3}}, "dataset.num_classes: this describes classification"),
    ({"training_config__learning_rate": {}}, "expected soft_start_annealing_schedule or early_stopping_annealing_schedule"),
    ({"training_config__enable_qat": True}, "enable_qat: expected a trained detector in model_config.pretrained_model_file"),
    ({"dataset_export_config": [{"image_directory_path": "x"}] * 2}, "dataset_export_config: expected one. Received: 2"),
    ({"model_config__num_layers": 11}, "model_config: There is no architecture"),
    ({"model_config__pretrained_model_file": "nowhere.keras"}, "There is no model nowhere.keras"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_bad_specs(folder: pathlib.Path, tmp_path: pathlib.Path, changes: dict[str, Any], message: str) -> None:
    refused(changed(folder, tmp_path, **changes), tmp_path / "out", message)


def refused(path: pathlib.Path, out: pathlib.Path, message: str) -> None:
    """In this process: what the script says of it is what the error says."""
    from tlt_prune.tasks import task_of
    from tlt_prune.tasks.steps.training import run_training

    with pytest.raises(TltPruneError, match=message) as error:
        run_training(task_of(load_spec(path)), out, restart=False)
    assert len(str(error.value).splitlines()) == 1
    assert not out.exists()


def test_the_rate_that_follows_validation_goes_on_after_a_resumption() -> None:
    from types import SimpleNamespace

    from tlt_prune.tasks.detection.rates import EarlyStopping

    config = {"min_learning_rate": 1e-5, "max_learning_rate": 1e-3, "soft_start_epochs": 1, "annealing_epochs": 2}
    schedule = SimpleNamespace(**config, patience_steps=2)
    costs = [5.0, 4.0, 4.0, 4.0, 3.0, 3.0, 3.0]
    rows = [{"val_loss": cost} for cost in costs]
    whole = EarlyStopping(schedule, lambda: 3)
    ends = []
    for done in range(1, len(rows) + 1):
        ends.append(whole.stopped(rows[:done]))
        resumed = EarlyStopping(schedule, lambda: 3)
        resumed.stopped(rows[:done])
        assert [resumed.rate(done * 3 + i, 0) for i in range(3)] == [whole.rate(done * 3 + i, 0) for i in range(3)]
    # Two validations without a lower cost, and two more after the best one since.
    assert ends == [False] * 6 + [True]
    assert whole.rate(21, 0) == pytest.approx(1e-5)


def tags(path: pathlib.Path) -> list[str]:
    """What a file of TensorBoard's has under the name of something that was drawn or counted."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return [value.tag for event in EventFileLoader(str(path)).Load() for value in event.summary.value]


def test_one_line_on_the_screen(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = changed(folder, tmp_path, **BAD[0][0])
    _, err = run("train", "-e", path, "-r", tmp_path / "results", code=1)
    assert f"{path}: augmentation_config.preprocessing.output_image_width" in one_line(err, "train")


LABELS = [
    ("zero 0 0 0 10 10 20 nan 0 0 0 0 0 0 0", "train_00000.txt, line 1: expected finite numbers"),
    ("zero 0 0 0 10 10 20 20", "train_00000.txt, line 1: expected 15 columns"),
    ("zero 0 0 0 100 10 120 20 0 0 0 0 0 0 0", "a zero of 'train_00000' at .* is outside of its picture of 64 x 64"),
]


@pytest.mark.parametrize(("line", "message"), LABELS, ids=["nan", "columns", "outside"])
def test_bad_labels(folder: pathlib.Path, tmp_path: pathlib.Path, line: str, message: str) -> None:
    shutil.copytree(folder / "digits/labels", tmp_path / "labels")
    (tmp_path / "labels/train_00000.txt").write_text(line)
    path = changed(folder, tmp_path, dataset_config__data_sources__0__label_directory_path=str(tmp_path / "labels"))
    refused(path, tmp_path / "out", message)


def test_a_model_that_is_no_detector(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    import keras

    image = keras.Input((64, 64, 1))
    keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(image))).save(tmp_path / "m.keras")
    _, err = run("evaluate", "-e", folder / "spec.yaml", "-m", tmp_path / "m.keras", "-o", tmp_path / "out", code=1)
    assert "expected a detector of 3 classes" in one_line(err, "evaluate")
