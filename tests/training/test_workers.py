"""Several processes that train together: the same result as one, whoever is killed."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import scripts
import tensorflow as tf
from PIL import Image

import tlt_prune
from tlt_prune import training
from tlt_prune.detection.losses import TargetClass
from tlt_prune.detection.training import ObjectiveLoss
from tlt_prune.io import rendezvous, workers
from tlt_prune.training import replicas

# Stands for two GPUs.
TWO_DEVICES = """
import tensorflow as tf
from tlt_prune.io import rendezvous, workers
def devices(wanted):
    parts = [tf.config.LogicalDeviceConfiguration()] * wanted
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(wanted)])
workers._on_gpus = devices
"""
# What a cluster does to one of several workers: here in the second epoch, which has two batches, in the first of them.
TERMINATED = """
import os, signal
from tlt_prune.training import callbacks
begin = callbacks.LearningRateSchedule.on_train_batch_begin
def terminated(self, batch, logs=None):
    begin(self, batch, logs)
    if self._step == 3:
        os.kill(os.getpid(), signal.SIGTERM)
callbacks.LearningRateSchedule.on_train_batch_begin = terminated
"""
# Three classes of 13: the last batch of 16 has 7, and of 36 has 3.
PICTURES = {"train": 13, "val": 3}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder, random = tmp_path_factory.mktemp("workers"), np.random.default_rng(0)
    for part, count in PICTURES.items():
        for level, name in ((60, "dark"), (120, "gray"), (180, "light")):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                noisy = np.clip(random.normal(level, 60, (8, 8, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(noisy).save(folder / part / name / f"{i}.png")
    return folder


def spec_of(pictures: pathlib.Path, folder: pathlib.Path, **train: Any) -> pathlib.Path:
    """The spec of a training with batch statistics of the whole batch."""
    chosen = {"num_epochs": 2, "lr_config": {"learning_rate": 0.02}, "bn_config": {"synchronized": True}, **train}
    spec = {
        "dataset": {"train_dataset_path": str(pictures / "train"), "val_dataset_path": str(pictures / "val")},
        "model": {"backbone": "helnet6", "width": 0.125, "input_width": 8, "input_height": 8},
        "train": {"tensorboard": False, **chosen},
        "results_dir": str(folder),
    }
    path = folder / "spec.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(spec))
    return path


def begun(
    spec: pathlib.Path, *arguments: object, script: str = "train", prelude: str = "", **variables: str
) -> subprocess.Popen[str]:
    environment = {**{key: x for key, x in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}, **variables}
    return scripts.begun(script, "-e", spec, *arguments, prelude=prelude, env=environment)


def begun_together(
    count: int, spec: pathlib.Path, *arguments: object, script: str = "train", preludes: Sequence[str] = ()
) -> list[subprocess.Popen[str]]:
    """Workers on the loopback."""
    hosts, preludes = free_addresses(count), preludes or [""] * count
    return [begun(spec, *arguments, script=script, prelude=preludes[i], TF_CONFIG=tf_config(hosts, i)) for i in range(count)]


def free_addresses(count: int) -> list[str]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def tf_config(hosts: list[str], index: int) -> str:
    return json.dumps({"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}})


def ended(processes: list[subprocess.Popen[str]], code: int = 0) -> list[tuple[str, str]]:
    """(output, errors) of each; all must end with `code`."""
    found = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), found
    return found


def history_of(folder: pathlib.Path) -> pd.DataFrame:
    return pd.read_csv(folder / "train/history.csv").drop(columns="seconds")


def weights_of(folder: pathlib.Path) -> np.ndarray[Any, Any]:
    model = keras.models.load_model(folder / "train/model.keras")
    return np.concatenate([w.ravel() for w in model.get_weights()])


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_workers_come_to_what_one_process_comes_to(seed: int, pictures: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Also where one of them is terminated in the middle of an epoch: both keep what they have, and go on."""

    def spec(name: str, each: int) -> pathlib.Path:
        return spec_of(pictures, tmp_path / name, random_seed=seed, batch_size_per_gpu=each, keep_best=True)

    scripts.run("train", "-e", spec("one", 36))
    two = spec("two", 18)
    for _, err in ended(begun_together(2, two, preludes=["", TERMINATED]), code=143):
        assert err.splitlines()[-1].startswith("tlt-train: error: interrupted. Run the same command again")
    chief, other = ended(begun_together(2, two))
    ended([begun(spec("devices", 18), "--gpus", 2, prelude=TWO_DEVICES)])
    assert "Going on after epoch 1 and 1 batches of the next" in chief[0]
    assert "epoch 2/2" in chief[0]
    # One prints, one writes, and no temporary file is left.
    assert other == ("", "")
    files = sorted(x.name for x in (tmp_path / "two/train").iterdir())
    assert files == sorted(x.name for x in (tmp_path / "one/train").iterdir())
    expected = weights_of(tmp_path / "one")
    for name in ("two", "devices"):
        pd.testing.assert_frame_equal(history_of(tmp_path / name), history_of(tmp_path / "one"), rtol=1e-3)
        np.testing.assert_allclose(weights_of(tmp_path / name), expected, atol=2e-3 * np.abs(expected).max())


