"""What tests use to make models interesting and to check the law without the code under test."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest

import tlt_prune
from tlt_prune.config.options import options_of
from tlt_prune.errors import PlanError
from tlt_prune.graph.family import family_of
from tlt_prune.graph.tracer import ChannelGraph, trace
from tlt_prune.io.model_info import ModelInfo
from tlt_prune.pruning.cost.costs import costs
from tlt_prune.pruning.rewrite.law import check_law, random_inputs, relative_error
from tlt_prune.pruning.select.groups import grouping
from tlt_prune.pruning.select.select import bundle_scores, ranking_of

INFO = ModelInfo(
    classes=("a", "b"),
    preprocess_mode="torch",
    image_mean=(),
    input_image_depth=8,
    enable_center_crop=False,
    resize_interpolation_method="bicubic",
)


def softmax(z: np.ndarray) -> np.ndarray:
    """Along the last axis, in NumPy."""
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def pretended_milliseconds(layer: Any) -> float:
    """A layer's latency on a machine that takes a microsecond for a thousand multiplications, and another one for a call."""
    if layer is None:
        return 1e-3
    inputs = 1 if layer["kind"] == "depthwise" else layer["channels"][0]
    return 1e-3 + float(np.prod([inputs, layer["channels"][-1], *layer.get("kernel", ()), *layer["size"]])) * 1e-6


def calls_of(of: type, name: str, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """A list that grows by each call of a method, which does what it did."""
    calls: list[None] = []
    method = getattr(of, name)

    @functools.wraps(method)
    def counted(self: object, *arguments: object, **named: object) -> object:
        calls.append(None)
        return method(self, *arguments, **named)

    monkeypatch.setattr(of, name, counted)
    return calls


def randomize(model: Any, seed: int = 0) -> Any:
    """Random values in every weight: fresh models have zero biases and neutral statistics, which hide mistakes.

    Kernels get a scale a filter, so that filters differ in norm; variances and scales stay positive.
    """
    rng = np.random.default_rng(seed)
    values = []
    for weight in model.weights:
        shape, name = tuple(weight.shape), weight.name
        if any(part in name for part in ("gamma", "variance", "scale")):
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) < 2:
            value = 0.1 * rng.standard_normal(shape)
        else:
            fan_in = max(1, int(np.prod(shape[:-1])))
            value = rng.standard_normal(shape) * rng.uniform(0.3, 1.7, shape[-1]) / np.sqrt(fan_in)
        values.append(value.astype(np.float32) if "float" in str(weight.dtype) else np.asarray(weight))
    model.set_weights(values)
    for layer in model._flatten_layers():
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    return model


@contextlib.contextmanager
def without_random_weights() -> Iterator[None]:
    """Models are built with zeros: drawing numbers that nobody looks at takes most of the time."""
    kinds = (keras.initializers.VarianceScaling, keras.initializers.RandomNormal)
    drawn = [kind.__call__ for kind in kinds]
    for kind in kinds:
        kind.__call__ = lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype)
    try:
        yield
    finally:
        for kind, draw in zip(kinds, drawn, strict=True):
            kind.__call__ = draw


def around(layer: Any) -> keras.Model:
    """before (a convolution) -> `layer` -> after (another), on pictures."""
    x = keras.Input((8, 8, 3))
    y = layer(keras.layers.Conv2D(12, 3, name="before")(x))
    y = keras.layers.Conv2D(8, 3, name="after")(y)
    return randomize(keras.Model(x, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(y))))


def assert_law(model: Any, plan: Any, pruned: Any, tolerance: float = 1e-5) -> ChannelGraph:
    """The law, and that it is not hollow: the outputs depend on what was removed."""
    channels = trace(model, plan.settings.get("channelwise_layers", ()), inline=plan.settings.get("inline", False))
    alive = plan.alive(channels)
    check_law(channels, alive, pruned, tolerance=tolerance)
    if plan.removed:
        inputs = random_inputs(channels, seed=0, batch_size=2)
        before = [np.asarray(x, np.float64) for x in keras.tree.flatten(model(inputs, training=False))]
        after = [np.asarray(x, np.float64) for x in keras.tree.flatten(pruned(inputs, training=False))]
        changed = max(relative_error(a, b) for a, b in zip(before, after, strict=True))
        assert changed > 1e-6, "pruning changed no output: the law was not put to the test"
    return channels


