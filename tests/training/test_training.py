"""Training: schedules, regularizers, scores, and resumption."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Callable

import keras
import numpy as np
import pandas as pd
import pytest

from tlt_prune import data, training
from tlt_prune.specs import Dataset, LRConfig, OptimConfig, Train
from tlt_prune.training import loop
from tlt_prune.training.evaluation import score
from tlt_prune.training.loop import Checkpoints, train

DIGITS = Dataset(train_dataset_path="sklearn_digits")
SIZE = (8, 8, 1)


def small_model() -> keras.Model:
    keras.utils.set_random_seed(5)
    x = keras.Input(SIZE)
    y = keras.layers.Conv2D(8, 3, name="c")(x)
    y = keras.layers.BatchNormalization(name="bn")(y)
    y = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(y))
    return keras.Model(x, keras.layers.Dense(10, activation="softmax", name="head")(y))


def run(folder: pathlib.Path, epochs: int = 3, identity: str = "", **changes: object) -> training.TrainResult:
    config = Train(num_epochs=epochs, batch_size_per_gpu=64, tensorboard=False, **changes)  # type: ignore[arg-type]
    splits = data.load_splits(DIGITS, SIZE)
    small = [dataclasses.replace(s, images=s.images[:200], labels=s.labels[:200]) for s in splits]
    validation = data.evaluation_pipeline(small[1], DIGITS, SIZE, batch_size=200, channels_first=False).batches

    def make_batches(first_epoch: int) -> tuple[object, int]:
        pipeline = data.training_pipeline(
            small[0], DIGITS, SIZE, batch_size=64, seed=1, first_epoch=first_epoch, epochs=epochs, channels_first=False
        )
        return pipeline.batches, pipeline.steps

    return train(small_model, make_batches, validation, config, folder, identity)


def test_soft_annealing() -> None:
    config = LRConfig(
        scheduler="soft_anneal", learning_rate=1.0, soft_start=0.1, annealing_points=(0.5, 0.8), annealing_divider=10.0
    )
    rates = [training.learning_rate(config, step, 100) for step in range(101)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    assert set(np.round(rates[10:51], 9)) == {1.0}
    assert set(np.round(rates[51:81], 9)) == {0.1}
    assert set(np.round(rates[81:], 9)) == {0.01}


def test_cosine() -> None:
    config = LRConfig(scheduler="cosine", learning_rate=2.0, soft_start=0.2, min_lr_ratio=0.01)
    rates = [training.learning_rate(config, step, 100) for step in range(101)]
    assert max(rates) == pytest.approx(2.0)
    assert rates[60] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.02)
    assert all(a >= b for a, b in itertools.pairwise(rates[20:]))


def test_scores_by_hand() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
    truth = np.eye(3)[[0, 1, 2, 2]]
    scores = score(lambda x: x, [(probabilities[:2], truth[:2]), (probabilities[2:], truth[2:])], ["a", "b", "c"], top_k=2)
    assert scores.accuracy == 0.75
    assert scores.top_k_accuracy == 1.0
    assert scores.loss == pytest.approx(-np.mean(np.log([0.7, 0.4, 0.3, 0.8])))
    assert scores.confusion.to_numpy().tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert scores.per_class.loc["c", "recall"] == 0.5
    assert scores.per_class.loc["b", "precision"] == 0.5
    assert scores.per_class["support"].tolist() == [1, 1, 2]
    with pytest.raises(ValueError, match="one column a class"):
        score(lambda x: x, [(probabilities, truth)], ["a", "b"])


def killed_at(step: int) -> Callable[[LRConfig, int, int], float]:
    def rate(config: LRConfig, at: int, total: int) -> float:
        if at == step:
            raise KeyboardInterrupt
        return training.learning_rate(config, at, total)

    return rate


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        # 4 steps an epoch: killed in the second step of the second epoch.
        patch.setattr(loop, "learning_rate", killed_at(5))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed")
    assert not (tmp_path / "killed" / "model.keras").exists()
    assert [p.name for p in (tmp_path / "killed" / "checkpoints").glob("*.keras")] == ["epoch_001.keras"]
    resumed = run(tmp_path / "killed")
    assert (whole.resumed_from, resumed.resumed_from) == (0, 1)
    assert whole.epochs == resumed.epochs == 3
    for a, b in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    columns = ["epoch", "loss", "val_accuracy", "learning_rate"]
    pd.testing.assert_frame_equal(whole.history[columns], resumed.history[columns], rtol=1e-4)


def test_a_finished_training_is_not_repeated(tmp_path: pathlib.Path) -> None:
    first = run(tmp_path, epochs=1)
    again = run(tmp_path, epochs=1)
    assert again.resumed_from == 1
    for a, b in zip(first.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_configuration_starts_afresh(tmp_path: pathlib.Path) -> None:
    run(tmp_path, epochs=1)
    assert run(tmp_path, epochs=1, optim_config=OptimConfig(optimizer="adam")).resumed_from == 0


def test_another_model_or_dataset_starts_afresh(tmp_path: pathlib.Path) -> None:
    run(tmp_path, epochs=1, identity="a")
    assert run(tmp_path, epochs=1, identity="a").resumed_from == 1
    assert run(tmp_path, epochs=1, identity="b").resumed_from == 0


def test_checkpoints_keep_the_newest_whole_file(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", "x")
    checkpoints.clear()
    model = small_model()
    checkpoints.save(model, 1)
    checkpoints.save(model, 2)
    found = checkpoints.latest()
    assert found is not None
    assert found[0] == 2
    assert [p.name for p in (tmp_path / "c").glob("*.keras")] == ["epoch_002.keras"]
    assert Checkpoints(tmp_path / "c", "y").latest() is None


def test_the_final_model_carries_no_optimizer(tmp_path: pathlib.Path) -> None:
    result = run(tmp_path, epochs=1)
    assert result.model.compiled, "the model at hand can go on training"
    loaded = keras.models.load_model(result.path)
    assert not loaded.compiled
    checkpoint = keras.models.load_model(tmp_path / "checkpoints" / "epoch_001.keras")
    assert int(checkpoint.optimizer.iterations) == 4
    np.testing.assert_array_equal(loaded.get_weights()[0], checkpoint.get_weights()[0])


def test_logs(tmp_path: pathlib.Path) -> None:
    splits = data.load_splits(DIGITS, SIZE)
    batches = data.evaluation_pipeline(splits[1], DIGITS, SIZE, batch_size=128, channels_first=False).batches
    config = Train(num_epochs=1, batch_size_per_gpu=128)
    result = train(small_model, lambda first: (batches.repeat(), 2), batches, config, tmp_path)
    assert list(result.history["epoch"]) == [1]
    assert {"loss", "val_accuracy", "learning_rate", "seconds"} <= set(result.history.columns)
    assert list((tmp_path / "tensorboard").glob("events*"))
