"""Opening a layer: what is recorded, that nothing of the layer changes, and what must freeze."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from helpers import around, assert_independent, assert_law, randomize
from keras import layers, ops
from keras.src.backend.common import global_state

import tlt_prune
from tlt_prune.errors import LawError, PlanError, UnsupportedModelError
from tlt_prune.graph.opening import open_layer
from tlt_prune.graph.reader import read
from tlt_prune.pruning.rewrite import law_in_training


def plan_of(model: keras.Model, **options: Any) -> Any:
    return tlt_prune.plan_pruning(model, ratio=0.5, granularity=1, min_num_filters=1, **options)


class Everything(layers.Layer):
    """Variables in attributes, lists and dictionaries, layers in lists, a seed, a state that is updated."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.blocks = [layers.Conv2D(12, 1), keras.Sequential([layers.Conv2D(12, 1), layers.BatchNormalization()])]
        self.drop = layers.Dropout(0.2)
        self.seed_generator = keras.random.SeedGenerator(1)

    def build(self, shape: Any) -> None:
        for block in self.blocks:
            block.build(shape)
        self.gamma = self.add_weight(shape=(12,), initializer="ones", name="gamma")
        self.more = {"beta": self.add_weight(shape=(12,), name="beta")}
        self.mean = self.add_weight(shape=(12,), trainable=False, name="mean")

    def call(self, x: Any, training: bool | None = None) -> Any:
        for block in self.blocks:
            x = block(x)
        return self.drop(x * self.gamma + self.more["beta"] - self.mean, training=training)


def state_of(layer: Any) -> list[Any]:
    tree = [layer, *layer._flatten_layers(include_self=False)]
    rows: list[Any] = [dict(global_state.get_global_attribute("object_name_uids", {}))]
    for x in tree:
        rows += [type(x), x._inbound_nodes[:], x._outbound_nodes[:], x._losses[:], x.built]
        rows += [(key, id(value)) for key, value in vars(x).items()]
        rows += [[id(v) for v in x._trainable_variables], [id(v) for v in x._non_trainable_variables]]
    rows += [id(v) for v in layer.more.values()]
    return [*rows, *(np.asarray(v).tobytes() for v in layer.variables)]


def test_nothing_of_the_layer_changes() -> None:
    model = around(Everything(name="all"))
    layer = model.get_layer("all")
    before = state_of(layer)
    (call,) = [call for call in read(model).calls if call.op is layer]
    graph = open_layer(call, read(model).family)
    assert state_of(layer) == before
    plan_of(model)
    tlt_prune.prune_model(model, ratio=0.5, granularity=1, min_num_filters=1, verify=True)
    assert state_of(layer)[1:] == before[1:]
    assert [x.path for x in graph.calls if not x.inputs] == ["all/gamma", "all/more/beta", "all/mean"]
    assert [x.path for x in graph.calls if isinstance(x.op, layers.Layer)] == [
        "all/blocks/0", "all/blocks/1/0", "all/blocks/1/1", "all/drop",
    ]  # fmt: skip


def test_widths_that_the_code_says_go_only_where_the_layer_is_inlined() -> None:
    model = around(Everything(name="all"))
    for inline, left in ((False, 12), (True, 6)):
        plan = plan_of(model, inline=inline)
        assert not plan.unknown
        assert plan.kept["all/blocks/0"].size == left
        pruned = plan.apply(model)
        assert_law(model, plan, pruned)
        assert_independent(model, pruned, np.zeros((2, 8, 8, 3), "float32"))


class Averages(layers.Layer):
    """Updates a state whenever it is called."""

    def build(self, shape: Any) -> None:
        self.mean = self.add_weight(shape=(shape[-1],), trainable=False, name="mean")

    def call(self, x: Any) -> Any:
        self.mean.assign(0.9 * self.mean + 0.1 * ops.mean(x, axis=(0, 1, 2)))
        return x * 2.0


def test_a_state_that_nothing_reads_follows_its_channels() -> None:
    model = around(Averages(name="averages"))
    plan = plan_of(model)
    kept = plan.kept["before"]
    assert len(kept) == 6
    pruned = plan.apply(model)
    old, new = model.get_layer("averages").mean, pruned.get_layer("averages").mean
    np.testing.assert_array_equal(np.asarray(old)[kept], new)


