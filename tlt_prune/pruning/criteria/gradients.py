"""Criteria that ask the loss: what would it change, to first order, if a channel went?

Removing a channel bundle sets the consumers' rows W_c of its channels to zero. For one batch, the loss changes by about

    - sum over those rows of w dL/dw,

which is also what a gate in front of the consumers, closed, would change.
"""

from __future__ import annotations

import dataclasses
import importlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import tree
from numpy.typing import NDArray

from tlt_prune.config import CRITERIA
from tlt_prune.errors import PlanError, first_line
from tlt_prune.graph import (
    Family,
    KerasModel,
    Labels,
    TensorLike,
    Variable,
    as_array,
    by_output,
    labels_by_output,
    loss_function,
    output_names,
)
from tlt_prune.io import progress, workers
from tlt_prune.pruning.criteria.network import FilterScores, Network
from tlt_prune.pruning.rewrite.block_law import scores_without
from tlt_prune.pruning.rewrite.rewrite import full_size
from tlt_prune.pruning.running.batches import TakesData, UserData
from tlt_prune.pruning.running.walk import Values

# Examples that share one gradient: the fewer, the less do their wishes cancel; one costs too much time.
_TOGETHER = 8

LossFunction = Callable[[Any, Any], Any]
"""(labels, outputs) of a batch -> a loss for each example, or their mean. A `keras.losses.Loss` is one."""
Losses = str | LossFunction | Sequence[str | LossFunction | None] | Mapping[str, str | LossFunction | None]
"""A loss or the name of one of Keras', for all outputs; or one an output, in order or by name."""


class _Gradients(TakesData):
    """Base class of Taylor and Fisher.

    Attributes:
        used: after a call: how much data it was.
    """

    comparable = True

    def __init__(
        self,
        data: UserData,
        loss: Losses | None = None,
        *,
        steps: int | None = None,
        batch_size: int = 64,
        together: int = _TOGETHER,
    ) -> None:
        super().__init__(data, steps, batch_size)
        self._loss, self._together = loss, together

    def __call__(self, network: Network) -> dict[str, FilterScores]:
        name = type(self).__name__
        graph = network.channels.graph
        batches = self._read(graph, f"criterion {name}", labeled=True)
        loss = _loss(self._loss, network.model, graph.family, name)
        model, rows = _consumers(network)
        weights = [graph.family.numpy(x.variable).reshape(x.shape) for x in rows]
        total = np.zeros(network.channels.n_labels)
        # Of several workers, each takes the gradients of some of the batches.
        small = workers.mine(batches.of_size(self._together))
        gradients = _gradient_function(model, graph.family.name, loss, [x.variable for x in rows], name)
        with progress(len(small), f"{name} on {self.used}") as advance:
            for x, y in small:
                change = np.zeros(network.channels.n_labels)
                for row, weight, gradient in zip(rows, weights, _of_batch(gradients, x, y, name), strict=True):
                    product = np.asarray(gradient, dtype=np.float64).reshape(row.shape) * weight
                    for axis, labels in row.axes:
                        others = tuple(i for i in range(product.ndim) if i != axis)
                        np.add.at(change, network.channels.bundles.root[labels], product.sum(axis=others))
                if not np.isfinite(change).all():
                    raise PlanError(
                        f"criterion {name}: the gradients of the loss are not finite. Expected a trained model and a loss "
                        "that fits its outputs."
                    )
                total += self._of(change)
                advance()
        together = workers.total(np.append(total, len(small)))
        return network.of_bundles(together[:-1] / together[-1])

    def lost_without_blocks(self, network: Network, sets: Sequence[Sequence[str]]) -> list[float]:
        """How much the loss rises without each set of residual blocks, by their names: measured, in the units of the scores."""
        name = type(self).__name__
        graph = network.channels.graph
        batches = self._read(graph, f"criterion {name}", labeled=True)
        mean_loss = _mean_loss(_loss(self._loss, network.model, graph.family, name), graph.family.name, name)
        tensor = keras.ops.convert_to_tensor if graph.family.name == "keras" else _tensorflow().convert_to_tensor

        def loss(columns: Sequence[Values]) -> float:
            total = 0.0
            for i, (x, y) in enumerate(batches):
                outputs = tree.pack_sequence_as(graph.outputs, [column[i] for column in columns])
                value = float(as_array(mean_loss(tree.map_structure(tensor, y), outputs)))
                total += value * len(tree.flatten(x)[0])
            return total / batches.examples

        whole, without = scores_without(graph, sets, batches, loss, f"{name} without blocks on {self.used}")
        return [x - whole for x in without]

    def _of(self, change: NDArray[np.float64]) -> NDArray[np.float64]:
        raise NotImplementedError


