"""What users write themselves: rules, Lambdas, layers nobody knows."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import pytest
from helpers import around, assert_independent, assert_law, randomize

import tlt_prune
from tlt_prune.errors import RuleError
from tlt_prune.graph import rules


class Scale(keras.layers.Layer):
    """y = gamma * x."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.gamma = self.add_weight(shape=(shape[-1],), name="gamma", initializer="ones")

    def call(self, x: Any) -> Any:
        return x * self.gamma

    def compute_output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape


class Doubled(Scale):
    """A subclass that says nothing about what it does with channels."""

    def call(self, x: Any) -> Any:
        return 2 * super().call(x)


class Mystery(Scale):
    """NumPy cannot be opened."""

    def call(self, x: Any) -> Any:
        return keras.ops.convert_to_tensor(np.asarray(x)) * self.gamma

    def compute_output_spec(self, x: Any) -> Any:
        return keras.KerasTensor(x.shape, x.dtype)


class Named(Scale):
    """A subclass that changes nothing."""


def plan_of(model: keras.Model, **options: Any) -> Any:
    return tlt_prune.plan_pruning(model, ratio=0.5, granularity=1, min_num_filters=1, **options)


def test_an_unknown_layer_freezes_and_is_named() -> None:
    model = around(Mystery(name="mystery"))
    plan = plan_of(model)
    assert dict(plan.unknown) == {"mystery": "Mystery"}
    assert len(plan.kept["before"]) == 12
    assert len(plan.kept["after"]) == 4
    note = plan.to_frame().loc["before", "note"]
    assert note.startswith("frozen: unknown layer Mystery 'mystery', not opened: on symbolic tensors it raises")
    pruned = plan.apply(model)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    assert pruned(x).shape == (2, 2)


def test_an_unknown_layer_in_a_wrapper_is_named() -> None:
    x = keras.Input((5, 6))
    y = keras.layers.TimeDistributed(Mystery(), name="steps")(keras.layers.Dense(12, name="before")(x))
    model = randomize(keras.Model(x, keras.layers.Dense(2)(keras.layers.Dense(8)(y))))
    plan = plan_of(model)
    assert dict(plan.unknown) == {"steps/layer": "Mystery"}
    note = plan.to_frame().loc["before", "note"]
    assert note.startswith("frozen: unknown layer Mystery 'steps/layer', not opened: on symbolic tensors it raises")
    assert_law(model, plan, plan.apply(model))


def test_a_registered_rule_prunes_through() -> None:
    with rules.scoped():

        @tlt_prune.register_rule(Scale)
        def scale(call: Any, x: Any) -> Any:
            channels = call.vector(x, axis=-1)
            call.follow(channels, call.op.gamma)
            return x

        for kind in (Scale, Named):
            model = around(kind())
            plan = plan_of(model)
            assert len(plan.kept["before"]) == 6
            assert_law(model, plan, plan.apply(model))
        # A subclass with a call of its own does something else: it is opened.
        model = around(Doubled())
        plan = plan_of(model)
        assert len(plan.kept["before"]) == 6
        assert_law(model, plan, plan.apply(model))
        with pytest.raises(ValueError, match="already registered"):
            tlt_prune.register_rule(Scale)(scale)
    with pytest.raises(TypeError, match="layer classes"):
        tlt_prune.register_rule("Scale")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda call, x: [x, x], "returned 2 label arrays. Expected 1"),
        (lambda call, x: x[..., :5], "Expected a NumPy array broadcastable"),
        (lambda call, x: call.follow(call.vector(x, -1)[:5], call.op.gamma), "attached 5 labels to axis 0"),
    ],
)
def test_a_wrong_rule_is_caught(answer: Any, message: str) -> None:
    with rules.scoped():
        tlt_prune.register_rule(Scale)(answer)
        with pytest.raises(RuleError, match=message):
            plan_of(around(Scale()))


def gate_by_numpy(x: Any) -> Any:
    """What cannot be opened: it asks for values."""
    return x * keras.ops.sigmoid(x) if keras.ops.is_tensor(x) else x.numpy()


def test_a_lambda_is_opened() -> None:
    model = around(keras.layers.Lambda(lambda x: x * keras.ops.sigmoid(x), name="gate"))
    plan = plan_of(model)
    assert len(plan.kept["before"]) == 6
    assert_law(model, plan, plan.apply(model))


