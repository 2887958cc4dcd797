"""The main job, whole: what the README promises first is a number that this test reads."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import demo
import demo_detection
import numpy as np
import pytest
from PIL import Image
from scripts import run


@pytest.fixture
def _forked(monkeypatch: pytest.MonkeyPatch, root: pathlib.Path) -> None:
    monkeypatch.setattr(demo, "script", lambda name, *arguments: run(name, *arguments, cwd=root))


@pytest.mark.usefixtures("_forked")
def test_the_main_job(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Half of a user's epochs of retraining: enough for what is promised.
    demo.main(tmp_path, seed=1, retrain_epochs=12)
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    dense, pruned, retrained, int8 = report.values()
    assert dense["params"] == 1_241_386
    assert dense["params"] >= 10 * retrained["params"]
    assert retrained["params"] == pruned["params"]
    assert retrained["accuracy"] >= dense["accuracy"] - 0.005
    assert dense["accuracy"] >= 0.97
    assert retrained["macs"] < dense["macs"] / 4
    assert retrained["onnx"]["file_bytes"] < dense["onnx"]["file_bytes"] / 8
    assert int8["onnx"]["accuracy"] >= retrained["accuracy"] - 0.005
    assert int8["onnx"]["file_bytes"] < 0.4 * retrained["onnx"]["file_bytes"]
    for step in (dense, pruned, retrained, int8):
        assert step["pictures"] == 1000
        assert abs(step["accuracy"] - step["onnx"]["accuracy"]) < 0.0015
    # The table has the retrained network, and the pictures are pictures.
    lines = capsys.readouterr().out.splitlines()
    (last,) = [line for line in lines if line.startswith("retrained ")]
    assert f"{retrained['params']:,}" in last
    assert "times fewer parameters" in lines[-2]
    for name in ("report.png", "channels.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 500
    assert f"{retrained['params']:,}" in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.usefixtures("_forked")
def test_the_detection_demo(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Fewer than a user's: enough for what is promised.
    demo_detection.main(tmp_path, seed=1, epochs=(12, 10))
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    dense, pruned, retrained = report.values()
    assert dense["mean_average_precision"] > 0.8
    assert retrained["mean_average_precision"] >= dense["mean_average_precision"] - 0.02
    assert dense["params"] >= 5 * retrained["params"]
    assert retrained["params"] == pruned["params"]
    assert retrained["onnx"]["file_bytes"] < 0.3 * dense["onnx"]["file_bytes"]
    for step in (dense, pruned, retrained):
        assert step["pictures"] == 240
        assert abs(step["mean_average_precision"] - step["onnx"]["mean_average_precision"]) < 1e-3
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("retrained ") and f"{retrained['params']:,}" in line for line in lines)
    # Detections of both networks, which differ.
    with Image.open(tmp_path / "detections.png") as picture:
        pixels = np.asarray(picture.convert("RGB"), np.int32)
    assert (abs(pixels[:256] - pixels[-256:]) > 64).any()
    assert f"{retrained['params']:,}" in (tmp_path / "report.html").read_text("utf-8")


def test_a_demo_ends_with_the_script_that_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"demo: tlt-evaluate failed \(exit code 1\); see its message above."):
        demo.script("evaluate", "-e", "nothing.yaml")
    out, err = capfd.readouterr()
    assert "$ tlt-evaluate -e nothing.yaml" in out
    assert "nothing.yaml" in err


def outcome(params: int = 100, accuracy: float = 0.98, in_onnx: float | None = None) -> dict[str, Any]:
    return {
        "params": params, "macs": 10.0, "accuracy": accuracy, "pictures": 1000,
        "onnx": {"accuracy": accuracy if in_onnx is None else in_onnx, "latency_ms": 1.0},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("retrained", "int8", "message"),
    [
        (outcome(100, 0.98), None, ""),
        (outcome(100, 0.975), None, ""),
        (outcome(100, 0.98), outcome(100, 0.975), ""),
        (outcome(100, 0.98), outcome(100, 0.974), "Accuracy in int8 is 0.60 points lower. Expected at most 0.5 points less."),
        (outcome(100, 0.98), outcome(100, 0.98, in_onnx=0.97), "The int8 network scores 0.9800 in Keras and 0.9700 in ONNX."),
        (outcome(101, 0.98), None, "1,000 -> 101 parameters are 9.9 times fewer. Expected at least 10 times."),
        (outcome(998, 0.98), None, "1.0 times fewer"),
        (outcome(100, 0.974), None, "Accuracy changed by -0.60 points. Expected at most 0.5 points less."),
        (outcome(100, 0.98, in_onnx=0.97), None, "The retrained network scores 0.9800 in Keras and 0.9700 in ONNX."),
    ],
)
def test_a_promise_that_is_not_kept_is_named(retrained: dict[str, Any], int8: dict[str, Any] | None, message: str) -> None:
    report = {"dense": outcome(1000), "pruned": outcome(100, 0.1), "retrained": retrained, "int8": int8 or retrained}
    failures = " ".join(demo.missed(report))
    assert message in failures
    assert bool(failures) == bool(message)
