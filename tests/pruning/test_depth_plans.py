"""Plans that take whole residual blocks: by name, by number, or as a budget makes it worthwhile; and channels of what is left."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Collection
from typing import Any

import keras
import numpy as np
import pytest
from helpers import pretended_milliseconds
from residual import residual_model

import tlt_prune
from tlt_prune import criteria
from tlt_prune.errors import PlanError
from tlt_prune.graph import trace
from tlt_prune.pruning.cost import latency
from tlt_prune.pruning.criteria.network import Network
from tlt_prune.pruning.select.blocks import leaving_out


@pytest.fixture
def model() -> keras.Model:
    return residual_model()


SMALL = {"granularity": 1, "min_num_filters": 1}


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ({"blocks": ["a"], "macs": 0.5}, ("a",)),
        ({"blocks": "[ab]", "ratio": 0.5}, ("a", "b")),
        ({"blocks": ["wider", "c"], "params": 0.3}, ("wider", "c")),
        ({"blocks": 2, "macs": 0.5}, None),
    ],
)
def test_a_plan_takes_blocks_and_channels(model: keras.Model, options: dict[str, Any], gone: tuple[str, ...] | None) -> None:
    plan = tlt_prune.plan_pruning(model, **options, **SMALL)
    left_out = plan.settings["blocks"]
    assert left_out == gone or (gone is None and len(left_out) == 2)
    # Shares are of the whole model; what goes with a block is shown, and says so.
    assert plan.params_before == model.count_params()
    if "macs" in options:
        assert 0.4 * plan.macs_before < plan.macs_after <= 0.5 * plan.macs_before
    rows = plan.to_frame()
    assert list(rows.index) == [x.name for x in model.layers if x.name in rows.index]
    without = {f"{name}_1" for name in left_out if name in "abc"}
    for _, row in rows.iterrows():
        assert (row["filters_after"] == 0) == row["note"].startswith("goes with the block ")
    assert without <= {str(name) for name, row in rows.iterrows() if row["filters_after"] == 0}
    assert rows["params_before"].sum() <= model.count_params()
    pruned = tlt_prune.prune_model(model, **options, **SMALL, verify=True)
    assert pruned.count_params() == plan.params_after
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    for other in (plan, tlt_prune.PruningPlan.from_json(plan.to_json())):
        np.testing.assert_array_equal(other.apply(model, verify=True)(x), pruned(x))
    # What stays of a layer that goes with a block is nothing; of others, what their layer in the pruned model has.
    left = {x.name for x in pruned.layers}
    assert {name for name, kept in plan.kept.items() if not len(kept)} == set(plan.kept) - left
    assert all(len(plan.kept[x.name]) == x.filters for x in pruned.layers if isinstance(x, keras.layers.Conv2D))


def test_the_blocks_that_score_least_go(model: keras.Model) -> None:
    """The mean of the scores of a block's own channels."""
    for name, factor in (("a", 3.0), ("b", 0.5), ("wider", 4.0), ("c", 2.0)):
        layer = model.get_layer({"wider": "longer"}.get(name, f"{name}_1"))
        layer.set_weights([layer.get_weights()[0] * 0 + factor, layer.get_weights()[1]])

    for count, expected in ((1, ("b",)), (2, ("b", "c")), (3, ("a", "b", "c"))):
        plan = tlt_prune.plan_pruning(model, ratio=0.0, blocks=count, normalizer="off", **SMALL)
        assert tuple(sorted(plan.settings["blocks"])) == expected
    with pytest.raises(PlanError, match="blocks=5: expected at most 4, the residual blocks of 'net' with channels of their own"):
        tlt_prune.plan_pruning(model, ratio=0.0, blocks=5, **SMALL)


def compared(scores: dict[str, float]) -> Callable[..., dict[str, np.ndarray]]:
    """A criterion whose scores compare between layers: those of some, 1 for the channels of all others."""

    def criterion(network: Any) -> dict[str, np.ndarray]:
        return {x.name: np.full(x.count, scores.get(x.name, 1.0)) for x in network.layers}

    criterion.comparable = True  # type: ignore[attr-defined]
    return criterion


