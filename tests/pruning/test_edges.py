"""Layers and models at the edges of what rules expect: each is pruned exactly, or says why it stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from helpers import assert_law, randomize
from keras import layers, ops

import tlt_prune
from tlt_prune.errors import LawError, PlanError

OPTIONS = {"ratio": 0.5, "granularity": 1, "min_num_filters": 1}


def conv(x: Any, filters: int, **options: Any) -> Any:
    return layers.Conv2D(filters, 3, padding="same", activation="relu", **options)(x)


def headed(x: Any, y: Any) -> keras.Model:
    return randomize(keras.Model(x, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(y))))


def test_an_embedding_that_is_read_both_ways_round() -> None:
    """Its variable makes channels along either axis."""
    x = keras.Input((6,), dtype="int32")
    embedding = layers.ReversibleEmbedding(20, 8, name="emb")
    y = layers.Dense(8, name="b")(layers.Dense(12, activation="relu", name="a")(embedding(x)))
    model = randomize(keras.Model(x, embedding(y, reverse=True)))
    plan = tlt_prune.plan_pruning(model, **OPTIONS)
    assert len(plan.kept["a"]) == 6
    assert_law(model, plan, plan.apply(model))


@keras.saving.register_keras_serializable(package="test_edges")
class Tied(layers.Layer):
    """w on the way in, and its transpose on the way out."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = width

    def build(self, shape: Any) -> None:
        self.w = self.add_weight(shape=(shape[-1], self.width), name="w")

    def call(self, x: Any) -> Any:
        return ops.matmul(ops.relu(ops.matmul(x, self.w)), ops.transpose(self.w))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width}


@pytest.mark.parametrize(("width", "inline"), [(14, False), (14, True), (10, False), (10, True)])
def test_a_kernel_and_its_transpose(width: int, inline: bool) -> None:
    x = keras.Input((6,))
    y = layers.Dense(4, name="head")(Tied(width, name="tied")(layers.Dense(10, activation="relu", name="a")(x)))
    model = randomize(keras.Model(x, y))
    plan = tlt_prune.plan_pruning(model, inline=inline, **OPTIONS)
    names = [layer.layer for layer in plan.layers]
    assert len(names) == len(set(names)), "one row, one name"
    assert_law(model, plan, plan.apply(model))
    again = tlt_prune.PruningPlan.from_json(plan.to_json())
    assert {k: v.tolist() for k, v in again.kept.items()} == {k: v.tolist() for k, v in plan.kept.items()}


@keras.saving.register_keras_serializable(package="test_edges")
def summed_up(x: Any) -> Any:
    return ops.cumsum(x, axis=-1)


SPECTRAL: dict[str, Callable[[], Any]] = {
    "convolution": lambda: layers.Conv2D(12, 3),
    "transposed": lambda: layers.Conv2DTranspose(12, 3),
    "transposed, as many": lambda: layers.Conv2DTranspose(8, 3),
    "depthwise": lambda: layers.DepthwiseConv2D(3),
    "an activation that may not be elementwise": lambda: layers.Conv2D(8, 3, activation=summed_up),
}


@pytest.mark.parametrize("inner", SPECTRAL)
@pytest.mark.parametrize("excluded", [[], ["first"], ["sn"]])
def test_spectral_normalization(inner: str, excluded: list[str]) -> None:
    x = keras.Input((8, 8, 3))
    y = layers.SpectralNormalization(SPECTRAL[inner](), name="sn")(conv(x, 8, name="first"))
    model = headed(x, conv(y, 8, name="last"))
    plan = tlt_prune.plan_pruning(model, excluded_layers=excluded, **OPTIONS)
    assert len(plan.kept["last"]) == 4
    pruned = plan.apply(model)
    assert_law(model, plan, pruned)
    kernel = pruned.get_layer("sn").kernel
    assert pruned.get_layer("sn").vector_u.shape == (1, kernel.shape[-1])


