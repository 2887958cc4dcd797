"""The interface of rules to the call that they trace.

`CallTrace` is the public interface for the authors of rules (see `tlt_prune.register_rule`).
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import keras
import numpy as np
from keras import tree

from tlt_prune.errors import RuleError
from tlt_prune.graph.channel_graph import Contraction, Count, Cut, Edit, Positions, Producer, Role, Template, Work
from tlt_prune.graph.facets import Carried, Facet, Facets, Source
from tlt_prune.graph.labels import Labels, Shape, first_label, varying_axes
from tlt_prune.graph.reader import Call, Tensor
from tlt_prune.graph.record import Record
from tlt_prune.graph.types import Layer, Operation, TensorLike

__all__ = ["CallTrace", "Count", "Cut", "Positions", "Record", "Template"]


Apply = Callable[["CallTrace", Sequence[Carried]], list[Carried]]


@dataclasses.dataclass(frozen=True, eq=False)
class InnerLayer:
    """A layer inside the layer that is called.

    Attributes:
        op: the inner layer.
        in_shapes, out_shapes: shapes of what it receives and returns.
        config: where its configuration is in that of the layer that is called.
        part: its name in the plan.
    """

    op: Operation
    in_shapes: Sequence[Shape]
    out_shapes: Sequence[Shape]
    config: tuple[str | int, ...]
    part: str


class CallTrace:
    """A call as its rule sees it, with the verbs that a rule has.

    A rule is `rule(call, x, ...) -> labels`: it receives one label array an input tensor, in the order of the call's
    arguments, and returns one an output tensor (a list of them where there are several). A label array has the rank of
    its tensor, and size 1 on every axis along which the channels do not vary: the output of a convolution is `(1, 1, 1, C)`.
    Below `x` is such an array, and `vector` the labels along one axis, shape `(size,)`.

    Attributes:
        op: the layer or operation.
        in_shapes, out_shapes: shapes of its input and output tensors, batch axis included, None where unknown.
        call: the call as it was recorded: `call.args`, `call.kwargs`, where tensors appear as `Tensor`.
    """

    def __init__(
        self,
        record: Record,
        apply: Apply,
        call: Call,
        times: float,
        inner: InnerLayer | None = None,
    ) -> None:
        self._record = record
        self._apply = apply
        self._inner = inner is not None
        self._config_path = () if inner is None else inner.config
        self._part = "" if inner is None else inner.part
        self.times = times
        """Number of runs of the layer in one call of the model, NaN where unknown."""
        self.call = call
        self.op: Any = call.op if inner is None else inner.op
        self.table = record.table
        self.in_shapes = list(inner.in_shapes) if inner is not None else [x.shape for x in call.inputs]
        self.out_shapes = list(inner.out_shapes) if inner is not None else [x.shape for x in call.outputs]

    def inside(
        self,
        op: Operation,
        xs: Sequence[Labels],
        in_shapes: Sequence[Shape],
        out_shapes: Sequence[Shape],
        *,
        config: Sequence[str | int],
        part: str = "",
        times: int | None = 1,
    ) -> list[Any]:
        """Applies the rule of a layer inside this one: what a wrapper's rule does.

        Args:
            op: the inner layer; its weights are among this one's.
            xs: label arrays of what it receives.
            in_shapes, out_shapes: shapes of what it receives and returns.
            config: where its configuration is in this one's, such as ("layer", "config").
            part: its name in the plan, where this layer has several.
            times: how often it runs a call, None where unknown.

        Returns:
            One label array for each of `out_shapes`, checked and frozen as those of any other layer.
        """
        part = ":".join(x for x in (self._part, part) if x)
        inner = InnerLayer(op, in_shapes, out_shapes, (*self._config_path, *config), part)
        often = math.nan if times is None else self.times * times
        return self._apply(CallTrace(self._record, self._apply, self.call, often, inner), xs)

    @property
    def is_opened(self) -> bool:
        """Whether the call is one that a layer without a rule makes inside."""
        return self._record.is_opened

    @property
    def channel_axis(self) -> int:
        """The channel axis of a layer or operation with `data_format`: 1 or -1. Some operations of Keras leave it None."""
        given = getattr(self.op, "data_format", "channels_last") or keras.config.image_data_format()
        # A function of TensorFlow is told among its arguments.
        told = any(isinstance(x, str) and x.startswith("NC") for x in (*self.call.args, *self.call.kwargs.values()))
        return 1 if given == "channels_first" or told else -1

    def passed(self, position: int, name: str, default: object = None) -> tuple[int | str, Any]:
        """(where it is, value) of an argument of the call, given by position or by name."""
        by_position = name not in self.call.kwargs and position < len(self.call.args)
        return position if by_position else name, self.call.argument(position, name, default)

    def given(self, name: str, position: int | None = None) -> list[int]:
        """Positions of the rule's label arrays that are the tensors in the argument `name` (or at `position`) of the call."""
        if position is None:
            parameters = list(inspect.signature(self.op.call).parameters)
            position = parameters.index(name) if name in parameters else len(self.call.args)
        counter = itertools.count()
        args, kwargs = tree.map_structure(
            lambda x: next(counter) if isinstance(x, Tensor) else None, (self.call.args, self.call.kwargs)
        )
        value = kwargs[name] if name in kwargs else args[position] if position < len(args) else None
        return [i for i in tree.flatten(value) if i is not None]

    def is_layer(self, value: object) -> TypeGuard[Layer]:
        """Whether `value` is a layer of the model's Keras."""
        return self._record.graph.family.is_layer(value)

    # --- reading label arrays ---

    def vector(self, x: Labels, axis: int, tensor: int = 0) -> Labels:
        """Labels of `x` (the `tensor`-th input) along `axis`.

        Labels that vary along another axis cannot be told apart by this call: they are frozen.
        An axis of unknown size gets a single entry.
        """
        axis %= x.ndim
        if any(other != axis for other in varying_axes(x)):
            self.freeze(x, "its channels lie on an axis that the layer does not keep apart")
            x = first_label(x)
        size = self.in_shapes[tensor][axis] or 1
        return np.broadcast_to(x.reshape(-1), (size,)).copy()

    def place(self, vector: Labels, axis: int, output: int = 0) -> Labels:
        """The label array of the `output`-th output whose `axis` carries `vector`."""
        rank = len(self.out_shapes[output])
        shape = [1] * rank
        shape[axis] = len(vector)
        return vector.reshape(shape)

    def materialize(self, x: Labels, axis: int, tensor: int = 0) -> Labels:
        """`x` with its full size on `axis`."""
        axis %= x.ndim
        size = self.in_shapes[tensor][axis]
        if size is None or x.shape[axis] == size:
            return x
        return np.repeat(x, size, axis=axis)

    def best_axis(self, axes: Sequence[int], output: int = 0) -> int | None:
        """Of several axes of an output that could carry channels the one that can be pruned; None where nothing tells."""
        if len(axes) < 2 or output >= len(self.call.outputs):
            return None
        return self._record.best_axis(self.call.outputs[output], axes)

    # --- deciding what may go ---

    def freeze(self, x: Labels, reason: str) -> None:
        """Nothing of `x` may be removed; the plan says why."""
        self.table.freeze(x, reason)

    def freeze_all(self, arguments: Sequence[Labels], reason: str) -> list[Labels]:
        """Freezes the inputs and returns frozen outputs."""
        for x in arguments:
            self.table.freeze(x, reason)
        return [self._record.frozen(len(shape), reason) for shape in self.out_shapes]

    def freeze_unknown(self, arguments: Sequence[Labels]) -> list[Labels]:
        """Freezes the inputs because nobody knows what this layer does, and names it in the plan."""
        # tf_keras has one class for all functions.
        kind = getattr(self.op, "symbol", type(self.op).__name__)
        self._record.unknown[self.call.path] = kind
        why = self._record.closed.get(id(self.op)) or self._record.closed.get(id(self.call.op))
        return self.freeze_all(arguments, f"unknown layer {kind} '{self.call.path}'" + (f", not opened: {why}" if why else ""))

    def contract(self, vector: Labels, axis: int, *tensors: int) -> None:
        """The call sums over channels without a weight, as a product of activations does.

        Args:
            vector: the channels.
            axis: of each of `tensors` that they lie on.
            *tensors: positions of the inputs that a removed channel has to be zero in.
        """
        why = self.why_not_contracted
        if why is not None:
            self.freeze(vector, f"contracted with other activations inside '{self._part or self.call.path}', where {why}")
            return
        self._record.gated.update(id(call.op) for call in self._record.enclosing)
        for tensor in tensors:
            at = axis % len(self.in_shapes[tensor])
            key = (id(self.call.op), tensor)
            known = self._record.contractions.setdefault(key, Contraction(self.call.op, self.call.path, tensor, at, vector))
            self.table.unify(known.labels, vector)

    @property
    def why_not_contracted(self) -> str | None:
        """Why `contract` freezes: no input of the call can be multiplied by zero in what the model is compared with."""
        if self._inner:
            return "it is no call of its own"
        return next((why for call in self._record.enclosing if (why := self._record.why_not_inlined(call)) is not None), None)

    def approximate(self, x: Labels, reason: str) -> None:
        """Removing channels of `x` changes more than what reads them (a statistic, say)."""
        self.table.mark_approximate(x, reason)

    # --- attaching labels to weights ---

    def fresh(self, count: int) -> Labels:
        """New labels for `count` channels; a single channel cannot be removed, so it is frozen."""
        labels = self.table.fresh(count)
        if count == 1:
            self.table.freeze(labels, "a single channel")
        return labels

    def attach(self, variable: TensorLike | None, axis: int, vector: Labels, role: Role) -> None:
        """Says that `axis` of `variable` is indexed by `vector`. None is accepted and ignored."""
        if variable is None:
            return
        index = self._record.weight_index(self.call.op, variable)
        if index is None:
            self.freeze(vector, f"weights of '{self.call.path}' are not plain variables")
            return
        axis %= len(variable.shape)
        if variable.shape[axis] != len(vector):
            raise RuleError(
                f"The rule of {type(self.op).__name__} '{self.call.path}' attached {len(vector)} labels to axis "
                f"{axis} of a weight of shape {tuple(variable.shape)}."
            )
        self._record.attach(Source(self.call.op, self.call.path, index, axis), vector, role)

    def labels_along(self, variable: TensorLike, axis: int) -> Labels | None:
        """What indexes an axis of a variable, as a rule has said; None where none has."""
        index = self._record.weight_index(self.call.op, variable)
        known = self._record.axes.get((id(self.call.op), index, axis % len(variable.shape))) if index is not None else None
        return None if known is None else known.labels

    # --- variables that an opened layer reads itself ---

    def variable(self, owner: Layer, index: int, shape: Sequence[int]) -> Carried:
        """Labels of a variable of `owner`: one label array for each axis of more than one entry."""
        rank, facets = len(shape), []
        for axis, size in enumerate(shape):
            if size > 1:
                source = Source(owner, self.call.path, index, axis)
                known = self._record.axes.get((id(owner), index, axis))
                vector = self.table.fresh(size) if known is None else known.labels
                self._record.attach(source, vector, "follow")
                facets.append(Facet(vector.reshape([-1 if i == axis else 1 for i in range(rank)]), (source,)))
        return Facets(tuple(facets)) if facets else self._record.frozen(rank, "a single value")

    def read_by_facet(self, facet: Facet, vector: Labels) -> None:
        """A variable contracts channels: an axis of it is the one that reads them."""
        for source in facet.sources:
            self._record.take_role(source, "in")
        self.table.unify(facet.vector, vector)

    def made_by_facet(self, facet: Facet) -> Labels:
        """A variable makes channels, as a kernel does: a row of the plan. Returns their labels."""
        for source in facet.sources:
            own = self._record.take_role(source, "out")
            holder = dataclasses.replace(self.call, op=source.op, path=source.path, inner=None)
            slices = ((source.index, (source.axis,), own.labels),)
            key = (id(source.op), f"{source.index} {source.axis}")
            # A variable that is used both ways round makes channels along either axis.
            others = {x.name for known, x in self._record.producers.items() if known != key}
            name = f"{source.path}:{source.axis}" if source.path in others else source.path
            self._record.producers.setdefault(key, Producer(name, holder, own.labels, slices))
        return facet.vector

    def freeze_other_facets(self, carried: Carried, *kept: Facet | None) -> None:
        """Nothing may be removed along the axes of a variable that are none of `kept`."""
        for facet in carried.facets if isinstance(carried, Facets) else ():
            if facet not in kept:
                self.table.freeze(facet.labels, f"an axis of '{facet.name}' that is no channel axis")

    def multiplied_by(self, facets: Facets, positions: float) -> None:
        """A variable is multiplied in once at each of `positions`."""
        source = facets.facets[0].sources[0]
        self._record.work.append(Work(source.op, self.call.path, positions * self.times, (), source.index))

    def frozen(self, rank: int, reason: str) -> Labels:
        """The label array of a tensor of which nothing may be removed."""
        return self._record.frozen(rank, reason)

    def follow(self, vector: Labels, *variables: TensorLike | None) -> None:
        """One-dimensional parameters with one entry a channel (bias, gamma, moving mean...)."""
        for variable in variables:
            self.attach(variable, 0, vector, "follow")

    def produce(
        self,
        labels: Labels,
        *kernels: tuple[TensorLike, tuple[int, ...], Labels],
        part: str = "",
        unit: int = 1,
    ) -> None:
        """Declares filters to be scored: a row of the plan.

        Args:
            labels: one per filter, shape `(n_filters,)`.
            *kernels: (variable, axes that count its filters, their labels).
            part: name of this kind of channels, where the layer has several.
            unit: channels that one filter stands for.
        """
        slices = []
        for variable, axes, vector in kernels:
            index = self._record.weight_index(self.call.op, variable)
            if index is not None:
                axes = tuple(axis % len(variable.shape) for axis in axes)
                slices.append((index, axes, vector))
        part = ":".join(x for x in (self._part, part) if x)
        name = f"{self.call.path}:{part}" if part else self.call.path
        self._record.producers.setdefault((id(self.call.op), part), Producer(name, self.call, labels, tuple(slices), unit))

    # --- what has to be rewritten ---

    def configure(self, key: str, value: Template) -> None:
        """`value`, resolved, replaces `key` in the layer's configuration."""
        path = (*self._config_path, key)
        self._record.edit(self._record.config_edits, (id(self.call.op), path), Edit(self.call.op, path, value))

    def argument(self, key: int | str, value: Template) -> None:
        """`value`, resolved, replaces a positional or keyword argument of this call."""
        self._record.edit(self._record.argument_edits, (id(self.call), key), Edit(self.call, key, value))

    def count(self, key: str, vector: Labels) -> None:
        """The configuration entry `key` is the number of channels in `vector`."""
        self.configure(key, Count(vector))

    # --- cost ---

    def positions(self, shape: Shape, *axes: int) -> float:
        """Number of positions a kernel is applied at: all of `shape` but the batch and `axes`; NaN where unknown."""
        left_out = {0, *(axis % len(shape) for axis in axes)}
        sizes = [size for i, size in enumerate(shape) if i not in left_out]
        return math.nan if None in sizes else float(math.prod(sizes))  # type: ignore[arg-type]

    def macs(self, variable: TensorLike, positions: float) -> None:
        """`variable` is multiplied in once at each of `positions`."""
        index = self._record.weight_index(self.call.op, variable)
        if index is None:
            self.work(positions * math.prod(variable.shape))
        else:
            self.work(positions, weight=index)

    def work(self, positions: float, *factors: Labels, weight: int | None = None) -> None:
        """Multiply-accumulates of this call: see `Work`."""
        self._record.work.append(Work(self.call.op, self.call.path, positions * self.times, factors, weight))
