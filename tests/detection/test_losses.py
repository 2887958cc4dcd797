"""Losses and decoding against the toolkit's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from golden_detection import cases, ids

from tlt_prune.detection import losses
from tlt_prune.detection.decoding import decode, to_picture
from tlt_prune.detection.geometry import Grid
from tlt_prune.errors import SpecError

COV, BOX = cases("loss.json.gz", "cov"), cases("loss.json.gz", "bbox_l1")
MEANS, AUTO = cases("loss.json.gz", "objective_means"), cases("loss.json.gz", "autoweight")


def array(values: Any) -> Any:
    return tf.constant(values, tf.float32)


def test_all_golden_cases_are_there() -> None:
    assert [len(x) for x in (COV, BOX, MEANS, AUTO)] == [5, 3, 1, 7]
    assert len(cases("bbox_decode.json")) == 8


@pytest.mark.parametrize("case", [*COV, *BOX], ids=ids([*COV, *BOX]))
def test_costs_and_gradients(case: Any) -> None:
    predicted = array(case["pred"])
    with tf.GradientTape() as tape:
        tape.watch(predicted)
        if case["kind"] == "cov":
            costs = losses.coverage_costs(array(case["target"]), predicted, case["coverage_foreground_weight"])
        else:
            costs = losses.box_costs(array(case["target"]), predicted, array(case["cov_norm"]))
        costs = costs * array(case["loss_mask"])
        mean = tf.reduce_mean(costs)
    np.testing.assert_allclose(costs, case["elementwise"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mean, case["mean"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tape.gradient(mean, predicted), case["gradient_of_mean"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", MEANS, ids=ids(MEANS))
def test_objective_means(case: Any) -> None:
    targets = {key: array(value) for key, value in case["target"].items()}
    weight = case["coverage_foreground_weight"]
    found = losses.objective_means(targets, array(case["pred"]["bbox"]), array(case["pred"]["cov"]), [weight])
    np.testing.assert_allclose(found, [[case["cov"], case["bbox"]]], rtol=1e-5)


@pytest.mark.parametrize("case", AUTO, ids=ids(AUTO))
def test_weights_follow_the_costs(case: Any) -> None:
    classes = [
        losses.TargetClass(
            x["name"],
            x["class_weight"],
            x["coverage_foreground_weight"],
            {name: initial for name, initial, _ in x["objectives"]},
            {name: target for name, _, target in x["objectives"]},
        )
        for x in case["target_classes"]
    ]
    weights = losses.ObjectiveWeights(
        classes,
        automatic=case["enable_autoweighting"],
        minimum=case["min_objective_weight"],
        maximum=case["max_objective_weight"],
    )
    names = [x.name for x in classes]

    def table(values: Any) -> Any:
        return np.array([[values[name][objective] for objective in losses.OBJECTIVES] for name in names])

    np.testing.assert_allclose(weights.class_weights, [case["class_weights"][name] for name in names], rtol=1e-6)
    np.testing.assert_allclose(weights.objective_weights, table(case["initial_objective_weights"]), rtol=1e-6)
    sums = np.zeros((len(names), 2))
    for step, (costs, expected) in enumerate(zip(case["costs"], case["trace"], strict=True), 1):
        np.testing.assert_allclose(weights.total(array(table(costs))), expected["total"], rtol=1e-5)
        sums += table(costs)
        if step % case["steps_per_epoch"] == 0:
            weights.end_epoch(sums)
            sums[:] = 0
        np.testing.assert_allclose(weights.objective_weights, table(expected["objective_weights_after"]), rtol=1e-5)


DECODED = cases("bbox_decode.json", "evaluate")
INFERRED = cases("bbox_decode.json", "inference")
RESCALED = cases("bbox_decode.json", "rescale")


@pytest.mark.parametrize("case", DECODED, ids=ids(DECODED))
def test_decoding(case: Any) -> None:
    predicted = np.array(case["prediction"], np.float32)
    n, classes, _, rows, columns = predicted.shape
    grid = Grid(case["input_width"], case["input_height"], columns, rows, case["bbox_scale"], case["bbox_offset"])
    found = decode(predicted.reshape(n, 4 * classes, rows, columns), grid)
    np.testing.assert_allclose(found, np.moveaxis(np.array(case["absolute"]), 2, -1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", INFERRED, ids=ids(INFERRED))
def test_decoding_of_the_inference_tool(case: Any) -> None:
    predicted = np.array(case["prediction"], np.float32)
    predicted = predicted if predicted.ndim == 4 else predicted.reshape(-1, 4, *predicted.shape[-2:])
    rows, columns = predicted.shape[-2:]
    grid = Grid(case["stride"] * columns, case["stride"] * rows, columns, rows)
    expected = np.array(case["absolute"]).reshape(predicted.shape)
    np.testing.assert_allclose(decode(predicted, grid, clip=False)[:, 0], np.moveaxis(expected, 1, -1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", RESCALED, ids=ids(RESCALED))
def test_back_to_the_picture(case: Any) -> None:
    grid = Grid(case["frame_width"], case["frame_height"], 1, 1)
    found = to_picture(np.array(case["bbox"]), grid, tuple(case["scaling_factor"]))
    np.testing.assert_allclose(found, case["expected"], atol=1e-3)


def test_decoding_is_the_inverse_of_painting() -> None:
    from tlt_prune.detection.targets import Ellipse, Rasterizer, padded

    grid = Grid(160, 96, 10, 6, 20.0, 8.0)
    box = [23.0, 17.0, 93.0, 71.0]
    found = Rasterizer(grid, {"a": Ellipse(), "b": Ellipse()})(*padded([[("b", box)]], ("a", "b")))
    boxes = decode(found["bbox"].numpy(), grid)
    painted = found["cov"].numpy()[0, 1] > 0
    assert painted.sum() > 3
    np.testing.assert_allclose(boxes[0, 1][painted], np.broadcast_to(box, (painted.sum(), 4)), atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weight": 0}, "class_weight above 0"),
        ({"foreground_weight": 1}, "coverage_foreground_weight between 0 and 1"),
        ({"initial_weights": {"cov": 1.0}}, "initial_weight of cov and bbox"),
        ({"weight_targets": {"cov": 0.0, "bbox": 0.0}}, "weight_target of cov and bbox, none below 0, with a sum above 0"),
    ],
)
def test_bad_settings(options: Any, message: str) -> None:
    with pytest.raises(SpecError, match=f"target class 'car': expected .*{message}"):
        losses.TargetClass("car", **options)
