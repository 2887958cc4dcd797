"""What a rewrite must carry over: every weight, every tie, what fills weights at the start, and the user's class."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from helpers import assert_independent, randomize
from keras import layers, ops

import tlt_prune
from tlt_prune.errors import PlanError, UnsupportedModelError
from tlt_prune.graph.tracer import trace

TINY: dict[str, Any] = {"granularity": 1, "min_num_filters": 1}


def untouched_but_rebuilt(model: keras.Model) -> keras.Model:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*nothing is removed")
        return tlt_prune.prune_model(model, ratio=0.5, excluded_layers=["*"], **TINY)


def between(layer: Callable[[Any], Any], shape: tuple[int, ...] = (4, 6)) -> keras.Model:
    x = keras.Input(shape)
    y = layer(layers.Dense(8, name="before")(x))
    return randomize(keras.Model(x, layers.Dense(3)(layers.Dense(16, activation="relu", name="after")(y))))


def normalization() -> keras.layers.Layer:
    layer = layers.Normalization(axis=-1)
    layer.adapt(np.random.default_rng(1).normal(100, 30, (200, 4, 8)).astype("float32"))
    return layer


def small(width: int = 8) -> keras.Model:
    x = keras.Input((width,))
    return keras.Model(x, layers.Dense(8)(layers.Dense(5)(x)))


LISTS = {
    "RNN of a list": lambda: layers.RNN([layers.GRUCell(8), layers.LSTMCell(6)]),
    "StackedRNNCells": lambda: layers.RNN(layers.StackedRNNCells([layers.SimpleRNNCell(4), layers.GRUCell(5)])),
    "Bidirectional of a list": lambda: layers.Bidirectional(layers.RNN([layers.GRUCell(8), layers.GRUCell(6)])),
    "Pipeline": lambda: layers.Pipeline([layers.Rescaling(0.1), normalization()]),
    "Pipeline in a Pipeline": lambda: layers.Pipeline([layers.Pipeline([normalization()])]),
    "model twice over time": lambda: keras.Sequential(
        [keras.Input((4, 8)), layers.Reshape((2, 2, 8)), layers.TimeDistributed(layers.TimeDistributed(small()))]
    ),
    "RNN over time": lambda: keras.Sequential(
        [
            keras.Input((4, 8)),
            layers.Reshape((2, 2, 8)),
            layers.TimeDistributed(layers.RNN([layers.GRUCell(3), layers.GRUCell(2)])),
        ]
    ),
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("half", [False, True])
def test_layers_inside_lists_and_wrappers_keep_their_weights(name: str, half: bool) -> None:
    model = between(LISTS[name]())
    x = np.random.default_rng(0).normal(size=(5, 4, 6)).astype("float32")
    if half:
        pruned = tlt_prune.prune_model(model, ratio=0.5, verify=True, **TINY)
        assert pruned.count_params() < model.count_params()
    else:
        pruned = untouched_but_rebuilt(model)
        for a, b in zip(model.weights, pruned.weights, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=a.path)
        np.testing.assert_array_equal(model.predict_on_batch(x), pruned.predict_on_batch(x))
    assert_independent(model, pruned, x)


class Cut(keras.initializers.Initializer):
    """An initializer of the user's own that holds an array."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values, "float32")

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        return ops.broadcast_to(ops.convert_to_tensor(self.values, dtype), shape)

    def get_config(self) -> dict[str, Any]:
        return {"values": self.values.tolist()}


def constant(*shape: int) -> Any:
    return keras.initializers.Constant(np.random.default_rng(0).normal(size=shape).astype("float32"))