def test_a_lambda_that_cannot_be_opened_freezes_unless_declared() -> None:
    model = around(keras.layers.Lambda(gate_by_numpy, name="gate"))
    plan = plan_of(model)
    assert len(plan.kept["before"]) == 12
    assert "Lambda" in plan.to_frame().loc["before", "note"]
    assert_law(model, plan, plan.apply(model))
    declared = plan_of(model, channelwise_layers=["gate"])
    assert len(declared.kept["before"]) == 6
    assert_law(model, declared, declared.apply(model))
    again = tlt_prune.PruningPlan.from_json(declared.to_json())
    assert again.apply(model).count_params() == declared.params_after


def test_activation_functions_are_seen_through() -> None:
    def twice_gelu(x: Any) -> Any:
        return 2 * keras.activations.gelu(x, approximate=True) - keras.ops.maximum(x, 0.5)

    for function in (twice_gelu, lambda x: keras.activations.gelu(x, approximate=True)):
        model = around(keras.layers.Activation(function))
        plan = plan_of(model)
        assert len(plan.kept["before"]) == 6
        assert_law(model, plan, plan.apply(model))


def test_custom_activation_functions_freeze() -> None:
    def mixing(x: Any) -> Any:
        return x - keras.ops.mean(x, axis=-1, keepdims=True)

    model = around(keras.layers.Activation(mixing))
    plan = plan_of(model)
    assert "activation 'mixing'" in plan.to_frame().loc["before", "note"]
    assert_law(model, plan, plan.apply(model))


def test_names_alone_do_not_make_a_rule() -> None:
    class Conv2D(keras.layers.Layer):
        """Not Keras' Conv2D."""

        def call(self, x: Any) -> Any:
            return keras.ops.flip(x, axis=-1)

    model = around(Conv2D())
    plan = plan_of(model)
    assert len(plan.kept["before"]) == 6
    assert_law(model, plan, plan.apply(model))