@pytest.mark.one_backend
def test_bounds_for_every_channel() -> None:
    x = keras.Input((8, 8, 3))
    y = ops.clip(conv(x, 8, name="first"), list(np.linspace(0, 0.4, 8)), 1.0)
    model = headed(x, conv(y, 8, name="last"))
    plan = tlt_prune.plan_pruning(model, **OPTIONS)
    assert len(plan.kept["first"]) == 8
    assert any("'x_min' of a Clip is an array" in reason for reason in plan.frozen)
    assert_law(model, plan, plan.apply(model))
    assert len(plan.kept["last"]) == 4


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_the_check_knows_how_numbers_of_16_bits_round(policy: str) -> None:
    for seed in range(3):
        x = keras.Input((12, 12, 3))
        y = layers.BatchNormalization(dtype=policy)(conv(x, 12, dtype=policy))
        for _ in range(4):
            y = layers.Add(dtype=policy)([y, conv(conv(y, 15, dtype=policy), 12, dtype=policy)])
        model = randomize(keras.Model(x, layers.Dense(4, dtype="float32")(layers.Flatten(dtype=policy)(y))), seed)
        tlt_prune.prune_model(model, ratio=0.3, granularity=1, min_num_filters=1, verify=True)


def test_a_variable_that_was_frozen_by_itself_stays_so() -> None:
    x = keras.Input((8, 8, 3))
    model = headed(x, conv(conv(x, 8, name="first"), 8, name="last"))
    model.get_layer("last").bias.trainable = False
    pruned = tlt_prune.prune_model(model, **OPTIONS)
    assert len(pruned.trainable_weights) == len(model.trainable_weights) == 5
    assert not pruned.get_layer("last").bias.trainable
    assert pruned.get_layer("last").kernel.trainable


@pytest.mark.parametrize(
    ("read", "outputs"),
    [
        (ops.log, lambda y: y),
        (ops.sqrt, lambda y: y),
        (lambda x: x, lambda y: ops.where(y > 0, y, -np.inf)),
    ],
    ids=["logarithm of the inputs", "root of the inputs", "outputs of minus infinity"],
)
def test_values_that_are_not_finite_are_compared_as_such(read: Callable[[Any], Any], outputs: Callable[[Any], Any]) -> None:
    x = keras.Input((16,))
    model = keras.Model(x, outputs(layers.Dense(30)(layers.Dense(16, activation="relu")(read(x)))))
    assert tlt_prune.prune_model(model, verify=True, **OPTIONS).layers[-1] is not None
    for broken in ("kernel", "bias"):
        pruned = tlt_prune.prune_model(model, **OPTIONS)
        variable = getattr(next(v for v in pruned.layers if isinstance(v, layers.Dense)), broken)
        variable.assign(np.full(variable.shape, np.nan))
        plan = tlt_prune.plan_pruning(model, **OPTIONS)
        with pytest.raises(LawError, match="by inf of the largest output"):
            assert_law(model, plan, pruned)


def test_a_model_that_is_never_finite_cannot_be_compared() -> None:
    x = keras.Input((16,))
    model = keras.Model(x, layers.Dense(3)(layers.Dense(16, activation="relu")(ops.log(ops.abs(x) * 0 - 1))))
    with pytest.raises(LawError, match=r"an output is not finite on random inputs, positive ones included"):
        tlt_prune.prune_model(model, verify=True, **OPTIONS)


def test_selective_kernels_are_pruned() -> None:
    """Two branches, of which one is chosen for each channel: stacked on an axis that is summed over again."""
    x = keras.Input((8, 8, 3))
    both = ops.stack([conv(x, 16, name="a"), layers.Conv2D(16, 5, padding="same", name="b")(x)], axis=1)
    z = layers.Dense(8, activation="relu")(layers.GlobalAveragePooling2D()(ops.sum(both, axis=1)))
    weights = ops.softmax(layers.Reshape((2, 1, 1, 16))(layers.Dense(32, name="w")(z)), axis=1)
    model = headed(x, ops.sum(both * weights, axis=1))
    plan = tlt_prune.plan_pruning(model, **OPTIONS)
    assert {name: len(plan.kept[name]) for name in "abw"} == {"a": 8, "b": 8, "w": 16}
    assert_law(model, plan, plan.apply(model))


@keras.saving.register_keras_serializable(package="test_edges")
class Center(layers.Layer):
    def build(self, shape: Any) -> None:
        self.c = self.add_weight(shape=(shape[-1], 4), name="c")

    def call(self, x: Any) -> Any:
        return ops.matmul(ops.normalize(x, axis=-1), ops.normalize(self.c, axis=0)) * 16.0


