"""Training: schedules, regularizers, scores, and resumption."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Callable

import keras
import numpy as np
import pandas as pd
import pytest
from helpers import calls_of
from small_training import DIGITS, FORM, SIZE, run, small_model

from tlt_prune import data, training
from tlt_prune.config.specs import EarlyStop, LRConfig, OptimConfig, Train
from tlt_prune.errors import FolderInUseError, SpecError, TrainingError
from tlt_prune.io import files, interrupt
from tlt_prune.training import objective
from tlt_prune.training.evaluation import score


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


def test_step_and_exponential_decay() -> None:
    step = LRConfig(scheduler="step", learning_rate=1.0, soft_start=0.0, gamma=0.1, step_size=25.0)
    rates = [training.learning_rate(step, i, 100) for i in range(101)]
    assert np.round(rates[:25], 9).tolist() == [1.0] * 25
    assert rates[25] == pytest.approx(0.1)
    assert rates[99] == pytest.approx(0.001)
    even = LRConfig(scheduler="exponential", learning_rate=1.0, soft_start=0.0, gamma=0.1, step_size=50.0)
    assert [training.learning_rate(even, i, 100) for i in (0, 25, 50, 100)] == pytest.approx([1.0, 10**-0.5, 0.1, 0.01])


@pytest.mark.parametrize(("name", "cls"), [("sgd", "SGD"), ("adam", "Adam"), ("rmsprop", "RMSprop")])
def test_optimizers(name: str, cls: str) -> None:
    made = objective.optimizer(OptimConfig(optimizer=name, rho=0.7))  # type: ignore[arg-type]
    assert type(made).__name__ == cls
    assert getattr(made, "rho", 0.7) == 0.7


def test_decay_divides_the_rate_of_every_step(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = calls_of(keras.Model, "train_step", monkeypatch)
    rate = LRConfig(scheduler="soft_anneal", learning_rate=0.01, soft_start=0.0, annealing_points=())
    result = run(tmp_path, epochs=2, lr_config=rate, optim_config=OptimConfig(decay=0.5))
    # 4 steps an epoch: the last step of each is number 3 and 7.
    assert result.history["learning_rate"].tolist() == pytest.approx([0.01 / 2.5, 0.01 / 4.5], rel=1e-5)
    # The step is traced once, which takes as long as epochs of small data.
    assert len(traced) == 1


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
    with pytest.raises(ValueError, match="one column for each class"):
        score(lambda x: x, [(probabilities, truth)], ["a", "b"])


def test_scores_of_classes_without_pictures_or_predictions() -> None:
    # Class "b" is never predicted, class "c" has no pictures.
    probabilities = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])
    scores = score(lambda x: x, [(probabilities, np.eye(3)[[0, 1, 0]])], ["a", "b", "c"])
    table = scores.per_class
    assert table.loc["b"].tolist() == [0.0, 0.0, 0.0, 1]
    assert table.loc["c", "precision"] == 0.0
    assert table.loc["c", ["recall", "f1"]].isna().all()
    assert table["support"].dtype == np.int64
    assert scores.confusion.shape == (3, 3)


def killed_at(step: int) -> Callable[[LRConfig, int, int], float]:
    def rate(config: LRConfig, at: int, total: int) -> float:
        if at == step:
            raise KeyboardInterrupt
        return training.learning_rate(config, at, total)

    return rate


def test_a_resumed_retraining_keeps_its_start_and_its_measured_rate(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", pruned=True, as_arrays=True)
    with monkeypatch.context() as patch:
        patch.setattr(objective, "learning_rate", killed_at(5))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", pruned=True, as_arrays=True)
    resumed = run(tmp_path / "killed", pruned=True, as_arrays=True)
    assert (resumed.resumed_from, resumed.epochs) == (1, 3)
    columns = [x for x in whole.history if x != "seconds"]
    pd.testing.assert_frame_equal(whole.history[columns], resumed.history[columns], rtol=1e-4)
    assert whole.history["epoch"].tolist() == [0, 1, 2, 3]
    start = whole.history.iloc[0]
    # Of a network that knows nothing yet: higher than the default.
    assert start["peak_learning_rate"] > 0.05
    assert whole.history["learning_rate"].max() <= start["peak_learning_rate"]
    assert whole.best_epoch == whole.model_epoch > 0


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        # 4 steps an epoch: killed in the second step of the second epoch.
        patch.setattr(objective, "learning_rate", killed_at(5))
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


class Ended(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("batches", [1, 3, 6, 10])
def test_a_terminated_training_loses_no_batch(batches: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM after so many batches, four of them an epoch: in the first epoch, in the middle, in the last one."""
    whole = run(tmp_path / "whole")
    done = itertools.count(1)

    def end() -> None:
        raise Ended

    with monkeypatch.context() as patch:
        patch.setattr(interrupt, "is_terminated", lambda: next(done) >= batches)
        patch.setattr(interrupt, "terminate", end)
        with pytest.raises(Ended):
            run(tmp_path / "terminated")
    *_, kept = sorted(x.name for x in (tmp_path / "terminated/checkpoints").iterdir())
    assert kept == f"epoch_{batches // 4:03d}.keras"
    said: list[str] = []
    resumed = run(tmp_path / "terminated", say=said.append)
    assert any(f"Going on after epoch {batches // 4} and {batches % 4} batches of the next" in x for x in said)
    for a, b in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    columns = [x for x in whole.history if x != "seconds"]
    pd.testing.assert_frame_equal(whole.history[columns], resumed.history[columns], rtol=1e-4)
    assert sorted(x.name for x in (tmp_path / "terminated/checkpoints").iterdir()) == ["epoch_002.keras", "epoch_003.keras"]


