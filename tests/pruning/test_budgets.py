"""Budgets: met, and as nearly as the granularity allows, whatever the model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from helpers import assert_met_to_within_one_step, randomize

import tlt_prune
from tlt_prune import models
from tlt_prune.errors import PlanError
from tlt_prune.graph.tracer import trace
from tlt_prune.pruning.cost.costs import costs

pytestmark = pytest.mark.one_backend


def chain(widths: tuple[int, ...] = (32, 64, 64)) -> keras.Model:
    x = y = keras.Input((16, 16, 3))
    for i, width in enumerate(widths):
        y = keras.layers.Conv2D(width, 3, strides=2 if i else 1, padding="same", activation="relu", name=f"c{i}")(y)
    y = keras.layers.Dense(10, name="head")(keras.layers.GlobalAveragePooling2D()(y))
    return randomize(keras.Model(x, y, name="chain"))


@pytest.mark.parametrize("resource", ["macs", "params", "size_mb"])
@pytest.mark.parametrize("ranking", ["local", "global", "isomorphic"])
@pytest.mark.parametrize("granularity", [1, 4, 8])
def test_what_is_predicted_is_what_the_model_has(resource: str, ranking: str, granularity: int) -> None:
    model = randomize(models.build("resnet20", (16, 16, 3), 10))
    said: Any = "45%" if resource == "size_mb" else 0.45
    options = {"ranking": ranking, "granularity": granularity, "min_num_filters": 4}
    assert assert_met_to_within_one_step(model, resource, said, **options)
    plan = tlt_prune.plan_pruning(model, **{resource: said}, **options)
    pruned = plan.apply(model)
    after = costs(trace(pruned))
    assert (after.total_params, after.total_macs) == (plan.params_after, plan.macs_after)
    assert plan.params_after == pruned.count_params()
    assert plan.size_mb_after == pytest.approx(sum(w.nbytes for w in pruned.get_weights()) / 1e6)


@pytest.mark.parametrize("resource", ["macs", "params", "size_mb"])
def test_absolute_amounts_and_shares_say_the_same(resource: str) -> None:
    model = chain()
    whole = costs(trace(model))
    amount = {"macs": whole.total_macs, "params": whole.total_params, "size_mb": whole.size_mb}[resource] / 2
    said: list[Any] = ["50%", amount] if resource == "size_mb" else ["50%", 0.5, amount]
    plans = [tlt_prune.plan_pruning(model, min_num_filters=8, **{resource: x}) for x in said]
    assert plans[0].removed
    for plan in plans[1:]:
        assert {k: v.tolist() for k, v in plan.kept.items()} == {k: v.tolist() for k, v in plans[0].kept.items()}


def test_local_takes_the_same_share_of_every_layer() -> None:
    plan = tlt_prune.plan_pruning(chain((64, 64, 64)), macs=0.5, granularity=4, min_num_filters=1)
    shares = [x.filters_after / x.filters_before for x in plan.layers if x.groups]
    assert max(shares) - min(shares) <= 4 / 64 + 1e-9


def test_local_takes_the_nearest_step_of_narrow_layers_too() -> None:
    """A narrow layer's one step does not wait until wide ones have lost half."""
    plan = tlt_prune.plan_pruning(chain((16, 32, 64)), macs=0.5, granularity=8, min_num_filters=8, ranking="local")
    # As many MACs as (16, 16, 32), where the first waits: 0.474 of them; a step more of the last layer would be 0.513.
    assert [x.filters_after for x in plan.layers if x.groups] == [8, 24, 48]
    assert plan.macs_after / plan.macs_before == pytest.approx(0.474, abs=1e-3)


def test_global_takes_what_scores_least_for_what_it_saves() -> None:
    model = chain((64, 64, 64))
    weak = {"c1": 0.01}

    def says(network: Any) -> Any:
        return {x.name: np.full(x.count, weak.get(x.name, 1.0)) for x in network.layers}

    plan = tlt_prune.plan_pruning(model, macs=0.6, ranking="global", criterion=says, normalizer="off", min_num_filters=8)
    frame = plan.to_frame()["filters_after"]
    assert frame["c1"] <= 32
    assert frame["c0"] >= 56


def test_global_ranking_does_not_cut_a_layer_through() -> None:
    """One layer scores next to nothing: everything of it would go. It keeps a tenth, and not less than `min_num_filters`."""
    model = chain((64, 64, 160))

    def says(network: Any) -> Any:
        return {x.name: np.full(x.count, 1e-6 if x.name == "c2" else 1.0) for x in network.layers}

    options = {"ranking": "global", "criterion": says, "normalizer": "off", "granularity": 1}
    plan = tlt_prune.plan_pruning(model, params=0.3, min_num_filters=1, **options)
    assert plan.to_frame()["filters_after"]["c2"] == 16
    assert tlt_prune.plan_pruning(model, params=0.3, min_num_filters=24, **options).to_frame()["filters_after"]["c2"] in (24, 25)
    wide = tlt_prune.plan_pruning(model, params=0.5, min_num_filters=1, max_ratio=0.5, **options)
    assert all(2 * x.filters_after >= x.filters_before for x in wide.layers)


