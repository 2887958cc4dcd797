"""Pruning in steps: what each step keeps, what is trained when, and going on after a kill."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
from helpers import randomize

import tlt_prune
from tlt_prune.errors import LawError, PlanError
from tlt_prune.graph.tracer import trace
from tlt_prune.pruning.cost.costs import costs
from tlt_prune.pruning.schedule import progress_of


def net() -> keras.Model:
    x = y = keras.Input((8, 8, 3))
    for i in range(3):
        y = keras.layers.Conv2D(64, 3, padding="same", activation="relu", name=f"c{i}")(y)
    return randomize(keras.Model(x, keras.layers.Dense(3, name="head")(keras.layers.GlobalAveragePooling2D()(y))))


def test_schedules() -> None:
    assert [progress_of(k, 4, "linear") for k in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose([progress_of(k, 2, "cubic") for k in range(3)], [0, 0.875, 1])


@pytest.mark.parametrize(
    ("budget", "measure"),
    [
        ({"macs": 0.4}, lambda m: costs(trace(m)).total_macs),
        ({"params": 0.4}, lambda m: m.count_params()),
        ({"ratio": 0.5}, lambda m: m.get_layer("c0").filters),
    ],
)
@pytest.mark.parametrize("schedule", ["linear", "cubic"])
def test_every_step_keeps_its_share(budget: dict[str, float], measure: Any, schedule: str) -> None:
    model = net()
    seen: list[float] = []
    pruned = tlt_prune.iterative_prune(
        model, lambda m, step: seen.append(measure(m)), steps=3, schedule=schedule, granularity=1, min_num_filters=1, **budget
    )
    ((name, value),) = budget.items()
    target = 1 - value if name == "ratio" else value
    whole = measure(model)
    for step, left in enumerate(seen, start=1):
        expected = 1 - progress_of(step, 3, schedule) * (1 - target)
        assert left / whole == pytest.approx(expected, abs=0.02), step
    assert measure(pruned) == seen[-1]


def test_a_threshold_rises() -> None:
    norms = np.linspace(0.1, 1.0, 64)
    model = net()
    for i in range(3):
        kernel, bias = model.get_layer(f"c{i}").get_weights()
        kernel *= norms / np.sqrt((kernel**2).sum(axis=(0, 1, 2)))
        model.get_layer(f"c{i}").set_weights([kernel, bias])
    widths: list[int] = []
    options = {"threshold": 0.63, "granularity": 1, "min_num_filters": 1}
    tlt_prune.iterative_prune(
        model, lambda m, step: widths.append(m.get_layer("c0").filters), steps=3, schedule="linear", **options
    )
    assert widths == [int((norms > t).sum()) for t in (0.21, 0.42, 0.63)]


def test_what_retraining_returns_is_gone_on_with() -> None:
    given: list[Any] = []

    def retrain(model: Any, step: int) -> Any:
        given.append(model)
        return keras.models.clone_model(model)

    last = tlt_prune.iterative_prune(net(), retrain, steps=2, ratio=0.5, min_num_filters=8)
    assert last is not given[1]
    assert [m.get_layer("c0").filters for m in given] == [40, 32]


def test_it_goes_on_after_the_last_step(tmp_path: pathlib.Path) -> None:
    model, steps = net(), []

    def retrain(pruned: Any, step: int) -> None:
        steps.append(step)
        if len(steps) == 2:
            raise KeyboardInterrupt
        pruned.get_layer("head").bias.assign_add(np.ones(3))

    options = {"steps": 3, "macs": 0.4, "min_num_filters": 8, "folder": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        tlt_prune.iterative_prune(model, retrain, **options)
    resumed = tlt_prune.iterative_prune(model, retrain, **options)
    assert steps == [1, 2, 2, 3]
    steps.clear()
    steps.append(-1)
    steps.append(-1)
    whole = tlt_prune.iterative_prune(model, retrain, **{**options, "folder": None})
    for a, b in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_1.keras", "step_2.keras", "step_3.keras", "steps.json"]
    with pytest.raises(PlanError, match="steps of another model or with other arguments"):
        tlt_prune.iterative_prune(model, retrain, **{**options, "macs": 0.5})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0, "macs": 0.5}, "steps >= 1"),
        ({"schedule": "quick", "macs": 0.5}, '"linear" or "cubic"'),
        ({"macs": 1e-6}, "cannot be met"),
        ({}, "Expected one of threshold="),
    ],
)
def test_bad_arguments_are_refused_before_any_training(options: dict[str, Any], message: str) -> None:
    def retrain(model: Any, step: int) -> None:
        raise AssertionError("nothing is trained")

    with pytest.raises(PlanError, match=message):
        tlt_prune.iterative_prune(net(), retrain, **options)


def test_every_prune_takes_what_prune_model_takes() -> None:
    x = np.random.default_rng(0).standard_normal((64, 8, 8, 3)).astype("float32")
    model = net()
    options = {"ratio": 0.5, "min_num_filters": 8, "compensation": tlt_prune.LeastSquares(x)}
    overrides = {"c*": {"kernel_regularizer": keras.regularizers.L1(0.25)}}
    penalties: list[float] = []

    def retrain(pruned: Any, step: int) -> None:
        penalties.append(float(pruned.get_layer("c1").kernel_regularizer.l1))

    stepped = tlt_prune.iterative_prune(model, retrain, steps=1, layer_config_overrides=overrides, verify=True, **options)
    whole = tlt_prune.prune_model(model, layer_config_overrides=overrides, verify=True, **options)
    for a, b in zip(stepped.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    tlt_prune.iterative_prune(model, retrain, steps=2, layer_config_overrides=overrides, **options)
    assert penalties == [0.25] * 3
    assert model.get_layer("c1").kernel_regularizer is None


def test_every_prune_is_verified_where_asked_for() -> None:
    x = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(32, 3, padding="same", name="c0")(x)
    noisy = keras.layers.GaussianNoise(1.0)
    noisy.call = lambda inputs, training=None: inputs + keras.random.normal(keras.ops.shape(inputs), seed=noisy.seed_generator)
    model = randomize(keras.Model(x, keras.layers.Dense(2)(keras.layers.Flatten()(noisy(y)))))
    options = {"steps": 1, "ratio": 0.5, "min_num_filters": 8, "channelwise_layers": ["gaussian_noise*"]}
    trained: list[int] = []
    with pytest.raises(LawError, match="random in inference"):
        tlt_prune.iterative_prune(model, lambda m, step: trained.append(step), verify=True, **options)
    assert trained == []
    tlt_prune.iterative_prune(model, lambda m, step: trained.append(step), **options)
    assert trained == [1]


def test_a_folder_belongs_to_the_overrides_too(tmp_path: pathlib.Path) -> None:
    options = {"steps": 1, "ratio": 0.5, "min_num_filters": 8, "folder": tmp_path}
    tlt_prune.iterative_prune(net(), lambda m, step: None, **options)
    with pytest.raises(PlanError, match="steps of another model or with other arguments"):
        tlt_prune.iterative_prune(
            net(), lambda m, step: None, layer_config_overrides={"c0": {"kernel_regularizer": "l2"}}, **options
        )


class Unknown(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return x


def test_steps_that_could_not_be_loaded_are_refused_before_training(tmp_path: pathlib.Path) -> None:
    x = keras.Input((8,))
    model = randomize(keras.Model(x, keras.layers.Dense(3)(Unknown()(keras.layers.Dense(16)(keras.layers.Dense(16)(x))))))
    trained = []
    tiny: dict[str, Any] = {"granularity": 1, "min_num_filters": 1}
    with pytest.raises(PlanError, match="register_keras_serializable") as error:
        tlt_prune.iterative_prune(
            model, lambda m, step: trained.append(step), ratio=0.5, steps=2, folder=tmp_path / "steps", **tiny
        )
    assert len(str(error.value)) < 600
    assert "\n" not in str(error.value)
    assert not trained
    assert not (tmp_path / "steps").exists()
    tlt_prune.iterative_prune(model, lambda m, step: trained.append(step), ratio=0.5, steps=2, **tiny)
    assert trained == [1, 2]


@pytest.mark.parametrize(
    ("options", "fewest"),
    [
        ({"layer_options": {"c0": {"max_ratio": 0.25}}}, [12, 1, 1]),
        ({"layer_options": {"c?": {"max_ratio": 0.75}, "c0": {"ratio": 0.25}}}, [12, 4, 4]),
        ({"max_ratio": 0.5, "ranking": "global"}, [8, 8, 8]),
        ({"ranking": "global", "macs": 0.05}, [2, 2, 2]),
    ],
)
def test_limits_are_of_the_original_channels(options: dict[str, Any], fewest: list[int]) -> None:
    """In every step they were of what was left, so that several steps took more than one prune."""
    x = y = keras.Input((8, 8, 3))
    for i in range(3):
        y = keras.layers.Conv2D(16, 3, padding="same", activation="relu", name=f"c{i}")(y)
    model = keras.Model(x, keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(y)))
    for i in range(3):
        # Of very different sizes: a ranking over all layers takes one of them as far as it may.
        layer = model.get_layer(f"c{i}")
        layer.kernel.assign(layer.kernel * 10.0**i)
    options = {"macs": 0.3, "normalizer": "off", "granularity": 1, "min_num_filters": 1, **options}
    found = []
    for pruned in (
        tlt_prune.prune_model(model, **options),
        tlt_prune.iterative_prune(model, lambda p, step: None, steps=4, **options),
    ):
        counts = [pruned.get_layer(f"c{i}").filters for i in range(3)]
        assert all(count >= least for count, least in zip(counts, fewest, strict=True)), counts
        found.append(counts)
    assert any(count == least for count, least in zip(found[1], fewest, strict=True))


def test_what_retraining_returns_is_a_model_or_stands_for_one() -> None:
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    x, y = np.ones((8, 8), np.float32), np.ones((8, 3), np.float32)
    options: dict[str, Any] = {"ratio": 0.5, "granularity": 1, "min_num_filters": 1}
    pruned = tlt_prune.iterative_prune(model, lambda p, step: p.fit(x, y, verbose=0), steps=2, **options)
    assert pruned.layers[0].units == 8
    with pytest.raises(PlanError, match=r"expected retrain to return a model, or nothing. Received: 3"):
        tlt_prune.iterative_prune(model, lambda p, step: 3, steps=2, **options)
    for retrain, steps in ((None, 2), (lambda p, step: None, 1.5), (lambda p, step: None, "3")):
        with pytest.raises(PlanError, match=r"expected a function retrain\(pruned, step\), a whole number of steps >= 1"):
            tlt_prune.iterative_prune(model, retrain, steps=steps, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", [{"threshold": 0.8}, {"ratio": 0.5}, {"macs": 0.85}])
@pytest.mark.parametrize("key", ["c1", "c*"])
def test_other_options_of_layers_hold_in_every_step(key: str, budget: dict[str, float]) -> None:
    for option, holds in (("granularity", lambda n: n % 16 == 0), ("min_num_filters", lambda n: n >= 56)):
        options: Any = {**budget, "layer_options": {key: {option: 16 if option == "granularity" else 56}}, "granularity": 1}
        pruned = tlt_prune.iterative_prune(net(), lambda p, step: None, steps=3, min_num_filters=1, **options)
        assert holds(pruned.get_layer("c1").filters), (option, pruned.get_layer("c1").filters)