@CRITERIA.register("Taylor", needs="loss")
class Taylor(_Gradients):
    """Mean over small batches of |sum of w dL/dw|: how much the loss would change, to first order, if the channel went.

    Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017, arXiv:1611.06440,
    equation 8, over all consumers of a channel at once. Scores are in units of the loss and compare across layers as they are.

    Args:
        data: `(x, y)`: arrays, a `tf.data.Dataset`, a `PyDataset` or batches.
        loss: what `compile` takes: a Keras loss, its name, or a function `(y, predictions) -> loss`, or a list or dictionary of
            them by output, whose means are added up; None for what the model is compiled with, with its loss weights.
        steps: batches to read; None for all.
        batch_size: of arrays.
        together: examples that share one gradient.
    """

    def _of(self, change: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.abs(change)


@CRITERIA.register("Fisher", needs="loss")
class Fisher(_Gradients):
    """Half the mean over small batches of (sum of w dL/dw)^2: the change of the loss to second order, with the empirical Fisher
    information in the place of the Hessian.

    Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018, arXiv:1801.05787, equation 8; over all
    consumers at once as in Liu et al., "Group Fisher Pruning", ICML 2021, arXiv:2108.00708, equation 5.

    Args:
        data, loss, steps, batch_size, together: as for `Taylor`.
    """

    def _of(self, change: NDArray[np.float64]) -> NDArray[np.float64]:
        return 0.5 * np.square(change)


@dataclasses.dataclass
class _Rows:
    """What reads channels: a weight, or a gate.

    Attributes:
        variable: of the model that is differentiated.
        shape: of the weight in the model itself: in the other one it may be flat.
        axes: (axis, labels) of those of its axes that read.
    """

    variable: Variable
    shape: tuple[int, ...]
    axes: list[tuple[int, Labels]]


def _consumers(network: Network) -> tuple[KerasModel, list[_Rows]]:
    """The model to be differentiated, and all in it that reads channels.

    It is the model itself, or where channels are summed over without a weight a copy of it that has gates there.
    """
    channels, model = network.channels, network.model
    new: dict[int, Variable] = {}
    if channels.contractions:
        model, new = full_size(channels)
    rows: dict[tuple[int, int], _Rows] = {}
    for axis in channels.axes:
        if axis.role == "in":
            variable = channels.graph.family.weights(axis.op)[axis.index]
            row = _Rows(new.get(id(variable), variable), tuple(variable.shape), [])
            rows.setdefault((id(axis.op), axis.index), row).axes.append((axis.axis, axis.labels))
    gates = [_Rows(new[id(x)], x.labels.shape, [(0, x.labels)]) for x in channels.contractions]
    return model, [*rows.values(), *gates]


def _loss(loss: Losses | None, model: KerasModel, family: Family, name: str) -> Callable[[Any, Any], list[Any]]:
    """(labels, outputs) of a batch -> values, the sum of whose means is the loss."""
    weights = None
    if loss is None:
        compiled = family.compile_arguments(model)
        loss, weights = compiled.get("loss"), compiled.get("loss_weights")
        if loss is None:
            raise PlanError(
                f"criterion {name}: expected a loss, as in {name}(data, 'categorical_crossentropy'), or a compiled model. "
                f"'{model.name}' is not compiled."
            )
    if callable(loss) and not isinstance(loss, keras.losses.Loss):
        # A function of one's own sees labels and outputs as they are.
        function = loss
        return lambda y, outputs: [function(y, outputs)]
    names, what = output_names(model), f"criterion {name}"
    losses = [loss_function(x, what, PlanError) for x in by_output(loss, names, f"{what}: losses", PlanError)]
    factors = [1.0 if x is None else x for x in by_output(weights, names, f"{what}: loss_weights", PlanError)]

    def values(y: object, outputs: object) -> list[Any]:
        flat_outputs, labels = tree.flatten(outputs), labels_by_output(y, names)
        if len(labels) != len(flat_outputs):
            raise ValueError(f"{len(labels)} labels for {len(flat_outputs)} outputs ({', '.join(names)}).")
        rows = zip(losses, factors, labels, flat_outputs, strict=True)
        return [factor * loss(a, b) for loss, factor, a, b in rows if loss is not None]

    return values


def _mean_loss(loss: Callable[[Any, Any], list[Any]], family: str, name: str) -> LossFunction:
    """(labels, outputs) of a batch -> the loss, one number."""

    def mean_loss(y: object, outputs: object) -> Any:
        try:
            values = loss(y, outputs)
        # What a loss raises is its own: it does not fit the labels or the outputs.
        except Exception as error:
            shapes = ", ".join(str(tuple(a.shape)) for a in tree.flatten((y, outputs)))
            raise PlanError(
                f"criterion {name}: the loss does not fit: {first_line(error)} Received labels and outputs of shapes {shapes}."
            ) from error
        mean = keras.ops.mean if family == "keras" else _tensorflow().reduce_mean
        return sum(mean(value) for value in values)

    return mean_loss


def _of_batch(gradients: Callable[[Any, Any], list[Any]], x: object, y: object, name: str) -> list[Any]:
    try:
        return gradients(x, y)
    except PlanError:
        raise
    # Of a backend, such as TensorFlow's of a label beyond the last class; each has types of its own.
    except Exception as error:
        # TensorFlow tells where it was before it tells what.
        told = [line.strip() for line in str(error).splitlines() if line.strip() and "{{node" not in line]
        raise PlanError(
            f"criterion {name}: the loss cannot be computed: {told[-1][:200] if told else type(error).__name__} Expected labels "
            "and a loss that fit the model's outputs."
        ) from error


def _tensorflow() -> types.ModuleType:
    return importlib.import_module("tensorflow")


def _gradient_function(
    model: KerasModel, family: str, loss: Callable[[Any, Any], list[Any]], variables: Sequence[Variable], name: str
) -> Callable[[Any, Any], list[Any]]:
    """(inputs, labels) of a batch -> the gradient of the mean loss by each variable, in inference mode."""
    mean_loss = _mean_loss(loss, family, name)
    if family != "keras" or keras.backend.backend() == "tensorflow":
        return _by_tape(model, mean_loss, variables)
    if keras.backend.backend() == "jax":
        return _by_jax(model, mean_loss, variables)
    if keras.backend.backend() == "torch":
        return _by_torch(model, mean_loss, variables)
    raise PlanError(f"criterion {name}: gradients are taken on TensorFlow, JAX and PyTorch. Received: {keras.backend.backend()}.")


def _by_tape(model: KerasModel, mean_loss: LossFunction, variables: Sequence[Variable]) -> Callable[[Any, Any], list[Any]]:
    tensorflow = _tensorflow()
    inner = [getattr(v, "value", v) if hasattr(v, "path") else v for v in variables]

    def gradients(x: object, y: object) -> list[Any]:
        with tensorflow.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inner)
            value = mean_loss(y, model(x, training=False))
        by_variable = tape.gradient(value, inner, unconnected_gradients="zero")
        return [tensorflow.convert_to_tensor(g) for g in by_variable]

    compiled = tensorflow.function(gradients, autograph=False, reduce_retracing=True)
    return lambda x, y: [np.asarray(g) for g in compiled(_tensors(tensorflow, x), _tensors(tensorflow, y))]


