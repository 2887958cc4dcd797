"""Data from a user: what has no end, what was used up, what is nearly right."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import tlt_prune
from tlt_prune import criteria
from tlt_prune.errors import PlanError

X = np.random.default_rng(0).normal(size=(12, 6)).astype("float32")
Y = np.eye(3, dtype="float32")[np.arange(12) % 3]
TINY: dict[str, Any] = {"ratio": 0.5, "granularity": 1, "min_num_filters": 1}


def model() -> keras.Model:
    x = keras.Input((6,))
    y = keras.layers.BatchNormalization()(keras.layers.Dense(8)(x))
    return keras.Model(x, keras.layers.Dense(3, activation="softmax")(y))


class Endless(keras.utils.PyDataset):
    @property
    def num_batches(self) -> None:
        return None

    def __getitem__(self, index: int) -> Any:
        return X, Y


def generator() -> Any:
    while True:
        yield X, Y


def endless_dataset() -> Any:
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(4).repeat()


def unknown_dataset() -> Any:
    tf = pytest.importorskip("tensorflow")
    signature = (tf.TensorSpec((None, 6), tf.float32), tf.TensorSpec((None, 3), tf.float32))
    return tf.data.Dataset.from_generator(generator, output_signature=signature)


ENDLESS: dict[str, Callable[[], Any]] = {
    "repeat": endless_dataset,
    "cycle": lambda: itertools.cycle([(X, Y)]),
    "PyDataset": Endless,
    "generator": generator,
    "from_generator": unknown_dataset,
}
USES: dict[str, Callable[..., Any]] = {
    "Fisher": lambda data, **o: tlt_prune.plan_pruning(model(), criterion=criteria.Fisher(data, "mse", **o), **TINY),
    "Activation": lambda data, **o: tlt_prune.plan_pruning(model(), criterion=criteria.Activation(data, **o), **TINY),
    "Ablation": lambda data, **o: tlt_prune.plan_pruning(model(), criterion=criteria.Ablation(data, **o), **TINY),
    "LeastSquares": lambda data, **o: tlt_prune.prune_model(model(), compensation=tlt_prune.LeastSquares(data, **o), **TINY),
    "Bias": lambda data, **o: tlt_prune.prune_model(model(), compensation=tlt_prune.Bias(data, **o), **TINY),
    "recalibrate_batch_norm": lambda data, **o: tlt_prune.recalibrate_batch_norm(model(), data, **o),
    "sensitivity": lambda data, **o: tlt_prune.sensitivity(model(), data, [0.5], granularity=1, min_num_filters=1, **o),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", ["repeat", "cycle", "PyDataset"])
def test_data_that_says_it_has_no_end(use: str, kind: str) -> None:
    with pytest.raises(PlanError, match=r"the data has no end. Expected steps="):
        USES[use](ENDLESS[kind]())
    USES[use](ENDLESS[kind](), steps=2)


@pytest.mark.parametrize("kind", ["generator", "from_generator"])
def test_data_that_does_not_say_so(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlt_prune.pruning.running.batches._MOST_BATCHES", 20)
    with pytest.raises(PlanError, match=r"Fisher: 252 examples in 21 batches were read, and there are more. Expected steps="):
        USES["Fisher"](ENDLESS[kind]())
    monkeypatch.undo()
    monkeypatch.setattr("tlt_prune.pruning.running.batches._MOST_BYTES", 1000)
    with pytest.raises(PlanError, match="and there are more"):
        USES["Fisher"](ENDLESS[kind]())
    USES["Fisher"](ENDLESS[kind](), steps=2)


def test_who_used_a_generator_up() -> None:
    data = (batch for batch in [(X, Y)])
    tlt_prune.plan_pruning(model(), criterion=criteria.Fisher(data, "mse"), **TINY)
    with pytest.raises(PlanError, match=r"LeastSquares: this generator has no batches left: criterion Fisher has used it up"):
        tlt_prune.prune_model(model(), compensation=tlt_prune.LeastSquares(data), **TINY)
    with pytest.raises(PlanError, match="it was read before, or never had any"):
        tlt_prune.prune_model(model(), compensation=tlt_prune.LeastSquares(iter([])), **TINY)


HINTS: dict[str, tuple[Callable[[], Any], str]] = {
    "one example": (lambda: X[0], r"call \.batch\(64\) on the dataset, or give x\[None\]"),
    "unbatched": (lambda: [(x, y) for x, y in zip(X, Y, strict=True)], r"call \.batch\(64\)"),
    "list of examples": (lambda: list(X), r"np\.stack\(list\)"),
    "function": (lambda: generator, r"Call it: data=function\(\)"),
    "name": (lambda: "data.npz", "it is a name"),
    "path": (lambda: pathlib.Path("data.npz"), "it is a name"),
    "float64 beyond float32": (lambda: np.full((4, 6), 1e300), "not finite"),
}


@pytest.mark.parametrize("name", HINTS)
def test_hints(name: str) -> None:
    make, hint = HINTS[name]
    with pytest.raises(PlanError, match=hint) as error:
        tlt_prune.recalibrate_batch_norm(model(), make())
    assert str(error.value).count("recalibrate_batch_norm") == 1


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": -1}, {"steps": 1.5}, {"batch_size": 0}, {"batch_size": True}])
def test_counts_that_are_none(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(PlanError, match=f"LeastSquares: {name} must be a whole number of at least 1"):
        USES["LeastSquares"](X, **options)