def assert_met_to_within_one_step(model: Any, resource: str, share: float, **options: Any) -> bool:
    """Never above the target; and no group could keep one step more. False where it cannot be met at all."""
    channels = trace(model)
    chosen = options_of({resource: share, **options})
    total = {"macs": lambda c: c.total_macs, "params": lambda c: c.total_params, "size_mb": lambda c: c.size_mb}[resource]
    whole = total(costs(channels))
    target = whole * (float(share[:-1]) / 100 if isinstance(share, str) else share)
    statistic = bundle_scores(channels, chosen)
    chosen = chosen.model_copy(update={"ranking": ranking_of(chosen)})
    found = grouping(channels, statistic, chosen, chosen.granularity)

    def cost(counts: list[int]) -> float:
        return total(costs(channels, found.alive(counts)))

    try:
        plan = tlt_prune.plan_pruning(model, **{resource: share}, **options)
    except PlanError as error:
        assert "cannot be met" in str(error)  # noqa: PT017
        assert cost([group.rounded(0) for group in found.groups]) > target
        return False
    alive = plan.alive(channels)
    assert total(costs(channels, alive)) <= target * (1 + 1e-9)
    counts = [int(alive[group.members].sum()) for group in found.groups]
    for g, group in enumerate(found.groups):
        if counts[g] < group.depth:
            more = min((counts[g] // group.step + 1) * group.step, group.depth)
            assert cost([*counts[:g], more, *counts[g + 1 :]]) > target, f"{group.layers} could keep {more}, not {counts[g]}"
    return True


def assert_independent(model: Any, pruned: Any, inputs: Any, *, trains: bool = True) -> None:
    """The pruned model learns, if it `trains` at all, and the original does not notice: no variable is shared."""
    variables = pruned.variables if isinstance(pruned, keras.Model) else pruned.weights
    shared = {id(v) for v in model.variables} & {id(v) for v in variables}
    assert not shared, [v.name for v in variables if id(v) in shared]
    if not trains:
        return
    before = [np.array(v) for v in model.weights]
    learns = [np.array(v) for v in pruned.trainable_weights]
    zeros = keras.tree.map_structure(lambda y: np.zeros(y.shape, np.float32), pruned(inputs, training=False))
    # Not every optimizer's step: a copy of the compile state is another test's.
    optimizer = (keras if isinstance(pruned, keras.Model) else __import__("tf_keras")).optimizers.SGD(1e-3)
    pruned.compile(optimizer=optimizer, loss="mse", run_eagerly=True)
    pruned.train_on_batch(inputs, zeros)
    assert not learns or any(not np.array_equal(a, v) for a, v in zip(learns, pruned.trainable_weights, strict=True))
    for a, v in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, v, err_msg=v.name)


def assert_same_after_reload(model: Any, inputs: Any) -> None:
    """A saved and loaded model computes the same; `.keras` for Keras 3, `.h5` for tf_keras."""
    legacy = not isinstance(model, keras.Model)
    family = family_of(model)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / ("model.h5" if legacy else "model.keras")
        with warnings.catch_warnings():
            # tf_keras, on every .h5 file.
            warnings.filterwarnings("ignore", "You are saving your model as an HDF5 file")
            model.save(path)
        if legacy:
            import tf_keras

            loaded = tf_keras.models.load_model(path, compile=False)
        else:
            loaded = keras.models.load_model(path, compile=False, safe_mode=False)
    for each in (model, loaded):
        family.reset_states(each)
    for a, b in zip(
        keras.tree.flatten(model(inputs, training=False)), keras.tree.flatten(loaded(inputs, training=False)), strict=True
    ):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-6)
