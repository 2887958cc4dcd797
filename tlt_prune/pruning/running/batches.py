"""Data from a user -> batches in memory: arrays, a `tf.data.Dataset`, a `PyDataset`, or anything that yields batches."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, Protocol

import keras
import numpy as np
from keras import tree
from numpy.typing import NDArray

from tlt_prune.config import is_count
from tlt_prune.errors import PlanError, first_line
from tlt_prune.graph import Graph
from tlt_prune.onnx import fits

Batch = tuple[Any, Any]
"""(inputs in the structure of the model's, labels or None), NumPy arrays."""


class IndexedBatches(Protocol):
    """Batches by their number, such as a `keras.utils.PyDataset`."""

    def __getitem__(self, index: int) -> Any: ...


UserData = Iterable[Any] | IndexedBatches
"""Data as a user has it: arrays `x` or `(x, y)`, structures of them, a `tf.data.Dataset`, a `PyDataset`, or an iterable of
batches. See `Batches`."""


class Batches(Sequence[Batch]):
    """Batches of examples, read once and kept.

    Args:
        data: arrays `x` or `(x, y)` (structures of them for several inputs), a `tf.data.Dataset`, a `keras.utils.PyDataset`, a
            generator or another iterable of batches `x`, `(x, y)` or `(x, y, weights)`. Weights are ignored; a warning says so
            where labels count and the weights differ.
        graph: of the model that the data is for: shapes are checked against its inputs.
        steps: batches to read; None for all. An endless generator needs it.
        batch_size: of arrays.
        labeled: whether labels are needed.
        what: who asks, for errors.

    Raises:
        PlanError: there is no data, no label where one is needed, or something of the wrong shape or not finite.
    """

    def __init__(
        self,
        data: UserData | None,
        graph: Graph,
        *,
        steps: int | None = None,
        batch_size: int = 64,
        labeled: bool = False,
        what: str,
    ) -> None:
        self._batches: list[Batch] = []
        _check_count(steps, "steps", what)
        _check_count(batch_size, "batch_size", what)
        if steps is None and _is_endless(data):
            raise PlanError(f"{what}: the data has no end. Expected steps=, the batches to read, or a dataset without repeat().")
        sized, size, weighted = _has_size(data), 0, False
        try:
            for raw in itertools.islice(_raw(data, batch_size), steps):
                x, y = _split(raw)
                weighted = weighted or (labeled and _has_different_weights(raw))
                x = _checked(_in_structure(x, graph), graph, what)
                if labeled and y is None:
                    raise PlanError(f"{what} needs labels. Expected data of (x, y). Received inputs only.")
                self._batches.append((x, None if y is None else tree.map_structure(_array, y)))
                size += sum(a.nbytes for a in tree.flatten(x))
                if steps is None and not sized and (len(self) > _MOST_BATCHES or size > _MOST_BYTES):
                    raise PlanError(
                        f"{what}: {self} were read, and there are more. Expected steps=, the batches to read: the data may "
                        "have no end."
                    )
        except PlanError:
            raise
        except (TypeError, ValueError) as error:
            raise PlanError(
                f"{what}: expected arrays, a tf.data.Dataset, a PyDataset or batches (x, y). Received {type(data).__name__}: "
                f"{_hint(data, graph) or first_line(error)}"
            ) from error
        if not len(self):
            raise PlanError(f"{what}: {_why_empty(data)}")
        if weighted:
            warnings.warn(f"{what}: the data's sample weights are ignored: every example counts alike.", stacklevel=2)
        _remember(data, what)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int | slice) -> Any:
        return self._batches[index]

    @property
    def examples(self) -> int:
        return sum(len(tree.flatten(x)[0]) for x, _ in self._batches)

    def __str__(self) -> str:
        return f"{self.examples:,} examples in {len(self)} batches"

    def of_size(self, size: int) -> Iterator[Batch]:
        """The same examples in batches of `size`."""
        for x, y in self._batches:
            n = len(tree.flatten(x)[0])
            for start in range(0, n, size):
                yield tree.map_structure(lambda a, i=start: a[i : i + size], (x, y))  # type: ignore[misc]


class TakesData:
    """Base class of criteria and compensations that take data: it is read at the first use, and kept.

    Attributes:
        used: after a use: how much data it was.
    """

    def __init__(self, data: UserData | None, steps: int | None, batch_size: int) -> None:
        self._data, self._steps, self._batch_size = data, steps, batch_size
        self._kept: tuple[Any, Batches] | None = None
        self.used = ""

    def _read(self, graph: Graph, what: str, *, labeled: bool = False) -> Batches:
        """The data as batches for a model, read again only for a model with other inputs."""
        shapes = [x.shape for x in graph.flat_inputs]
        if self._kept is None or self._kept[0] != shapes:
            batches = Batches(self._data, graph, steps=self._steps, batch_size=self._batch_size, labeled=labeled, what=what)
            self._kept = shapes, batches
        self.used = str(self._kept[1])
        return self._kept[1]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.used})"


# Of data that does not say how much it is: beyond it, it is taken for endless.
_MOST_BATCHES, _MOST_BYTES = 10_000, 2**33
# Iterators can be read once: who did.
_READERS: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def _check_count(value: object, name: str, what: str) -> None:
    if value is not None and not is_count(value):
        raise PlanError(f"{what}: {name} must be a whole number of at least 1. Received: {value!r}.")


