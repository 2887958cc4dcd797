"""Whether a layer that was opened can be made smaller by its own constructor, and by which entries of its configuration.

Which entry counts what is found by trying: one entry, or the width of an input, is doubled, and the axes of the weights that move
are those that it counts. What one entry counts is coupled. Whether that is all is tried too: the layer is built with half of what
may go gone, opened again, and compared with what its graph should be then, call by call. Where they differ, nothing of the layer
may go.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tlt_prune.errors import first_line
from tlt_prune.graph.channel_graph import Count, Edit
from tlt_prune.graph.comparing import Comparison
from tlt_prune.graph.facets import Source
from tlt_prune.graph.family import all_layers
from tlt_prune.graph.inner_graph import CannotOpenError
from tlt_prune.graph.labels import Alive, Bundles, Labels, kept_shape, varying_axes
from tlt_prune.graph.opening import open_layer
from tlt_prune.graph.reader import Call
from tlt_prune.graph.rebuild import configuration, rebuild, trust_arguments
from tlt_prune.graph.record import Record
from tlt_prune.graph.signatures import constant_arguments, remembered, signature
from tlt_prune.graph.trials import Path, called, half, integers

Axis = tuple[int, int]
"""(position of a weight in `Family.weights(layer)`, axis)."""


@dataclasses.dataclass(frozen=True)
class Knob:
    """What may change the sizes of a layer's weights: entries of its configuration, and widths of its inputs.

    Attributes:
        entries: paths in its configuration.
        inputs: positions of its input tensors.
    """

    entries: tuple[Path, ...] = ()
    inputs: tuple[int, ...] = ()


class Expression:
    """One opened layer, all its calls, and what its constructor can say of it.

    Args:
        record: what was traced; receives couplings, and what is frozen.
        compared: compares with what was traced, of all layers.
        calls: the calls of the layer.
        labels_of: tensor key -> its label array.
        elsewhere: `id` of a layer -> a call of it in the model itself: the opened layer may hold it too.
    """

    def __init__(
        self,
        record: Record,
        compared: Comparison,
        calls: Sequence[Call],
        labels_of: Mapping[int, Labels],
        elsewhere: Mapping[int, Call],
    ) -> None:
        self._record, self._calls, self._labels_of = record, calls, labels_of
        self._held = [elsewhere[id(x)] for x in all_layers(calls[0].op) if id(x) in elsewhere]
        self._call, self._op, self._family = calls[0], calls[0].op, record.graph.family
        position = {id(v): i for i, v in enumerate(self._family.weights(self._op))}
        inside = {id(x) for x in (self._op, *all_layers(self._op))}
        self._axes: dict[Axis, Labels] = {}
        """Of the weights that its constructor makes."""
        self._held_axes: dict[Axis, Labels] = {}
        """Of those of layers that the model has elsewhere too: these count their own channels."""
        for axis in record.axes.values():
            if id(axis.op) in inside:
                axes = self._held_axes if id(axis.op) in elsewhere else self._axes
                axes[position[id(self._family.weights(axis.op)[axis.index])], axis.axis] = axis.labels
        used = {id(v) for call in calls if call.inner is not None for _, _, v in call.inner.weights_used()}
        self._unused = {i for i, v in enumerate(self._family.weights(self._op)) if id(v) not in used}
        """Positions of the weights that no call reads."""
        self._compared = compared
        self.edits: list[Edit] = []
        self.is_described = True
        """Whether its configuration makes a layer that does the same."""
        self._key: tuple[Any, ...] = (
            type(self._op),
            signature(self._op),
            tuple(x.shape for x in self._call.inputs),
            constant_arguments(self._call),
        )

    @property
    def op(self) -> Any:
        return self._op

    @property
    def path(self) -> str:
        return self._call.path

    def couple(self) -> None:
        """Couples what one entry counts, says how it is counted, and freezes what no entry counts."""
        why = remembered((*self._key, "whole"), self._differs_when_made_again)
        if why is not None and trust_arguments(self._op, trusted=True):
            why = remembered((*self._key, "by arguments"), self._differs_when_made_again)
            self._key = (*self._key, "by arguments")
            trust_arguments(self._op, trusted=why is None)
        if why is not None:
            self.is_described = False
            self.freeze(why)
            return
        knobs = remembered((*self._key, tuple(self._axes), tuple(self._widths())), self._moved_by)
        if isinstance(knobs, str):
            self.freeze(knobs)
            return
        taken: set[Axis] = set()
        for knob, moved in sorted(knobs.items(), key=lambda x: -len(x[1])):
            self._tie(knob, moved, taken)
        for axis, labels in self._axes.items():
            if axis not in taken:
                self._record.table.freeze(labels, f"no entry of the configuration of '{self.path}' counts it")

    def freeze(self, why: str) -> None:
        """Nothing of the layer may be removed."""
        reason = f"'{self.path}' cannot be made smaller by its constructor: {why}"
        for labels in (*self._axes.values(), *self._held_axes.values()):
            self._record.table.freeze(labels, reason)
        for call in self._calls:
            for tensor in (*call.inputs, *call.outputs):
                self._record.table.freeze(self._labels_of[tensor.key], reason)

    def _tie(self, knob: Knob, moved: Collection[Axis], taken: set[Axis]) -> None:
        """Couples all that one knob counts, unless some of it is counted by another one already."""
        vectors = [self._axes[axis] for axis in moved if axis in self._axes]
        vectors += [self._width(i) for i in knob.inputs]
        values = [self._value(path) for path in knob.entries]
        unit = min([*map(len, vectors), *values])
        weights = self._family.weights(self._op)
        sizes = [*map(len, vectors), *values, *(weights[i].shape[axis] for i, axis in moved)]
        fits = all(size % unit == 0 for size in sizes)
        rigid = [axis for axis in moved if axis not in self._axes and axis[0] not in self._unused]
        if taken.intersection(moved) or rigid or not fits:
            if knob.inputs and (rigid or not fits):
                for vector in vectors:
                    self._record.table.freeze(vector, f"the weights of '{self.path}' do not follow the width of its input")
                taken.update(moved)
            return
        first = min(vectors, key=len)[:unit]
        for vector in vectors:
            self._record.table.unify(vector.reshape(-1, unit), first[None, :])
        for index, axis in moved:
            if (index, axis) not in self._axes:
                # Of a weight that no call reads.
                size = weights[index].shape[axis]
                self._axes[index, axis] = np.tile(first, size // unit)
                self._record.attach(Source(self._op, self.path, index, axis), self._axes[index, axis], "follow")
        for path, value in zip(knob.entries, values, strict=True):
            edit = Edit(self._op, path, Count(np.tile(first, value // unit)))
            self.edits.append(edit)
        taken.update(moved)

    # --- probing ---

    def _widths(self) -> Iterator[int]:
        """Positions of the inputs that carry channels."""
        for i, tensor in enumerate(self._call.inputs):
            if varying_axes(self._labels_of[tensor.key]):
                yield i

    def _width(self, position: int) -> Labels:
        return self._labels_of[self._call.inputs[position].key].reshape(-1)

    def _value(self, path: Path) -> int:
        value: Any = configuration(self._op)
        for key in path:
            value = value[key]
        return int(value)

    def _moved_by(self) -> dict[Knob, set[Axis]] | str:
        """Each knob that moves something -> the axes that it moves; or why nothing is known."""
        try:
            before = self._shapes(Knob())
        except CannotOpenError as error:
            return str(error)
        if before != [tuple(v.shape) for v in self._family.weights(self._op)]:
            return "built from its configuration it has other weights"
        singles = [Knob(inputs=(i,)) for i in self._widths()]
        singles += sorted((Knob(entries=(path,)) for path in integers(configuration(self._op))), key=self._size, reverse=True)
        found: dict[Knob, set[Axis]] = {}
        failed: list[Knob] = []
        for knob in singles:
            if self._axes.keys() <= {axis for moved in found.values() for axis in moved}:
                # What is left counts something else: kernels, strides, heads.
                break
            moved = self._moved(knob, before)
            if moved is None:
                failed.append(knob)
            elif moved:
                found[knob] = moved
        for knob in self._joined(failed, singles):
            moved = self._moved(knob, before)
            if moved:
                found[knob] = moved
                # What moves with others alone moves nothing by itself.
                failed = [x for x in failed if not set(x.entries + x.inputs) <= set(knob.entries + knob.inputs)]
        return found

    def _joined(self, failed: Sequence[Knob], singles: Sequence[Knob]) -> Iterator[Knob]:
        """Knobs of the same size that may have to be turned together, such as a block's filters and the width of what it is
        added to: all of one size, then pairs."""
        by_size: dict[int, list[Knob]] = {}
        for knob in singles:
            by_size.setdefault(self._size(knob), []).append(knob)
        done: set[frozenset[Any]] = set()
        for knob in failed:
            same = by_size[self._size(knob)]
            for group in ([knob, *(x for x in same if x is not knob and x in failed)], same, *([knob, x] for x in same)):
                parts = frozenset(p for x in group for p in (*x.entries, *x.inputs))
                if len(parts) > 1 and parts not in done:
                    done.add(parts)
                    yield Knob(tuple(p for x in group for p in x.entries), tuple(p for x in group for p in x.inputs))

    def _size(self, knob: Knob) -> int:
        return self._value(knob.entries[0]) if knob.entries else len(self._width(knob.inputs[0]))

    def _moved(self, knob: Knob, before: Sequence[tuple[int, ...]]) -> set[Axis] | None:
        """The axes that move when a knob is turned to twice its size; None where the layer cannot be built then."""
        try:
            after = self._shapes(knob)
        except CannotOpenError:
            return None
        if [len(x) for x in after] != [len(x) for x in before]:
            return None
        moved = set()
        for index, (a, b) in enumerate(zip(before, after, strict=True)):
            for axis, (size, new) in enumerate(zip(a, b, strict=True)):
                if new != size:
                    moved.add((index, axis))
                    if new != 2 * size:
                        return None
        return moved

    def _shapes(self, knob: Knob) -> list[tuple[int, ...]]:
        """Shapes of the weights of a layer that is built with a knob turned to twice its size."""
        edits = [Edit(self._op, path, 2 * self._value(path)) for path in knob.entries]
        shapes = {}
        for i in knob.inputs:
            tensor = self._call.inputs[i]
            (axis,) = varying_axes(self._labels_of[tensor.key])
            shapes[tensor.key] = tuple(2 * n if j == axis else n for j, n in enumerate(tensor.shape))  # type: ignore[operator]
        nothing = np.zeros(0, dtype=bool)
        return [tuple(v.shape) for v in self._family.weights(self._built(self._call, edits, nothing, shapes)[0])]

    def _built(
        self, call: Call, edits: Sequence[Edit], alive: Alive, shapes: Mapping[int, Any], outer: Any = None
    ) -> tuple[Any, Call]:
        """A layer from an edited configuration, called on inputs of other shapes; and that call.

        Args:
            call: of the original.
            edits: of its configuration.
            alive: `(n_labels,)`, what is retained; empty where only `edits` and `shapes` say what changes.
            shapes: tensor key -> shape, for those of the call's inputs that have another one.
            outer: the layer, where another call has built it.
        """
        with (
            self._family.unnoticed(),
            keras.StatelessScope(initialize_variables=False),
            warnings.catch_warnings(record=True) as said,
        ):
            warnings.simplefilter("always")
            try:
                new = outer
                if new is None:
                    held = {x.op: self._held_twin(x, alive) for x in self._held}
                    new = rebuild(call, self._family, edits, alive, {}, held, resized=True)
                made = called(call, new, shapes, self._family)
            # A layer of somebody else's may raise anything.
            except Exception as error:
                raise CannotOpenError(f"it cannot be built from its configuration: {first_line(error, 120)}") from error
        if any("unbuilt state" in str(x.message) for x in said):
            raise CannotOpenError("Keras cannot build it by calling it")
        return new, made

    def _held_twin(self, call: Call, alive: Alive) -> Any:
        """What becomes of a layer of the model that this one holds."""
        edits = self._compared.config_edits.get(id(call.op), ()) if len(alive) else ()
        shapes = {x.key: kept_shape(x.shape, self._labels_of[x.key], alive) for x in call.inputs} if len(alive) else {}
        twin = rebuild(call, self._family, edits, alive, {}, {}, resized=True)
        called(call, twin, shapes, self._family)
        return twin

    # --- trying ---

    def try_out(self, bundles: Bundles, made: Labels) -> str | None:
        """Builds the layer with half of what may go gone, and compares it with what its graph should be then.

        Args:
            bundles: of all labels.
            made: roots of the bundles that some layer makes.

        Returns:
            Why the constructor cannot make the layer smaller; None if it can.
        """
        vectors = [*self._axes.values(), *self._held_axes.values()]
        vectors += [self._labels_of[x.key].reshape(-1) for call in self._calls for x in (*call.inputs, *call.outputs)]
        roots = [bundles.root[x] for x in vectors]
        everything = np.concatenate([np.zeros(0, np.int64), *roots])
        free = np.isin(everything, made) & ~np.isin(everything, list(bundles.frozen))
        if not free.any():
            return None
        _, shape_of = np.unique(everything, return_inverse=True)
        key = (*self._key, "tried", shape_of.tobytes(), free.tobytes(), tuple(str(x.key) for x in self.edits))
        answer: str | None = remembered(key, lambda: self._tried(half(bundles, made, roots)))
        return answer

    def _told(self, error: Exception) -> str:
        """A reason that holds for every layer of the same class: what is inside is named without this one."""
        return str(error).replace(f"'{self.path}/", "'")

    def _differs_when_made_again(self) -> str | None:
        """Why its configuration, as it is, does not make a layer that does the same."""
        everything = np.ones(self._record.table.count, dtype=bool)
        try:
            for call in self._calls:
                new = self._built(call, (), everything, {})[1]
                assert call.inner is not None, "only opened layers are expressed"
                self._compared.compare(call.inner, open_layer(new, self._family), everything)
        except CannotOpenError as error:
            return self._told(error)
        return None

    def _tried(self, alive: Alive) -> str | None:
        op: Any = None
        try:
            for call in self._calls:
                shapes = {x.key: kept_shape(x.shape, self._labels_of[x.key], alive) for x in call.inputs}
                op, new = self._built(call, self.edits, alive, shapes, op)
                assert call.inner is not None, "only opened layers are expressed"
                self._compared.compare(call.inner, open_layer(new, self._family), alive)
        except CannotOpenError as error:
            return self._told(error)
        axes = {**self._axes, **self._held_axes}
        for i, variable in enumerate(self._family.weights(self._op)):
            expected = tuple(int(alive[axes[i, j]].sum()) if (i, j) in axes else n for j, n in enumerate(variable.shape))
            received = tuple(self._family.weights(op)[i].shape)
            if expected != received:
                return f"its weight '{variable.name}' has the shape {received} then, expected was {expected}"
        return None
