"""Training step by step against the toolkit's own; losses, metrics and weights in Keras' `fit`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from golden_detection import cases, ids

from tlt_prune.detection.dataset import packed
from tlt_prune.detection.geometry import Grid
from tlt_prune.detection.losses import OBJECTIVES, ObjectiveWeights, TargetClass, objective_means
from tlt_prune.detection.targets import Ellipse, Rasterizer, padded
from tlt_prune.detection.training import AutoWeighting, ObjectiveLoss, objective
from tlt_prune.training import soft_start_annealing

CASES = cases("training.json.gz")


def network(case: Any) -> keras.Model:
    """A convolution, batch normalization where the case has it, and the two heads; channels last."""
    kinds = {"L1": keras.regularizers.L1, "L2": keras.regularizers.L2}
    regularizer = kinds[case["regularizer"]["type"]](case["regularizer"]["weight"])
    both = {"kernel_regularizer": regularizer, "bias_regularizer": regularizer}
    start = case["initial_weights"]
    columns, rows = case["grid"]
    x = image = keras.Input((rows, columns, len(case["features_nchw"][0][0])))
    x = keras.layers.Conv2D(len(start["conv"][1]), 3, padding="same", name="conv", **both)(x)
    if case["batch_norm"]:
        x = keras.layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name="bn")(x)
    x = keras.layers.ReLU()(x)
    count = len(case["target_classes"])
    bbox = keras.layers.Conv2D(4 * count, 1, name="output_bbox", **both)(x)
    cov = keras.layers.Conv2D(count, 1, activation="sigmoid", name="output_cov", **both)(x)
    model = keras.Model(image, [bbox, cov])
    for name, values in start.items():
        model.get_layer(name).set_weights([np.array(x, np.float32) for x in values])
    return model


def classes_of(case: Any) -> list[TargetClass]:
    settings = case["objectives"]
    return [
        TargetClass(
            name,
            case["class_weights"][name],
            case["coverage_foreground_weight"],
            {key: settings[key]["initial_weight"] for key in OBJECTIVES},
            {key: settings[key]["weight_target"] for key in OBJECTIVES},
        )
        for name in case["target_classes"]
    ]


def targets_of(case: Any, labels: Any) -> Any:
    raster = case["bbox_rasterizer"]
    ellipse = Ellipse(
        *(raster[f"cov_{key}"] for key in ("center_x", "center_y", "radius_x", "radius_y")), raster["bbox_min_radius"]
    )
    grid = Grid(case["input_width"], case["input_height"], *case["grid"], case["bbox_scale"], case["bbox_offset"])
    names = case["target_classes"]
    return Rasterizer(grid, dict.fromkeys(names, ellipse), raster["deadzone_radius"])(*padded(labels, names))


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_six_steps(case: Any) -> None:
    model, classes = network(case), classes_of(case)
    weights = ObjectiveWeights(
        classes,
        automatic=case["enable_autoweighting"],
        minimum=case["min_objective_weight"],
        maximum=case["max_objective_weight"],
    )
    adam = case["adam"]
    optimizer = keras.optimizers.Adam(beta_1=adam["beta1"], beta_2=adam["beta2"], epsilon=adam["epsilon"])
    rates = case["learning_rate"]
    total_steps = case["steps_per_epoch"] * case["num_epochs"]
    sums = np.zeros((len(classes), 2))
    for step, expected in enumerate(case["trace"]):
        rate = soft_start_annealing(
            step / total_steps, rates["min_learning_rate"], rates["max_learning_rate"], rates["soft_start"], rates["annealing"]
        )
        assert rate == pytest.approx(expected["learning_rate"], rel=1e-5)
        optimizer.learning_rate = rate
        pictures = np.transpose(np.array(case["features_nchw"][step], np.float32), (0, 2, 3, 1))
        targets = targets_of(case, case["labels"][step])
        source = case["source_weight"]
        by_picture = np.ones(len(pictures), np.float32) if source is None else np.array(source, np.float32)
        with tf.GradientTape() as tape:
            bbox, cov = (tf.transpose(x, (0, 3, 1, 2)) for x in model(pictures, training=True))
            means = objective_means(targets, bbox, cov, [x.foreground_weight for x in classes], by_picture[:, None, None, None])
            penalty = tf.add_n(model.losses)
            total = weights.total(means) + penalty
        # What `fit` computes is the same.
        losses = [ObjectiveLoss(name, classes, channels_first=False) for name in ("bbox", "cov")]
        for loss in losses:
            loss.weights.assign(weights.of(loss.objective))
        last = [tf.transpose(x, (0, 2, 3, 1)) for x in (bbox, cov)]
        true = packed(targets, by_picture, channels_first=False)
        both = sum(loss(y, p) for loss, y, p in zip(losses, true, last, strict=True))
        assert float(both + penalty) == pytest.approx(expected["total_cost"], rel=1e-5)
        for i, name in enumerate(case["target_classes"]):
            for j, key in enumerate(OBJECTIVES):
                assert float(means[i, j]) == pytest.approx(expected["component_costs"][name][key], rel=1e-4, abs=1e-6)
        assert float(penalty) == pytest.approx(expected["regularization_cost"], rel=1e-5)
        assert float(total) == pytest.approx(expected["total_cost"], rel=1e-5)
        optimizer.apply(tape.gradient(total, model.trainable_variables), model.trainable_variables)
        sums += means.numpy()
        if (step + 1) % case["steps_per_epoch"] == 0:
            weights.end_epoch(sums)
            sums[:] = 0
        after = np.array([[expected["objective_weights_after"][x.name][key] for key in OBJECTIVES] for x in classes])
        np.testing.assert_allclose(weights.objective_weights, after, rtol=1e-4)
        for name, values in expected.get("weights_after", {}).items():
            for received, wanted in zip(model.get_layer(name).get_weights(), values, strict=True):
                np.testing.assert_allclose(received, wanted, rtol=0, atol=2e-6)


def test_all_golden_cases_are_there() -> None:
    assert len(CASES) == 3


@pytest.mark.parametrize("channels_first", [False, True])
def test_losses_know_their_layout(channels_first: bool) -> None:
    rng = np.random.default_rng(0)
    classes = [TargetClass("a", 1.0, 0.3), TargetClass("b", 3.0, 0.2)]
    targets = {key: rng.random((2, n, 3, 4)).astype("float32") for key, n in (("cov", 2), ("cov_norm", 2), ("bbox", 8))}
    bbox, cov = rng.random((2, 8, 3, 4)).astype("float32"), rng.random((2, 2, 3, 4)).astype("float32")
    said = [bbox, cov] if channels_first else [np.transpose(x, (0, 2, 3, 1)) for x in (bbox, cov)]
    compiled = objective(classes, channels_first)
    counted = np.array([1.0, 3.0], np.float32)
    true = packed(targets, counted, channels_first)
    found = [float(loss(y, p)) for loss, y, p in zip(compiled["loss"], true, said, strict=True)]
    weights = ObjectiveWeights(classes)
    means = objective_means(targets, bbox, cov, [0.3, 0.2], counted[:, None, None, None])
    assert sum(found) == pytest.approx(float(weights.total(means)), rel=1e-5)
    for metrics, column, y, p in zip(compiled["metrics"], (1, 0), true, said, strict=True):
        for i, metric in enumerate(metrics):
            metric.update_state(y, p)
            assert float(metric.result()) == pytest.approx(float(means[i, column]), rel=1e-5)


@pytest.mark.parametrize("channels_first", [False, True])
def test_a_teacher_is_mixed_in(channels_first: bool) -> None:
    rng = np.random.default_rng(0)
    classes = [TargetClass("a", 1.0, 0.3), TargetClass("b", 3.0, 0.2)]
    targets = {key: rng.random((2, n, 3, 4)).astype("float32") for key, n in (("cov", 2), ("cov_norm", 2), ("bbox", 8))}
    taught = {"cov": rng.random((2, 2, 3, 4)).astype("float32"), "bbox": rng.random((2, 8, 3, 4)).astype("float32")}
    bbox, cov = rng.random((2, 8, 3, 4)).astype("float32"), rng.random((2, 2, 3, 4)).astype("float32")
    axis = 1 if channels_first else -1
    in_layout = (lambda x: x) if channels_first else (lambda x: np.transpose(x, (0, 2, 3, 1)))
    true = packed(targets, np.ones(2, np.float32), channels_first)
    both = [np.concatenate([y, in_layout(taught[key])], axis=axis) for y, key in zip(true, ("bbox", "cov"), strict=True)]
    losses = objective(classes, channels_first, alpha=0.25)["loss"]
    found = sum(float(loss(y, in_layout(p))) for loss, y, p in zip(losses, both, (bbox, cov), strict=True))
    weights = ObjectiveWeights(classes)
    hard = weights.total(objective_means(targets, bbox, cov, [0.3, 0.2]))
    # Where the labels have boxes, the teacher's; its coverage everywhere.
    soft = weights.total(objective_means({**targets, **taught}, bbox, cov, [0.3, 0.2]))
    assert found == pytest.approx(float(0.75 * hard + 0.25 * soft), rel=1e-5)
    # In validation no teacher is asked.
    alone = sum(float(loss(y, in_layout(p))) for loss, y, p in zip(losses, true, (bbox, cov), strict=True))
    assert alone == pytest.approx(float(hard), rel=1e-5)
    assert ObjectiveLoss.from_config(losses[0].get_config()).alpha == 0.25


def fitted(epochs: int, weights: ObjectiveWeights, classes: list[TargetClass], **options: Any) -> tuple[keras.Model, list[Any]]:
    case = CASES[0]
    keras.utils.set_random_seed(0)
    model = options.pop("model", None) or network(case)
    if not model.compiled:
        model.compile(keras.optimizers.Adam(1e-3), **objective(classes, channels_first=False))
    batches = [
        (
            np.transpose(np.array(x, np.float32), (0, 2, 3, 1)),
            tuple(packed(targets_of(case, labels), np.ones(len(x), np.float32), False)),
        )
        for x, labels in zip(case["features_nchw"], case["labels"], strict=True)
    ]
    data = tf.data.Dataset.from_generator(
        lambda: iter(batches),
        output_signature=tf.nest.map_structure(lambda x: tf.TensorSpec((None, *x.shape[1:]), tf.float32), batches[0]),
    )
    callback = AutoWeighting(weights, classes, options.pop("history", ()))
    done = model.fit(data.repeat(), epochs=epochs, steps_per_epoch=6, verbose=0, shuffle=False, callbacks=[callback], **options)
    return model, [{key: values[i] for key, values in done.history.items()} for i in range(len(done.epoch))]


def test_a_resumed_training_has_the_weights_of_a_whole_one(tmp_path: Any) -> None:
    classes = classes_of(CASES[0])
    whole = ObjectiveWeights(classes)
    expected, rows = fitted(4, whole, classes)
    assert np.abs(whole.objective_weights - ObjectiveWeights(classes).objective_weights).max() > 0.01

    first, history = fitted(2, ObjectiveWeights(classes), classes)
    first.save(tmp_path / "checkpoint.keras")
    again = keras.models.load_model(tmp_path / "checkpoint.keras")
    resumed = ObjectiveWeights(classes)
    received, more = fitted(4, resumed, classes, model=again, initial_epoch=2, history=history)
    np.testing.assert_allclose(resumed.objective_weights, whole.objective_weights, rtol=1e-12)
    for a, b in zip(expected.get_weights(), received.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [row["loss"] for row in rows] == [row["loss"] for row in (*history, *more)]