CONSTANTS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "depthwise": (lambda: layers.DepthwiseConv2D(3, depthwise_initializer=constant(3, 3, 12, 1)), (8, 8)),
    "separable": (lambda: layers.SeparableConv2D(8, 3, pointwise_initializer=constant(1, 1, 12, 8)), (8, 8)),
    "broadcast": (lambda: layers.Conv2D(8, 1, bias_initializer=constant(8), kernel_initializer=constant(12, 1)), (8, 8)),
    "normalization": (
        lambda: layers.BatchNormalization(gamma_initializer=constant(12), moving_mean_initializer=constant(12)),
        (8, 8),
    ),
    "recurrent": (lambda: layers.LSTM(12, recurrent_initializer=constant(12, 48), return_sequences=True), (5,)),
    "equal shapes": (lambda: layers.GRU(12, recurrent_initializer=constant(12, 36), kernel_initializer=constant(12, 36)), (5,)),
    "both directions": (lambda: layers.Bidirectional(layers.GRU(6, bias_initializer=constant(2, 18))), (5,)),
    "over time": (lambda: layers.TimeDistributed(layers.Dense(12, bias_initializer=constant(12))), (5,)),
    "in a list": (lambda: layers.RNN([layers.GRUCell(4, recurrent_initializer=constant(4, 12)), layers.GRUCell(3)]), (5,)),
    "a user's own": (lambda: layers.Conv2D(8, 1, bias_initializer=Cut(np.arange(8))), (8, 8)),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_model_with_constant_initializers_can_be_loaded(name: str, tmp_path: pathlib.Path) -> None:
    make, shape = CONSTANTS[name]
    x = keras.Input((*shape, 3))
    y = make()(layers.Dense(12, activation="relu")(x))
    model = randomize(keras.Model(x, layers.Dense(3)(layers.Dense(8)(layers.Flatten()(y)))))
    pruned = tlt_prune.prune_model(model, ratio=0.5, verify=True, **TINY)
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras.saving.load_model(tmp_path / "pruned.keras", custom_objects={"Cut": Cut})
    data = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype("float32")
    np.testing.assert_allclose(loaded.predict_on_batch(data), pruned.predict_on_batch(data), rtol=1e-5, atol=1e-6)
    fresh = type(pruned).from_config(pruned.get_config(), custom_objects={"Cut": Cut})
    assert fresh.count_params() == pruned.count_params()


def test_a_constant_is_cut_where_its_weight_is() -> None:
    x = keras.Input((8, 8, 3))
    blur = np.arange(12, dtype="float32") * np.ones((3, 3, 12, 1), "float32")[..., 0]
    y = layers.Conv2D(12, 3, name="conv")(x)
    y = layers.DepthwiseConv2D(3, depthwise_initializer=keras.initializers.Constant(blur[..., None]), name="blur")(y)
    model = randomize(keras.Model(x, layers.Dense(3)(layers.Flatten()(y))))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, **TINY)
    pruned = plan.apply(model)
    np.testing.assert_array_equal(pruned.get_layer("blur").depthwise_initializer.value[0, 0, :, 0], plan.kept["conv"])
    assert model.get_layer("blur").depthwise_initializer.value.shape == (3, 3, 12, 1)


class Tied(layers.Layer):
    """A decoder with the kernel of an encoder, transposed."""

    def __init__(self, to: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.to = to

    def build(self, shape: Any) -> None:
        self.bias = self.add_weight(shape=(self.to.kernel.shape[0],), name="bias")

    def call(self, x: Any) -> Any:
        return ops.matmul(x, ops.transpose(self.to.kernel)) + self.bias

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "to": keras.saving.serialize_keras_object(self.to)}

    @classmethod
    def from_config(cls, config: Any) -> Tied:
        config = dict(config)
        return cls(keras.saving.deserialize_keras_object(config.pop("to")), **config)


class Lazy(Tied):
    """One that builds its encoder where nobody has."""

    def build(self, shape: Any) -> None:
        if not self.to.built:
            self.to.build((None, 20))
        super().build(shape)


class Untied(Tied):
    """One whose configuration copies the encoder."""

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "to": self.to.get_config()}

    @classmethod
    def from_config(cls, config: Any) -> Tied:
        config = dict(config)
        inner = layers.Dense.from_config(config.pop("to"))
        inner.build((None, 20))
        return cls(inner, **config)


