"""tlt-prune with the spec's data: what it chooses by default, what --plain is, schedules and latency."""

from __future__ import annotations

import json
import pathlib
import re

import keras
import numpy as np
import pytest
from helpers import pretended_milliseconds
from scripts import one_line, run

import tlt_prune
from tlt_prune.graph.tracer import trace
from tlt_prune.pruning.cost import latency

SPEC = """
results_dir: {results}
dataset: {{train_dataset_path: sklearn_digits, preprocess_mode: unit, augmentation: {{disable_horizontal_flip: true}}}}
model: {{backbone: resnet_20, input_width: 8, input_height: 8, input_channels: 1}}
train:
  num_epochs: 4
  batch_size_per_gpu: 64
  bn_config: {{momentum: 0.8}}
  lr_config: {{learning_rate: 0.1}}
prune: {{macs: 0.5, granularity: 4, min_num_filters: 4, samples: 400}}
evaluate: {{batch_size: 256}}
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with spec.yaml and model.keras."""
    folder = tmp_path_factory.mktemp("choosing")
    (folder / "spec.yaml").write_text(SPEC.format(results=folder / "results"))
    run("train", "-e", folder / "spec.yaml")
    (folder / "results/train/model.keras").rename(folder / "model.keras")
    return folder


def accuracy(job: pathlib.Path, model: pathlib.Path, out: pathlib.Path) -> float:
    run("evaluate", "-e", job / "spec.yaml", "-m", model, "-o", out)
    return float(json.loads((out / "evaluation.json").read_text())["accuracy"])


def test_the_default_and_the_plain_result(job: pathlib.Path, tmp_path: pathlib.Path) -> None:
    base = ["-e", job / "spec.yaml", "-m", job / "model.keras"]
    out, _ = run("prune", *base, "-o", tmp_path / "best.keras")
    assert "Verified: equal to the original" in out
    assert "Compensated by LeastSquares on 400 examples in 7 batches" in out
    settings = json.loads((tmp_path / "best.plan.json").read_text())["settings"]
    assert settings["criterion"] == "Fisher(400 examples in 7 batches)"

    out, _ = run("prune", *base, "-o", tmp_path / "plain.keras", "--plain")
    assert "Compensated" not in out
    model = keras.models.load_model(job / "model.keras")
    expected = tlt_prune.plan_pruning(model, macs=0.5, ranking="local", granularity=4, min_num_filters=4)
    plain = keras.models.load_model(tmp_path / "plain.keras")
    for a, b in zip(plain.get_weights(), expected.apply(model).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)

    dense = accuracy(job, job / "model.keras", tmp_path / "dense")
    best, toolkit = (accuracy(job, tmp_path / f"{name}.keras", tmp_path / name) for name in ("best", "plain"))
    assert best > toolkit
    assert dense - best < 0.5 * (dense - toolkit)


def test_a_threshold_is_the_toolkits_rule_with_the_rest_fitted_again(job: pathlib.Path, tmp_path: pathlib.Path) -> None:
    base = ["-e", job / "spec.yaml", "-m", job / "model.keras", "-pth", 0.95]
    run("prune", *base, "-o", tmp_path / "fitted.keras")
    run("prune", *base, "-o", tmp_path / "plain.keras", "--plain")
    fitted, plain = (json.loads((tmp_path / f"{x}.plan.json").read_text()) for x in ("fitted", "plain"))
    assert fitted["kept"] == plain["kept"]
    assert fitted["params_after"] < fitted["params_before"]
    a, b = (keras.models.load_model(tmp_path / f"{x}.keras") for x in ("fitted", "plain"))
    assert any(not np.array_equal(x, y) for x, y in zip(a.get_weights(), b.get_weights(), strict=True))


def test_without_a_dataset_it_prunes_as_the_toolkit_does(job: pathlib.Path, tmp_path: pathlib.Path) -> None:
    options = ["--macs", "50%", "-pg", 4, "-nf", 4]
    out, _ = run("prune", "-m", job / "model.keras", "-o", tmp_path / "p.keras", *options)
    assert "No dataset is given" in out
    run("prune", "-m", job / "model.keras", "-o", tmp_path / "q.keras", *options, "--plain")
    a, b = (keras.models.load_model(tmp_path / f"{x}.keras") for x in "pq")
    for x, y in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)


def test_several_compensations_and_options_for_layers(job: pathlib.Path, tmp_path: pathlib.Path) -> None:
    base = ["-e", job / "spec.yaml", "-m", job / "model.keras", "-o", tmp_path / "p.keras"]
    own = "{block_3c_conv_1: {ratio: 0.0}}"
    out, _ = run("prune", *base, "--criterion", "lamp", "--compensation", "bias,batch_norm", "--layer_options", own)
    assert "Compensated by Bias" in out
    assert "Compensated by RecalibrateBatchNorm on 400 examples" in out
    pruned = keras.models.load_model(tmp_path / "p.keras")
    assert pruned.get_layer("block_3c_conv_1").filters == 64


