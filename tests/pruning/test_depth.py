"""Whole residual blocks: found, measured and removed; what is left equals the original with their branches set to zero."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Collection
from typing import Any

import gallery
import keras
import numpy as np
import pytest
from helpers import pretended_milliseconds, randomize

import tlt_prune
from tlt_prune import criteria, models
from tlt_prune.errors import LawError, PlanError
from tlt_prune.graph import read, residual_blocks, trace
from tlt_prune.pruning import pipeline
from tlt_prune.pruning.cost import latency
from tlt_prune.pruning.criteria.network import Network
from tlt_prune.pruning.select.blocks import leaving_out


def block(y: Any, name: str, width: int = 8) -> Any:
    z = keras.layers.Conv2D(width, 3, padding="same", name=f"{name}_1", activation="relu")(y)
    z = keras.layers.Conv2D(width, 3, padding="same", name=f"{name}_2")(z)
    z = keras.layers.BatchNormalization(name=f"{name}_bn")(z)
    return keras.layers.Add(name=name)([y, z])


@pytest.fixture
def model() -> keras.Model:
    """Two blocks, one that changes the width, and two more, the last an addition by an operator."""
    x = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(8, 3, padding="same", name="stem")(x)
    y = block(block(y, "a"), "b")
    short = keras.layers.Conv2D(12, 1, strides=2, name="short")(y)
    long = keras.layers.Conv2D(6, 3, strides=2, padding="same", name="longer")(y)
    long = keras.layers.Conv2D(12, 3, padding="same", name="long")(long)
    y = keras.layers.Add(name="wider")([short, long])
    y = block(y, "c", 12)
    y = y + keras.layers.Conv2D(12, 3, padding="same", name="d")(y)
    y = keras.layers.Dense(3, name="head")(keras.layers.GlobalAveragePooling2D()(y))
    return randomize(keras.Model(x, y, name="net"))


def names(model: Any) -> list[str]:
    return [x.name for x in residual_blocks(read(model))]


def test_blocks_are_found(model: keras.Model) -> None:
    a, b, wider, c, d = residual_blocks(read(model))
    assert [x.name for x in (a, b, wider, c)] == ["a", "b", "wider", "c"]
    assert d.name.startswith("add")
    assert sorted(x.op.name for x in a.branch) == ["a_1", "a_2", "a_bn"]
    # The shortcut has a layer of its own, which is what is left.
    assert [x.op.name for x in wider.branch] == ["long", "longer"]


@pytest.mark.parametrize("gone", [["a"], ["a", "b"], ["c"], ["a", "c"], ["wider"], ["[abc]"], ["add*"]])
def test_what_is_left(model: keras.Model, gone: list[str]) -> None:
    before = model.get_weights()
    smaller = tlt_prune.remove_blocks(model, gone, verify=True)
    # By hand: what a branch ends with makes zeros.
    zeroed = keras.models.clone_model(model)
    zeroed.set_weights(before)
    kept = names(smaller)
    for name in set(names(model)) - set(kept):
        last = zeroed.get_layer({"wider": "long"}.get(name, "d" if name.startswith("add") else f"{name}_bn"))
        last.set_weights([w * 0 if i < 2 else w for i, w in enumerate(last.get_weights())])
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(smaller(x), zeroed(x), rtol=1e-4, atol=1e-5)
    assert len(kept) == len(names(model)) - {"[abc]": 3}.get(gone[0], len(gone))
    assert smaller.count_params() < model.count_params()
    assert {x.name for x in smaller.layers} < {x.name for x in model.layers}
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_then_in_width(model: keras.Model) -> None:
    model.compile("sgd", "mse")
    smaller = tlt_prune.remove_blocks(model, ["a", "c"])
    assert smaller.compiled
    assert type(smaller) is type(model)
    pruned = tlt_prune.prune_model(smaller, ratio=0.5, granularity=1, min_num_filters=1, verify=True)
    assert pruned.get_layer("b_1").filters == 4


def test_the_metric_without_each(model: keras.Model) -> None:
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(20, 8, 8, 3)).astype(np.float32), rng.normal(size=(20, 3)).astype(np.float32)
    found = tlt_prune.block_sensitivity(model, (x, t), metric="mean_squared_error", batch_size=8)
    assert list(found.frame.index) == names(model)
    assert found.whole == pytest.approx(-float(np.mean((model.predict(x, verbose=0) - t) ** 2)), rel=1e-4)
    for name, row in found.frame.iterrows():
        smaller = tlt_prune.remove_blocks(model, str(name))
        expected = -float(np.mean((smaller.predict(x, verbose=0) - t) ** 2))
        assert row["metric"] == pytest.approx(expected, rel=1e-4)
        assert row["params"] == pytest.approx(1 - smaller.count_params() / model.count_params())
        assert 0 < row["macs"] < 1
    assert found.frame["layers"].tolist() == [3, 3, 2, 3, 1]
    best = found.frame["metric"].sort_values(ascending=False).index
    assert found.weakest(2) == list(best[:2])
    with pytest.raises(PlanError, match=r"expected 1 to 5 blocks\. Received: 6"):
        found.weakest(6)
    assert "BlockSensitivity of 5 blocks: -mean_squared_error" in repr(found)
    lost, gone = found.plot().axes
    assert [t.get_text() for t in lost.get_yticklabels()] == names(model)
    np.testing.assert_allclose([bar.get_width() for bar in lost.patches], found.whole - found.frame["metric"])
    np.testing.assert_allclose([bar.get_width() for bar in gone.patches], 100 * found.frame["macs"])


def test_mistakes(model: keras.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    said = r"'net' has no residual block 'widest'.*Did you mean 'wider'\?.*It has a, b, wider, c, add"
    with pytest.raises(PlanError, match=said):
        tlt_prune.remove_blocks(model, "widest")
    with pytest.raises(PlanError, match="expected the name of at least one block"):
        tlt_prune.remove_blocks(model, [])
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(PlanError, match="has no residual block"):
        tlt_prune.block_sensitivity(plain, (np.zeros((2, 4)), np.zeros(2)))
    # A check that cannot fail would be none.
    monkeypatch.setattr(pipeline, "zeroed_outputs", lambda whole, names, inputs: [model.predict(inputs, verbose=0)])
    with pytest.raises(LawError, match="with only a removed, 'net' no longer computes what it does with those branches set to"):
        tlt_prune.remove_blocks(model, "a", verify=True)


def test_a_branch_that_something_else_reads_stays() -> None:
    x = keras.Input((8, 8, 8))
    z = keras.layers.Conv2D(8, 3, padding="same")(x)
    y = keras.layers.Add()([x, z])
    assert names(keras.Model(x, [y, z])) == []
    assert names(keras.Model(x, y)) != []


def test_an_addition_of_what_comes_from_two_places_is_no_block() -> None:
    """As in a decoder, which adds what comes from below to what comes from the side."""
    x, below = keras.Input((8, 8, 8)), keras.Input((8, 8, 8))
    deep = keras.layers.Conv2D(8, 3, padding="same")(keras.layers.Conv2D(8, 3, padding="same")(below))
    side = keras.layers.Conv2D(8, 1)(x)
    assert names(keras.Model([x, below], keras.layers.Add()([deep, side]))) == []
    # Nor is one of two sides that have as many layers.
    left, right = (keras.layers.Conv2D(8, 3, padding="same")(x) for _ in range(2))
    assert names(keras.Model(x, keras.layers.Add()([left, right]))) == []


def test_blocks_inside_blocks_and_inside_models() -> None:
    x = keras.Input((8, 8, 4))
    inner = keras.layers.Conv2D(4, 3, padding="same", name="i1")(x)
    inner = keras.layers.Add(name="inner")([inner, keras.layers.Conv2D(4, 1, name="i2")(inner)])
    nested = keras.Model(x, keras.layers.Add(name="outer")([x, inner]), name="nested")
    y = keras.Input((8, 8, 4))
    model = randomize(keras.Model(y, keras.layers.ReLU()(nested(nested(y)))))
    assert sorted(names(model)) == ["nested/inner", "nested/outer"]
    for gone in ("nested/inner", "nested/outer", "*"):
        smaller = tlt_prune.remove_blocks(model, gone, verify=True)
        assert smaller.get_layer("nested").count_params() < nested.count_params()
    assert smaller.count_params() == 0


def test_a_path_means_one_block() -> None:
    """As `block_sensitivity` lists them: what it measures is what goes."""
    x = keras.Input((8, 8, 4))
    nested = keras.Model(x, keras.layers.Add(name="sum")([x, keras.layers.Conv2D(4, 1, name="inside")(x)]), name="nested")
    y = keras.Input((8, 8, 4))
    z = nested(y)
    model = randomize(keras.Model(y, keras.layers.Add(name="sum")([z, keras.layers.Conv2D(4, 3, padding="same", name="out")(z)])))
    assert sorted(names(model)) == ["nested/sum", "sum"]
    data = (np.zeros((2, 8, 8, 4), np.float32), np.zeros((2, 8, 8, 4), np.float32))
    found = tlt_prune.block_sensitivity(model, data, metric="mean_squared_error")
    assert found.frame["params"].to_dict() == pytest.approx({"sum": 148 / 168, "nested/sum": 20 / 168})
    assert names(tlt_prune.remove_blocks(model, "sum", verify=True)) == ["nested/sum"]
    assert names(tlt_prune.remove_blocks(model, "nested/sum", verify=True)) == ["sum"]
    assert names(tlt_prune.remove_blocks(model, "*sum", verify=True)) == []


FOUND = {"resnet18": 8, "mobilenet_v2": 10, "efficientnet_b0": 9, "darknet53": 23}


@pytest.mark.one_backend
@pytest.mark.parametrize("name", FOUND)
def test_of_the_toolkits_models(name: str) -> None:
    model = randomize(models.classifier(name, (64, 64, 3), 4, width=0.25))
    every = names(model)
    assert len(every) == FOUND[name]
    tlt_prune.remove_blocks(model, every[::2], verify=True)


@pytest.mark.one_backend
def test_of_tf_keras() -> None:
    tf_keras = pytest.importorskip("tf_keras")
    x = tf_keras.Input((8, 8, 4))
    y = tf_keras.layers.Add(name="one")([x, tf_keras.layers.Conv2D(4, 3, padding="same")(x)])
    y = y + tf_keras.layers.Conv2D(4, 1, name="two")(y)
    model = randomize(tf_keras.Model(x, tf_keras.layers.ReLU()(y)))
    first, second = names(model)
    assert first == "one"
    for gone in (first, second, [first, second]):
        smaller = tlt_prune.remove_blocks(model, gone, verify=True)
        assert smaller.count_params() < model.count_params()


GALLERY = ("grouped_query_attention", "residual", "added_to_the_input", "vision_transformer_block", "nested_model")


@pytest.mark.one_backend
@pytest.mark.parametrize("name", GALLERY)
def test_of_the_gallery(name: str) -> None:
    model = randomize({**gallery.EXACT, **gallery.APPROXIMATE}[name](keras))
    every = names(model)
    assert every
    smaller = tlt_prune.remove_blocks(model, every, verify=True)
    tlt_prune.prune_model(smaller, ratio=0.5, granularity=1, min_num_filters=1, verify=True)


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


@pytest.mark.parametrize("nested", [False, True])
def test_what_blocks_add_is_given_back(nested: bool) -> None:
    """Two branches that are linear in what they are given, with a constant: what reads the sums, and what adds to them later,
    is fitted to the whole model."""
    image = keras.Input((6, 6, 3))
    x = keras.Input((6, 6, 8)) if nested else keras.layers.Conv2D(8, 3, name="stem")(keras.layers.ZeroPadding2D(1)(image))
    y = keras.layers.Add(name="a")([x, keras.layers.Conv2D(8, 1, name="a_1")(x)])
    y = keras.layers.Add(name="b")([y, keras.layers.Conv2D(8, 1, name="b_1")(y)])
    y = keras.layers.Add(name="c")([y, keras.layers.Conv2D(8, 1, name="c_1")(y)])
    y = keras.layers.Conv2D(4, 1, name="head")(y)
    if nested:
        y = keras.Model(x, y, name="inside")(keras.layers.Conv2D(8, 3, padding="same", name="stem")(image))
    model = randomize(keras.Model(image, y, name="outside"))
    data = np.random.default_rng(0).normal(size=(50, 6, 6, 3)).astype(np.float32)
    blocks = ["inside/a", "inside/b"] if nested else ["a", "b"]
    expected = model.predict(data, verbose=0)

    def error(fit: Any) -> float:
        pruned = tlt_prune.remove_blocks(model, blocks, compensation=fit)
        return float(np.abs(pruned.predict(data, verbose=0) - expected).max() / np.abs(expected).max())

    assert error(None) > 0.1
    assert error(tlt_prune.LeastSquares(data, ridge=1e-9)) < 1e-3


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