def test_an_evaluation_is_shared(pictures: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """By two workers of batches of 4 and the last one of 1, which both compute."""
    x = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(4, 3, activation="relu")(x)
    keras.Model(x, keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(y))).save(tmp_path / "model.keras")
    arguments = ["-m", tmp_path / "model.keras", "evaluate.batch_size=4"]
    spec = spec_of(pictures, tmp_path)
    chief, other = ended(begun_together(2, spec, *arguments, "-o", tmp_path / "two", script="evaluate"))
    scripts.run("evaluate", "-e", spec, *arguments, "-o", tmp_path / "one")
    assert "on 9 pictures of 3 classes" in chief[0]
    assert other == ("", "")
    for name in ("scores", "per_class", "confusion_matrix"):
        one, two = (pd.read_csv(tmp_path / folder / f"{name}.csv") for folder in ("one", "two"))
        pd.testing.assert_frame_equal(one, two, rtol=1e-5)


def test_a_prune_on_data_is_shared(tmp_path: pathlib.Path) -> None:
    """Gradients of half of the batches each, and equations of half of the pictures each: the same channels, and the same fit."""
    keras.utils.set_random_seed(1)
    x = y = keras.Input((8, 8, 1))
    for width in (16, 24):
        y = keras.layers.BatchNormalization()(keras.layers.Conv2D(width, 3, padding="same", activation="relu")(y))
    keras.Model(x, keras.layers.Dense(10, activation="softmax")(keras.layers.Flatten()(y))).save(tmp_path / "model.keras")
    spec = tmp_path / "spec.yaml"
    prune = {"macs": 0.5, "granularity": 2, "min_num_filters": 2, "samples": 200}
    dataset = {"train_dataset_path": "sklearn_digits", "preprocess_mode": "unit"}
    spec.write_text(json.dumps({"dataset": dataset, "prune": prune, "model": {"input_channels": 1}}))
    chief, other = ended(begun_together(2, spec, "-m", tmp_path / "model.keras", "-o", tmp_path / "two.keras", script="prune"))
    scripts.run("prune", "-e", spec, "-m", tmp_path / "model.keras", "-o", tmp_path / "one.keras")
    assert "Verified" in chief[0]
    assert other == ("", "")
    plans = [json.loads((tmp_path / f"{name}.plan.json").read_text()) for name in ("one", "two")]
    assert plans[0]["settings"]["criterion"].startswith("Fisher")
    assert plans[0]["kept"] == plans[1]["kept"]
    one, two = (keras.models.load_model(tmp_path / f"{name}.keras").get_weights() for name in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)
    assert not [x for x in tmp_path.iterdir() if x.name.startswith(".")]