@pytest.mark.parametrize(
    ("scores", "macs", "gone"),
    [
        # All alike: of a block all channels would have to go, elsewhere a few save as much.
        ({}, 0.8, ()),
        # What of its channels may go is not enough.
        ({"b_1": 0.01}, 0.6, ("b",)),
        ({"b_1": 0.01, "a_1": 0.02, "c_1": 0.03}, 0.4, ("a", "b")),
        # Channels alone cannot do it, with what must stay of each layer.
        ({}, 0.1, ("a", "b", "c")),
    ],
)
def test_a_budget_takes_blocks(model: keras.Model, scores: dict[str, float], macs: float, gone: tuple[str, ...]) -> None:
    options = {"macs": macs, "criterion": compared(scores), "granularity": 1, "min_num_filters": 2, "max_ratio": 0.5}
    # One layer of each group.
    sizes = {"stem": 8, "short": 12, "a_1": 8, "b_1": 8, "longer": 6, "c_1": 12}

    def lost(blocks: Collection[str]) -> float:
        try:
            plan = tlt_prune.plan_pruning(model, blocks=sorted(blocks), **options)
        except PlanError:
            return np.inf
        return sum((size - len(plan.kept[name])) * scores.get(name, 1.0) for name, size in sizes.items())

    plan = tlt_prune.plan_pruning(model, blocks="auto", **options)
    assert tuple(sorted(plan.settings.get("blocks", ()))) == gone
    assert plan.macs_after <= macs * plan.macs_before
    # One block more or one less, and more is lost.
    others = [set(gone) ^ {x} for x in ("a", "b", "wider", "c")]
    assert min(map(lost, others)) > lost(gone)


def test_what_is_lost_without_blocks_is_measured(model: keras.Model) -> None:
    """By criteria of the loss or a metric, a block is worth what is lost without it: what `block_sensitivity` measures, too."""
    rng = np.random.default_rng(0)
    # Labels that the model is about right on: any block is missed.
    x = rng.normal(size=(20, 8, 8, 3)).astype(np.float32)
    data = x, keras.ops.convert_to_numpy(model(x)) + 0.01 * rng.normal(size=(20, 3)).astype(np.float32)
    alone = tlt_prune.block_sensitivity(model, data, metric="mean_squared_error", batch_size=16)
    without = keras.ops.convert_to_numpy(tlt_prune.remove_blocks(model, ["a", "c"])(x))
    together = float(np.mean(np.square(without - data[1])))
    taylor, *others = (
        c(data, "mean_squared_error", batch_size=16) for c in (criteria.Taylor, criteria.Fisher, criteria.Ablation)
    )
    for criterion in (taylor, *others):
        lost = criterion.lost_without_blocks(Network(trace(model)), [*([x] for x in alone.frame.index), ["a", "c"], []])
        np.testing.assert_allclose(lost[:5], alone.whole - alone.frame["metric"], rtol=1e-3)
        assert lost[5] == pytest.approx(together + alone.whole, rel=1e-3)
        assert lost[6] == 0
    plan = tlt_prune.plan_pruning(model, ratio=0.0, blocks=2, criterion=taylor, **SMALL)
    assert sorted(plan.settings["blocks"]) == sorted(alone.weakest(2))


@pytest.mark.one_backend
def test_the_loss_without_blocks_in_tf_keras() -> None:
    import tf_keras

    x = tf_keras.Input((6,))
    y = tf_keras.layers.Dense(8, activation="relu")(x)
    for i, scale in enumerate((1.0, 0.01)):
        z = tf_keras.layers.Dense(8, activation="relu", kernel_initializer=tf_keras.initializers.RandomNormal(stddev=scale))(y)
        y = tf_keras.layers.Add(name=f"block_{i}")([y, tf_keras.layers.Dense(8)(z)])
    model = tf_keras.Model(x, tf_keras.layers.Dense(2)(y))
    inputs = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    taylor = criteria.Taylor((inputs, model(inputs).numpy() + 0.1), "mean_squared_error")
    plan = tlt_prune.plan_pruning(model, params=0.9, blocks=1, criterion=taylor, **SMALL)
    assert plan.settings["blocks"] == ("block_1",)
    plan.apply(model, verify=True)
    # Without it next to nothing is lost, and no channel has to go.
    auto = tlt_prune.plan_pruning(model, params=0.7, blocks="auto", criterion=taylor, **SMALL)
    assert auto.settings["blocks"] == ("block_1",)


