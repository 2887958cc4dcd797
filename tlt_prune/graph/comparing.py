"""Two openings of a layer, the original and one that was made smaller, compared call by call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import tree

from tlt_prune.graph.channel_graph import edited_arguments, edits_by_target, resolve
from tlt_prune.graph.inner_graph import CannotOpenError
from tlt_prune.graph.inner_ops import Assigned, Constant, OwnVariable, ToBatch
from tlt_prune.graph.labels import Alive, Labels, kept_shape
from tlt_prune.graph.opening import open_layer
from tlt_prune.graph.reader import Call, Graph, Tensor
from tlt_prune.graph.rebuild import with_entry
from tlt_prune.graph.record import Record


class Comparison:
    """Says whether a layer's graph is what that of the original should be, once some channels are gone.

    Args:
        record: what was traced of the original.
        labels_of: tensor key -> its label array.
    """

    def __init__(self, record: Record, labels_of: Mapping[int, Labels]) -> None:
        self._record, self._labels_of, self._family = record, labels_of, record.graph.family
        self._argument_edits = edits_by_target(record.argument_edits.values())
        self.config_edits = edits_by_target(record.config_edits.values())
        """`id` of a layer or operation -> the edits of its configuration."""

    def compare(self, old: Graph, new: Graph, alive: Alive) -> None:
        """Raises a CannotOpenError that names the first call which is not what it should be."""
        if len(old.calls) != len(new.calls):
            raise CannotOpenError("it makes other calls then")
        numbers = {x.key: y.key for x, y in zip(old.flat_inputs, new.flat_inputs, strict=True)}
        for a, b in zip(old.calls, new.calls, strict=True):
            problem = self._difference(a, b, alive, numbers)
            if problem is None and not self._family.is_layer(a.op):
                problem = self._differing_attribute(a.op, b, alive)
            elif problem is None and a.inner is None:
                problem = self._differing_entry(a.op, b.op, alive)
            if problem:
                raise CannotOpenError(f"'{a.path}' {problem} then")
            for x, y in zip(a.outputs, b.outputs, strict=True):
                numbers[x.key] = y.key
            if a.inner is not None and a.is_opened:
                self.compare(a.inner, open_layer(b, self._family), alive)
        if [numbers[x.key] for x in old.flat_outputs] != [x.key for x in new.flat_outputs]:
            raise CannotOpenError("it returns something else then")

    def _difference(self, a: Call, b: Call, alive: Alive, numbers: Mapping[int, int]) -> str | None:
        if type(a.op) is not type(b.op) or len(a.outputs) != len(b.outputs):
            return "is another operation"
        for x, y in zip(a.outputs, b.outputs, strict=True):
            shape = self._kept(x, alive)
            if shape is not None and shape != y.shape:
                return f"returns the shape {y.shape}, expected was {shape},"
        expected = tree.flatten(edited_arguments(a, self._argument_edits.get(id(a), ()), alive))
        received = tree.flatten((b.args, b.kwargs))
        if len(expected) != len(received):
            return "is called otherwise"
        for x, y in zip(expected, received, strict=True):
            if isinstance(x, Tensor):
                if not isinstance(y, Tensor) or numbers.get(x.key) != y.key:
                    return "is called on something else"
            elif not _equal(x, y):
                return "is called with other constants"
        return None

    def _kept(self, x: Tensor, alive: Alive) -> tuple[int | None, ...] | None:
        carried = self._record.facets.get(x.key)
        if carried is None:
            return kept_shape(x.shape, self._labels_of[x.key], alive)
        shape = list(x.shape)
        for facet in carried.facets:
            shape[facet.axis] = int(alive[facet.vector].sum())
        return tuple(shape)

    def _differing_attribute(self, a: Any, call: Call, alive: Alive) -> str | None:
        b = call.op
        if isinstance(a, OwnVariable):
            return None if a.name == b.name else "is another variable"
        if isinstance(a, Assigned):
            return None if a.target.name == b.target.name else "is given to another variable"
        if isinstance(a, Constant):
            return None if _equal(a.value, b.value) else "is another constant"
        if isinstance(a, ToBatch):
            return None
        if hasattr(a, "symbol"):
            # A function of TensorFlow; its arguments were compared.
            return None if a.symbol == b.symbol else "is another function"
        edits = self._entries(a, alive)
        for key, value in vars(a).items():
            if key.startswith("_") or key == "name":
                continue
            expected, received = edits.get((key,), value), getattr(b, key, None)
            if key == "indices_or_sections":
                expected, received = (_ends(x, call.inputs[0].shape[b.axis]) for x in (expected, received))
            if not _equal(expected, received):
                return f"has {key}={received!r}, expected was {expected!r},"
        return None

    def _differing_entry(self, a: Any, b: Any, alive: Alive) -> str | None:
        try:
            one, other = a.get_config(), b.get_config()
        # Somebody else's; its weights and calls are compared all the same.
        except Exception:  # noqa: BLE001
            return None
        edited = {path[0]: with_entry(one, path, value)[path[0]] for path, value in self._entries(a, alive).items()}
        for key, value in one.items():
            if key in _NO_COMPUTATION or key.endswith(("_initializer", "_regularizer", "_constraint")):
                continue
            # What is None follows from the rest; the shape of what comes out was compared.
            expected = edited.get(key, value) if value is not None else value
            if not _equal(expected, other.get(key)):
                return f"has {key}={other.get(key)!r}, expected was {expected!r},"
        return None

    def _entries(self, op: Any, alive: Alive) -> dict[tuple[Any, ...], Any]:
        """Path -> value of the entries of an inner operation that depend on what is retained."""
        return {e.key: resolve(e.value, alive) for e in self.config_edits.get(id(op), ())}


_NO_COMPUTATION = ("name", "build_config", "dtype", "trainable")


def _ends(sections: Any, size: int | None) -> Any:
    """Where the parts of a split end, for a number of equal parts too."""
    if isinstance(sections, int) and size is not None:
        return tuple(size // sections * i for i in range(1, sections))
    return tuple(sections) if isinstance(sections, (list, tuple, np.ndarray)) else sections


def _equal(a: object, b: object) -> bool:
    """Whether two constants of a graph are the same."""
    if a is b:
        return True
    if hasattr(a, "shape") or hasattr(b, "shape"):
        one, other = (np.asarray(keras.ops.convert_to_numpy(x)) if hasattr(x, "shape") else np.asarray(x) for x in (a, b))
        return one.shape == other.shape and bool(np.array_equal(one, other))
    return _plain_equal(a, b)


def _plain_equal(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [k for k in a if k not in _NO_COMPUTATION]
        return all(k in b and _equal(a[k], b[k]) for k in keys)
    if isinstance(a, slice) and isinstance(b, slice):
        return (a.start, a.stop, a.step) == (b.start, b.stop, b.step)
    try:
        same = bool(a == b)
    # Objects of somebody else's need not be comparable.
    except Exception:  # noqa: BLE001
        return type(a) is type(b)
    # Objects without an equality of their own: the class tells.
    has_own = any("__eq__" in vars(cls) for cls in type(a).__mro__[:-1])
    return same or (type(a) is type(b) and not has_own and not callable(a))
