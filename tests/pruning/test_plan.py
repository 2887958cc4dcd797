"""Plans: printable, saved, applied, and refused where they do not fit."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from helpers import assert_law, assert_same_after_reload, randomize

import tlt_prune
from tlt_prune.errors import LawError, PlanError, UnsupportedModelError
from tlt_prune.graph import rules
from tlt_prune.pruning.plan import PruningPlan

pytestmark = pytest.mark.one_backend


@pytest.fixture
def model() -> keras.Model:
    x = keras.Input((8, 8, 3), name="image")
    y = keras.layers.Conv2D(16, 3, padding="same", name="a", kernel_regularizer=keras.regularizers.L2(1e-4))(x)
    y = keras.layers.BatchNormalization(name="bn")(y)
    y = keras.layers.ReLU(name="relu")(y)
    z = keras.layers.Conv2D(16, 1, name="b")(y)
    y = keras.layers.Add(name="add")([y, z])
    y = keras.layers.Flatten(name="flat")(y)
    y = keras.layers.Dense(24, activation="relu", name="fc")(y)
    return randomize(keras.Model(x, keras.layers.Dense(3, name="head")(y), name="small"))


def plan_of(model: keras.Model) -> PruningPlan:
    return tlt_prune.plan_pruning(model, ratio=0.5, granularity=4, min_num_filters=4)


def test_counts_and_totals_are_those_of_the_built_model(model: keras.Model) -> None:
    plan = plan_of(model)
    pruned = plan.apply(model)
    assert {k: len(v) for k, v in plan.kept.items()} == {"a": 8, "b": 8, "fc": 12, "head": 3}
    assert plan.params_before == model.count_params()
    assert plan.params_after == pruned.count_params()
    # 8x8 positions: 3x3x3 and 1x1 convolutions, then two dense layers.
    assert plan.macs_before == 64 * 27 * 16 + 64 * 16 * 16 + 1024 * 24 + 24 * 3
    assert plan.macs_after == 64 * 27 * 8 + 64 * 8 * 8 + 512 * 12 + 12 * 3
    assert_law(model, plan, pruned)


def test_table_has_a_row_a_producing_layer(model: keras.Model) -> None:
    frame = plan_of(model).to_frame()
    assert list(frame.index) == ["a", "b", "fc", "head"]
    assert frame.loc["a", "filters_before"] == 16
    assert frame.loc["head", "note"] == "frozen: model output"
    # a and b are added: they live in one group.
    assert frame.loc["a", "groups"] == frame.loc["b", "groups"]


def test_json_round_trip_applies_alike(model: keras.Model, tmp_path: pathlib.Path) -> None:
    plan = plan_of(model)
    plan.to_json(tmp_path / "plan.json")
    again = PruningPlan.from_json(tmp_path / "plan.json")
    assert again.layers == plan.layers
    assert again.settings == plan.settings
    for a, b in zip(plan.apply(model).get_weights(), again.apply(model).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_json_of_open_sizes(tmp_path: pathlib.Path) -> None:
    x = keras.Input((None, None, 3))
    y = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(16, 3, name="conv_NaN[1]")(x))
    model = keras.Model(x, keras.layers.Dense(2)(y))
    plan = tlt_prune.plan_pruning(model, ratio=0.5)
    assert np.isnan(plan.macs_before)
    again = PruningPlan.from_json(plan.to_json())
    assert np.isnan(again.macs_before)
    assert np.isnan(again.layers[0].macs_before)
    assert list(again.kept) == list(plan.kept)


def test_an_exact_name_is_no_pattern() -> None:
    x = keras.Input((8, 8, 3))
    y = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(32, 3, name="conv[1]")(x))
    plan = tlt_prune.plan_pruning(keras.Model(x, keras.layers.Dense(2)(y)), ratio=0.5, excluded_layers=["conv[1]"])
    assert plan.layers[0].filters_after == 32


def test_something_else_is_no_plan() -> None:
    with pytest.raises(PlanError, match="to_json"):
        PruningPlan.from_json('{"a": 1}')


def test_a_plan_of_another_model_is_refused(model: keras.Model) -> None:
    x = keras.Input((8, 8, 3))
    other = keras.Model(x, keras.layers.Conv2D(4, 3, name="a")(x))
    with pytest.raises(PlanError, match="same architecture"):
        plan_of(model).apply(other)


def test_an_edited_plan_that_parts_coupled_channels_is_refused(model: keras.Model) -> None:
    plan = plan_of(model)
    edited = dict(plan.kept)
    edited["a"] = np.array(sorted(set(range(16)) - set(plan.kept["a"].tolist())))
    broken = PruningPlan.from_json(plan.to_json())
    object.__setattr__(broken, "kept", edited)
    with pytest.raises(PlanError, match="coupled"):
        broken.apply(model)


def test_the_model_given_is_left_alone(model: keras.Model) -> None:
    config, weights = model.get_config(), model.get_weights()
    nodes = {op.name: len(op._outbound_nodes) for op in model.operations}
    first = tlt_prune.prune_model(model, ratio=0.5, granularity=4, min_num_filters=4)
    second = tlt_prune.prune_model(model, ratio=0.5, granularity=4, min_num_filters=4)
    assert model.get_config() == config
    assert {op.name: len(op._outbound_nodes) for op in model.operations} == nodes
    for a, b in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_names_regularizers_initializers_trainable_and_compile_state_survive(model: keras.Model) -> None:
    model.get_layer("b").trainable = False
    model.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.5), loss="mse", metrics=["mae"])
    pruned = tlt_prune.prune_model(model, ratio=0.5, granularity=4, min_num_filters=4)
    assert [x.name for x in pruned.layers] == [x.name for x in model.layers]
    for old, new in zip(model.layers, pruned.layers, strict=True):
        expected = old.get_config()
        changed = {k for k, v in new.get_config().items() if v != expected[k]}
        assert changed <= {"filters", "units"}, (old.name, changed)
        assert old.trainable == new.trainable
    assert isinstance(pruned.optimizer, keras.optimizers.SGD)
    assert pruned.optimizer.momentum == 0.5
    assert pruned.loss == "mse"
    pruned.fit(np.zeros((4, 8, 8, 3)), np.zeros((4, 3)), verbose=0)


def test_overrides_replace_configuration(model: keras.Model) -> None:
    overrides = {"a": {"kernel_regularizer": keras.regularizers.L1(1e-3)}}
    pruned = tlt_prune.prune_model(model, ratio=0.5, layer_config_overrides=overrides, min_num_filters=4)
    assert isinstance(pruned.get_layer("a").kernel_regularizer, keras.regularizers.L1)
    with pytest.raises(PlanError, match="Did you mean 'fc'"):
        tlt_prune.prune_model(model, ratio=0.5, layer_config_overrides={"fcc": {}})
    with pytest.raises(PlanError, match="no configuration entry 'kernel_regularizor'"):
        tlt_prune.prune_model(model, ratio=0.5, layer_config_overrides={"fc": {"kernel_regularizor": None}})


def test_a_prune_that_removes_nothing_says_so(model: keras.Model) -> None:
    with pytest.warns(UserWarning, match=r"nothing is removed.*threshold=0\.0 keeps what scores above it.*quantiles"):
        tlt_prune.prune_model(model, threshold=0.0)
    x = keras.Input((4,))
    with pytest.warns(UserWarning, match="model output"):
        tlt_prune.prune_model(keras.Model(x, keras.layers.Dense(3)(x)), ratio=0.5)


def test_models_without_a_graph_are_refused() -> None:
    class Sub(keras.Model):
        def call(self, x: object) -> object:
            return x

    with pytest.raises(UnsupportedModelError, match="functional API"):
        tlt_prune.prune_model(Sub(), ratio=0.5)
    with pytest.raises(UnsupportedModelError, match="not built"):
        tlt_prune.prune_model(keras.Sequential([keras.layers.Dense(3)]), ratio=0.5)
    with pytest.raises(UnsupportedModelError, match=r"Expected a keras\.Model"):
        tlt_prune.prune_model("model.keras", ratio=0.5)  # type: ignore[arg-type]


def test_pruned_models_save_and_load(model: keras.Model) -> None:
    pruned = plan_of(model).apply(model)
    assert_same_after_reload(pruned, np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype("float32"))


class Flipped(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return keras.ops.flip(x, axis=-1)


def test_verify_runs_the_check() -> None:
    x = keras.Input((8,))
    y = keras.layers.Dense(16, name="fc")(x)
    model = randomize(keras.Model(x, keras.layers.Dense(2)(Flipped()(y))))
    options = {"ratio": 0.5, "granularity": 1, "min_num_filters": 1}
    assert tlt_prune.prune_model(model, verify=True, **options).get_layer("fc").units == 8
    with rules.scoped():
        # A rule that is wrong.
        tlt_prune.register_rule(Flipped)(lambda call, x: x)
        assert tlt_prune.prune_model(model, **options).get_layer("fc").units == 8
        with pytest.raises(LawError, match="differs from the original with the removed channels' consumers zeroed"):
            tlt_prune.prune_model(model, verify=True, **options)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda kept: kept.pop("a"), "says nothing about 'a'"),
        (lambda kept: kept.update(a=[0, 99]), "Expected ascending channel indices between 0 and 15"),
        (lambda kept: kept.update(a=[-1, 3]), "between 0 and 15"),
        (lambda kept: kept.update(a=[3, 3, 4]), "each once"),
        (lambda kept: kept.update(a=[4, 3]), "ascending"),
        (lambda kept: kept.update(a=[]), "coupled to it keep others|no channel behind"),
        (lambda kept: kept.update(a=[0, 1, 2, 3]), "coupled"),
    ],
)
def test_an_edited_plan_is_refused_in_one_line(model: keras.Model, edit: Callable[[Any], Any], message: str) -> None:
    data = json.loads(plan_of(model).to_json())
    edit(data["kept"])
    with pytest.raises(PlanError, match=message):
        PruningPlan.from_json(json.dumps(data)).apply(model)


def test_a_plan_that_empties_a_tensor_is_refused() -> None:
    x = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(12, 3, name="c")(x)
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.Flatten()(y)))
    data = json.loads(tlt_prune.plan_pruning(model, ratio=0.5).to_json())
    data["kept"]["c"] = []
    with pytest.raises(PlanError, match="leaves no channel behind 'c'"):
        PruningPlan.from_json(json.dumps(data)).apply(model)


@pytest.mark.parametrize("text", ["[1, 2]", "3", '{"format": 1}', '{"format": 2, "layers": 3}', '{"format": 2, "layers": [{}]}'])
def test_other_json_is_no_plan(text: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PlanError, match="to_json"):
        PruningPlan.from_json(path)


def test_l1_ranks_by_the_sum_of_magnitudes() -> None:
    x = keras.Input((4, 4, 2))
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 1, name="c")(x))))
    # Filter 0 has the larger L2 norm (3 against 2.83), filter 1 the larger L1 norm (4 against 3).
    model.get_layer("c").set_weights([np.array([[[[3.0, 2.0], [0.0, 2.0]]]], np.float32), np.zeros(2, np.float32)])
    for criterion, expected in (("L2", [0]), ("L1", [1])):
        plan = tlt_prune.plan_pruning(model, ratio=0.5, criterion=criterion, granularity=1, min_num_filters=1)
        assert plan.kept["c"].tolist() == expected


def test_overrides_reach_lambdas_and_nested_layers() -> None:
    a = keras.Input((8, 8, 12))
    inner = keras.Model(a, keras.layers.Conv2D(10, 3, name="deep")(a), name="inner")
    x = keras.Input((8, 8, 3))
    y = keras.layers.Lambda(lambda t, factor: t * factor, arguments={"factor": 2.0}, name="double")(x)
    y = inner(keras.layers.Conv2D(12, 3, padding="same", name="outer")(y))
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.Flatten()(y)))
    overrides = {
        "double": {"arguments": {"factor": 3.0}},
        "inner/deep": {"kernel_regularizer": keras.regularizers.L1(1e-3)},
        "out*": {"trainable": False},
    }
    pruned = tlt_prune.prune_model(model, ratio=0.5, min_num_filters=1, granularity=1, layer_config_overrides=overrides)
    assert pruned.get_layer("double").arguments == {"factor": 3.0}
    assert isinstance(pruned.get_layer("inner").get_layer("deep").kernel_regularizer, keras.regularizers.L1)
    for wrong, message in (
        ({"double": {"units": 3}}, "'double' of type Lambda has no configuration entry 'units'"),
        ({"inner/dep": {}}, r"no layer matches 'inner/dep'\. Did you mean 'inner/deep'"),
    ):
        with pytest.raises(PlanError, match=message):
            tlt_prune.prune_model(model, ratio=0.5, min_num_filters=1, granularity=1, layer_config_overrides=wrong)


def weak(scores: list[float]) -> keras.Model:
    """A convolution whose filters have these norms, in front of a head."""
    x = keras.Input((4, 4, 1))
    y = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(len(scores), 1, use_bias=False, name="c")(x))
    model = keras.Model(x, keras.layers.Dense(2, name="head")(y))
    model.get_layer("c").set_weights([np.array(scores, np.float32).reshape(1, 1, 1, -1)])
    return model


@pytest.mark.parametrize(
    ("scores", "options", "advice"),
    [
        # Evenly strong filters: nobody trained this with weight decay.
        (np.linspace(0.7, 1.0, 64), {"threshold": 0.3}, "No channel is weak beside its layer's strongest"),
        (np.linspace(0.0, 1.0, 64), {"threshold": 0.0}, "raise the threshold"),
        (np.linspace(0.0, 1.0, 64), {"threshold": 0.3, "granularity": 64}, "granularity=64 and min_num_filters=16 keep them"),
        (np.linspace(0.0, 1.0, 64), {"ratio": 0.01}, "raise the ratio"),
        (np.linspace(0.0, 1.0, 64), {"ratio": 0.5, "excluded_layers": "c"}, "Every layer is frozen.*excluded layer 'c'"),
    ],
)
def test_a_prune_that_removes_next_to_nothing_says_why_and_what_to_do(scores: Any, options: dict[str, Any], advice: str) -> None:
    model = weak(list(scores))
    with pytest.warns(UserWarning, match=advice):
        tlt_prune.prune_model(model, **options)
    plan = tlt_prune.plan_pruning(model, **options)
    if "threshold" in options:
        # The numbers stand beside the threshold.
        assert f"{scores.min() / scores.max():.2f}" in plan.advice()
        assert f"threshold={options['threshold']}" in plan.advice()


def test_a_prune_that_removes_enough_is_silent() -> None:
    assert tlt_prune.plan_pruning(weak(list(np.linspace(0.0, 1.0, 64))), threshold=0.5).advice() == ""


def test_a_plan_that_excludes_types_can_be_saved_and_swept(model: keras.Model) -> None:
    plan = tlt_prune.plan_pruning(model, threshold=0.3, excluded_layers=[keras.layers.Dense, "a*"], min_num_filters=4)
    again = PruningPlan.from_json(plan.to_json())
    assert again.settings["excluded_layers"] == plan.settings["excluded_layers"]
    assert "fc" in again.settings["excluded_layers"]
    pd.testing.assert_frame_equal(again.sweep(model), plan.sweep(model))


def test_a_dropout_whose_noise_counts_channels_trains_after_pruning() -> None:
    x = keras.Input((6, 6, 3))
    y = keras.layers.Conv2D(12, 3, padding="same")(x)
    y = keras.layers.AlphaDropout(0.5, noise_shape=(None, 1, 1, 12), name="alpha")(
        keras.layers.Dropout(0.5, [None, 1, 1, 12], name="plain")(y)
    )
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.Flatten()(y)))
    pruned = tlt_prune.prune_model(model, ratio=0.5, granularity=1, min_num_filters=1)
    assert tuple(pruned.get_layer("plain").noise_shape) == tuple(pruned.get_layer("alpha").noise_shape) == (None, 1, 1, 6)
    pruned.compile("sgd", "mse")
    pruned.fit(np.ones((4, 6, 6, 3)), np.zeros((4, 2)), verbose=0)
    assert np.isfinite(pruned.predict(np.ones((4, 6, 6, 3)), verbose=0)).all()


def test_apply_takes_what_prune_model_takes(model: keras.Model) -> None:
    x = np.random.default_rng(0).standard_normal((32, 8, 8, 3)).astype("float32")
    making = {
        "layer_config_overrides": {"a": {"kernel_regularizer": None}},
        "compensation": ["bias", tlt_prune.LeastSquares(x)],
        "verify": True,
    }
    applied = plan_of(model).apply(model, **making)
    pruned = tlt_prune.prune_model(model, ratio=0.5, granularity=4, min_num_filters=4, **making)
    assert applied.get_layer("a").kernel_regularizer is None
    for a, b in zip(applied.get_weights(), pruned.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


class Noise(keras.layers.GaussianNoise):
    """Random in inference too."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return inputs + keras.random.normal(keras.ops.shape(inputs), seed=self.seed_generator)


