"""Whole residual blocks: found, measured and removed; what is left equals the original with their branches set to zero."""

from __future__ import annotations

from typing import Any

import gallery
import keras
import numpy as np
import pytest
from helpers import randomize
from residual import residual_model

import tlt_prune
from tlt_prune import models
from tlt_prune.errors import LawError, PlanError
from tlt_prune.graph import read, residual_blocks
from tlt_prune.pruning import pipeline


@pytest.fixture
def model() -> keras.Model:
    return residual_model()


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
    with pytest.raises(PlanError, match="expected the names of blocks"):
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