def autoencoder(cls: type[Tied]) -> keras.Model:
    x = keras.Input((20,))
    encoder = layers.Dense(16, name="encoder")
    y = layers.Dense(16, name="middle")(layers.Dense(24, name="wide")(encoder(x)))
    return randomize(keras.Model(x, cls(encoder, name="tied")(y)))


@pytest.mark.parametrize("cls", [Tied, Lazy])
def test_a_tied_decoder_stays_tied(cls: type[Tied]) -> None:
    model = autoencoder(cls)
    plan = tlt_prune.plan_pruning(model, ratio=0.5, **TINY)
    assert plan.to_frame()["note"]["encoder"] == "frozen: shares weights with 'tied'"
    pruned = tlt_prune.prune_model(model, ratio=0.5, verify=True, **TINY)
    assert pruned.get_layer("tied").to is pruned.get_layer("encoder")
    assert len(pruned.weights) == len(model.weights)
    assert pruned.count_params() == plan.params_after < plan.params_before
    assert_independent(model, pruned, np.zeros((2, 20), "float32"))


def test_a_tie_that_a_configuration_cannot_say_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="shares the weight 'encoder/kernel' with another layer"):
        tlt_prune.prune_model(autoencoder(Untied), ratio=0.5, **TINY)


def test_a_layer_inside_a_wrapper_and_outside_is_one_layer_and_pruned_alike() -> None:
    x = keras.Input((6,))
    dense = layers.Dense(12, name="both")
    steps = layers.TimeDistributed(dense, name="steps")(layers.RepeatVector(3)(x))
    y = layers.Concatenate()([dense(x), layers.Flatten()(steps)])
    model = randomize(keras.Model(x, layers.Dense(2)(y)))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, **TINY)
    pruned = tlt_prune.prune_model(model, ratio=0.5, verify=True, **TINY)
    assert pruned.get_layer("both").units == 6
    assert pruned.get_layer("steps").layer is pruned.get_layer("both")
    assert pruned.count_params() == plan.params_after
    assert plan.params_before == model.count_params()


@pytest.mark.parametrize("kind", ["layer", "variable"])
def test_what_reads_the_model_from_outside_is_refused(kind: str) -> None:
    """A Lambda with the kernel of another layer: in the new model it would be the original's."""
    x = keras.Input((20,))
    encoder = layers.Dense(16, name="encoder")
    y = layers.Dense(16, name="middle")(layers.Dense(24, name="wide")(encoder(x)))
    kernel = encoder.kernel

    def by_layer(z: Any) -> Any:
        return ops.matmul(z, ops.transpose(encoder.kernel))

    def by_variable(z: Any) -> Any:
        return ops.matmul(z, ops.transpose(kernel))

    y = layers.Lambda(by_layer if kind == "layer" else by_variable, name="reads")(y)
    with pytest.raises(UnsupportedModelError, match=r"'reads' reads 'encoder.*' of the model from outside of its inputs"):
        tlt_prune.prune_model(keras.Model(x, y), ratio=0.5, **TINY)


class Pair(layers.Layer):
    """Two layers in a list, which may be one."""

    def __init__(self, parts: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = parts

    def call(self, x: Any) -> Any:
        for part in self.parts:
            x = part(x)
        return x

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "parts": keras.saving.serialize_keras_object(self.parts)}

    @classmethod
    def from_config(cls, config: Any) -> Pair:
        return cls(**{**config, "parts": keras.saving.deserialize_keras_object(config["parts"])})