def test_in_training_it_computes_the_same_and_statistics_move_alike() -> None:
    class Block(layers.Layer):
        def __init__(self, filters: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.filters = filters
            self.conv, self.norm = layers.Conv2D(filters, 3, padding="same"), layers.BatchNormalization()

        def call(self, x: Any, training: bool | None = None) -> Any:
            return ops.relu(self.norm(self.conv(x), training=training))

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "filters": self.filters}

    x = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")
    for inline in (False, True):
        model = around(Block(16, name="block"))
        plan = plan_of(model, inline=inline, excluded_layers=["before"])
        pruned = plan.apply(model)
        kept = plan.kept["block/conv"]
        norm = next(layer for layer in pruned._flatten_layers() if isinstance(layer, layers.BatchNormalization))
        for network in (model, pruned):
            network(x, training=True)
        old = model.get_layer("block").norm
        np.testing.assert_allclose(np.asarray(old.moving_mean)[kept], norm.moving_mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(np.asarray(old.moving_variance)[kept], norm.moving_variance, rtol=1e-5, atol=1e-6)


class Sly(layers.Layer):
    """Flips its channels in training only."""

    def call(self, x: Any, training: bool | None = None) -> Any:
        return ops.flip(x, axis=-1) * 2.0 if training else x * 2.0


def test_the_law_is_checked_in_training_too() -> None:
    model = around(Sly(name="sly"))
    plan = plan_of(model)
    assert len(plan.kept["before"]) == 6
    with pytest.raises(LawError, match="In training mode what became of"):
        plan.apply(model, verify=True)


def test_states_are_compared_after_as_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where outputs differ by more than rounding tells, a state that every call changes is looked at, too."""
    monkeypatch.setattr(law_in_training, "_TIMES_ROUNDING", -1)
    model = around(Averages(name="averages"))
    plan_of(model).apply(model, verify=True)


# --- what must freeze ---


class InNumpy(layers.Layer):
    def call(self, x: Any) -> Any:
        return x if ops.is_tensor(x) else ops.convert_to_tensor(np.asarray(x))


class Asks(layers.Layer):
    def call(self, x: Any) -> Any:
        if not ops.is_tensor(x) and ops.mean(x) > 0:
            return 2 * x
        return x


class Iterates(layers.Layer):
    def call(self, x: Any) -> Any:
        return x if ops.is_tensor(x) else ops.stack(list(x))


class AddsALoss(layers.Layer):
    def call(self, x: Any) -> Any:
        self.add_loss(0.1 * ops.mean(ops.square(x)))
        return x


class MakesALayer(layers.Layer):
    def call(self, x: Any) -> Any:
        if ops.is_tensor(x):
            return x
        return layers.Conv2D(12, 1)(x)


class Forgets(layers.Layer):
    """Returns something that does not depend on what it is given."""

    def call(self, x: Any) -> Any:
        return x if ops.is_tensor(x) else np.zeros(3)


class Widths(layers.Layer):
    """Numbers that count channels are written down in its code."""

    def call(self, x: Any) -> Any:
        return ops.reshape(ops.transpose(ops.reshape(x, (-1, 6, 6, 4, 3)), (0, 1, 2, 4, 3)), (-1, 6, 6, 12))


class Heads(layers.Layer):
    """One entry counts what it returns and the width of all heads together."""

    def __init__(self, width: int, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width, self.heads = width, heads
        self.qkv, self.out = layers.Dense(3 * width), layers.Dense(width)

    def call(self, x: Any) -> Any:
        _, n, m, _ = x.shape
        y = ops.reshape(self.qkv(x), (-1, n * m, 3, self.heads, self.width // self.heads))
        q, k, v = (ops.transpose(y[:, :, i], (0, 2, 1, 3)) for i in range(3))
        scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))))
        return self.out(ops.reshape(ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3)), (-1, n, m, self.width)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width, "heads": self.heads}


class ComparesInTraining(layers.Layer):
    """In training it does something else: it cannot be replaced by what it does, so that no product in it can be checked."""

    def call(self, x: Any, training: bool | None = None) -> Any:
        y = ops.reshape(ops.relu(x) if training else x, (-1, x.shape[1] * x.shape[2], 12))
        return x * ops.reshape(ops.matmul(y, ops.transpose(y, (0, 2, 1)))[:, 0, 0], (-1, 1, 1, 1))


class Transformed(layers.Layer):
    """An operation that nobody wrote a rule for."""

    def call(self, x: Any) -> Any:
        return ops.fft2((x, ops.zeros_like(x)))[0]


class Chooses(layers.Layer):
    def call(self, x: Any) -> Any:
        return ops.cond(ops.mean(x) > 0, lambda: x * 2.0, lambda: x)


def own_loop(x: Any) -> Any:
    return ops.fori_loop(0, 3, lambda i, y: y * 2.0, x)


CLOSED = {
    "NumPy": (InNumpy, "unknown layer InNumpy"),
    "if": (Asks, "unknown layer Asks"),
    "iteration": (Iterates, "unknown layer Iterates"),
    "add_loss": (AddsALoss, "add_loss"),
    "a layer made in call": (MakesALayer, "which is none of its layers"),
    "returns a constant": (Forgets, "it returns a ndarray that does not depend on its inputs"),
    "written-down widths": (Widths, "cannot be made smaller by its constructor"),
    "heads": (lambda **kwargs: Heads(12, 3, **kwargs), "cannot be made smaller by its constructor"),
    "a product without a check": (ComparesInTraining, "contracted with other activations inside"),
    "an unknown operation": (Transformed, "unknown layer FFT2"),
    "cond": (Chooses, "frozen: "),
    "a loop": (lambda **kwargs: layers.Lambda(own_loop, **kwargs), "unknown layer"),
}


@pytest.mark.parametrize("name", CLOSED)
def test_what_must_freeze_says_why(name: str) -> None:
    make, reason = CLOSED[name]
    model = around(make(name="closed"))
    plan = plan_of(model)
    assert reason in plan.to_frame().loc["before", "note"]
    assert len(plan.kept["before"]) == 12
    assert len(plan.kept["after"]) == 4
    pruned = plan.apply(model)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    assert pruned(x).shape == (2, 2)
    assert_law(model, plan, pruned)


def test_whole_heads_go_where_the_layer_is_inlined() -> None:
    """The width of a head stays: the axis over which queries and keys are contracted."""
    model = around(Heads(12, 3, name="heads"))
    plan = plan_of(model, inline=True)
    assert plan.kept["heads/qkv"].size in (12, 24)
    kept = plan.kept["heads/qkv"].reshape(3, -1, 4)
    assert (kept % 4 == np.arange(4)).all()
    assert_law(model, plan, plan.apply(model))


class OtherInTraining(layers.Layer):
    """It cannot be inlined."""

    def call(self, x: Any, training: bool | None = None) -> Any:
        return x - ops.mean(ops.square(x), axis=(1, 2), keepdims=True) if not training else ops.relu(x)


class ScaledBefore(layers.Layer):
    """Keras 3.15 takes what the inner layer is given for a sparse tensor, of which it has no mean."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = OtherInTraining()

    def call(self, x: Any) -> Any:
        return self.inner(ops.tanh(x) * 2.0)


def test_given_statistics_in_a_pipeline_are_constants_again() -> None:
    normalization = layers.Normalization(mean=0.1, variance=2.0)
    # Keras cannot build it inside the pipeline.
    normalization.build((None, 6, 6, 12))
    model = around(layers.Pipeline([layers.Rescaling(0.5), normalization], name="steps"))
    plan = plan_of(model)
    assert len(plan.kept["before"]) == 6
    assert_law(model, plan, plan.apply(model))


def test_a_product_with_a_number_is_dense() -> None:
    model = around(ScaledBefore(name="scaled"))
    plan = plan_of(model, inline=True)
    assert len(plan.kept["before"]) == 6
    pruned = plan.apply(model)
    assert isinstance(pruned.get_layer("scaled_inner"), OtherInTraining)
    assert_law(model, plan, pruned)


def test_a_subclassed_model_that_is_not_built_says_what_to_do() -> None:
    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = layers.Dense(8)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    with pytest.raises(UnsupportedModelError, match="it is not built: call it once on data"):
        tlt_prune.prune_model(Net(), ratio=0.5)


def test_a_second_prune_uses_what_the_first_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    from tlt_prune.graph import expressing

    model = randomize(around(Heads(12, 3, name="heads")))
    plan_of(model)
    monkeypatch.setattr(expressing.Expression, "_built", None)
    plan_of(model)


def test_an_override_of_a_layer_inside_needs_inlining() -> None:
    model = around(Everything(name="all"))
    overrides = {"all/blocks/0": {"activation": "relu"}}
    options = {"ratio": 0.5, "granularity": 1, "min_num_filters": 1, "layer_config_overrides": overrides}
    with pytest.raises(PlanError, match="layer_config_overrides: no layer matches 'all/blocks/0'"):
        tlt_prune.prune_model(model, **options)
    pruned = tlt_prune.prune_model(model, inline=True, **options)
    assert pruned.get_layer("all_blocks_0").activation is keras.activations.relu


class KeepsModules(layers.Layer):
    """An attribute with a name that PyTorch uses for its own."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._modules = [layers.Conv2D(12, 1)]
        self.last = layers.Conv2D(12, 1)

    def call(self, x: Any) -> Any:
        return self.last(self._modules[0](x))


@pytest.mark.one_backend
def test_a_list_that_is_called_as_pytorchs_own() -> None:
    model = around(KeepsModules(name="keeps"))
    plan = plan_of(model)
    assert not plan.unknown
    assert_law(model, plan, plan.apply(model))
