"""The check itself: it must fail where the law is broken."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from helpers import randomize

import tlt_prune
from tlt_prune.errors import LawError
from tlt_prune.graph.tracer import trace
from tlt_prune.pruning.cost.costs import costs
from tlt_prune.pruning.rewrite.law import check_law, random_inputs, relative_error


@pytest.fixture
def pruned() -> tuple[Any, Any, keras.Model]:
    x = keras.Input((8, 8, 3))
    y = keras.layers.ReLU()(keras.layers.BatchNormalization(name="bn")(keras.layers.Conv2D(16, 3, name="a")(x)))
    y = keras.layers.Conv2D(8, 3, name="b")(y)
    model = randomize(keras.Model(x, keras.layers.Dense(3, name="head")(keras.layers.Flatten()(y))))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=4, min_num_filters=4)
    channels = trace(model)
    return channels, plan.alive(channels), plan.apply(model)


def test_a_right_model_passes(pruned: tuple[Any, Any, keras.Model]) -> None:
    assert check_law(*pruned, tolerance=1e-5).relative_error < 1e-5


@pytest.mark.parametrize("layer", ["a", "bn", "b", "head"])
def test_a_mistake_in_any_layer_is_found(pruned: tuple[Any, Any, keras.Model], layer: str) -> None:
    weights = pruned[2].get_layer(layer).get_weights()
    # Two channels swapped: what a wrong index map does.
    weights[0] = np.take(weights[0], [1, 0, *range(2, weights[0].shape[-1])], axis=-1)
    pruned[2].get_layer(layer).set_weights(weights)
    with pytest.raises(LawError, match="Expected at most 1e-04"):
        check_law(*pruned)


def test_a_wrong_set_of_channels_is_found(pruned: tuple[Any, Any, keras.Model]) -> None:
    channels, alive, model = pruned
    producer = next(p for p in channels.producers if p.name == "a")
    other = alive.copy()
    other[producer.labels] = np.roll(alive[producer.labels], 1)
    with pytest.raises(LawError):
        check_law(channels, other, model)


def test_values_that_are_not_finite_are_found(pruned: tuple[Any, Any, keras.Model]) -> None:
    head = pruned[2].get_layer("head")
    head.set_weights([np.full_like(w, np.nan) for w in head.get_weights()])
    with pytest.raises(LawError):
        check_law(*pruned)
    assert relative_error(np.ones(3), np.ones(4)) == float("inf")


@pytest.mark.one_backend
def test_macs_are_the_published_ones() -> None:
    """MobileNetV2: 300 million multiply-adds at 224 x 224 (arXiv:1801.04381, table 4)."""
    total = costs(trace(keras.applications.MobileNetV2(weights=None)))
    assert total.total_macs == pytest.approx(300e6, rel=0.01)
    assert total.total_params == 3_538_984


def test_macs_over_time_count_every_step() -> None:
    inner = keras.Input((8, 8, 3))
    cnn = keras.Model(inner, keras.layers.Flatten()(keras.layers.Conv2D(4, 3)(inner)))
    steps = keras.Input((5, 8, 8, 3))
    once, five = costs(trace(cnn)), costs(trace(keras.Model(steps, keras.layers.TimeDistributed(cnn)(steps))))
    assert once.total_macs == 6 * 6 * 3 * 3 * 3 * 4
    assert five.total_macs == 5 * once.total_macs
    assert five.total_params == once.total_params


def small(build: Any) -> keras.Model:
    x = keras.Input((8,))
    return randomize(keras.Model(x, keras.layers.Dense(2)(keras.layers.Dense(16)(build(x)))))


def verified(model: keras.Model) -> Any:
    return tlt_prune.prune_model(model, ratio=0.5, granularity=1, min_num_filters=1, verify=True)


class Hidden(keras.layers.Layer):
    """Keeps a number that neither its weights nor its configuration know."""

    factor = 1.0

    def call(self, x: Any) -> Any:
        return x * self.factor


class Closed(Hidden):
    """One that cannot be opened, and whose number is in an object."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factors = {"first": 1.0}

    def call(self, x: Any) -> Any:
        return x * self.factors["first"] if keras.ops.is_tensor(x) else np.asarray(x)


def test_state_that_a_rebuild_would_lose_is_kept() -> None:
    hidden = Hidden(name="hidden")
    model = small(hidden)
    verified(model)
    hidden.factor = 2.0
    assert verified(model).get_layer("hidden").factor == 2.0


def test_state_that_a_rebuild_loses_is_found() -> None:
    closed = Closed(name="hidden")
    model = small(closed)
    verified(model)
    closed.factors["first"] = 2.0
    with pytest.raises(LawError, match=r"nothing removed.*save_assets"):
        verified(model)