def test_a_schedule_prunes_and_trains_and_goes_on(job: pathlib.Path, tmp_path: pathlib.Path) -> None:
    base = ["-e", job / "spec.yaml", "-m", job / "model.keras", "-o", tmp_path / "p.keras"]
    schedule = ["--schedule", "{steps: 2, kind: linear, epochs: 1}"]
    out, _ = run("prune", *base, *schedule)
    assert "Step 1 of 2" in out
    assert "for 1 epochs on" in out
    whole, half, last = (
        json.loads(p.read_text())
        for p in (
            tmp_path / "p_steps/step_1/pruned.plan.json",
            tmp_path / "p_steps/step_1/pruned.plan.json",
            tmp_path / "p.plan.json",
        )
    )
    assert 0.65 < half["macs_after"] / whole["macs_before"] <= 0.75
    assert 0.4 < last["macs_after"] / whole["macs_before"] <= 0.5
    # Killed after the training of the first step: what is done is not done again.
    (tmp_path / "p.keras").unlink()
    pruned = (tmp_path / "p_steps/step_1/pruned.keras").stat().st_mtime_ns
    out, _ = run("prune", *base, *schedule)
    assert "This training is finished" in out
    assert (tmp_path / "p_steps/step_1/pruned.keras").stat().st_mtime_ns == pruned
    assert (tmp_path / "p.keras").exists()
    _, err = run("prune", *base, "--schedule", "{steps: 3, epochs: 1}", code=1)
    assert "holds the steps of another model or other settings" in one_line(err, "prune")


def test_a_script_for_a_device(job: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out, _ = run("prune", "-m", job / "model.keras", "--latency_script", tmp_path / "orin", "-o", tmp_path / "p.keras")
    (count,) = re.findall(r"orin: (\d+) layers to be measured", out)
    layers = json.loads((tmp_path / "orin/layers.json").read_text())
    assert len(layers["layers"]) == int(count)
    assert layers["data_type"] == "fp16"
    assert not (tmp_path / "p.keras").exists()
    export = ["-e", job / "spec.yaml", "-m", job / "model.keras", "-o", tmp_path / "m.onnx", "--data_type", "int8"]
    out, _ = run("export", *export, "--formats", "onnx", "--latency_script", tmp_path / "int8", "--batches", "1")
    assert "int8: " in out
    of_spec = json.loads((tmp_path / "int8/layers.json").read_text())
    assert of_spec["data_type"] == "int8"
    # The spec's granularity, not the default.
    assert len(of_spec["layers"]) > int(count)
    _, err = run("export", *export, "--latency_script", tmp_path / "m.onnx", code=1)
    assert "expected the name of a folder" in one_line(err, "export")
    shown = [x for x in tmp_path.iterdir() if x.is_dir()]
    assert sorted(x.name for x in shown) == ["int8", "orin"]


def test_a_budget_of_latency_is_predicted_and_measured(
    job: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ["-e", job / "spec.yaml", "-m", job / "model.keras", "-o", tmp_path / "p.keras", "-r", tmp_path]
    # All layers but one are in the table already, with what a steady and slow machine takes: whether the budget can be met is
    # no matter of what else runs here. The one, and the whole, are measured.
    with monkeypatch.context() as pretended:
        pretended.setattr(latency, "_milliseconds", lambda *call: 1000 * pretended_milliseconds(*call))
        latency.LatencyTable(tmp_path / "latency.json").terms(trace(keras.models.load_model(job / "model.keras")), granularity=4)
    table = json.loads((tmp_path / "latency.json").read_text())
    missing, _ = table["layers"].popitem()
    (tmp_path / "latency.json").write_text(json.dumps(table))
    out, _ = run("prune", *base, "--latency_ms", "60%")
    assert "ms predicted," in out
    assert "ms measured in onnxruntime" in out
    plan = json.loads((tmp_path / "p.plan.json").read_text())
    assert plan["latency_ms_after"] <= 0.6 * plan["latency_ms_before"] * (1 + 1e-9)
    after = json.loads((tmp_path / "latency.json").read_text())
    measured = after["layers"].pop(missing)
    assert 0 <= measured < 1000
    assert after["layers"] == table["layers"]
    assert len(after["scales"]) == 1
    (whole,) = re.findall(r"The whole model takes (\S+) ms", out)
    assert plan["latency_ms_before"] == pytest.approx(float(whole), rel=0.01)