def test_an_ablation_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker measures some of the sets of channels; together they come to the scores of one."""
    keras.utils.set_random_seed(1)
    image = keras.Input((6, 6, 1))
    y = keras.layers.Flatten()(keras.layers.Conv2D(6, 3, activation="relu", name="c")(image))
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax")(y))
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((30, 6, 6, 1)).astype(np.float32), keras.utils.to_categorical(rng.integers(0, 3, 30))

    def scores() -> Any:
        loss = "categorical_crossentropy"
        return tlt_prune.plan_pruning(model, ratio=0.5, criterion=tlt_prune.criteria.Ablation((x, labels), loss)).kept["c"]

    alone, rows = scores(), []

    class GatheredError(Exception):
        pass

    def gather(own: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        rows.append(own)
        if len(rows) < 3:
            raise GatheredError
        return np.concatenate(rows[:2])

    monkeypatch.setattr(workers, "count", lambda: 2)
    monkeypatch.setattr(workers, "gather", gather)
    for index in (0, 1):
        monkeypatch.setattr(workers, "index", lambda index=index: index)
        with pytest.raises(GatheredError):
            scores()
    # Seven sets: the whole model, and one for each channel.
    assert [int(np.isfinite(x).sum()) for x in rows] == [4, 3]
    np.testing.assert_array_equal(scores(), alone)


def test_a_killed_worker_ends_the_job_and_fewer_go_on(pictures: pathlib.Path, tmp_path: pathlib.Path) -> None:
    spec = spec_of(pictures, tmp_path, num_epochs=40, batch_size_per_gpu=6, bn_config={"synchronized": False})
    three = begun_together(3, spec)
    checkpoints = tmp_path / "train/checkpoints"
    waited = time.monotonic()
    while not list(checkpoints.glob("epoch_*.keras")):
        assert time.monotonic() < waited + 200
        assert all(process.poll() is None for process in three), [process.communicate() for process in three]
        time.sleep(0.1)
    three[1].send_signal(signal.SIGKILL)
    three[1].communicate()
    for _, err in ended([three[0], three[2]], code=1):
        (line,) = err.splitlines()
        assert line.startswith("tlt-train: error: another of the 3 workers has ended or cannot be reached any more")
    done = int(max(x.stem for x in checkpoints.glob("epoch_*.keras")).removeprefix("epoch_"))
    (out, err), _ = ended(begun_together(2, spec))
    assert f"Going on after epoch {done}, from the last checkpoint. Batches stay as they were with 3 replicas; now 2" in out
    assert not err
    assert list(history_of(tmp_path)["epoch"]) == list(range(1, 41))
    assert not list(tmp_path.rglob(".tlt_prune-*"))


@pytest.mark.parametrize("total", [2, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_pieces_share_a_batch_without_loss_or_overlap(size: int, total: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "replicas", lambda: total)
    x, y = tf.range(size), (tf.range(size) * 10, tf.range(size) * 100)
    pieces = [replicas.piece(x, y, i) for i in range(total)]
    assert sorted(np.concatenate([part[counted.numpy()] for part, _, _, counted in pieces])) == list(range(size))
    assert sum(float(share) for _, _, share, _ in pieces) == pytest.approx(1)
    for part, others, share, _ in pieces:
        assert len(part)
        np.testing.assert_array_equal(others[0], part * 10)
        # The mean over the batch is the sum of the parts' means, weighed by the shares.
        assert float(share) == pytest.approx(len(part) / sum(len(p) for p, *_ in pieces))
    mean = sum(float(share) * float(np.mean(part)) for part, _, share, _ in pieces)
    assert mean == pytest.approx((size - 1) / 2)


def test_replicas_drop_other_features(monkeypatch: pytest.MonkeyPatch) -> None:
    def mask(replica: int | None) -> np.ndarray[Any, Any]:
        context = None if replica is None else type("Context", (), {"replica_id_in_sync_group": replica})
        monkeypatch.setattr(tf.distribute, "get_replica_context", lambda: context)
        return np.asarray(keras.layers.Dropout(0.5, seed=3)(np.ones((4, 50), np.float32), training=True))

    alone = mask(None)
    with replicas.own_random_numbers():
        first, second, again = mask(0), mask(1), mask(1)
    np.testing.assert_array_equal(first, alone)
    np.testing.assert_array_equal(second, again)
    assert 0.3 < (first == second).mean() < 0.7
    np.testing.assert_array_equal(mask(1), alone)


@pytest.mark.parametrize(
    ("loss", "target", "output"),
    [
        (training.Distillation(0.5, 4.0), (4, 6), (4, 3)),
        (training.SegmentationLoss("cross_dice_sum"), (4, 2, 2, 3), (4, 2, 2, 3)),
        (ObjectiveLoss("cov", [TargetClass("car")], channels_first=True), (4, 2, 3, 3), (4, 1, 3, 3)),
        (ObjectiveLoss("bbox", [TargetClass("car")], channels_first=True), (4, 5, 3, 3), (4, 4, 3, 3)),
    ],
    ids=["distillation", "segmentation", "coverage", "boxes"],
)
def test_keras_shares_every_loss_between_replicas(
    loss: keras.losses.Loss, target: tuple[int, ...], output: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each replica's mean, a share counts: the steps take it that Keras has divided each loss by the number of replicas."""
    random = np.random.default_rng(0)
    y_true, y_pred = (random.uniform(0.1, 0.9, shape).astype(np.float32) for shape in (target, output))
    alone = float(loss(y_true, y_pred))
    monkeypatch.setattr("keras.src.losses.loss.scale_loss_for_distribution", lambda value: value / 4)
    assert alone > 0
    assert float(loss(y_true, y_pred)) == pytest.approx(alone / 4, rel=1e-5)


