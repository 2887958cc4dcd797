"""`tlt_prune.retrain` at its edges: names of metrics, losses of every kind, data and arguments that do not fit."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import tlt_prune
from tlt_prune.errors import TrainingError
from tlt_prune.training import KeepBest, Student, WarmUpCosine, find_peak_rate
from tlt_prune.training.retrain_callbacks import _is_better_higher

RNG = np.random.default_rng(0)
X = RNG.standard_normal((96, 6)).astype("float32")
LABELS = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
Y = np.eye(3, dtype="float32")[LABELS]
DATA = (X, Y)


def network(activation: str | None = "softmax", outputs: int = 3) -> keras.Model:
    x = inputs = keras.Input((6,))
    x = layers.Dense(16, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(outputs, activation=activation, name="head")(x), name="small")


def compiled(loss: Any = "categorical_crossentropy", metrics: Any = ("accuracy",), **options: Any) -> keras.Model:
    model = network(**options)
    model.compile("sgd", loss, metrics=list(metrics))
    return model


def retrain(model: keras.Model, train: Any = DATA, validation: Any = DATA, **options: Any) -> Any:
    return tlt_prune.retrain(model, train, validation, **{"verbose": 0, "epochs": 1, "learning_rate": 0.05, **options})


@pytest.mark.parametrize(
    "name",
    [
        *(
            "val_accuracy",
            "val_acc",
            "val_acc5",
            "val_top_5",
            "val_mean_io_u",
            "val_binary_io_u",
            "val_one_hot_mean_io_u",
            "val_miou",
        ),
        *("val_auc_1", "val_sensitivity_at_specificity", "val_cosine_similarity", "val_f1_score", "val_map50", "val_r2_score"),
        *("val_pearson_correlation", "val_true_positives", "val_sparse_top_k_categorical_accuracy", "val_precision_at_recall"),
    ],
)
def test_better_the_higher(name: str) -> None:
    assert _is_better_higher(name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "val_loss",
            "val_mape",
            "val_heatmap_loss",
            "val_depth_map_mae",
            "val_mean_absolute_percentage_error",
            "val_accuracy_loss",
        ),
        *(
            "val_previous_kl_divergence",
            "val_false_positives",
            "val_categorical_crossentropy",
            "val_hinge",
            "val_root_mean_squared_error",
        ),
    ],
)
def test_better_the_lower(name: str) -> None:
    assert not _is_better_higher(name)


def test_an_iou_that_rises_is_kept() -> None:
    target = (X[:, :1] > 0).astype("float32")

    # Keras' own makes integers of 64 bits, of which JAX warns.
    def binary_io_u(y: Any, p: Any) -> Any:
        both = keras.ops.sum(keras.ops.cast((y > 0.5) & (p > 0.5), "float32"))
        return both / (keras.ops.sum(keras.ops.cast((y > 0.5) | (p > 0.5), "float32")) + 1e-6)

    model = compiled("binary_crossentropy", [binary_io_u], activation="sigmoid", outputs=1)
    history = retrain(model, (X, target), (X, target), epochs=3, learning_rate=0.3)
    assert history.best_epoch == 1 + int(np.argmax(history.history["val_binary_io_u"]))
    assert history.best["val_binary_io_u"] > history.start["val_binary_io_u"]


def test_a_network_of_nan_is_never_the_best() -> None:
    """Its accuracy is a number: whatever is not one counts as the first class."""
    model = compiled()
    first = np.eye(3, dtype="float32")[np.zeros(96, int)]
    with pytest.warns(UserWarning, match="the loss is"):
        history = retrain(model, DATA, (X, first), learning_rate=1e30, batch_size=8)
    assert history.best_epoch == 0
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_a_negative_loss_has_a_rate() -> None:
    """The same as the same loss where it is above 0."""
    peaks = []
    for shift in (0.0, 1.0):
        keras.utils.set_random_seed(3)
        model = network(activation=None)
        # The shift does not change a gradient.
        model.compile(keras.optimizers.SGD(), lambda y, p, shift=shift: shift + keras.losses.cosine_similarity(y, p))
        batches = [(X[i % 6 * 16 : i % 6 * 16 + 16], Y[i % 6 * 16 : i % 6 * 16 + 16]) for i in range(60)]
        peaks.append(find_peak_rate(model, batches).peak)
    assert min(peaks) > 1e-3


def test_given_steps_are_those_of_the_schedule() -> None:
    seen: list[float] = []

    class Rates(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            seen.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))

    retrain(compiled(), epochs=2, batch_size=4, steps_per_epoch=5, learning_rate=0.1, callbacks=Rates())
    assert len(seen) == 10
    assert max(seen) == pytest.approx(0.1)
    assert seen[-1] < 0.01


def test_an_optimizer_keeps_its_rate() -> None:
    model = compiled()
    optimizer = keras.optimizers.SGD(0.125)
    retrain(model, optimizer=optimizer)
    assert float(keras.ops.convert_to_numpy(optimizer.learning_rate)) == 0.125
    model.compile(keras.optimizers.SGD(0.25), "categorical_crossentropy")
    model.fit(X, Y, epochs=1, verbose=0, callbacks=[WarmUpCosine(0.01, 3)])
    assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == 0.25


def test_checkpoints_are_of_the_model(tmp_path: pathlib.Path) -> None:
    model = compiled()
    last = keras.callbacks.ModelCheckpoint(str(tmp_path / "last.keras"))
    weights = keras.callbacks.ModelCheckpoint(str(tmp_path / "last.weights.h5"), save_weights_only=True)
    retrain(model, callbacks=[last, weights])
    loaded = keras.models.load_model(tmp_path / "last.keras")
    assert [x.name for x in loaded.layers] == [x.name for x in model.layers]
    network().load_weights(tmp_path / "last.weights.h5")


def test_validation_now_and_then() -> None:
    model = compiled()
    keep = KeepBest(DATA)
    model.fit(X, Y, epochs=4, validation_data=DATA, validation_freq=2, callbacks=[keep], verbose=0)
    assert keep.best_epoch in (0, 2, 4)


def soft_alone(loss: Any, teacher: np.ndarray, outputs: np.ndarray) -> float:
    """What a teacher that says the one adds to the loss of a model that says the other."""
    shape = teacher.shape[1:]
    says = keras.Input(shape)
    model = keras.Model(says, layers.Rescaling(1.0)(says))
    taught = keras.Model(says, layers.Rescaling(1.0)(says))
    student = Student(model, taught, 1.0, 1.0)
    student.compile(loss=loss)
    function = student._soft[0]
    assert function is not None
    return float(keras.ops.convert_to_numpy(function(teacher, outputs, None)))


def probabilities(shape: tuple[int, ...], axis: int, seed: int) -> np.ndarray:
    values = np.exp(np.random.default_rng(seed).standard_normal(shape))
    return (values / values.sum(axis, keepdims=True)).astype("float32")


def test_classes_lie_where_the_loss_says() -> None:
    t, p = (probabilities((2, 3, 4), 1, seed) for seed in (1, 2))
    divergence = float(np.mean(np.sum(t * np.log(t / p), axis=1)))
    assert soft_alone(keras.losses.CategoricalCrossentropy(axis=1), t, p) == pytest.approx(divergence, rel=1e-4)


@pytest.mark.parametrize(("reduction", "factor"), [("sum_over_batch_size", 1.0), ("sum", 5.0)])
def test_a_teacher_is_reduced_as_the_labels_are(reduction: str, factor: float) -> None:
    t, p = (np.random.default_rng(seed).standard_normal((5, 3)).astype("float32") for seed in (1, 2))
    expected = factor * float(np.mean((t - p) ** 2))
    assert soft_alone(keras.losses.MeanSquaredError(reduction=reduction), t, p) == pytest.approx(expected, rel=1e-5)


def test_inputs_stay_as_they_are() -> None:
    """A functional model takes large numbers in float32, whatever its layers compute in."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inputs = keras.Input((6,), dtype="float32")
        x = layers.Rescaling(1e-5, dtype="float32")(inputs)
        model = keras.Model(inputs, layers.Dense(3, activation="softmax", dtype="float32")(layers.Dense(8)(x)))
    finally:
        keras.config.set_dtype_policy(before)
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
    data = (X * 1e5, Y)
    expected = model.evaluate(*data, verbose=0, return_dict=True)
    history = retrain(model, data, data, optimizer=keras.optimizers.SGD())
    assert history.start["val_loss"] == pytest.approx(expected["loss"], rel=1e-3)
    # Losses are scaled, as in the model's own `fit`.
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)