def test_isomorphic_ranking_compares_layers_of_one_structure() -> None:
    """Of 3 x 3 and of 1 x 1 convolutions goes the same share, whatever their scores; among each, those that score least."""
    x = y = keras.Input((8, 8, 3))
    for name, size in (("wide0", 3), ("narrow0", 1), ("wide1", 3), ("narrow1", 1)):
        y = keras.layers.Conv2D(64, size, padding="same", activation="relu", name=name)(y)
    model = randomize(keras.Model(x, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(y))))
    # One of each kind scores from 0 to 1, the other from .5 to 1.5; all 3 x 3 a hundred times more.
    lowest = {"wide0": 0.0, "narrow0": 0.5, "wide1": 50.0, "narrow1": 0.0}

    def says(network: Any) -> Any:
        unit = {x.name: 100.0 if x.name.startswith("wide") else 1.0 for x in network.layers}
        return {x.name: lowest.get(x.name, 0.0) + unit[x.name] * np.linspace(0, 1, x.count) for x in network.layers}

    options = {"criterion": says, "normalizer": "off", "granularity": 1, "min_num_filters": 1, "params": 0.4}
    plan = tlt_prune.plan_pruning(model, ranking="isomorphic", **options)
    left = plan.to_frame()["filters_after"]
    wide, narrow = left["wide0"] + left["wide1"], left["narrow0"] + left["narrow1"]
    assert abs(wide - narrow) <= 4
    # The same threshold in both layers of a kind: half a unit between them.
    assert left["wide1"] - left["wide0"] == pytest.approx(32, abs=3)
    assert left["narrow0"] - left["narrow1"] == pytest.approx(32, abs=3)
    without = tlt_prune.plan_pruning(model, ranking="global", **options).to_frame()["filters_after"]
    assert abs(without["wide0"] + without["wide1"] - without["narrow0"] - without["narrow1"]) > 8


def test_layers_of_their_own_rules() -> None:
    plan = tlt_prune.plan_pruning(
        chain((64, 64, 64)),
        macs=0.5,
        granularity=8,
        min_num_filters=8,
        layer_options={"c0": {"ratio": 0.25}, "c[12]": {"max_ratio": 0.5}, "c2": {"granularity": 5, "min_num_filters": 33}},
    )
    frame = plan.to_frame()["filters_after"]
    assert frame["c0"] == 48
    assert frame["c1"] >= 32
    assert frame["c2"] >= 35
    assert frame["c2"] % 5 == 0
    assert plan.macs_after <= 0.5 * plan.macs_before
    assert tlt_prune.PruningPlan.from_json(plan.to_json()).kept["c2"].tolist() == plan.kept["c2"].tolist()
    by_ratio = tlt_prune.plan_pruning(chain((64, 64)), ratio=0.5, min_num_filters=8, layer_options={"c1": {"ratio": 0.0}})
    assert by_ratio.to_frame()["filters_after"].tolist()[:2] == [32, 64]


def open_sizes() -> keras.Model:
    x = keras.Input((None, None, 3))
    return keras.Model(x, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(32, 3)(x))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"macs": 0.5, "params": 0.5}, r"Expected one of threshold, ratio, .*Received: params=0.5, macs=0.5"),
        ({"macs": 0.5, "ratio": 0.5}, r"Received: ratio=0.5, macs=0.5"),
        ({"macs": 0}, "above 0"),
        ({"macs": -1.0}, "above 0"),
        ({"macs": "half"}, 'like "50%"'),
        ({"macs": "0%"}, 'like "50%"'),
        ({"macs": "150%"}, 'like "50%"'),
        ({"macs": float("nan")}, "above 0"),
        ({"macs": 0.001}, r"macs=0.001 .* cannot be met: with granularity=8, min_num_filters=16 this model keeps at least .*%"),
        ({"params": 10.0}, r"params=10.0 cannot be met.*parameters"),
        ({"size_mb": 0.001}, r"size_mb=0.001 cannot be met.* MB"),
        ({"ratio": 0.5, "ranking": "global"}, "needs a budget for the whole network"),
        ({"ratio": 0.5, "ranking": "isomorphic"}, "anking='isomorphic' needs a budget for the whole network"),
        ({"macs": 0.5, "max_ratio": 1.0}, "'max_ratio': expected a number of at least 0 and below 1"),
        ({"macs": 0.5, "layer_options": {"x9": {"ratio": 0.5}}}, "no layer with filters matches 'x9'"),
        ({"macs": 0.5, "layer_options": {"c0": {"rate": 0.5}}}, "unknown key.*rate"),
    ],
)
def test_bad_budgets_are_one_clear_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        tlt_prune.plan_pruning(chain(), **options)


def test_macs_that_cannot_be_counted() -> None:
    with pytest.raises(PlanError, match="cannot be counted, because a size of its inputs is open"):
        tlt_prune.plan_pruning(open_sizes(), macs=0.5)
    assert tlt_prune.plan_pruning(open_sizes(), params=0.6).removed


def test_a_budget_of_everything_removes_nothing_and_says_so() -> None:
    plan = tlt_prune.plan_pruning(chain(), macs=1.0)
    assert not plan.removed
    assert "macs=1.0" in plan.advice()
