"""Signals and hangs: a script ends at once, with the right code and one line, and what it had done stays."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scripts import begun

MOMENTS = (0.3, 0.9, 1.8, 3.2, 4.0, 4.6)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("interrupt")
    for part, count in (("train", 20), ("val", 4)):
        for level, name in ((40, "dark"), (200, "light")):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(np.full((8, 8, 3), level + i, np.uint8)).save(folder / part / name / f"{i}.png")
    (folder / "spec.yaml").write_text(
        f"dataset: {{train_dataset_path: {folder}/train, val_dataset_path: {folder}/val}}\n"
        "model: {backbone: resnet_10, width: 0.125, input_width: 8, input_height: 8}\n"
        "train: {num_epochs: 20, batch_size_per_gpu: 8, tensorboard: false, lr_config: {learning_rate: 0.01}}\n"
        "prune: {ratio: 0.5, compensation: none}\n"
    )
    return folder


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_training_ends_at_any_moment_and_goes_on(number: int, code: int, job: pathlib.Path, tmp_path: pathlib.Path) -> None:
    command = ["-e", job / "spec.yaml", "-r", tmp_path]
    for moment in MOMENTS[::2] if number == signal.SIGINT else MOMENTS[3:4]:
        process = begun("train", *command)
        time.sleep(moment)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        if process.returncode:
            assert process.returncode == code
            (line,) = err.strip().splitlines()
            assert line.startswith("tlt-train: error: interrupted.")
        assert not list(tmp_path.rglob(".tlt_prune-*"))
    process = begun("train", *command)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    history = pd.read_csv(tmp_path / "train/history.csv")
    assert history["epoch"].tolist() == list(range(1, 21))


def test_termination_keeps_the_batches_of_an_epoch(job: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """An epoch of five batches that takes long: what a cluster ends in the middle of one goes on there."""
    slow = (
        "import time\nfrom tlt_prune.training import callbacks\nbegin = callbacks.LearningRateSchedule.on_train_batch_begin\n"
        "def slowly(self, batch, logs=None):\n    begin(self, batch, logs)\n    print('batch', batch, flush=True)\n"
        "    time.sleep(0.3)\ncallbacks.LearningRateSchedule.on_train_batch_begin = slowly"
    )
    command = ["-e", job / "spec.yaml", "-r", tmp_path, "train.num_epochs=1"]
    process = begun("train", *command, prelude=slow)
    assert process.stdout is not None
    while process.stdout.readline() != "batch 2\n":
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err.splitlines()[-1].startswith("tlt-train: error: interrupted. Run the same command again")
    assert [x.name for x in (tmp_path / "train/checkpoints").iterdir()] == ["epoch_000.keras"]
    process = begun("train", *command)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    assert "Going on after epoch 0 and 3 batches of the next, from the last checkpoint." in out


@pytest.mark.parametrize("where", ["train", "val"])
def test_a_picture_that_is_cut_while_training_reads_it_ends_the_process(
    where: str, job: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Data above a limit is read while training; the interpreter's end then waited for threads that never report back."""
    for part in ("train", "val"):
        shutil.copytree(job / part, tmp_path / part)
    for name in ("dark", "light"):
        for path in sorted((tmp_path / where / name).iterdir())[1:]:
            path.write_bytes(path.read_bytes()[:-30])
    data = [f"dataset.{part}_dataset_path={tmp_path}/{part}" for part in ("train", "val")]
    lazily = "import tlt_prune.data.folders as folders\nfolders._MEMORY_BYTES = 0"
    command = ["-e", job / "spec.yaml", *data]
    process = begun("train", *command, "-r", tmp_path / "r", "train.num_epochs=2", prelude=lazily)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 1
    # What is imported before the script begins talks.
    (line,) = [x for x in err.splitlines() if x.startswith("tlt-train")]
    assert line.startswith("tlt-train: error: Cannot read the picture")
    assert "Traceback" not in err


@pytest.mark.parametrize("closed", [(2,), (0, 1, 2)])
def test_closed_streams(closed: tuple[int, ...], job: pathlib.Path, tmp_path: pathlib.Path) -> None:
    close = "import os\n" + "\n".join(f"os.close({number})" for number in closed)
    code = f"{close}\nimport sys\nsys.argv[0] = 'tlt-train'\nfrom tlt_prune.cli import scripts\nscripts.train()"
    command = [sys.executable, "-c", code, "-e", str(job / "spec.yaml"), "-r", str(tmp_path), "train.num_epochs=1"]
    assert subprocess.run(command, timeout=120, check=False, stdin=subprocess.DEVNULL).returncode == 0
    assert (tmp_path / "train/model.keras").is_file()


def test_a_terminal_of_ascii_and_a_path_that_is_none(job: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "caf\N{LATIN SMALL LETTER E WITH ACUTE}\N{SMILING FACE WITH SUNGLASSES}"
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "TMPDIR": str(tmp_path / "temporary")}
    # What Python compiles of temporary files goes as well.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    process = begun("train", "-e", job / "spec.yaml", "-r", folder, "train.num_epochs=1", env=environment)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    # What the process was ended without: TensorFlow's own tidying up.
    assert list((tmp_path / "temporary").iterdir()) == []
    assert r"caf\xe9\U0001f60e" in out
    assert (folder / "train/model.keras").is_file()


@pytest.mark.parametrize("backend", ["torch", "nonsense"])
def test_other_backends(backend: str, job: pathlib.Path, tmp_path: pathlib.Path) -> None:
    process = begun("train", "-e", job / "spec.yaml", "-r", tmp_path, env={**os.environ, "KERAS_BACKEND": backend})
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.strip() == f"tlt-train: error: KERAS_BACKEND={backend}: expected tensorflow or jax. Unset it, or set one of these."