def test_apply_verifies_where_asked_for(model: keras.Model) -> None:
    noisy = keras.Model(model.inputs, Noise(1.0, name="noise")(model.outputs[0]))
    plan = plan_of(noisy)
    with pytest.raises(LawError, match="random in inference"):
        plan.apply(noisy, verify=True)
    assert plan.apply(noisy).get_layer("a").filters == 8


def test_a_plan_for_other_names() -> None:
    def made() -> keras.Model:
        x = keras.Input((8,))
        return randomize(keras.Model(x, keras.layers.Dense(3)(keras.layers.Dense(16)(keras.layers.Dense(12)(x)))))

    first, second = made(), made()
    plan = tlt_prune.plan_pruning(first, ratio=0.5, granularity=1, min_num_filters=1)
    with pytest.raises(PlanError, match=r"other names .* call apply\(..., by_position=True\)"):
        plan.apply(second)
    data = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
    a, b = plan.apply(first), plan.apply(second, by_position=True)
    np.testing.assert_array_equal(a.predict_on_batch(data), b.predict_on_batch(data))
    x = keras.Input((8,))
    other = keras.Model(x, keras.layers.Dense(3)(keras.layers.Dense(12)(keras.layers.Dense(16)(x))))
    with pytest.raises(PlanError, match="does not fit"):
        plan.apply(other, by_position=True)
