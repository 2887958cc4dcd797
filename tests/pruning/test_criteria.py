"""Every criterion against a case worked out by hand, and what must hold of all of them."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import hypothesis
import keras
import numpy as np
import pytest
from helpers import randomize
from hypothesis import strategies as st

import tlt_prune
from tlt_prune import criteria
from tlt_prune.config.options import Options
from tlt_prune.errors import PlanError
from tlt_prune.graph.tracer import trace
from tlt_prune.pruning.select.select import bundle_scores


def scores(model: Any, criterion: Any) -> dict[str, Any]:
    if isinstance(criterion, str):
        criterion = getattr(criteria, criterion)()
    return {name: np.asarray(x) for name, x in criterion(criteria.Network(trace(model))).items()}


def dense_net(first: Any, second: Any, activation: str = "linear") -> keras.Model:
    """x -> first (without a bias) -> activation -> second."""
    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    x = keras.Input((len(first),))
    y = keras.layers.Dense(first.shape[1], use_bias=False, activation=activation, name="first")(x)
    model = keras.Model(x, keras.layers.Dense(second.shape[1], use_bias=False, name="second")(y))
    model.set_weights([first, second])
    return model


# --- by hand ---

# The columns are the filters: (3, 4), (0, -1), (6, 8).
FILTERS = [[3.0, 0.0, 6.0], [4.0, -1.0, 8.0]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("L2", [5, 1, 10]),
        ("L1", [7, 1, 14]),
        ("Linf", [4, 1, 8]),
        # Distances: 1-2 sqrt(9 + 25), 1-3 5, 2-3 sqrt(36 + 81).
        ("FPGM", [34**0.5 + 5, 34**0.5 + 117**0.5, 5 + 117**0.5]),
        # Squares 25, 1, 100: each over itself and what is larger.
        ("LAMP", [25 / 125, 1 / 126, 1]),
    ],
)
def test_norms(name: str, expected: list[float]) -> None:
    np.testing.assert_allclose(scores(dense_net(FILTERS, np.ones((3, 2))), name)["first"], expected, rtol=1e-6)


def test_batch_norm_scales() -> None:
    x = keras.Input((4, 4, 3))
    y = keras.layers.Conv2D(3, 1, name="a")(x)
    y = keras.layers.BatchNormalization(name="bn")(y)
    y = keras.layers.BatchNormalization(name="later")(keras.layers.Conv2D(4, 1, name="b")(y))
    y = keras.layers.Conv2D(5, 1, name="bare")(y)
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(y)))
    model.get_layer("bn").gamma.assign([0.5, -2.0, 1.0])
    found = scores(model, "BNScale")
    np.testing.assert_allclose(found["a"], [0.5, 2.0, 1.0])
    np.testing.assert_allclose(found["b"], np.ones(4))
    assert np.isnan(found["bare"]).all()
    plan = tlt_prune.plan_pruning(model, ratio=0.5, criterion="BNScale", granularity=1, min_num_filters=1)
    assert plan.kept["a"].tolist() == [1, 2]
    assert plan.kept["bare"].tolist() == list(range(5))
    assert "says nothing" in plan.to_frame().loc["bare", "note"]
    with pytest.raises(PlanError, match=r"no layer .* followed by a batch normalization"):
        tlt_prune.plan_pruning(dense_net(FILTERS, np.ones((3, 2))), ratio=0.5, criterion="BNScale")


def test_batch_norm_scales_behind_a_sum_are_its_own_layers() -> None:
    x = keras.Input((4, 4, 3))
    convs = [keras.layers.Conv2D(4, 1, name=n)(x) for n in "ab"]
    y = keras.layers.BatchNormalization(name="bn")(keras.layers.Add()(convs))
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(y)))
    model.get_layer("bn").gamma.assign([4.0, 3.0, 2.0, 1.0])
    plan = tlt_prune.plan_pruning(model, ratio=0.5, criterion="BNScale", granularity=1, min_num_filters=1)
    assert {name: x.tolist() for name, x in plan.kept.items() if name in "ab"} == {"a": [0, 1], "b": [0, 1]}


def test_random_is_seeded_and_a_layers_own() -> None:
    model = dense_net(FILTERS, np.ones((3, 2)))
    first, again = scores(model, criteria.Random(1)), scores(model, criteria.Random(1))
    np.testing.assert_array_equal(first["first"], again["first"])
    assert not np.array_equal(first["first"], scores(model, criteria.Random(2))["first"])
    assert not np.array_equal(first["first"][:2], first["second"])
    assert repr(criteria.Random(2)) == "Random(seed=2)"


def mse(y: Any, outputs: Any) -> Any:
    return keras.ops.mean(keras.ops.square(y - outputs), axis=-1)


def test_taylor_and_fisher() -> None:
    # y = (2 * 1 + 1 * 3 + 0) x = 5 x; the loss (y - t)^2 changes by 2 (y - t) x a h for each unit of a h.
    model = dense_net([[2.0, 1.0, 0.0]], [[1.0], [3.0], [7.0]])
    x, t = np.array([[1.0], [2.0]], np.float32), np.array([[4.0], [13.0]], np.float32)
    # Errors 1 and -3: 2 * 1 * 1 * (2, 3, 0) and 2 * -3 * 2 * (2, 3, 0).
    one_by_one = np.array([[4.0, 6.0, 0.0], [-24.0, -36.0, 0.0]])
    found = scores(model, criteria.Taylor((x, t), mse, together=1))["first"]
    np.testing.assert_allclose(found, np.abs(one_by_one).mean(axis=0), rtol=1e-5)
    found = scores(model, criteria.Fisher((x, t), mse, together=1))["first"]
    np.testing.assert_allclose(found, 0.5 * (one_by_one**2).mean(axis=0), rtol=1e-5)
    # Together, the examples' wishes partly cancel.
    found = scores(model, criteria.Taylor((x, t), mse, together=2))["first"]
    np.testing.assert_allclose(found, np.abs(one_by_one.mean(axis=0)), rtol=1e-5)


def test_scores_of_channels_that_a_product_sums_over() -> None:
    """Without a weight that reads them: a channel counts as zero in the product."""
    x = keras.Input((1,))
    first, second = (keras.layers.Dense(3, name=name) for name in ("first", "second"))
    model = keras.Model(x, keras.layers.Dot(axes=1)([first(x), second(x)]))
    # y = (2 * 1 + 1 * 3 + 0 * 7 + ...) x^2, with biases of zero.
    first.set_weights([np.array([[2.0, 1.0, 0.0]]), np.zeros(3)])
    second.set_weights([np.array([[1.0, 3.0, 7.0]]), np.zeros(3)])
    data = np.array([[1.0], [2.0]], np.float32), np.array([[4.0], [23.0]], np.float32)
    # Errors 1 and -3, and x^2 of 1 and 4: 2 e (2, 3, 0) x^2.
    one_by_one = np.array([[4.0, 6.0, 0.0], [-48.0, -72.0, 0.0]])
    found = scores(model, criteria.Taylor(data, mse, together=1))
    np.testing.assert_allclose(found["first"], np.abs(one_by_one).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["second"], found["first"], rtol=1e-6)
    # Without a unit the error is 1 - 2 and -3 - 8, and so on.
    lost = np.array([(1 + 121) / 2, (4 + 225) / 2, (1 + 9) / 2]) - (1 + 9) / 2
    found = scores(model, criteria.Ablation(data, "mean_squared_error", chunk=1))
    np.testing.assert_allclose(found["first"], lost, rtol=1e-5)
    found = scores(model, criteria.Activation(data[0]))
    assert np.isfinite(found["first"]).all()


def test_activations_and_zeros() -> None:
    model = dense_net([[1.0, -1.0, 0.5]], np.ones((3, 2)), activation="relu")
    x = np.array([[2.0], [4.0], [-6.0]], np.float32)
    np.testing.assert_allclose(scores(model, criteria.Activation(x))["first"], [6 / 3, 6 / 3, 3 / 3], rtol=1e-6)
    np.testing.assert_allclose(scores(model, criteria.APoZ(x))["first"], [2 / 3, 1 / 3, 2 / 3], rtol=1e-6)


@pytest.mark.parametrize("chunk", [1, 2])
def test_ablation(chunk: int, tmp_path: pathlib.Path) -> None:
    model = dense_net([[2.0, 1.0, 0.0, 4.0]], [[1.0], [3.0], [7.0], [0.5]])
    x = np.array([[1.0], [2.0]], np.float32)
    t = 7 * x
    # Without a unit the output is 2 x, 3 x, 0 x or 2 x short of 7 x; mean of x^2 is 2.5.
    lost = np.array([4, 9, 0, 4]) * 2.5
    if chunk == 2:
        # By norm: 0 and 1 together, then 2 and 4: (0 + 3)^2, (2 + 2)^2, shared.
        lost = np.array([16, 9, 9, 16]) * 2.5 / 2
    found = scores(model, criteria.Ablation((x, t), "mean_squared_error", chunk=chunk, cache=tmp_path / "a.json"))
    np.testing.assert_allclose(found["first"], lost, rtol=1e-5)


def test_ablation_goes_on_where_it_stopped(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = dense_net([[2.0, 1.0, 0.0, 4.0]], [[1.0], [3.0], [7.0], [0.5]])
    data = (np.ones((3, 1), np.float32), np.full((3, 1), 7.0, np.float32))
    cache = tmp_path / "ablation.json"
    calls = []

    def counted(y: Any, outputs: Any) -> float:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return -float(np.mean((y - outputs) ** 2))

    monkeypatch.setattr("tlt_prune.pruning.running.switched_off._MOST_VALUES", 1)
    with pytest.raises(KeyboardInterrupt):
        scores(model, criteria.Ablation(data, counted, cache=cache))
    # It was ended in the middle of a line.
    assert len(cache.read_text().splitlines()) == 4
    cache.write_text(cache.read_text() + '{"chunk": "1')
    found = scores(model, criteria.Ablation(data, counted, cache=cache))
    # Four channels and the whole model, and one that was interrupted.
    assert len(calls) == 6
    np.testing.assert_allclose(found["first"], [4, 9, 0, 4], rtol=1e-5)
    lines = [json.loads(line) for line in cache.read_text().splitlines()]
    assert [sorted(x) for x in lines] == [["of"], *[["chunk", "metric"]] * 5]
    # As earlier versions wrote it.
    cache.write_text(json.dumps({**lines[0], "metrics": {x["chunk"]: x["metric"] for x in lines[1:]}}))
    np.testing.assert_allclose(scores(model, criteria.Ablation(data, counted, cache=cache))["first"], found["first"])
    assert len(calls) == 6
    with pytest.raises(PlanError, match="results of another model"):
        scores(model, criteria.Ablation((data[0] * 2, data[1]), counted, cache=cache))
    cache.write_text("{")
    with pytest.raises(PlanError, match="holds no results"):
        scores(model, criteria.Ablation(data, counted, cache=cache))


# --- what holds of all ---


def small_net(residual: bool = True) -> keras.Model:
    x = keras.Input((8, 8, 3))
    y = keras.layers.ReLU()(keras.layers.BatchNormalization(name="bn")(keras.layers.Conv2D(8, 3, padding="same", name="a")(x)))
    z = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="b")(y)
    y = keras.layers.Add()([y, z]) if residual else z
    y = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(12, 3, activation="relu", name="c")(y))
    return randomize(keras.Model(x, keras.layers.Dense(3, activation="softmax", name="head")(y)))


def data(n: int = 24) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 8, 8, 3)).astype("float32"), keras.utils.to_categorical(rng.integers(0, 3, n), 3)


DATA_DRIVEN = {
    "Taylor": lambda d: criteria.Taylor(d, "categorical_crossentropy"),
    "Fisher": lambda d: criteria.Fisher(d, "categorical_crossentropy"),
    "Activation": lambda d: criteria.Activation(d),
    "APoZ": lambda d: criteria.APoZ(d),
    "Ablation": lambda d: criteria.Ablation(d, "categorical_crossentropy"),
}


@pytest.mark.parametrize("name", DATA_DRIVEN)
def test_a_dead_filter_scores_lowest(name: str) -> None:
    model = small_net(residual=False)
    kernel, bias = model.get_layer("b").get_weights()
    kernel[..., 5], bias[5] = 0, 0
    model.get_layer("b").set_weights([kernel, bias])
    found = scores(model, DATA_DRIVEN[name](data()))["b"]
    assert found[5] == pytest.approx(0, abs=1e-6)
    if name != "Ablation":  # of which others may be below zero: without them the network is better
        assert found.argmin() == 5
        assert (np.delete(found, 5) > found[5]).all()


@pytest.mark.parametrize("name", [*DATA_DRIVEN, "L2", "Random", "LAMP"])
def test_the_model_stays_as_it_is(name: str) -> None:
    model = small_net()
    before = [w.copy() for w in model.get_weights()]
    config = model.get_config()
    scores(model, DATA_DRIVEN[name](data()) if name in DATA_DRIVEN else name)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.get_config() == config
    assert all(len(layer._inbound_nodes) == 1 for layer in model.layers)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(st.integers(0, 5), st.floats(1.0, 10.0), st.sampled_from(["L1", "L2", "Linf"]))
def test_scaling_a_filter_up_never_lowers_its_norm_score(index: int, factor: float, name: str) -> None:
    kernel = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    before = scores(dense_net(kernel, np.ones((6, 2))), name)["first"]
    kernel[:, index] *= factor
    after = scores(dense_net(kernel, np.ones((6, 2))), name)["first"]
    assert after[index] >= before[index] * (1 - 1e-6)
    np.testing.assert_allclose(np.delete(after, index), np.delete(before, index))


@pytest.mark.parametrize("equalization", ["sum", "mean"])
def test_coupled_layers_combine_by_sum_and_mean(equalization: str) -> None:
    x = keras.Input((2,))
    branches = [keras.layers.Dense(2, use_bias=False, name=name)(x) for name in "ab"]
    model = keras.Model(x, keras.layers.Dense(2, name="head")(keras.layers.Add()(branches)))
    model.get_layer("a").set_weights([np.diag([1.0, 4.0])])
    model.get_layer("b").set_weights([np.diag([2.0, 3.0])])
    channels = trace(model)
    options = Options(ratio=0.5, normalizer="off", equalization_criterion=equalization)
    statistic = bundle_scores(channels, options)
    expected = np.array([3.0, 7.0]) / (2 if equalization == "mean" else 1)
    np.testing.assert_allclose(statistic[channels.bundles.root[channels.producers[0].labels]], expected)


def test_a_function_of_the_users_own() -> None:
    model = dense_net(FILTERS, np.ones((3, 2)))

    def second_row(network: criteria.Network) -> dict[str, Any]:
        return {x.name: x.matrix[:, -1] for x in network.layers if x.name == "first"}

    plan = tlt_prune.plan_pruning(model, ratio=0.34, criterion=second_row, granularity=1, min_num_filters=1)
    assert plan.kept["first"].tolist() == [0, 2]
    assert "second_row" in plan.to_json()


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (lambda n: [1, 2], "expected a dictionary of layer name"),
        (lambda n: {"frist": [1]}, "'frist' is no layer with filters"),
        (lambda n: {"first": [1, 2]}, r"expected 3 scores for 'first'.*Received shape \(2,\)"),
        (lambda n: {"first": [1, np.inf, 2]}, "finite"),
        (lambda n: {"first": ["a", "b", "c"]}, "expected numbers"),
        (criteria.L2, "expected an instance"),
        ("Taylor", r"needs data.*tlt_prune\.criteria\.Taylor\(data"),
        (3, "criterion"),
    ],
)
def test_what_is_no_criterion_is_refused(criterion: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        tlt_prune.plan_pruning(dense_net(FILTERS, np.ones((3, 2))), ratio=0.5, criterion=criterion)


def nan_loss(y: Any, outputs: Any) -> Any:
    return keras.ops.mean(outputs) * np.nan


X, Y = data()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: criteria.Taylor((X, Y)), "Taylor: expected a loss.*is not compiled"),
        (lambda: criteria.Taylor((X, Y), "nonsense"), "no Keras loss 'nonsense'"),
        (lambda: criteria.Taylor((X, Y), 3), "expected a loss or a function"),
        (lambda: criteria.Taylor(X, "mse"), "needs labels"),
        (lambda: criteria.Taylor((X, Y[:, :2]), "categorical_crossentropy"), r"loss does not fit.*\(8, 2\)"),
        (lambda: criteria.Taylor((X, Y), nan_loss), "gradients of the loss are not finite"),
        (lambda: criteria.Taylor((X[:0], Y[:0]), "mse"), "the data is empty"),
        (lambda: criteria.Taylor([], "mse"), "the data is empty"),
        (lambda: criteria.Taylor((X, Y[:3]), "mse"), r"different numbers of examples: \[3, 24\]"),
        (lambda: criteria.Activation(X[:, :4]), r"takes inputs of shape \(None, 8, 8, 3\)\. Received .*\(24, 4, 8, 3\)"),
        (lambda: criteria.Activation(X * np.nan), "not finite"),
        (lambda: criteria.Activation(None), "no data"),
        (lambda: criteria.Activation(7), "Received int"),
        (lambda: criteria.Activation({"a": X, "b": X}), "1 inputs, the data 2"),
        (lambda: criteria.Ablation((X, Y), "nonsense"), "metric: expected 'accuracy'"),
        (lambda: criteria.Ablation((X, Y[:, :2])), "metric does not fit"),
        (lambda: criteria.Ablation((X, Y), lambda y, p: np.nan), "The metric is nan"),
        (lambda: criteria.Ablation((X, Y), chunk=0), "chunk >= 1"),
    ],
)
def test_bad_data_is_one_clear_error(make: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        tlt_prune.plan_pruning(small_net(), ratio=0.5, criterion=make())


class _Sequence(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return X[8 * index : 8 * index + 8], Y[8 * index : 8 * index + 8]


def test_all_kinds_of_data_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    model = small_net()
    batches = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 24, 8)]
    kinds = {
        "arrays": (X, Y),
        "list": batches,
        "generator": (x for x in batches),
        "weighted": ((x, y, np.ones(len(x))) for x, y in batches),
        "PyDataset": _Sequence(),
        "tensors": (keras.ops.convert_to_tensor(X), keras.ops.convert_to_tensor(Y)),
        "tf.data": tensorflow.data.Dataset.from_tensor_slices((X, Y)).batch(8),
        "endless": (x for _ in range(10**6) for x in batches),
    }
    found = {}
    for name, kind in kinds.items():
        criterion = criteria.Taylor(kind, "categorical_crossentropy", batch_size=8, steps=3 if name == "endless" else None)
        found[name] = scores(model, criterion)["a"]
        assert criterion.used == "24 examples in 3 batches"
        assert repr(criterion) == "Taylor(24 examples in 3 batches)"
    for name, values in found.items():
        np.testing.assert_allclose(values, found["arrays"], rtol=1e-5, err_msg=name)