def test_a_layer_that_is_held_twice_or_by_two_stays_one() -> None:
    x = keras.Input((8,))
    one, common = layers.Dense(8, name="one"), layers.Dense(8, name="common")
    y = Pair([one, one, common], name="first")(layers.Dense(8, name="in")(layers.Dense(24, name="free")(x)))
    y = Pair([common, layers.Dense(8, name="other")], name="second")(y)
    model = randomize(keras.Model(x, layers.Dense(3)(y)))
    pruned = tlt_prune.prune_model(model, ratio=0.5, verify=True, **TINY)
    first, second = pruned.get_layer("first").parts, pruned.get_layer("second").parts
    assert first[0] is first[1]
    assert first[2] is second[0]
    assert len(pruned.weights) == len(model.weights)
    assert_independent(model, pruned, np.zeros((2, 8), "float32"))


class Own:
    """A training step of one's own."""

    def train_step(self, *arguments: Any) -> Any:
        self.ran = True
        return super().train_step(*arguments)  # type: ignore[misc]


class PlainSubclass(Own, keras.Model):
    pass


class OwnSequential(Own, keras.Sequential):
    pass


class WithArgument(Own, keras.Model):
    def __init__(self, inputs: Any, outputs: Any, alpha: float = 0.5, **kwargs: Any) -> None:
        super().__init__(inputs, outputs, **kwargs)
        self.alpha = alpha

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha}


class WithWeight(WithArgument):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale = self.add_weight(shape=(3,), initializer="zeros", name="scale", trainable=False)


class BuildsItself(Own, keras.Model):
    def __init__(self, filters: int = 16, **kwargs: Any) -> None:
        x = keras.Input((8, 8, 3))
        super().__init__(x, layers.Dense(3)(layers.Flatten()(layers.Conv2D(filters, 3)(x))), **kwargs)
        self.filters = filters

    def get_config(self) -> dict[str, Any]:
        return {"filters": self.filters, "name": self.name}


def parts() -> tuple[Any, Any]:
    x = keras.Input((8, 8, 3))
    return x, layers.Dense(3)(layers.Flatten()(layers.Conv2D(16, 3)(x)))


