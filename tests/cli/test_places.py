"""An output never replaces an input, whatever it is called, and what a script writes appears together."""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
import shutil
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scripts import one_line, run, start

SPEC = """
results_dir: {folder}/results
dataset: {{train_dataset_path: {folder}/data/train, val_dataset_path: {folder}/data/val, preprocess_mode: unit}}
model: {{backbone: resnet_10, width: 0.125, input_width: 16, input_height: 16, input_channels: 3}}
train: {{num_epochs: 1, batch_size_per_gpu: 12, tensorboard: false}}
prune: {{ratio: 0.5, min_num_filters: 4, granularity: 4, compensation: none}}
export: {{formats: [onnx]}}
"""


def contents(folder: pathlib.Path) -> dict[str, str]:
    """What is there: files by their bytes, links by where they lead."""
    return {
        x.relative_to(folder).as_posix(): os.readlink(x) if x.is_symlink() else hashlib.sha1(x.read_bytes()).hexdigest()
        for x in sorted(folder.rglob("*"))
        if x.is_file() or x.is_symlink()
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("places")
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 6)):
        for level, name in ((40, "dark"), (200, "light")):
            (folder / f"data/{part}/{name}").mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(level, 8, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"data/{part}/{name}/{i}.png")
    (folder / "spec.yaml").write_text(SPEC.format(folder=folder))
    run("train", "-e", folder / "spec.yaml")
    shutil.copy(folder / "results/train/model.keras", folder / "model.keras")
    shutil.rmtree(folder / "results")
    return folder