def _is_endless(data: object) -> bool:
    """Whether data says of itself that it never ends."""
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    if isinstance(data, (itertools.cycle, itertools.count)):
        return True
    # tf.data's INFINITE_CARDINALITY.
    return hasattr(data, "cardinality") and int(data.cardinality()) == -1


def _has_size(data: object) -> bool:
    try:
        return isinstance(data, Sized) and len(data) >= 0
    # tf.data has a length only where it knows it.
    except TypeError:
        return False


def _is_iterator(data: object) -> bool:
    return hasattr(data, "__next__")


def _remember(data: object, what: str) -> None:
    if _is_iterator(data):
        # Some iterators cannot be referred to weakly: then nobody knows who read them.
        with contextlib.suppress(TypeError):
            _READERS[data] = what


def _why_empty(data: object) -> str:
    if not _is_iterator(data):
        return "the data is empty. Expected at least one batch."
    try:
        reader = _READERS.get(data)
    except TypeError:
        reader = None
    who = f"{reader} has used it up" if reader else "it was read before, or never had any"
    return (
        f"this {type(data).__name__} has no batches left: {who}. Expected something that can be read again: a list of batches, a "
        "tf.data.Dataset or arrays."
    )


def _hint(data: object, graph: Graph) -> str:
    """Advice for the usual mistakes; empty where there is none."""
    if isinstance(data, (str, pathlib.Path)):
        return "it is a name. Read the data first: arrays or batches are expected."
    if callable(data) and not hasattr(data, "__iter__"):
        return "it is a function. Call it: data=function(), not data=function."
    if isinstance(data, list) and data and np.shape(data[0]) == tuple(graph.flat_inputs[0].shape[1:]):
        return "it is a list of single examples. Make one array of them: np.stack(list)."
    return ""


def _raw(data: UserData | None, batch_size: int) -> Any:
    if data is None:
        raise ValueError("no data.")
    if isinstance(data, (str, bytes, pathlib.PurePath)):
        raise TypeError("a name.")
    if isinstance(data, keras.utils.PyDataset):
        if data.num_batches is None:
            return (data[i] for i in itertools.count())
        return (data[i] for i in range(data.num_batches))
    if hasattr(data, "as_numpy_iterator"):
        return iter(data)
    if isinstance(data, list) and data and all(isinstance(x, tuple) for x in data):
        return data
    if not (isinstance(data, (tuple, list, dict)) or hasattr(data, "shape")):
        return iter(data)
    arrays = tree.flatten(data)
    if not all(hasattr(x, "shape") and len(x.shape) for x in arrays):
        raise ValueError("expected arrays with a batch axis.")
    counts = {len(x) for x in arrays}
    if len(counts) > 1:
        raise ValueError(f"the arrays have different numbers of examples: {sorted(counts)}.")
    return (
        tree.map_structure(lambda x, i=start: x[i : i + batch_size], data)  # type: ignore[misc]
        for start in range(0, counts.pop() if counts else 0, batch_size)
    )


def _split(raw: object) -> tuple[Any, Any]:
    """(inputs, labels or None): a tuple is (x,), (x, y) or (x, y, weights), as in Keras."""
    if not isinstance(raw, tuple):
        return raw, None
    return raw[0], raw[1] if len(raw) > 1 else None


def _has_different_weights(raw: object) -> bool:
    weights = tree.flatten(raw[2]) if isinstance(raw, tuple) and len(raw) > 2 else []
    return any(np.ptp(_array(x)) > 0 for x in weights if x is not None)


def _array(value: object) -> NDArray[Any]:
    return np.asarray(keras.ops.convert_to_numpy(value) if hasattr(value, "device") or hasattr(value, "numpy") else value)


def _in_structure(x: object, graph: Graph) -> Any:
    flat = [_array(a) for a in tree.flatten(_by_name(x, graph) if isinstance(x, dict) else x)]
    if len(flat) != len(graph.flat_inputs):
        raise ValueError(f"the model has {len(graph.flat_inputs)} inputs, the data {len(flat)}.")
    return tree.pack_sequence_as(graph.inputs, flat)


def _by_name(x: Mapping[str, Any], graph: Graph) -> Any:
    """What a dictionary has for the model's inputs: by the keys of the model's own, else by the inputs' names, as in Keras."""
    of_model = isinstance(graph.inputs, dict)
    names = list(graph.inputs) if of_model else [getattr(op, "name", "") for op in graph.input_ops]
    missing = [name for name in names if name not in x]
    if missing and (len(x) != len(names) or len(x) == 1):
        # One has one place to go to; another number is told by who asks.
        return list(x.values())
    if missing:
        raise ValueError(f"the model has an input '{missing[0]}', the data {', '.join(map(repr, x))}.")
    return {name: x[name] for name in names} if of_model else [x[name] for name in names]


def _checked(x: object, graph: Graph, what: str) -> Any:
    for array, expected in zip(tree.flatten(x), graph.flat_inputs, strict=True):
        if not fits(array.shape, expected.shape):
            single = fits((1, *array.shape), expected.shape)
            hint = " That is a single example: call .batch(64) on the dataset, or give x[None]." if single else ""
            raise PlanError(
                f"{what}: the model takes inputs of shape {expected.shape}. Received a batch of shape {array.shape}.{hint}"
            )
        # In the type that the model computes in: what is finite in float64 may not be there.
        with np.errstate(over="ignore"):
            computed = array.astype(np.float32) if array.dtype == np.float64 else array
        if array.dtype.kind == "f" and not np.isfinite(computed).all():
            raise PlanError(f"{what}: the data holds values that are not finite. Expected numbers without NaN and infinity.")
    return x