CLASSES = {
    "plain": lambda: PlainSubclass(*parts()),
    "argument": lambda: WithArgument(*parts(), alpha=0.9),
    "weight": lambda: WithWeight(*parts(), alpha=0.9),
    "sequential": lambda: OwnSequential([keras.Input((8, 8, 3)), layers.Conv2D(16, 3), layers.Flatten(), layers.Dense(3)]),
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_of_the_users_own_is_kept(name: str) -> None:
    model = randomize(CLASSES[name]())
    pruned = tlt_prune.prune_model(model, ratio=0.5, **TINY)
    assert type(pruned) is type(model)
    assert getattr(pruned, "alpha", None) == getattr(model, "alpha", None)
    if name == "weight":
        np.testing.assert_array_equal(pruned.scale, model.scale)
    x = np.zeros((4, 8, 8, 3), "float32")
    pruned.compile("sgd", "mse", run_eagerly=True)
    pruned.fit(x, np.zeros((4, 3)), verbose=0)
    assert pruned.ran
    assert not hasattr(model, "ran")


def test_a_class_that_cannot_be_kept_is_said() -> None:
    model = BuildsItself(filters=24)
    with pytest.warns(UserWarning, match=r"plain Model, not a BuildsItself: .* What it adds \(train_step\) is lost"):
        pruned = tlt_prune.prune_model(model, ratio=0.5, **TINY)
    assert pruned.count_params() < model.count_params()


def test_flags_of_layers_inside_layers_are_kept() -> None:
    x = keras.Input((4, 8))
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    y = attention(x, x)
    rnn = layers.Bidirectional(layers.GRU(4), name="both")
    model = randomize(keras.Model(x, layers.Dense(3)(rnn(y))))
    attention._query_dense.trainable = False
    rnn.backward_layer.trainable = False
    pruned = tlt_prune.prune_model(model, ratio=0.5, **TINY)
    assert [v.path.split("/")[-3:] for v in pruned.trainable_variables] == [
        v.path.split("/")[-3:] for v in model.trainable_variables
    ]
    assert not pruned.get_layer("attention")._query_dense.trainable
    assert pruned.get_layer("attention")._key_dense.trainable


def simple() -> keras.Model:
    x = keras.Input((8,))
    return randomize(keras.Model(x, layers.Dense(3)(layers.Dense(16)(x))))


class Unregistered(keras.losses.Loss):
    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.mean(ops.abs(y_true - y_pred), axis=-1)


class Steady(keras.optimizers.SGD):
    pass


class Distance(keras.metrics.MeanAbsoluteError):
    pass


class Falling(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step: Any) -> Any:
        return 1.0 / (1.0 + ops.cast(step, "float32"))

    def get_config(self) -> dict[str, Any]:
        return {}


def by_function(y_true: Any, y_pred: Any) -> Any:
    return ops.mean(ops.square(y_true - y_pred), axis=-1)


COMPILED: dict[str, Callable[[], dict[str, Any]]] = {
    "function": lambda: {"optimizer": "sgd", "loss": by_function, "metrics": [by_function]},
    "lambda": lambda: {"optimizer": "sgd", "loss": lambda y_true, y_pred: by_function(y_true, y_pred)},
    "loss class": lambda: {"optimizer": "adam", "loss": Unregistered(), "metrics": ["mae", Distance(name="d")]},
    "optimizer class": lambda: {"optimizer": Steady(0.25, momentum=0.5), "loss": "mse"},
    "schedule class": lambda: {"optimizer": keras.optimizers.Adam(Falling()), "loss": ["mse"]},
}


@pytest.mark.parametrize("name", COMPILED)
def test_what_a_model_is_compiled_with_is_handed_on(name: str) -> None:
    model = simple()
    arguments = COMPILED[name]()
    model.compile(**arguments)
    pruned = tlt_prune.prune_model(model, ratio=0.5, **TINY)
    assert pruned.compiled
    assert type(pruned.optimizer) is type(model.optimizer)
    assert pruned.optimizer is not model.optimizer
    if name == "optimizer class":
        assert float(pruned.optimizer.learning_rate) == 0.25
    pruned.fit(np.zeros((4, 8)), np.zeros((4, 3)), verbose=0)
    assert int(model.optimizer.iterations) == 0


def test_a_loss_is_scaled_whatever_the_policy_is_now() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = simple()
        model.compile("sgd", "mse")
    finally:
        keras.config.set_dtype_policy("float32")
    pruned = tlt_prune.prune_model(model, ratio=0.5, **TINY)
    assert type(pruned.optimizer) is type(model.optimizer) is keras.optimizers.LossScaleOptimizer


class ThatFails(keras.optimizers.SGD):
    def get_config(self) -> dict[str, Any]:
        raise RuntimeError("not to be written down")


def test_a_compile_argument_that_cannot_be_copied_is_said() -> None:
    model = simple()
    model.compile(ThatFails(), "mse")
    with pytest.warns(UserWarning, match=r"not compiled: .* not to be written down"):
        assert not tlt_prune.prune_model(model, ratio=0.5, **TINY).compiled


def test_a_mixin_with_a_call_of_its_own_takes_the_rule_away() -> None:
    class Doubled:
        def call(self, x: Any) -> Any:
            return 2 * ops.flip(super().call(x), axis=-1)  # type: ignore[misc]

    class Both(Doubled, layers.Dense):
        pass

    x = keras.Input((8,))
    model = keras.Model(x, layers.Dense(3)(Both(16, name="both")(layers.Dense(16, name="in")(x))))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, **TINY)
    assert dict(plan.unknown) == {"both": "Both"}


def two_outputs() -> keras.Model:
    x = keras.Input((8,))
    y = layers.Dense(16, name="hidden")(x)
    return randomize(keras.Model(x, {"a": layers.Dense(3, name="a")(y), "b": layers.Dense(2, name="b")(y)}))


X = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
Y = {"a": np.eye(3, dtype="float32")[np.arange(16) % 3], "b": np.ones((16, 2), "float32")}


def test_losses_by_output_are_those_of_compile() -> None:
    model = two_outputs()
    model.compile("sgd", {"a": "mse", "b": keras.losses.MeanAbsoluteError()})
    scores = [
        criterion(tlt_prune.criteria.Network(trace(model)))["hidden"]
        for criterion in (
            tlt_prune.criteria.Taylor((X, Y)),
            tlt_prune.criteria.Taylor((X, Y), {"a": "mse", "b": "mae"}),
            tlt_prune.criteria.Taylor((X, Y), ["mse", keras.losses.MeanAbsoluteError()]),
            tlt_prune.criteria.Taylor(
                (X, Y), lambda y, z: ops.mean(ops.square(y["a"] - z["a"])) + ops.mean(ops.abs(y["b"] - z["b"]))
            ),
        )
    ]
    for other in scores[1:]:
        np.testing.assert_allclose(other, scores[0], rtol=1e-5)
    only_a = tlt_prune.criteria.Taylor((X, Y), {"a": "mse"})(tlt_prune.criteria.Network(trace(model)))["hidden"]
    assert not np.allclose(only_a, scores[0], rtol=1e-2)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"c": "mse"}, "there is no output 'c'. Expected some of a, b"),
        (["mse"], "losses: expected 2, one for each of a, b. Received 1"),
        ({"a": 3}, "expected a loss or a function"),
        ({"a": "msee"}, "there is no Keras loss 'msee'"),
    ],
)
def test_losses_that_fit_no_output(loss: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        tlt_prune.plan_pruning(two_outputs(), ratio=0.5, criterion=tlt_prune.criteria.Fisher((X, Y), loss))


def test_a_plan_for_other_names() -> None:
    def made() -> keras.Model:
        x = keras.Input((8,))
        return randomize(keras.Model(x, layers.Dense(3)(layers.Dense(16)(layers.Dense(12)(x)))))

    first, second = made(), made()
    plan = tlt_prune.plan_pruning(first, ratio=0.5, **TINY)
    with pytest.raises(PlanError, match=r"other names .* call apply\(..., by_position=True\)"):
        plan.apply(second)
    a, b = plan.apply(first), plan.apply(second, by_position=True)
    np.testing.assert_array_equal(a.predict_on_batch(X), b.predict_on_batch(X))
    x = keras.Input((8,))
    other = keras.Model(x, layers.Dense(3)(layers.Dense(12)(layers.Dense(16)(x))))
    with pytest.raises(PlanError, match="does not fit"):
        plan.apply(other, by_position=True)


CRITERIA = {
    **{name: lambda name=name: name for name in ("L2", "L1", "Linf", "FPGM", "LAMP", "BNScale", "Random")},
    **{name: lambda name=name: getattr(tlt_prune.criteria, name)((X, Y["a"]), "mse") for name in ("Taylor", "Fisher")},
    **{name: lambda name=name: getattr(tlt_prune.criteria, name)(X) for name in ("Activation", "APoZ")},
    "Ablation": lambda: tlt_prune.criteria.Ablation((X, Y["a"])),
}


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("place", ["kernel", "bias", "statistics", "output"])
def test_weights_that_are_not_finite_are_refused_by_every_criterion(name: str, place: str) -> None:
    x = keras.Input((8,))
    y = layers.BatchNormalization(name="bn")(layers.Dense(16, name="hidden")(x))
    model = randomize(keras.Model(x, layers.Dense(3, name="out")(y)))
    layer, index = {"kernel": ("hidden", 0), "bias": ("hidden", 1), "statistics": ("bn", 3), "output": ("out", 0)}[place]
    variable = model.get_layer(layer).weights[index]
    value = np.array(variable)
    value.reshape(-1)[-1] = np.inf if place == "bias" else np.nan
    variable.assign(value)
    with pytest.raises(PlanError, match=rf"'{layer}' has weights that are not finite: 1 of"):
        tlt_prune.plan_pruning(model, ratio=0.5, criterion=CRITERIA[name](), **TINY)


COMPENSATIONS = {
    "Bias": lambda data: tlt_prune.Bias(data),
    "RecalibrateBatchNorm": lambda data: tlt_prune.RecalibrateBatchNorm(data),
    "LeastSquares": lambda data: tlt_prune.LeastSquares(data),
}


@pytest.mark.filterwarnings("ignore:overflow encountered|invalid value:RuntimeWarning")
@pytest.mark.parametrize("name", COMPENSATIONS)
@pytest.mark.parametrize(("data", "filters"), [(1e38, 1.0), (1.0, 1e30), (1e25, 1e25)])
def test_a_compensation_returns_finite_weights_or_an_error(name: str, data: float, filters: float) -> None:
    x = keras.Input((8,))
    y = layers.BatchNormalization(name="bn")(layers.Dense(16, name="hidden")(x))
    model = randomize(keras.Model(x, layers.Dense(3)(layers.ReLU()(layers.Dense(6, name="next")(layers.ReLU()(y))))))
    model.get_layer("hidden").kernel.assign(np.array(model.get_layer("hidden").kernel) * filters)
    before = [np.array(v) for v in model.weights]
    try:
        pruned = tlt_prune.prune_model(model, ratio=0.5, compensation=COMPENSATIONS[name](X * np.float32(data)), **TINY)
    except PlanError as error:
        assert "finite" in str(error)  # noqa: PT017
    else:
        assert all(np.isfinite(v).all() for v in pruned.get_weights())
    for a, v in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, v)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_statistics_are_measured_all_or_none() -> None:
    x = keras.Input((8,))
    y = layers.BatchNormalization(name="first")(layers.Dense(16)(x))
    y = layers.BatchNormalization(name="second")(layers.Dense(16, name="large")(y))
    model = randomize(keras.Model(x, layers.Dense(3)(y)))
    model.get_layer("large").kernel.assign(np.full((16, 16), 3e38, "float32"))
    before = [np.array(v) for v in model.weights]
    with pytest.raises(PlanError, match="finite"):
        tlt_prune.recalibrate_batch_norm(model, X)
    for a, v in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, v, err_msg=v.path)