class Noisy(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seed)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = keras.random.SeedGenerator()


def test_a_model_that_is_random_in_inference_is_told_apart() -> None:
    with pytest.raises(LawError, match=r"random in inference.*verify=False"):
        verified(small(Noisy()))


def test_a_model_that_does_not_run_on_random_inputs_is_told() -> None:
    x = keras.Input((None, 2))
    y = keras.layers.Dense(8)(keras.layers.Reshape((6,))(x))
    model = keras.Model(x, keras.layers.Dense(2)(y))
    with pytest.raises(LawError, match=r"cannot run .* on random inputs of \(2, 64, 2\) float32.*noverify"):
        verified(model)


class Positions(keras.layers.Layer):
    def build(self, shape: Any) -> None:
        self.table = self.add_weight(shape=(12, shape[-1]))

    def call(self, x: Any) -> Any:
        table = keras.ops.convert_to_tensor(self.table)
        return x + keras.ops.slice(table, (0, 0), (keras.ops.shape(x)[1], table.shape[1]))

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


def test_tokens_with_positions_of_a_limited_length_are_checked() -> None:
    x = keras.Input((None,), dtype="int32")
    y = keras.layers.Dense(16)(Positions()(keras.layers.Embedding(4, 16)(x)))
    verified(randomize(keras.Model(x, keras.layers.Dense(2)(y))))


def test_what_cannot_be_exact_is_reported_and_the_rest_checked() -> None:
    x = keras.Input((8, 8, 3))
    y = keras.layers.LayerNormalization()(keras.layers.Conv2D(16, 3)(x))
    y = keras.layers.Conv2D(16, 3, name="exact")(y)
    model = randomize(keras.Model(x, keras.layers.Dense(2, name="head")(keras.layers.Flatten()(y))))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=1, min_num_filters=1)
    channels = trace(model)
    report = check_law(channels, plan.alive(channels), plan.apply(model))
    assert report.approximate == ("LayerNormalization over the pruned channels",)
    assert report.relative_error < 1e-5
    assert report.approximate_error > 1e-3


def test_the_check_leaves_the_model_as_it_was() -> None:
    x = keras.Input(batch_shape=(2, 4, 6))
    y = keras.layers.LSTM(16, stateful=True, name="memory")(x)
    model = randomize(keras.Model(x, keras.layers.Dense(2)(y)))
    model(np.ones((2, 4, 6), "float32"))
    states = [np.asarray(v) for v in model.get_layer("memory").states]
    assert any(np.abs(v).max() > 0.01 for v in states)
    verified(model)
    for before, after in zip(states, model.get_layer("memory").states, strict=True):
        np.testing.assert_array_equal(before, np.asarray(after))
    assert model.predict_function is None


def test_a_size_that_a_nested_model_insists_on_is_used() -> None:
    a = keras.Input((12, 10, 3))
    inner = keras.Model(a, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(16, 3)(a)))
    x = keras.Input((None, None, 3))
    model = keras.Model(x, keras.layers.Dense(2)(inner(x)))
    assert random_inputs(trace(model), 0, 2).shape == (2, 12, 10, 3)
    verified(randomize(model))


def test_a_second_size_is_tried_before_giving_up() -> None:
    x = keras.Input((None, None, 3))
    y = keras.layers.Conv2D(16, 3)(x)
    for _ in range(4):
        y = keras.layers.MaxPooling2D(3)(y)
    # 64 pixels are pooled away to nothing; 224 are not.
    verified(randomize(keras.Model(x, keras.layers.Dense(2)(keras.layers.GlobalMaxPooling2D()(y)))))


@pytest.mark.parametrize("family", ["keras", "tf_keras"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_network_that_is_sure_of_everything_is_checked_all_the_same(family: str, activation: str) -> None:
    """Behind a saturated softmax a wrong model looks right."""
    g = keras if family == "keras" else pytest.importorskip("tf_keras")
    x = g.Input((8, 8, 3))
    y = g.layers.GlobalMaxPooling2D()(g.layers.Conv2D(8, 3, name="c")(x))
    model = randomize(g.Model(x, g.layers.Dense(4, activation=activation, name="head")(y)))
    kernel, bias = model.get_layer("head").get_weights()
    model.get_layer("head").set_weights([1e4 * kernel, bias])
    channels = trace(model)
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=1, min_num_filters=1)
    alive = plan.alive(channels)
    pruned = plan.apply(model)
    assert check_law(channels, alive, pruned).relative_error < 1e-5
    assert pruned.get_layer("head").activation.__name__ == activation
    kernel, bias = pruned.get_layer("c").get_weights()
    pruned.get_layer("c").set_weights([kernel * 1.01, bias])
    with pytest.raises(LawError, match="differs from the original"):
        check_law(channels, alive, pruned)
