"""The loss of a `Student`, by its formula."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from helpers import softmax
from keras import layers

from tlt_prune.training import Student


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["one-hot", "numbers, logits", "two outputs", "yes or no"])
def test_the_loss_is_of_labels_and_of_what_the_teacher_answers(kind: str, weighted: bool) -> None:
    """By the formula in NumPy, penalties included."""
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(6, 5)).astype("float32"), rng.random(6).astype("float32") if weighted else np.ones(6, "float32")
    logits = kind == "numbers, logits"

    def make() -> keras.Model:
        inputs = layers.Input((5,))
        penalty = keras.regularizers.L2(0.01)
        if kind == "yes or no":
            return keras.Model(inputs, layers.Dense(3, "sigmoid", kernel_regularizer=penalty)(inputs))
        a = layers.Dense(3, None if logits else "softmax", kernel_regularizer=penalty, name="a")(inputs)
        return keras.Model(inputs, [a, layers.Dense(2, name="b")(inputs)] if kind == "two outputs" else a)

    model, teacher = make(), make()
    alpha, t = 0.3, 2.0
    student = Student(model, teacher, alpha, t)
    labels = rng.integers(0, 3, 6)
    hot, values = np.eye(3, dtype="float32")[labels], rng.normal(size=(6, 2)).astype("float32")
    flat: list[Any] = keras.tree.flatten(model.predict(x, verbose=0))
    taught: list[Any] = keras.tree.flatten(teacher.predict(x, verbose=0))
    p, q = (softmax(z) if logits else z for z in (flat[0], taught[0]))

    def cooled(z: np.ndarray) -> np.ndarray:
        return softmax(np.log(z) / t)

    y: Any = hot
    if kind == "yes or no":
        loss: Any = "binary_crossentropy"

        def entropy(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return -(a * np.log(b) + (1 - a) * np.log(1 - b)).mean(axis=1)

        hard, soft = entropy(hot, p), entropy(q, p)
    else:
        hard = -np.log(p)[np.arange(6), labels]
        soft = t**2 * (cooled(q) * np.log(cooled(q) / cooled(p))).sum(axis=1)
        loss = "categorical_crossentropy"
    if logits:
        loss, y = keras.losses.SparseCategoricalCrossentropy(from_logits=True), labels
    factors: Any = None
    sample_weight: Any = weight if weighted else None
    if kind == "two outputs":
        loss, y, factors = {"a": loss, "b": keras.losses.MeanSquaredError()}, {"a": hot, "b": values}, {"a": 2.0, "b": 0.5}
        hard = 2 * hard + 0.5 * ((flat[1] - values) ** 2).mean(axis=1)
        soft = 2 * soft + 0.5 * ((flat[1] - taught[1]) ** 2).mean(axis=1)
        if weighted:
            # Keras takes several weights in the outputs' own structure only.
            loss, y, factors, sample_weight = list(loss.values()), list(y.values()), [2.0, 0.5], [weight, weight]
    penalty = 0.01 * float(np.sum(np.square(model.layers[1].kernel)))
    student.compile("sgd", loss=loss, loss_weights=factors)
    plain = student.evaluate(x, y, sample_weight=sample_weight, verbose=0, batch_size=6, return_dict=True)["loss"]
    assert plain == pytest.approx(float(np.mean(weight * hard)) + penalty, rel=1e-4)
    student.optimizer.learning_rate = 0.0
    got = student.train_on_batch(x, y, sample_weight=sample_weight, return_dict=True)["loss"]
    assert got == pytest.approx(float(np.mean(weight * ((1 - alpha) * hard + alpha * soft))) + penalty, rel=1e-4)
    # The teacher is no part of what is trained.
    assert len(student.trainable_variables) == len(model.trainable_variables)
