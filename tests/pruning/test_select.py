"""The selection rule, step by step, against hand-computed numbers."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tlt_prune
from tlt_prune.errors import PlanError
from tlt_prune.pruning.select.select import equalize, normalize

pytestmark = pytest.mark.one_backend


def one_conv(norms: list[float]) -> keras.Model:
    """A convolution whose filters have exactly these norms, and a head."""
    x = keras.Input((4, 4, 1))
    y = keras.layers.Conv2D(len(norms), 1, name="c")(x)
    y = keras.layers.GlobalAveragePooling2D()(y)
    model = keras.Model(x, keras.layers.Dense(2, name="head")(y))
    model.get_layer("c").set_weights([np.array(norms, np.float32).reshape(1, 1, 1, -1), np.zeros(len(norms))])
    return model


def kept(model: keras.Model, layer: str = "c", **options: object) -> list[int]:
    options = {"granularity": 1, "min_num_filters": 1, **options}
    return tlt_prune.plan_pruning(model, **options).kept[layer].tolist()


def test_threshold_is_strict() -> None:
    assert kept(one_conv([1, 0.5, 0.5, 0.25]), threshold=0.5) == [0]
    assert kept(one_conv([1, 0.5, 0.5, 0.25]), threshold=0.49) == [0, 1, 2]


@pytest.mark.parametrize(
    ("filters", "above", "minimum", "granularity", "expected"),
    [
        (32, 5, 1, 8, 8),
        (32, 9, 1, 8, 16),
        (32, 5, 16, 8, 16),
        (20, 17, 1, 8, 20),
        (12, 3, 16, 8, 12),
        (32, 0, 1, 1, 1),
        (32, 9, 12, 4, 12),
    ],
)
def test_count_is_raised_rounded_up_and_capped(filters: int, above: int, minimum: int, granularity: int, expected: int) -> None:
    # Filter j has norm (j + 1) / n: exactly `above` of them lie above the threshold.
    norms = [(j + 1) / filters for j in range(filters)]
    threshold = 1 - (above - 0.5) / filters if above else 1.0
    result = kept(one_conv(norms), threshold=threshold, min_num_filters=minimum, granularity=granularity)
    assert result == list(range(filters - expected, filters))


def test_l2_normalizer_divides_by_the_norm_of_norms_times_their_number() -> None:
    np.testing.assert_allclose(normalize(np.array([3.0, 4.0]), "L2"), [1.2, 1.6])
    np.testing.assert_allclose(normalize(np.array([3.0, 4.0]), "max"), [0.75, 1.0])
    np.testing.assert_allclose(normalize(np.array([3.0, 4.0]), "off"), [3.0, 4.0])


def test_an_all_zero_kernel_is_no_accident() -> None:
    assert kept(one_conv([0.0] * 8), threshold=0.5, min_num_filters=4) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [("union", [0.9, 0.8]), ("intersection", [0.1, 0.2]), ("arithmetic_mean", [0.5, 0.5]), ("geometric_mean", [0.3, 0.4])],
)
def test_equalization(criterion: str, expected: list[float]) -> None:
    votes, targets = np.array([0.9, 0.2, 0.1, 0.8]), np.array([0, 1, 0, 1])
    np.testing.assert_allclose(equalize(votes, targets, 2, criterion), expected)


def test_ties_keep_the_lower_index() -> None:
    assert kept(one_conv([1.0] * 8), threshold=1.0, min_num_filters=4) == [0, 1, 2, 3]


def test_ratio_removes_a_share() -> None:
    assert len(kept(one_conv([float(i + 1) for i in range(40)]), ratio=0.25)) == 30


def test_nan_weights_are_an_error_that_names_the_layer() -> None:
    with pytest.raises(PlanError, match="Layer 'c' has weights that are not finite: 1 of 3 in 'kernel'"):
        kept(one_conv([1.0, float("nan"), 2.0]), threshold=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "threshold="),
        ({"threshold": 0.5, "ratio": 0.5}, "Expected one of"),
        ({"ratio": 1.0}, "'ratio': expected a number of at least 0 and below 1.* Received: 1.0"),
        ({"threshold": 1.5}, "at most 1"),
        ({"threshold": -0.1}, "'threshold' must be greater than or equal to 0"),
        ({"threshold": True}, "'threshold' must be a number. Received: True"),
        ({"threshold": float("nan")}, "'threshold' must be a finite number"),
        ({"treshold": 0.5}, "unknown key 'treshold'. Did you mean 'threshold'"),
        ({"threshold": 0.5, "granularity": 0}, "granularity"),
        ({"threshold": 0.5, "min_num_filters": 0}, "min_num_filters"),
        ({"threshold": 0.5, "normalizer": "foo"}, "'max', 'L2' or 'off'"),
        ({"threshold": 0.5, "equalization_criterion": "foo"}, "union"),
        ({"threshold": 0.5, "criterion": "foo"}, "L2"),
        ({"threshold": 0.5, "excluded_layers": ["hed"]}, "Did you mean 'head'"),
    ],
)
def test_bad_arguments_say_what_was_expected(options: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        tlt_prune.plan_pruning(one_conv([1.0, 2.0]), **options)


@pytest.mark.parametrize("excluded", ["c", "c*", keras.layers.Conv2D])
def test_excluded_layers_keep_everything(excluded: object) -> None:
    model = one_conv([1.0, 0.1, 0.1, 0.1])
    plan = tlt_prune.plan_pruning(model, threshold=0.5, granularity=1, min_num_filters=1, excluded_layers=[excluded])
    assert plan.kept["c"].tolist() == [0, 1, 2, 3]
    assert "excluded layer 'c'" in plan.to_frame().loc["c", "note"]


def conv_bn_dw_on_concat(widths: tuple[int, int]) -> keras.Model:
    x = keras.Input((6, 6, 3))
    branches = [keras.layers.Conv2D(w, 3, name=f"b{i}", padding="same")(x) for i, w in enumerate(widths)]
    y = keras.layers.BatchNormalization()(keras.layers.Concatenate()(branches))
    y = keras.layers.DepthwiseConv2D(3, name="dw")(y)
    return keras.Model(x, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(y)))


@pytest.mark.parametrize("widths", [(12, 20), (16, 16), (20, 20), (4, 60)])
def test_granularity_holds_where_one_layer_feeds_several_groups(widths: tuple[int, int]) -> None:
    plan = tlt_prune.plan_pruning(conv_bn_dw_on_concat(widths), ratio=0.4, granularity=8, min_num_filters=1)
    for layer in plan.layers:
        if layer.filters_before % 8 == 0:
            assert layer.filters_after % 8 == 0, layer
    assert len(plan.kept["dw"]) == len(plan.kept["b0"]) + len(plan.kept["b1"])


def test_granularity_holds_on_an_add_of_two_concats() -> None:
    x = keras.Input((6, 6, 3))
    conv = {name: keras.layers.Conv2D(w, 1, name=name)(x) for name, w in {"a": 12, "b": 20, "c": 16, "d": 16}.items()}
    y = keras.layers.Add()(
        [keras.layers.Concatenate()([conv["a"], conv["b"]]), keras.layers.Concatenate()([conv["c"], conv["d"]])]
    )
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(y)))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=8, min_num_filters=1)
    assert plan.removed
    assert {name: len(plan.kept[name]) % 8 for name in "cd"} == {"c": 0, "d": 0}


def test_auto_granularity_follows_the_dtype_policy() -> None:
    for policy, multiple in (("float32", 4), ("mixed_float16", 8), ("mixed_bfloat16", 8)):
        x = keras.Input((4, 4, 3))
        y = keras.layers.Conv2D(64, 3, name="c", dtype=policy)(x)
        model = keras.Model(x, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(y)))
        plan = tlt_prune.plan_pruning(model, ratio=0.47, granularity="auto", min_num_filters=1)
        assert plan.settings["granularity"] == multiple
        assert len(plan.kept["c"]) == -(-34 // multiple) * multiple
