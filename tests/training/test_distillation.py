"""Distillation and learning-rate rewinding: the formula, and what it does to a training."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
from helpers import softmax
from small_training import SIZE, run, small_model

from tlt_prune.config.train_sections import Distill, LRConfig, RegConfig
from tlt_prune.errors import TrainingError
from tlt_prune.training import learning_rate
from tlt_prune.training.distillation import Distillation, LabelAccuracy


def test_the_formula() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.standard_normal((2, 5, 3))
    labels = np.eye(3)[[0, 1, 2, 0, 1]]
    alpha, t = 0.3, 4.0
    hard = -np.log(softmax(student))[np.arange(5), labels.argmax(1)]
    p, q = softmax(teacher / t), softmax(student / t)
    expected = (1 - alpha) * hard + alpha * t**2 * (p * np.log(p / q)).sum(axis=1)
    loss = Distillation(alpha, t, reduction="none")
    beside = np.concatenate([labels, softmax(teacher)], axis=1)
    np.testing.assert_allclose(np.asarray(loss(beside, softmax(student))), expected, rtol=1e-4)
    # Held-out labels have no teacher beside them.
    np.testing.assert_allclose(np.asarray(loss(labels, softmax(student))), hard, rtol=1e-4)
    again = Distillation.from_config(loss.get_config())
    assert (again.alpha, again.temperature) == (alpha, t)
    metric = LabelAccuracy()
    metric.update_state(beside, softmax(student))
    assert float(metric.result()) == pytest.approx(np.mean(student.argmax(1) == labels.argmax(1)))


def test_a_student_comes_to_say_what_its_teacher_says(tmp_path: pathlib.Path) -> None:
    teacher = small_model()
    # One that always says class 7: nothing that the labels say.
    teacher.get_layer("head").bias.assign(np.where(np.arange(10) == 7, 30.0, 0.0))
    path = tmp_path / "teacher.keras"
    teacher.save(path)
    distill = Distill(teacher=str(path), alpha=1.0, temperature=1.0)
    result = run(tmp_path / "a", distill=distill, teacher=teacher, lr_config=LRConfig(learning_rate=0.1))
    x = np.random.default_rng(0).random((20, *SIZE)).astype("float32")
    assert (result.model.predict(x, verbose=0).argmax(1) == 7).all()
    # The file loads without this package's loss.
    assert keras.models.load_model(result.path).loss is None
    # Resumed and repeated as any other training.
    assert run(tmp_path / "a", distill=distill, teacher=teacher, lr_config=LRConfig(learning_rate=0.1)).resumed_from == 3
    other = distill.model_copy(update={"alpha": 0.5})
    with pytest.raises(TrainingError, match=r"train\.distill\.alpha was 1\.0 and is 0\.5"):
        run(tmp_path / "a", distill=other, teacher=teacher, lr_config=LRConfig(learning_rate=0.1))


def test_a_teacher_of_another_shape_is_refused(tmp_path: pathlib.Path) -> None:
    x = keras.Input((9, 9, 1))
    teacher = keras.Model(x, keras.layers.Dense(10)(keras.layers.Flatten()(x)))
    with pytest.raises(TrainingError, match=r"teacher takes inputs of shape \(None, 9, 9, 1\)\. Expected \(None, 8, 8, 1\)"):
        run(tmp_path, distill=Distill(teacher="t.keras"), teacher=teacher)


def test_a_group_lasso_is_not_in_the_file(tmp_path: pathlib.Path) -> None:
    result = run(tmp_path, epochs=1, reg_config=RegConfig(type="group_lasso", weight_decay=1e-3))
    assert keras.models.load_model(result.path).get_layer("c").kernel_regularizer is None


def test_rewinding_starts_the_schedule_late() -> None:
    whole = LRConfig(scheduler="cosine", learning_rate=1.0, soft_start=0.1)
    rewound = whole.model_copy(update={"rewind_to": 0.5})
    for step in range(0, 101, 10):
        assert learning_rate(rewound, step, 100) == pytest.approx(learning_rate(whole, 100 + step, 200))