def _tensors(tensorflow: types.ModuleType, values: object) -> Any:
    return tree.map_structure(tensorflow.convert_to_tensor, values)


def _by_jax(model: keras.Model, mean_loss: LossFunction, variables: Sequence[keras.Variable]) -> Callable[[Any, Any], list[Any]]:
    jax = importlib.import_module("jax")
    gradient = jax.jit(jax.grad(_stateless(model, mean_loss, variables)))
    return lambda x, y: [np.asarray(g) for g in gradient([v.value for v in variables], x, y)]


def _by_torch(
    model: keras.Model, mean_loss: LossFunction, variables: Sequence[keras.Variable]
) -> Callable[[Any, Any], list[Any]]:
    torch = importlib.import_module("torch")
    value_of = _stateless(model, mean_loss, variables)

    def gradients(x: object, y: object) -> list[Any]:
        # What is frozen in training has a gradient, too.
        values = [v.value.detach().requires_grad_() for v in variables]
        # A user's loss may count with labels as they are.
        labels = tree.map_structure(keras.ops.convert_to_tensor, y)
        with torch.enable_grad():
            loss = value_of(values, x, labels)
        by_variable = torch.autograd.grad(loss, values, allow_unused=True)
        return [
            np.zeros(tuple(v.shape), np.float32) if g is None else keras.ops.convert_to_numpy(g)
            for v, g in zip(values, by_variable, strict=True)
        ]

    return gradients


def _stateless(model: keras.Model, mean_loss: LossFunction, variables: Sequence[keras.Variable]) -> Callable[..., Any]:
    """(values of the variables, inputs, labels) -> the mean loss."""
    wanted = {id(v) for v in variables}
    fixed = [(v, v.value) for v in model.variables if id(v) not in wanted]

    def value_of(values: Sequence[TensorLike], x: object, y: object) -> Any:
        mapping = [*zip(variables, values, strict=True), *fixed]
        with keras.StatelessScope(state_mapping=mapping):
            return mean_loss(y, model(x, training=False))

    return value_of