def test_outputs_go_by_the_names_of_their_structure() -> None:
    x = inputs = keras.Input((6,))
    outputs = {"one": layers.Dense(3, activation="softmax", name="z")(x), "two": layers.Dense(1, name="a")(x)}
    model = keras.Model(inputs, outputs)
    labels = {"one": Y, "two": X[:, :1]}
    history = retrain(
        model, (X, labels), (X, labels), teacher=model, loss={"one": "categorical_crossentropy", "two": "mse"}, monitor="val_loss"
    )
    assert history.best["val_loss"] <= history.start["val_loss"]
    # A criterion takes losses by the same names.
    criterion = tlt_prune.criteria.Taylor((X, labels), {"one": "categorical_crossentropy", "two": "mse"})
    assert not tlt_prune.plan_pruning(model, ratio=0.5, criterion=criterion).unknown


def test_a_model_that_runs_eagerly_is_trained_eagerly() -> None:
    def loss(y: Any, p: Any) -> Any:
        # It can do without a graph, and not within one.
        assert np.asarray(y).shape[-1] == 3
        return keras.losses.categorical_crossentropy(y, p)

    model = network()
    model.compile("sgd", loss, run_eagerly=True)
    if keras.backend.backend() == "tensorflow":
        assert retrain(model).history["loss"]