def test_a_budget_of_latency_takes_blocks(model: keras.Model, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a layer costs a call, however narrow, blocks go that a budget of MACs would leave."""

    def milliseconds(layer: Any) -> float:
        # What a call costs without a layer is taken off those of layers.
        return 1.0 * (layer is not None) + 1e-3 * pretended_milliseconds(layer)

    monkeypatch.setattr(latency, "_milliseconds", milliseconds)
    latency._table_of_this_machine.cache_clear()
    options = {"criterion": compared({"a_1": 0.8, "b_1": 0.7}), "blocks": "auto", "granularity": 1, "min_num_filters": 2}
    assert "blocks" not in tlt_prune.plan_pruning(model, macs=0.7, **options).settings
    path = tmp_path / "table.json"
    plan = tlt_prune.plan_pruning(model, latency_ms="70%", latency_table=str(path), **options)
    assert plan.settings["blocks"] == ("b", "wider")
    # Twelve layers, of which four go.
    assert plan.latency_ms_before == pytest.approx(12, rel=0.01)
    assert plan.latency_ms_after == pytest.approx(8, rel=0.01)
    # What the whole model was measured to take is that of what is left, too.
    table = latency.table_at(str(path))
    assert isinstance(table, latency.LatencyTable)
    channels = leaving_out(trace(model), (), ["b", "wider"], inline=False)
    table.calibrate(channels, 33.0, 1)
    again = tlt_prune.plan_pruning(model, latency_ms="70%", latency_table=str(path), **options)
    assert again.latency_ms_before == pytest.approx(33)
    assert again.latency_ms_after == pytest.approx(33 * plan.latency_ms_after / plan.latency_ms_before)


def test_what_a_budget_with_blocks_needs(model: keras.Model) -> None:
    with pytest.raises(PlanError, match=r"Blocks='auto' needs a budget for the whole network.*Received: ratio=0.5"):
        tlt_prune.plan_pruning(model, ratio=0.5, blocks="auto")
    with pytest.raises(PlanError, match=r"blocks='auto': expected a criterion whose scores compare between layers.*L2's do not"):
        tlt_prune.plan_pruning(model, macs=0.5, blocks=["auto"])
    with pytest.raises(PlanError, match=r"macs=0.0001 .* cannot be met: .* this model keeps at least"):
        tlt_prune.plan_pruning(model, macs=1e-4, blocks="auto", criterion="LAMP")


def test_mistakes_about_blocks_of_a_plan(model: keras.Model) -> None:
    with pytest.raises(PlanError, match="has no residual block 'nothing'"):
        tlt_prune.plan_pruning(model, ratio=0.5, blocks=["nothing"])
    with pytest.raises(PlanError, match="blocks"):
        tlt_prune.plan_pruning(model, ratio=0.5, blocks=-1)
    without = tlt_prune.plan_pruning(model, ratio=0.5, blocks=0, **SMALL)
    assert {k: v.tolist() for k, v in without.kept.items()} == {
        k: v.tolist() for k, v in tlt_prune.plan_pruning(model, ratio=0.5, **SMALL).kept.items()
    }
    with pytest.raises(PlanError, match="iterative_prune: expected no blocks"):
        tlt_prune.iterative_prune(model, lambda pruned, step: None, ratio=0.5, blocks=["a"])
    plan = tlt_prune.plan_pruning(model, ratio=0.5, blocks=["a"], **SMALL)
    with pytest.raises(PlanError, match="a plan that takes residual blocks out needs their names"):
        plan.apply(model, by_position=True)