class Unknown(layers.Layer):
    def call(self, x: Any) -> Any:
        return x


def test_steps_that_could_not_be_loaded_are_refused_before_training(tmp_path: pathlib.Path) -> None:
    x = keras.Input((8,))
    model = randomize(keras.Model(x, layers.Dense(3)(Unknown()(layers.Dense(16)(layers.Dense(16)(x))))))
    trained = []
    with pytest.raises(PlanError, match="register_keras_serializable") as error:
        tlt_prune.iterative_prune(
            model, lambda m, step: trained.append(step), ratio=0.5, steps=2, folder=tmp_path / "steps", **TINY
        )
    assert len(str(error.value)) < 600
    assert "\n" not in str(error.value)
    assert not trained
    assert not (tmp_path / "steps").exists()
    tlt_prune.iterative_prune(model, lambda m, step: trained.append(step), ratio=0.5, steps=2, **TINY)
    assert trained == [1, 2]


def test_a_network_trained_for_int8_says_what_to_do() -> None:
    from tlt_prune import quantization

    x = keras.Input((8, 8, 3))
    y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, use_bias=False)(x)))
    model = keras.Model(x, layers.Dense(3)(layers.Flatten()(layers.Conv2D(16, 3)(y))))
    aware = quantization.quantization_aware(model, np.random.default_rng(0).random((8, 8, 8, 3), "float32"))
    with pytest.warns(UserWarning, match="trained for int8: prune the one it was made from, then call quantization_aware"):
        tlt_prune.prune_model(aware, ratio=0.5, **TINY)
