"""The real scripts, in processes of their own, as a user runs them."""

from __future__ import annotations

import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
from typing import Any

import keras
import numpy as np
import onnx
import pandas as pd
import pytest
from PIL import Image
from scripts import finish, one_line, run, start

from tlt_prune import quantization

SPEC = """
results_dir: {results}
dataset: {{train_dataset_path: sklearn_digits, augmentation: {{disable_horizontal_flip: true}}}}
model: {{backbone: resnet_10, width: 0.25, input_width: 8, input_height: 8, input_channels: 1, use_pooling: false}}
train:
  num_epochs: 2
  batch_size_per_gpu: 128
  bn_config: {{momentum: 0.8}}
  lr_config: {{scheduler: soft_anneal, learning_rate: 0.05, soft_start: 0.2, annealing_points: [0.8]}}
  reg_config: {{type: L1, weight_decay: 1.0e-4}}
prune: {{ratio: 0.5, min_num_filters: 8}}
evaluate: {{batch_size: 256}}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with spec.yaml and results/train/model.keras."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "spec.yaml").write_text(SPEC.format(results=folder / "results"))
    out, err = run("train", "-e", folder / "spec.yaml", "-k", "tlt_encode")
    assert err == "", "nothing but the user's own messages on standard error"
    assert "Accuracy on the held-out pictures" in out
    assert "Next: tlt-prune" in out
    assert "Ignored: --key" in out
    return folder


def test_the_whole_job(trained: pathlib.Path) -> None:
    spec, results = trained / "spec.yaml", trained / "results"
    dense, pruned, retrained = results / "train/model.keras", results / "prune/model.keras", results / "retrain/model.keras"

    out, _ = run("prune", "-e", spec, "-m", dense, "-o", pruned, "--dry_run", "export.data_type=int8")
    assert "nothing is written" in out
    assert "keep fewer than 16 filters and are exported in float for TensorRT: conv1, block_1a_conv_1" in out
    out, _ = run("prune", "-e", spec, "-m", dense, "-o", pruned, "--dry_run", "export.data_type=int8", "-pg", "auto")
    assert "keep fewer than 16 filters" not in out
    assert not pruned.parent.exists()

    out, err = run("prune", "-e", spec, "-m", dense, "-o", pruned, "-nf", 4, "-pg", 4, "-el", "conv1", "block_1a_conv_1")
    assert err == ""
    plan = json.loads(pruned.with_suffix(".plan.json").read_text())
    (row,) = [line for line in out.splitlines() if line.startswith("conv1 ")]
    assert row.split()[1] == "16"
    assert row.endswith("frozen: excluded layer 'conv1'")
    assert "Verified: equal to the original" in out
    assert plan["settings"]["granularity"] == 4
    assert plan["settings"]["excluded_layers"] == ["block_1a_conv_1", "conv1"]
    rows = {x["layer"]: x for x in plan["layers"]}
    assert rows["conv1"]["filters_after"] == rows["conv1"]["filters_before"] == 16
    assert rows["block_2a_conv_1"]["filters_after"] == 16

    assert {p.name for p in pruned.parent.iterdir()} == {"model.keras", "model.plan.json", "model.plan.png"}
    with Image.open(pruned.with_suffix(".plan.png")) as picture:
        assert picture.width > 500

    run("train", "-e", spec, "-o", results / "retrain", "--set", f"train.pretrained_model_path={pruned}")
    run("export", "-e", spec, "-m", retrained, "--opset", 13)
    scores = {}
    for kind in ("retrain/model.keras", "export/model.onnx", "export/saved_model"):
        run("evaluate", "-e", spec, "-m", results / kind, "-o", results / "scores" / kind)
        folder = results / "scores" / kind
        scores[kind] = json.loads((folder / "evaluation.json").read_text())
        tables = {"scores.csv", "per_class.csv", "confusion_matrix.csv"}
        assert {p.name for p in folder.iterdir()} == {"evaluation.json", "confusion_matrix.png", *tables}
        with Image.open(folder / "confusion_matrix.png") as picture:
            assert min(picture.size) > 400
        assert pd.read_csv(folder / "confusion_matrix.csv", index_col=0).to_numpy().sum() == scores[kind]["pictures"]
    # The exported files agree with Keras on every picture of the test split.
    matrices = [pd.read_csv(results / "scores" / kind / "confusion_matrix.csv", index_col=0) for kind in scores]
    for other in matrices[1:]:
        pd.testing.assert_frame_equal(matrices[0], other)
    assert len({x["accuracy"] for x in scores.values()}) == 1
    assert scores["retrain/model.keras"]["params"] == plan["params_after"]
    assert scores["retrain/model.keras"]["macs"] == plan["macs_after"]


def test_int8_after_training_and_in_training(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    spec, model = trained / "spec.yaml", trained / "results/train/model.keras"

    def scored(path: pathlib.Path) -> dict[str, Any]:
        run("evaluate", "-e", spec, "-m", path, "-o", tmp_path / "scores" / path.stem)
        return dict(json.loads((tmp_path / "scores" / path.stem / "evaluation.json").read_text()))

    only = ("--set", "export.formats=[onnx]")
    both = ("--set", "export.formats=[onnx, litert]", "--set", f"export.litert_file={tmp_path / 'a/after.tflite'}")
    out, _ = run("export", "-e", spec, "-m", model, "-o", tmp_path / "a/after.onnx", "--data_type", "int8", *both)
    written = {"after.onnx", "after_fp32.onnx", "cal.bin", "after_build_engine.py", "after.tflite"}
    assert {x.name for x in (tmp_path / "a").iterdir()} == written
    assert "after.tflite: LiteRT, int8, calibrated by min_max on 512 pictures" in out
    assert f"--calib={tmp_path / 'a/cal.bin'}" in out
    assert "In float, as TensorRT computes them faster: " in out
    scales = quantization.read_calibration_cache(tmp_path / "a/cal.bin")
    graph = onnx.load(tmp_path / "a/after_fp32.onnx").graph
    assert {graph.input[0].name, graph.output[0].name} <= set(scales)
    dense, after = scored(tmp_path / "a/after_fp32.onnx"), scored(tmp_path / "a/after.onnx")
    assert after["accuracy"] >= dense["accuracy"] - 0.03
    assert after["params"] == dense["params"]
    assert after["file_bytes"] < 0.5 * dense["file_bytes"]
    lite = scored(tmp_path / "a/after.tflite")
    assert lite["accuracy"] >= dense["accuracy"] - 0.03
    # A shape or two are counted otherwise.
    assert lite["params"] == pytest.approx(dense["params"], rel=1e-3)

    aware = (
        "train.qat=true",
        f"train.pretrained_model_path={model}",
        "train.lr_config.learning_rate=0.001",
        "train.num_epochs=1",
    )
    out, _ = run("train", "-e", spec, "-o", tmp_path / "qat", *aware)
    assert "Quantization-aware: int8 ranges start from 500 training pictures" in out
    assert "Next: tlt-export" in out
    out, _ = run("export", "-e", spec, "-m", tmp_path / "qat/model.keras", "-o", tmp_path / "q/aware.onnx", *only)
    assert "int8, trained so" in out
    assert scored(tmp_path / "q/aware.onnx")["accuracy"] >= dense["accuracy"] - 0.03
    # A finished training is found again.
    out, _ = run("train", "-e", spec, "-o", tmp_path / "qat", *aware)
    assert "This training is finished" in out


def test_two_of_every_four_weights(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    model, output = trained / "results/train/model.keras", tmp_path / "sparse.keras"
    # The spec has a budget; without one, nothing but weights goes.
    out, _ = run("prune", "-e", trained / "spec.yaml", "-m", model, "-o", output, "--sparsity", "2:4", "prune.ratio=null")
    assert "Verified" not in out
    (said,) = [line for line in out.splitlines() if line.startswith("Accuracy on the held-out pictures")]
    assert {x.name for x in tmp_path.iterdir()} == {"sparse.keras"}
    run("export", "-e", trained / "spec.yaml", "-m", output, "-o", tmp_path / "sparse.onnx", "--set", "export.formats=[onnx]")
    kernels = [onnx.numpy_helper.to_array(x) for x in onnx.load(tmp_path / "sparse.onnx").graph.initializer if len(x.dims) == 4]
    eligible = [np.moveaxis(x, 1, -1).reshape(-1, 4) for x in kernels if x.shape[1] % 4 == 0]
    assert len(eligible) == 12
    assert all(((x != 0).sum(axis=1) <= 2).all() for x in eligible)
    run("evaluate", "-e", trained / "spec.yaml", "-m", tmp_path / "sparse.onnx", "-o", tmp_path / "scores")
    accuracy = json.loads((tmp_path / "scores/evaluation.json").read_text())["accuracy"]
    assert f"{100 * accuracy:.2f} % with 2:4 sparsity" in said

    # Channels first, then weights.
    out, _ = run("prune", "-e", trained / "spec.yaml", "-m", model, "-o", output, "--sparsity", "2:4")
    assert "Verified: equal to the original" in out
    assert "with 2:4 sparsity" in out
    out, _ = run("prune", "-e", trained / "spec.yaml", "-m", model, "-o", tmp_path / "no.keras", "--sparsity", "2:4", "--dry_run")
    assert "nothing is written" in out
    assert not (tmp_path / "no.keras").exists()

    # Or values that few weights share.
    out, _ = run("prune", "-e", trained / "spec.yaml", "-m", model, "-o", output, "--clusters", "8", "prune.ratio=null")
    assert "with clustered weights" in out
    kernels = [np.asarray(x.kernel) for x in keras.models.load_model(output).layers if hasattr(x, "kernel")]
    assert max(len(np.unique(x)) for x in kernels) == 8


def test_a_sweep_prunes_nothing(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    model = trained / "results/train/model.keras"
    out, _ = run(
        "prune", "-e", trained / "spec.yaml", "-m", model, "-o", tmp_path / "p.keras", "--sweep", "-el", "predictions_dense"
    )
    assert "'predictions_dense' is the toolkit's name for a head; this model's is 'predictions'" in out
    table = pd.read_csv(tmp_path / "sweep.csv")
    assert table["parameters"].is_monotonic_decreasing
    assert {p.name for p in tmp_path.iterdir()} == {"sweep.csv", "sweep.png"}


def test_infer_writes_a_table_and_a_contact_sheet(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(3):
        Image.fromarray(np.full((20, 20), 60 * i, np.uint8)).save(pictures / f"{i}.png")
    model = trained / "results/train/model.keras"
    out, _ = run("infer", "-e", trained / "spec.yaml", "-m", model, "-d", pictures, "-o", tmp_path / "out", "--contact_sheet")
    table = pd.read_csv(tmp_path / "out/predictions.csv")
    assert [pathlib.Path(x).name for x in table["file"]] == ["0.png", "1.png", "2.png"]
    assert table["probability"].between(0.1, 1).all()
    assert "0.png" in out
    with Image.open(tmp_path / "out/contact_sheet.png") as sheet:
        assert sheet.width > 200
    (pictures / "bad.png").write_bytes(b"x")
    _, err = run("infer", "-e", trained / "spec.yaml", "-m", model, "-d", pictures, "-o", tmp_path / "out2", code=1)
    assert "bad.png" in err


def test_weights_by_name_start_a_training(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    import keras

    model = keras.models.load_model(trained / "results/train/model.keras")
    model.save_weights(tmp_path / "some.weights.h5")
    settings = [f"train.pretrained_model_path={tmp_path / 'some.weights.h5'}", "train.num_epochs=1", "model.all_projections=true"]
    out, _ = run("train", "-e", trained / "spec.yaml", "-o", tmp_path / "t", *(x for s in settings for x in ("--set", s)))
    assert "Weights by name from" in out
    assert "loaded" in out


def test_a_pruned_model_loads_without_this_package(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    pruned = tmp_path / "pruned.keras"
    run("prune", "-e", trained / "spec.yaml", "-m", trained / "results/train/model.keras", "-o", pruned)
    code = (
        "import sys; sys.modules['tlt_prune'] = None\n"
        "import keras, numpy\n"
        f"model = keras.models.load_model({str(pruned)!r})\n"
        "print(model(numpy.zeros((1, 8, 8, 1), 'float32')).shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "(1, 10)" in done.stdout


def test_a_killed_training_goes_on(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    arguments = ("-e", trained / "spec.yaml", "-o", tmp_path / "t", "--set", "train.num_epochs=8")
    process = start("train", *arguments)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "t/checkpoints").glob("epoch_*.keras")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "t/model.keras").exists()
    out, _ = run("train", *arguments)
    assert "Going on after epoch" in out
    assert "Trained 8 epochs" in out
    assert pd.read_csv(tmp_path / "t/history.csv")["epoch"].tolist() == list(range(1, 9))
    import keras

    assert keras.models.load_model(tmp_path / "t/model.keras").output_shape == (None, 10)


def test_unwritable_results(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    _, err = run("train", "-e", trained / "spec.yaml", "-r", tmp_path / "file" / "results", code=1)
    assert str(tmp_path / "file") in one_line(err, "train")


def test_a_full_disk_leaves_nothing_half_written(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    model = trained / "results/train/model.keras"
    arguments = ("-e", trained / "spec.yaml", "-m", model, "-o", tmp_path / "p.keras")
    _, err = finish(start("prune", *arguments, preexec_fn=small_files_only), code=1)
    one_line(err, "prune")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("train", ["--set", "train.num_epoch=3"], "Did you mean 'train.num_epochs'"),
        ("train", ["-e", "nowhere.yaml"], "Cannot read the spec file nowhere.yaml"),
        ("prune", ["--ratio", "0.5"], "prune.model_path"),
        ("prune", ["-m", "nowhere.keras", "-pth", "0.5", "-o", "{tmp}/x.keras"], "There is no model file nowhere.keras"),
        ("evaluate", ["-m", "nowhere.onnx", "-o", "{tmp}"], "There is no model nowhere.onnx"),
        (
            "export",
            ["-m", "x.keras", "export.formats=[tflite]"],
            "must be 'saved_model', 'onnx' or 'litert'. Received: 'tflite'",
        ),
    ],
)
def test_bad_input_is_one_clear_line(script: str, arguments: list[str], message: str, tmp_path: pathlib.Path) -> None:
    given = [x.format(tmp=tmp_path) for x in arguments]
    _, err = run(script, *given, code=1, cwd=tmp_path)
    assert message in one_line(err, script)


@pytest.mark.parametrize("script", ["train", "prune", "evaluate", "infer", "export", "convert"])
def test_help_is_for_people(script: str) -> None:
    process = start(script, "--help", env={**os.environ, "COLUMNS": "100"})
    out, _ = process.communicate(timeout=60)
    assert f"tlt-{script} -" in out
    assert "--experiment_spec_file" in out
    # A screen or two.
    assert len(out.splitlines()) <= 125
    assert "None" not in out, "a flag without a description"
