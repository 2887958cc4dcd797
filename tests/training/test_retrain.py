"""`tlt_prune.retrain`: the rate that it finds, what it learns from, and that it never takes away."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
from helpers import calls_of
from keras import layers

import tlt_prune
from tlt_prune.errors import TrainingError
from tlt_prune.training import KeepBest, Student, WarmUpCosine, find_peak_rate, rate_test

SIZE, CLASSES = (8, 8, 1), 4
Data = tuple[np.ndarray, np.ndarray]


def pictures(count: int, seed: int = 0) -> Data:
    """Noise with a bright quarter, which is the class; one-hot labels."""
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(count, *SIZE)).astype("float32"), rng.integers(0, CLASSES, count)
    for picture, label in zip(x, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        picture[row : row + 4, column : column + 4] += 0.7
    return x, np.eye(CLASSES, dtype="float32")[labels]


def network() -> keras.Model:
    return keras.Sequential(
        [
            layers.Input(SIZE),
            layers.Conv2D(16, 3, strides=2, use_bias=False, kernel_regularizer=keras.regularizers.L2(1e-3)),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(CLASSES, activation="softmax"),
        ],
        name="small",
    )


@pytest.fixture(scope="module")
def dense() -> keras.Model:
    keras.utils.set_random_seed(0)
    model = network()
    model.compile(keras.optimizers.Adam(3e-3), "categorical_crossentropy", metrics=["accuracy"])
    model.fit(*pictures(600), epochs=6, verbose=0)
    return model


def pruned_of(model: keras.Model, compensation: Any = None) -> keras.Model:
    return tlt_prune.prune_model(model, ratio=0.5, granularity=1, min_num_filters=1, compensation=compensation)


def accuracy(model: keras.Model, data: Data) -> float:
    return float(np.mean(model.predict(data[0], verbose=0).argmax(1) == data[1].argmax(1)))


TRAIN, HELD_OUT = pictures(400, 1), pictures(200, 2)


def test_it_gives_back_what_pruning_took(
    dense: keras.Model, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned, traced = pruned_of(dense), calls_of(Student, "train_step", monkeypatch)
    before, settings = accuracy(pruned, HELD_OUT), pruned.optimizer.get_config()
    history = tlt_prune.retrain(pruned, TRAIN, HELD_OUT, teacher=dense, epochs=3, batch_size=50, verbose=2)
    if keras.backend.backend() == "tensorflow":
        # By the range test and by `fit`.
        assert len(traced) == 2
    assert before + 0.03 < accuracy(pruned, HELD_OUT) == pytest.approx(history.best["val_accuracy"])
    assert history.start["val_accuracy"] == pytest.approx(before)
    assert history.best["val_accuracy"] == pytest.approx(max(history.history["val_accuracy"]))
    assert 1e-4 < history.learning_rate < 1
    printed = capsys.readouterr().out
    assert f"rises to {history.learning_rate:.2g}" in printed
    assert f"epoch {history.best_epoch} was best" in printed
    # As it was compiled, and its optimizer untouched.
    assert pruned.optimizer.get_config() == settings
    assert int(pruned.optimizer.iterations) == 0


@pytest.mark.parametrize("rate", [30.0, 1e30])
@pytest.mark.filterwarnings("ignore:retrain. the loss is")
def test_a_rate_that_ruins_the_network_takes_nothing_away(dense: keras.Model, rate: float) -> None:
    pruned = pruned_of(dense, tlt_prune.LeastSquares(TRAIN[0]))
    before = [w.copy() for w in pruned.get_weights()]
    history = tlt_prune.retrain(pruned, TRAIN, HELD_OUT, epochs=1, learning_rate=rate, verbose=0)
    assert history.best_epoch == 0
    assert history.best == history.start
    for a, b in zip(before, pruned.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_loss_that_is_no_number_is_told(dense: keras.Model) -> None:
    with pytest.warns(UserWarning, match=r"the loss is (nan|inf) in step \d+ of an epoch.*the model has its best weights so far"):
        tlt_prune.retrain(pruned_of(dense), TRAIN, HELD_OUT, epochs=1, learning_rate=1e30, verbose=0)


def test_broken_off_the_model_has_its_best_weights(dense: keras.Model) -> None:
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 2:
                raise KeyboardInterrupt

    pruned = pruned_of(dense)
    before = [w.copy() for w in pruned.get_weights()]
    with pytest.raises(KeyboardInterrupt):
        tlt_prune.retrain(pruned, TRAIN, HELD_OUT, learning_rate=0.01, callbacks=[Stop()], verbose=0)
    for a, b in zip(before, pruned.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_range_test_leaves_everything_as_it_was_and_finds_where_the_loss_rises(dense: keras.Model) -> None:
    student = Student(pruned_of(dense), None, 0.5, 4.0)
    student.compile(keras.optimizers.SGD(0.123, momentum=0.9), "categorical_crossentropy")
    x, y = TRAIN
    batches = [(x[i : i + 32], y[i : i + 32]) for i in range(0, 384, 32)] * 5
    student.optimizer.build(student.trainable_variables)
    before = [np.array(v) for v in (*student.variables, *student.optimizer.variables)]
    found = find_peak_rate(student, batches)
    for a, b in zip(before, (*student.variables, *student.optimizer.variables), strict=True):
        np.testing.assert_array_equal(a, b)
    assert found.peak == pytest.approx(found.limit / 10)
    at = int(np.searchsorted(found.rates, found.limit))
    assert found.losses[at] > found.losses[: at + 1].min() + 0.05
    assert (np.diff(found.rates) > 0).all()


def test_inputs_ten_times_as_large_bear_a_hundredth_of_the_rate() -> None:
    """Of a linear model, whose curvature is that of its inputs."""
    rng = np.random.default_rng(0)
    limits = []
    for scale in (3.0, 30.0):
        x = scale * rng.normal(size=(64, 8)).astype("float32")
        model = keras.Sequential([layers.Input((8,)), layers.Dense(1, kernel_initializer="zeros")])
        model.compile(keras.optimizers.SGD(momentum=0.9), "mse")
        limits.append(find_peak_rate(model, [(x, x.sum(axis=1, keepdims=True) + rng.normal(size=(64, 1)))] * 60).limit)
    assert 50 < limits[0] / limits[1] < 200


def test_large_batches_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [(np.full((2, 8), i, "float32"), np.zeros(2, "float32")) for i in range(5)]
    first = [int(x[0, 0]) for x, _ in rate_test.enough_batches(batches)]
    assert first == [i % 5 for i in range(rate_test.STEPS)]
    # 72 bytes each: the second goes beyond the limit.
    monkeypatch.setattr(rate_test, "_MOST_BYTES", 100)
    assert [int(x[0, 0]) for x, _ in rate_test.enough_batches(iter(batches))] == [0, 1] * 30


def test_a_rate_is_read_from_the_curve() -> None:
    rates = np.geomspace(1e-4, 1, 9)
    losses = np.array([1, 1, 0.9, 0.7, 0.6, 0.63, 0.66, np.nan, np.nan])
    assert rate_test._read(rates, losses).limit == pytest.approx(rates[6])
    # It never rose.
    assert rate_test._read(rates, np.linspace(1, 0.5, 9)).limit == 1


def test_a_student_comes_to_say_what_its_teacher_says(dense: keras.Model) -> None:
    teacher = network()
    teacher.layers[-1].bias.assign([0.0, 0.0, 30.0, 0.0])
    pruned = pruned_of(dense)
    before = [np.array(w) for w in teacher.get_weights()]
    sevens = (HELD_OUT[0], np.eye(CLASSES, dtype="float32")[np.full(len(HELD_OUT[0]), 2)])
    tlt_prune.retrain(pruned, TRAIN, sevens, teacher=teacher, alpha=1.0, temperature=1.0, learning_rate=0.1, verbose=0)
    assert accuracy(pruned, sevens) > 0.95
    for a, b in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert teacher.trainable


class Batches(keras.utils.PyDataset):
    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        super().__init__()
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x) // 40

    def __getitem__(self, index: int) -> Data:
        return self.x[40 * index : 40 * index + 40], self.y[40 * index : 40 * index + 40]


def dataset(**options: Any) -> Any:
    import tensorflow as tf

    batches = tf.data.Dataset.from_tensor_slices(TRAIN).batch(40)
    if options.get("filtered"):
        # Its number of batches is not known before the end.
        batches = batches.filter(lambda x, y: True)
    return batches.repeat() if options.get("endless") else batches


FORMS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "arrays": (lambda: TRAIN, {}),
    "weighted arrays": (lambda: (*TRAIN, np.ones(len(TRAIN[0]))), {}),
    "PyDataset": (lambda: Batches(*TRAIN), {}),
    "tf.data": (dataset, {}),
    "filtered": (lambda: dataset(filtered=True), {}),
    "endless": (lambda: dataset(endless=True), {"steps_per_epoch": 10}),
}


@pytest.mark.parametrize("form", FORMS)
def test_data_in_every_form(dense: keras.Model, form: str) -> None:
    make, arguments = FORMS[form]
    pruned, steps = pruned_of(dense), []

    class Rates(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            steps.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))

    held_out = Batches(*HELD_OUT) if form == "PyDataset" else HELD_OUT
    history = tlt_prune.retrain(pruned, make(), held_out, epochs=2, callbacks=[Rates()], batch_size=40, verbose=0, **arguments)
    assert len(steps) == 20
    # Up in a tenth of the steps, down to nearly 0.
    assert int(np.argmax(steps)) in (1, 2)
    assert max(steps) == pytest.approx(history.learning_rate, rel=0.02)
    assert steps[-1] < 0.02 * max(steps)
    assert history.best["val_accuracy"] > history.start["val_accuracy"]


def test_a_fit_of_ones_own_with_the_callbacks(dense: keras.Model) -> None:
    pruned = pruned_of(dense)
    pruned.compile(keras.optimizers.SGD(momentum=0.9), "categorical_crossentropy", metrics=["accuracy"])
    start = accuracy(pruned, HELD_OUT)
    keep = KeepBest(HELD_OUT)
    callbacks = [keep, WarmUpCosine(0.02, 2 * 7)]
    pruned.fit(*TRAIN, batch_size=64, epochs=2, validation_data=HELD_OUT, callbacks=callbacks, verbose=0)
    assert keep.start["val_accuracy"] == pytest.approx(start)
    assert accuracy(pruned, HELD_OUT) == pytest.approx(keep.best["val_accuracy"])
    assert keep.best["val_accuracy"] > start


@pytest.mark.parametrize(
    ("monitor", "mode", "epochs", "expected"),
    [
        (None, "auto", [{"val_loss": 0.9, "val_accuracy": 0.6}, {"val_loss": 0.4, "val_accuracy": 0.55}], 1),
        # Of equal scores the one with the lower loss.
        (None, "auto", [{"val_loss": 0.9, "val_accuracy": 0.5}, {"val_loss": 0.8, "val_accuracy": 0.5}], 2),
        ("val_loss", "auto", [{"val_loss": 0.9, "val_accuracy": 0.6}, {"val_loss": 0.4, "val_accuracy": 0.55}], 2),
        ("val_error", "auto", [{"val_loss": 0.9, "val_error": 0.1}, {"val_loss": 0.4, "val_error": 0.2}], 1),
        ("val_error", "max", [{"val_loss": 0.9, "val_error": 0.1}, {"val_loss": 0.4, "val_error": 0.6}], 2),
        (None, "auto", [{"val_loss": float("nan"), "val_accuracy": float("nan")}], 0),
    ],
)
def test_what_counts_as_best(monitor: str | None, mode: Any, epochs: list[dict[str, float]], expected: int) -> None:
    start = {"loss": 1.0, **({"accuracy": 0.5} if monitor != "val_error" else {"error": 0.5})}

    class Model:
        def evaluate(self, **_: Any) -> dict[str, float]:
            return start

        def get_weights(self) -> list[np.ndarray]:
            return [np.zeros(1)]

    keep = KeepBest(HELD_OUT, monitor=monitor, mode=mode)
    keep.set_model(Model())
    keep.on_train_begin()
    for number, logs in enumerate(epochs):
        keep.on_epoch_end(number, logs)
    assert keep.best_epoch == expected


def generator() -> Iterator[Data]:
    while True:
        yield TRAIN


BAD: dict[str, tuple[Callable[[keras.Model], Any], str]] = {
    "no loss": (
        lambda model: tlt_prune.retrain(network(), TRAIN, HELD_OUT),
        r"expected loss=, such as 'categorical_crossentropy', or a compiled model\. 'small' is not compiled",
    ),
    "no validation": (lambda model: tlt_prune.retrain(model, TRAIN, None), "expected validation data"),
    "read once": (lambda model: tlt_prune.retrain(model, generator(), HELD_OUT), "a generator, which can be read once"),
    "endless": (lambda model: tlt_prune.retrain(model, dataset(endless=True), HELD_OUT), "Expected steps_per_epoch="),
    "empty": (
        lambda model: tlt_prune.retrain(model, (TRAIN[0][:0], TRAIN[1][:0]), HELD_OUT),
        "expected training data. Received none",
    ),
    "inputs only": (
        lambda model: tlt_prune.retrain(model, dataset().map(lambda x, y: x), HELD_OUT),
        r"expected batches \(x, y\)",
    ),
    "a list": (lambda model: tlt_prune.retrain(model, list(TRAIN), HELD_OUT), r"a tuple \(x, y\) of arrays.*Received: list"),
    "epochs": (lambda model: tlt_prune.retrain(model, TRAIN, HELD_OUT, epochs=0), "epochs must be a whole number of at least 1"),
    "alpha": (lambda model: tlt_prune.retrain(model, TRAIN, HELD_OUT, alpha=2.0), "alpha must be a number from 0 to 1"),
    "unknown": (lambda model: tlt_prune.retrain(model, TRAIN, HELD_OUT, rate=1), "there is no argument 'rate'"),  # type: ignore[call-arg]
    "monitor": (
        lambda model: tlt_prune.retrain(model, TRAIN, HELD_OUT, monitor="val_iou", learning_rate=0.01, verbose=0),
        "there is no score 'val_iou'. Expected one of: val_accuracy, val_loss",
    ),
    "teacher": (
        lambda model: tlt_prune.retrain(model, TRAIN, HELD_OUT, teacher=keras.Sequential([layers.Input((3,)), layers.Dense(4)])),
        r"the teacher takes inputs of shape \(None, 3\)",
    ),
    "loss of one's own": (
        lambda model: tlt_prune.retrain(model, TRAIN, HELD_OUT, teacher=model, loss=own_loss),
        "cannot stand where the loss 'own_loss' takes labels. Expected teacher=None",
    ),
    "training step of its own": (
        lambda model: tlt_prune.retrain(Own(model.inputs, model.outputs), TRAIN, HELD_OUT, loss="mse"),
        "has a train_step of its own",
    ),
    "no model": (lambda model: tlt_prune.retrain("model", TRAIN, HELD_OUT), "expected a Keras 3 model. Received: builtins.str"),
}


def own_loss(y: Any, p: Any) -> Any:
    return keras.ops.mean(keras.ops.square(y - p), axis=-1)


class Own(keras.Model):
    def train_step(self, *args: Any) -> Any:
        return super().train_step(*args)


@pytest.mark.parametrize("mistake", BAD)
def test_one_clear_error(dense: keras.Model, mistake: str) -> None:
    call, message = BAD[mistake]
    before = [np.array(w) for w in dense.get_weights()]
    with pytest.raises(TrainingError, match=message):
        call(dense)
    for a, b in zip(before, dense.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_loss_of_ones_own_needs_no_teacher(dense: keras.Model) -> None:
    pruned = pruned_of(dense)
    history = tlt_prune.retrain(pruned, TRAIN, HELD_OUT, loss=own_loss, metrics=["accuracy"], verbose=0)
    assert history.best["val_accuracy"] > history.start["val_accuracy"]


def test_small_data_is_read_again_for_the_range_test(dense: keras.Model) -> None:
    few = (TRAIN[0][:50], TRAIN[1][:50])
    history = tlt_prune.retrain(pruned_of(dense), few, HELD_OUT, epochs=1, verbose=0)
    assert 1e-5 < history.learning_rate < 1
    assert len(list(itertools.chain(history.history["loss"]))) == 1