def test_workers_that_do_not_answer_are_named(pictures: pathlib.Path, tmp_path: pathlib.Path) -> None:
    spec, (first, second, third) = spec_of(pictures, tmp_path), free_addresses(3)
    given = [begun(spec, TF_CONFIG=tf_config([first, second, third], i), TLT_PRUNE_WORKER_TIMEOUT="15") for i in (0, 1)]
    (_, chief), (_, other) = ended(given, code=1)
    onwards = "Start the same command on all hosts that TF_CONFIG names.\n"
    assert chief == f"tlt-train: error: Worker 0 waited 15 s for worker 2 ({third}). {onwards}"
    assert other.startswith(f"tlt-train: error: Worker 1 of 3 ({second}) waited 15 s for worker 0 ({first}): it ")
    assert other.endswith(onwards)


def test_a_job_meets_whoever_calls_in_between() -> None:
    addresses, found = free_addresses(3), []

    def come(index: int) -> None:
        rendezvous.meet(addresses, index, 20, "a test")
        found.append(index)

    threads = [threading.Thread(target=come, args=(i,)) for i in (0, 1)]
    for each in threads:
        each.start()
    host, _, port = addresses[0].partition(":")
    for words in (b"", b"GET / HTTP/1.1\r\n\r\n", b"tlt_prune 1 2\n", b"\xff" * 10_000):
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=5) as stranger:
            stranger.sendall(words)
    assert not found
    come(2)
    for each in threads:
        each.join()
    assert sorted(found) == [0, 1, 2]


def test_more_gpus_than_there_are(pictures: pathlib.Path, tmp_path: pathlib.Path) -> None:
    ((_, err),) = ended([begun(spec_of(pictures, tmp_path), "--gpus", 2, CUDA_VISIBLE_DEVICES="")], code=1)
    assert err.splitlines() == ["tlt-train: error: --gpus 2: expected 2 GPUs. TensorFlow finds 0. Lower the number."]