class Bad(keras.layers.Layer):
    """Its configuration lacks its argument."""

    def __init__(self, table: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = table

    def build(self, shape: Any) -> None:
        self.gammas = {"first": self.add_weight(shape=(shape[-1],), initializer="ones", name="gamma")}

    def call(self, x: Any) -> Any:
        return x * self.gammas["first"] * keras.ops.convert_to_tensor(self.table)


class Forgetful(keras.layers.Layer):
    """Its configuration makes another layer, without an error."""

    def __init__(self, factor: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor
        self.inner = keras.layers.Conv2D(12, 1)

    def call(self, x: Any) -> Any:
        return self.inner(x) * self.factor

    def get_config(self) -> dict[str, Any]:
        return {key: x for key, x in super().get_config().items() if key != "factor"}


def test_a_layer_that_its_configuration_does_not_describe_is_made_of_its_arguments() -> None:
    model = around(Forgetful(3.0, name="odd"))
    plan = plan_of(model)
    assert len(plan.kept["before"]) == 6
    assert_law(model, plan, plan.apply(model))


def test_a_layer_that_nothing_describes_is_copied() -> None:
    model = around(Bad(np.arange(12, dtype="float32"), name="odd"))
    plan = plan_of(model)
    assert "cannot be made smaller by its constructor" in plan.to_frame().loc["before", "note"]
    assert len(plan.kept["after"]) == 4
    pruned = plan.apply(model)
    assert_law(model, plan, pruned)
    assert_independent(model, pruned, np.zeros((2, 8, 8, 3), "float32"))


def test_a_layer_as_an_activation_is_not_taken_for_a_function() -> None:
    """PReLU has weights a channel: it is not elementwise, whatever its name sounds like."""
    model = around(keras.layers.Conv2D(10, 1, activation=keras.layers.PReLU(shared_axes=[1, 2]), name="c"))
    assert "activation 'PReLU' is not known" in plan_of(model).to_frame().loc["c", "note"]


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize` method")
def test_a_quantized_layer_is_kept_as_it_is() -> None:
    x = keras.Input((16,))
    y = keras.layers.Dense(24, name="free")(keras.layers.Dense(32, name="before")(x))
    quantized = keras.layers.Dense(20, name="quantized")
    y = keras.layers.Dense(12, name="after")(quantized(y))
    model = randomize(keras.Model(x, keras.layers.Dense(2)(y)))
    quantized.quantize("int8")
    plan = plan_of(model)
    assert plan.to_frame().loc["free", "note"] == "frozen: 'quantized' is quantized to int8: prune first, then quantize"
    assert [len(plan.kept[name]) for name in ("before", "free", "after")] == [16, 24, 6]
    assert_law(model, plan, plan.apply(model))


def test_a_layer_with_low_rank_adapters_is_kept_as_it_is() -> None:
    x = keras.Input((16,))
    adapted = keras.layers.Dense(24, name="adapted")
    y = keras.layers.Dense(12, name="after")(adapted(keras.layers.Dense(32, name="before")(x)))
    model = randomize(keras.Model(x, keras.layers.Dense(2)(y)))
    adapted.enable_lora(4)
    adapted.set_weights([np.random.default_rng(0).standard_normal(w.shape) for w in adapted.get_weights()])
    plan = plan_of(model)
    assert plan.to_frame().loc["before", "note"] == "frozen: weights of 'adapted' are not plain variables"
    assert len(plan.kept["after"]) == 6
    assert_law(model, plan, plan.apply(model))


def test_channelwise_layers_must_name_layers_without_a_rule() -> None:
    model = around(keras.layers.Lambda(lambda x: x * 2, name="gate"))
    with pytest.raises(tlt_prune.TltPruneError, match=r"no layer matches 'gat'. Did you mean 'gate'\?"):
        plan_of(model, channelwise_layers=["gat"])
    with pytest.raises(tlt_prune.TltPruneError, match=r"'before' names before, which have a rule of their own"):
        plan_of(model, channelwise_layers=["gate", "before"])
    # A pattern may name both: the convolutions keep their rules.
    plan = plan_of(model, channelwise_layers="*")
    assert len(plan.kept["before"]) == 6
    assert_law(model, plan, plan.apply(model))


def test_an_excluded_layer_without_weights_keeps_what_passes_through_it() -> None:
    for name in ("relu", "pool", "flat"):
        x = keras.Input((8, 8, 3))
        y = keras.layers.ReLU(name="relu")(keras.layers.Conv2D(12, 3, name="conv")(x))
        y = keras.layers.Flatten(name="flat")(keras.layers.MaxPooling2D(name="pool")(y))
        model = keras.Model(x, keras.layers.Dense(2)(keras.layers.Dense(8, name="fc")(y)))
        plan = plan_of(model, excluded_layers=name)
        assert (len(plan.kept["conv"]), len(plan.kept["fc"])) == (12, 4)
        assert plan.to_frame().loc["conv", "note"] == f"frozen: excluded layer '{name}'"


def test_a_rule_with_a_kernel_of_its_own() -> None:
    """The second example of `register_rule`, word for word."""

    class PatchProjection(keras.layers.Layer):
        def __init__(self, units: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.units = units

        def build(self, shape: tuple[int, ...]) -> None:
            self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
            self.bias = self.add_weight(shape=(self.units,), name="bias")

        def call(self, x: Any) -> Any:
            return keras.ops.matmul(x, self.kernel) + self.bias

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "units": self.units}

    x = keras.Input((9, 6))
    y = PatchProjection(16, name="patches")(keras.layers.Dense(12, name="before")(x))
    model = randomize(keras.Model(x, keras.layers.Dense(2)(keras.layers.ReLU()(y))))
    with rules.scoped():

        @tlt_prune.register_rule(PatchProjection)
        def project(call: Any, x: Any) -> Any:
            incoming, out = call.vector(x, axis=-1), call.fresh(call.op.units)
            call.attach(call.op.kernel, 0, incoming, "in")
            call.attach(call.op.kernel, 1, out, "out")
            call.follow(out, call.op.bias)
            call.produce(out, (call.op.kernel, (1,), out))
            call.count("units", out)
            call.macs(call.op.kernel, call.positions(call.out_shapes[0], -1))
            return call.place(out, axis=-1)

        plan = plan_of(model)
        assert (len(plan.kept["before"]), len(plan.kept["patches"])) == (6, 8)
        row = plan.to_frame().loc["patches"]
        assert (row["macs_before"], row["macs_after"]) == (9 * 12 * 16, 9 * 6 * 8)
        assert_law(model, plan, plan.apply(model))


def test_an_activation_that_cannot_be_written_down_is_one_clear_error() -> None:
    model = around(keras.layers.Conv2D(10, 1, activation=functools.partial(keras.ops.leaky_relu, negative_slope=0.1), name="c"))
    plan = plan_of(model)
    assert not plan.to_frame().loc["c", "note"], "it is seen to be elementwise"
    with pytest.raises(tlt_prune.TltPruneError, match=r"'c' of type Conv2D cannot be rebuilt .*that Keras can write into a file"):
        plan.apply(model)