def test_an_output_keeps_its_name_where_another_layer_makes_it() -> None:
    x = keras.Input((6,))
    h = layers.Dense(16, activation="relu")(x)
    model = keras.Model(x, [Center(name="c")(h), layers.Dense(2, name="r")(h)])
    model.compile("sgd", loss={"c": "mse", "r": "mse"})
    pruned = tlt_prune.prune_model(model, inline=True, verify=True, **OPTIONS)
    assert pruned.output_names == ["c", "r"]
    pruned.fit(np.ones((8, 6)), {"c": np.ones((8, 4)), "r": np.ones((8, 2))}, verbose=0)
    y = layers.Dense(16, name="s")(x)
    y = layers.Add(name="out")([y, layers.Dense(16, name="last")(layers.Dense(4, activation="relu")(y))])
    model = keras.Model(x, [y, layers.Dense(2, name="r")(x)])
    model.compile("sgd", loss={"out": "mse", "r": "mse"})
    shorter = tlt_prune.remove_blocks(model, "out")
    assert shorter.output_names == ["out", "r"]
    shorter.fit(np.ones((8, 6)), {"out": np.ones((8, 16)), "r": np.ones((8, 2))}, verbose=0)


@pytest.mark.parametrize("scaled", [False, True], ids=["alone", "in one that scales the loss"])
@pytest.mark.parametrize("by_name", [False, True], ids=["a variable", "a name"])
def test_what_is_spared_from_weight_decay_is_spared_after_pruning(by_name: bool, scaled: bool) -> None:
    x = keras.Input((8,))
    hidden = layers.Dense(16, activation="relu", name="h")
    model = keras.Model(x, layers.Dense(3)(hidden(x)))
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(**({"var_names": ["bias"]} if by_name else {"var_list": [hidden.bias]}))
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer, "mse")
    pruned = tlt_prune.prune_model(model, **OPTIONS)
    copy = pruned.optimizer.inner_optimizer if scaled else pruned.optimizer
    decays = {v.path: copy._use_weight_decay(v) for v in pruned.trainable_variables}
    spared = {path for path, decayed in decays.items() if not decayed}
    assert spared == ({path for path in decays if path.endswith("bias")} if by_name else {"h/bias"})


@pytest.mark.parametrize("criterion", ["Taylor", "Fisher"])
def test_labels_beyond_the_last_class_are_told(criterion: str) -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(16, activation="relu"), layers.Dense(3, activation="softmax")])
    data = np.ones((12, 4), np.float32), np.arange(12) % 3 + 1
    if keras.backend.backend() != "tensorflow":
        pytest.skip("other backends take such a label for none")
    chosen = getattr(tlt_prune.criteria, criterion)(data, "sparse_categorical_crossentropy")
    with pytest.raises(PlanError, match=rf"criterion {criterion}: the loss cannot be computed: .*label value of 3"):
        tlt_prune.plan_pruning(model, criterion=chosen, **OPTIONS)


def test_sample_weights_are_ignored_aloud() -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(16, activation="relu"), layers.Dense(3, activation="softmax")])
    x, y = np.ones((6, 4), np.float32), np.arange(6) % 3
    with pytest.warns(UserWarning, match="sensitivity: the data's sample weights are ignored"):
        tlt_prune.sensitivity(model, (x, y, np.arange(6.0)), [0.5])
    tlt_prune.sensitivity(model, (x, y, np.ones(6)), [0.5])
    with pytest.raises(PlanError, match=r"sensitivity: expected no budget, but ratios=. Received: macs=0.5"):
        tlt_prune.sensitivity(model, (x, y), [0.5], macs=0.5)


def test_masked_recurrent_layers_are_pruned_both_ways() -> None:
    x = keras.Input((7,), dtype="int32")
    y = layers.Bidirectional(layers.GRU(6, return_sequences=True), name="first")(layers.Embedding(10, 12, mask_zero=True)(x))
    y = layers.Bidirectional(layers.LSTM(8), merge_mode="sum", name="second")(y)
    model = randomize(keras.Model(x, layers.Dense(3)(y)))
    plan = tlt_prune.plan_pruning(model, **OPTIONS)
    assert not plan.frozen
    pruned = plan.apply(model)
    assert [pruned.get_layer(name).forward_layer.units for name in ("first", "second")] == [3, 4]
    assert_law(model, plan, pruned)