def test_a_finished_training_is_not_repeated(tmp_path: pathlib.Path) -> None:
    first = run(tmp_path, epochs=1)
    again = run(tmp_path, epochs=1)
    assert again.resumed_from == 1
    for a, b in zip(first.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_training_is_refused_and_nothing_is_lost(tmp_path: pathlib.Path) -> None:
    first = run(tmp_path, epochs=1)
    (tmp_path / "checkpoints/notes.txt").write_text("mine")
    (tmp_path / "checkpoints/epoch_best.keras").write_text("mine")
    before = (tmp_path / "checkpoints/epoch_001.keras").read_bytes()
    with pytest.raises(TrainingError, match=r"optim_config\.optimizer was 'sgd' and is 'adam'.*--restart"):
        run(tmp_path, epochs=1, optim_config=OptimConfig(optimizer="adam"))
    with pytest.raises(TrainingError, match=r"it was asked for 1 epochs and is now asked for 2, .*in another folder"):
        run(tmp_path, epochs=2)
    assert (tmp_path / "checkpoints/epoch_001.keras").read_bytes() == before
    # With --restart only the training's own files go.
    said: list[str] = []
    again = run(tmp_path, epochs=2, restart=True, say=said.append)
    assert again.resumed_from == 0
    assert said[:1] == [f"Starting afresh: removed 1 checkpoint(s) in {tmp_path / 'checkpoints'}."]
    left = ["epoch_001.keras", "epoch_002.keras", "epoch_best.keras", "notes.txt"]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == left
    assert first.epochs == 1


def test_a_model_that_cannot_be_built_loses_no_checkpoints(tmp_path: pathlib.Path) -> None:
    run(tmp_path, epochs=1)

    config = Train(num_epochs=5)

    def broken() -> keras.Model:
        raise SpecError("no such backbone")

    with pytest.raises(SpecError):
        training.train(
            training.TrainingJob(broken, lambda first: data.Pipeline(None, 1), None, config, training.classification(config)),
            tmp_path,
            restart=True,
        )
    assert (tmp_path / "checkpoints/epoch_001.keras").exists()


def test_another_model_or_dataset_is_another_training(tmp_path: pathlib.Path) -> None:
    run(tmp_path, epochs=1, identity={"model": {"width": 1}})
    assert run(tmp_path, epochs=1, identity={"model": {"width": 1}}).resumed_from == 1
    with pytest.raises(TrainingError, match=r"model\.width was 1 and is 2"):
        run(tmp_path, epochs=1, identity={"model": {"width": 2}})


def test_the_fingerprint_is_in_the_checkpoint_itself(tmp_path: pathlib.Path) -> None:
    """A file that another run wrote into the folder is never gone on with."""
    run(tmp_path / "a", epochs=1)
    run(tmp_path / "b", epochs=1, random_seed=7)
    stolen = tmp_path / "a/checkpoints/epoch_002.keras"
    stolen.write_bytes((tmp_path / "b/checkpoints/epoch_001.keras").read_bytes())
    (tmp_path / "a/checkpoints/epoch_001.keras").unlink()
    with pytest.raises(TrainingError, match=r"epoch_002\.keras is damaged: it is the checkpoint of epoch 1, renamed"):
        run(tmp_path / "a", epochs=1)
    stolen.rename(tmp_path / "a/checkpoints/epoch_001.keras")
    with pytest.raises(TrainingError, match="random_seed was 7 and is 42"):
        run(tmp_path / "a", epochs=1)
    (tmp_path / "a/checkpoints/epoch_001.keras").unlink()
    stolen.write_bytes(b"no zip file")
    with pytest.raises(TrainingError, match=r"epoch_002\.keras is damaged: it is cut off"):
        run(tmp_path / "a", epochs=1)


def test_two_trainings_into_one_folder(tmp_path: pathlib.Path) -> None:
    with files.locked(tmp_path, "training"), pytest.raises(FolderInUseError, match="Another process is training in"):
        run(tmp_path, epochs=1)
    assert run(tmp_path, epochs=1).epochs == 1


def test_what_a_killed_process_left_is_removed(tmp_path: pathlib.Path) -> None:
    run(tmp_path, epochs=1)
    for place in (tmp_path, tmp_path / "checkpoints"):
        (place / ".tlt_prune-x7/new").mkdir(parents=True)
        (place / ".tlt_prune-x7/new/epoch_002.keras").write_bytes(b"half")
        (place / ".tlt_prune-x7/alive").touch()
    run(tmp_path, epochs=1)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["epoch_001.keras"]
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_early_stopping_is_final(tmp_path: pathlib.Path) -> None:
    stop = EarlyStop(patience=1, min_delta=1.0)
    first = run(tmp_path, epochs=6, early_stop=stop)
    assert first.epochs == 2
    said: list[str] = []
    again = run(tmp_path, epochs=6, early_stop=stop, say=said.append)
    assert (again.epochs, len(again.history)) == (2, 2)
    assert said == ["This training is finished: all 2 epochs are done. Give --restart to repeat it."]


@pytest.mark.parametrize(
    ("accuracies", "patience", "min_delta", "expected"),
    [
        ([0.5, 0.6, 0.7], 2, 0.0, False),
        ([0.5, 0.5, 0.5], 2, 0.0, True),
        ([0.5, 0.55, 0.58], 2, 0.1, True),
        ([0.5, 0.4, 0.6, 0.5], 2, 0.0, False),
        ([0.5, 0.4, 0.4], 0, 0.0, False),
    ],
)
def test_when_to_stop(accuracies: list[float], patience: int, min_delta: float, expected: bool) -> None:
    assert objective.stopped_early(accuracies, EarlyStop(patience=patience, min_delta=min_delta)) is expected


def with_dropout() -> keras.Model:
    keras.utils.set_random_seed(5)
    x = keras.Input(SIZE)
    y = keras.layers.Dropout(0.5)(keras.layers.Flatten()(keras.layers.Conv2D(8, 3)(x)))
    return keras.Model(x, keras.layers.Dense(10, activation="softmax")(y))


def test_dropout_goes_on_where_it_was(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole", model=with_dropout)
    with monkeypatch.context() as patch:
        patch.setattr(objective, "learning_rate", killed_at(5))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", model=with_dropout)
    keras.utils.set_random_seed(99)
    resumed = run(tmp_path / "killed", model=with_dropout)
    assert resumed.resumed_from == 1
    for a, b in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: pathlib.Path) -> None:
    rate = LRConfig(learning_rate=1e30, soft_start=0.0)
    with pytest.raises(TrainingError, match=r"The loss is (nan|inf) in epoch 1, step \d of 4.*learning_rate than 1e\+30"):
        run(tmp_path, lr_config=rate)
    assert not (tmp_path / "model.keras").exists()
    assert list((tmp_path / "checkpoints").glob("*")) == []


def test_the_final_model_carries_no_optimizer(tmp_path: pathlib.Path) -> None:
    result = run(tmp_path, epochs=1)
    assert result.model.compiled, "the model at hand can go on training"
    loaded = keras.models.load_model(result.path)
    assert not loaded.compiled
    checkpoint = keras.models.load_model(tmp_path / "checkpoints" / "epoch_001.keras")
    assert int(checkpoint.optimizer.iterations) == 4
    np.testing.assert_array_equal(loaded.get_weights()[0], checkpoint.get_weights()[0])


def test_logs(tmp_path: pathlib.Path) -> None:
    splits = data.load_splits(DIGITS, FORM)
    batches = data.evaluation_pipeline(splits[1], DIGITS, FORM, batch_size=128, channels_first=False).batches
    config = Train(num_epochs=1, batch_size_per_gpu=128)
    job = training.TrainingJob(
        small_model, lambda first: data.Pipeline(batches.repeat(), 2), batches, config, training.classification(config)
    )
    result = training.train(job, tmp_path)
    assert list(result.history["epoch"]) == [1]
    assert {"loss", "val_accuracy", "learning_rate", "seconds"} <= set(result.history.columns)
    assert list((tmp_path / "tensorboard").glob("events*"))