@pytest.fixture
def job(trained: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy, to be damaged."""
    folder = tmp_path / "job"
    shutil.copytree(trained, folder)
    (folder / "spec.yaml").write_text(SPEC.format(folder=folder))
    (folder / "hard.onnx").hardlink_to(folder / "model.keras")
    (folder / "hard.keras").hardlink_to(folder / "model.keras")
    (folder / "soft.onnx").symlink_to("model.keras")
    (folder / "sm").mkdir()
    for name, text in (("saved_model.pb", "theirs"), ("thesis.tex", "years of work")):
        (folder / "sm" / name).write_text(text)
    shutil.copy(folder / "model.keras", folder / "sm/model.keras")
    (folder / "taken").mkdir()
    return folder


E = ["-e", "{job}/spec.yaml"]
M = [*E, "-m", "{job}/model.keras"]
REPLACES = "an output never replaces an input"
TABLE: list[tuple[str, list[str], str]] = [
    ("export", [*M, "-o", "{job}/model.keras"], "expected a name that ends in .onnx"),
    ("export", [*M, "-o", "{job}/spec.yaml"], "expected a name that ends in .onnx"),
    ("export", [*M, "-o", "{job}/x.engine"], "expected a name that ends in .onnx"),
    ("export", [*M, "-o", "{job}/hard.onnx"], REPLACES),
    ("export", [*M, "-o", "{job}/soft.onnx"], REPLACES),
    ("export", [*M, "-o", "{job}/data/../soft.onnx"], REPLACES),
    ("export", [*M, "-o", "{job}/a.onnx", "--data_type", "int8", "--cal_cache_file", "{job}/model.keras"], "ends in .bin"),
    ("export", [*M, "-o", "{job}/a.onnx", "--set", "export.engine_file={job}/model.keras"], "ends in .engine"),
    ("export", [*M, "--set", "export.formats=[litert]", "--set", "export.litert_file={job}/model.keras"], "ends in .tflite"),
    ("export", [*E, "-m", "{job}/sm/model.keras", "export.formats=[saved_model]", "export.saved_model_dir={job}/sm"], REPLACES),
    ("export", [*M, "export.formats=[saved_model]", "export.saved_model_dir={job}/sm"], "stays as it is"),
    ("export", [*M, "export.formats=[saved_model]", "export.saved_model_dir={job}/data"], REPLACES),
    ("export", [*M, "-o", "{job}/taken/../taken.onnx", "export.engine_file={job}/taken"], "ends in .engine"),
    ("prune", [*M, "-o", "{job}/model.keras"], REPLACES),
    ("prune", [*M, "-o", "{job}/hard.keras"], REPLACES),
    ("prune", [*M, "-o", "{job}/x.onnx"], "expected a name that ends in .keras"),
    ("train", [*E, "-o", "{job}", "train.pretrained_model_path={job}/model.keras"], REPLACES),
    ("train", [*E, "-o", "{job}", "train.distill.teacher={job}/model.keras"], REPLACES),
    ("infer", [*M, "-d", "{job}/data/val/dark", "-o", "{job}/data/val/dark", "--contact_sheet"], "would be taken for one"),
    ("evaluate", [*M, "-o", "{job}/model.keras"], "cannot write or read"),
]


@pytest.mark.parametrize(("script", "arguments", "message"), TABLE)
def test_no_input_is_replaced(script: str, arguments: list[str], message: str, job: pathlib.Path) -> None:
    before = contents(job)
    out, err = run(script, *(x.format(job=job) for x in arguments), code=1, cwd=job.parent)
    line = one_line(err, script)
    assert re.search(message, line), line
    assert contents(job) == before
    assert "Wrote" not in out


TOGETHER: list[tuple[str, list[str], list[str]]] = [
    ("prune", [*M, "-o", "{job}/out/x.keras"], ["x.keras", "x.plan.json", "x.plan.png"]),
    ("export", [*M, "-o", "{job}/out/x.onnx", "--data_type", "int8"], ["x.onnx", "x_fp32.onnx", "x_build_engine.py", "cal.bin"]),
    ("evaluate", [*M, "-o", "{job}/out"], ["scores.csv", "per_class.csv", "confusion_matrix.csv", "evaluation.json"]),
    ("infer", [*M, "-d", "{job}/data/val", "-o", "{job}/out", "--contact_sheet"], ["predictions.csv", "contact_sheet.png"]),
]


@pytest.mark.parametrize(("script", "arguments", "names"), TOGETHER)
def test_all_of_a_scripts_outputs_or_none(script: str, arguments: list[str], names: list[str], job: pathlib.Path) -> None:
    given = [x.format(job=job) for x in arguments]
    for name in names:
        (job / "out" / name).mkdir(parents=True)
        out, err = run(script, *given, code=1, cwd=job.parent)
        assert "is a folder or a device" in one_line(err, script)
        assert "Wrote" not in out
        assert [x.relative_to(job / "out").as_posix() for x in (job / "out").rglob("*")] == [name]
        shutil.rmtree(job / "out")
    run(script, *given, cwd=job.parent)
    assert set(names) <= {x.name for x in (job / "out").iterdir()}
    assert not [x.name for x in (job / "out").iterdir() if x.name.startswith(".")]


@pytest.mark.parametrize("script", ["export", "prune"])
def test_the_second_of_two_says_so_and_stops(script: str, job: pathlib.Path) -> None:
    target = job / ("out/x.onnx" if script == "export" else "out/x.keras")
    both: list[Any] = [start(script, *(x.format(job=job) for x in M), "-o", target, cwd=job.parent) for _ in range(2)]
    ended = [(*process.communicate(timeout=300), process.returncode) for process in both]
    codes = sorted(code for _, _, code in ended)
    # Where the first has ended before the second begins, both do their work.
    assert codes in ([0, 1], [0, 0])
    for _, err, code in ended:
        if code:
            assert "Another process is" in one_line(err, script)
    run(script, *(x.format(job=job) for x in M), "-o", target, cwd=job.parent)
    assert not [x.name for x in (job / "out").iterdir() if x.name.startswith(".")]


def test_a_default_name_replaces_nothing(job: pathlib.Path) -> None:
    given = [x.format(job=job) for x in M]
    run("prune", *given)
    first = (job / "results/prune/model.keras").read_bytes()
    _, err = run("prune", *given, "-nf", 8, code=1)
    assert "is there already, from an earlier prune. Name the output with -o" in one_line(err, "prune")
    assert (job / "results/prune/model.keras").read_bytes() == first
    run("prune", *given, "-o", job / "results/prune/model.keras", "-nf", 8)
    assert (job / "results/prune/model.keras").read_bytes() != first


def test_a_spec_is_needed(tmp_path: pathlib.Path) -> None:
    _, err = run("train", code=1, cwd=tmp_path)
    assert "No spec is given. Expected -e SPEC" in one_line(err, "train")
    assert list(tmp_path.iterdir()) == []


def test_what_comes_next(job: pathlib.Path) -> None:
    """After a training: prune the best epoch; after a retraining: export it."""
    spec = job / "spec.yaml"
    out, _ = run("train", "-e", spec, "train.num_epochs=3")
    assert "best.keras: after epoch" in out
    assert re.search(r"Next: tlt-prune .* -m \S+/train/best\.keras", out)
    run("prune", "-e", spec, "-m", job / "results/train/best.keras", "-o", job / "p.keras")
    out, _ = run("train", "-e", spec, "-o", job / "results/retrain", f"train.pretrained_model_path={job / 'p.keras'}")
    assert re.search(r"Next: tlt-export .* -m \S+/retrain/best\.keras", out)
    assert all(len(line) <= 80 for line in out.splitlines() if line.startswith("epoch "))
    out, _ = run("evaluate", "-e", spec, "-m", job / "results/retrain/best.keras")
    folder = re.search(r"to the folder (\S+)", out)
    assert folder is not None
    assert pathlib.Path(folder[1]).is_dir()
    assert "." not in pathlib.Path(folder[1]).name