def endless() -> Any:
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(DATA).batch(16).repeat()


RATE = keras.optimizers.schedules.CosineDecay(0.1, 10)
MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "rate": (lambda: retrain(compiled(), learning_rate=-1), "learning_rate: expected a number above 0. Received: -1"),
    "rate as text": (
        lambda: retrain(compiled(), learning_rate="0.1"),
        "learning_rate: expected a number above 0. Received: '0.1'",
    ),
    "a schedule": (lambda: retrain(compiled(), optimizer=keras.optimizers.SGD(RATE)), "is a schedule's. Expected a number"),
    "optimizer": (lambda: retrain(compiled(), optimizer="adam"), r"expected an optimizer, such as keras.optimizers.SGD\(\)"),
    "loss": (lambda: retrain(compiled(), loss="nope"), "do not fit together.*nope"),
    "metric": (lambda: retrain(compiled(), metrics=["nope"]), "do not fit together.*nope"),
    "teacher": (lambda: retrain(compiled(), teacher="a.keras"), "expected a model as the teacher. Received: 'a.keras'"),
    "monitor": (lambda: retrain(compiled(), monitor="accuracy"), "no score 'accuracy'. Expected one of: val_accuracy, val_loss"),
    "held out as a list": (lambda: retrain(compiled(), DATA, [X, Y]), r"expected validation data.* Received: list"),
    "held out without labels": (lambda: retrain(compiled(), DATA, X), r"expected validation data.* Received: ndarray"),
    "held out once": (lambda: retrain(compiled(), DATA, iter([DATA])), "expected validation data.*can be read once"),
    "held out endlessly": (lambda: retrain(compiled(), DATA, endless()), "expected validation data.*the dataset has no end"),
    "nothing held out": (lambda: retrain(compiled(), DATA, (X[:0], Y[:0])), "expected validation data.* Received none"),
    "no labels": (lambda: retrain(compiled(), (X, None)), r"expected training data, with labels: \(x, y\)"),
    "lengths": (lambda: retrain(compiled(), (X, Y[:90])), "x and y have different numbers of examples: 96, 90"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_clear_error(mistake: str) -> None:
    call, message = MISTAKES[mistake]
    with pytest.raises(TrainingError, match=message):
        call()
