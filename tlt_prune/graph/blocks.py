"""Residual blocks: additions of a tensor and of what a branch makes of it, and graphs without some of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from keras import tree

from tlt_prune.errors import PlanError
from tlt_prune.graph import rules
from tlt_prune.graph.reader import Call, Graph, Tensor, matches, nearest_name


@dataclasses.dataclass(frozen=True, eq=False)
class ResidualBlock:
    """An addition of two branches of one tensor, of which the one with more layers can go.

    x + branch(x) becomes x; where the shortcut has a layer of its own, shortcut(x) + branch(x) becomes shortcut(x).

    Attributes:
        name: path of the addition.
        addition: its call.
        shortcut: what is left of it.
        end: what the branch that goes ends in.
        branch: the calls of that branch, which nothing else reads.
    """

    name: str
    addition: Call
    shortcut: Tensor
    end: Tensor
    branch: tuple[Call, ...]

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls that go with it."""
        return (*self.branch, self.addition)

    @property
    def layers(self) -> int:
        """How many of the branch's calls have weights."""
        return _weighted(self.branch)


def residual_blocks(graph: Graph) -> list[ResidualBlock]:
    """The residual blocks of a model, in order, those inside nested models included."""
    readers = graph.readers_by_tensor()
    found = []
    for scope in graph.scopes():
        if not scope.opened:
            for call in scope.calls:
                block = _block_at(call, scope, readers)
                if block is not None:
                    found.append(block)
    return found


def chosen_blocks(graph: Graph, names: Iterable[str]) -> list[ResidualBlock]:
    """The residual blocks whose additions have these names, paths or shell patterns.

    Raises:
        PlanError: one of them names no block.
    """
    every = residual_blocks(graph)
    chosen: dict[int, ResidualBlock] = {}
    for name in names:
        # A whole path means that block, though an addition inside a nested model may be called the same.
        matching = [x for x in every if x.name == name] or [x for x in every if matches(x.addition, name)]
        if not matching:
            known = [x.name for x in every]
            listed = f"It has {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}." if known else "It has none."
            raise PlanError(
                f"blocks: '{graph.model.name}' has no residual block {name!r}.{nearest_name(name, known)} Expected the names of "
                f"additions x + branch(x), as `block_sensitivity` lists them. {listed}"
            )
        chosen.update((id(x.addition), x) for x in matching)
    return list(chosen.values())


def without_blocks(graph: Graph, blocks: Collection[ResidualBlock]) -> Graph:
    """The graph in which each block's addition is its shortcut alone. Its `unused` are the weights that go."""
    gone = {id(call) for block in blocks for call in block.calls}
    instead = {block.addition.outputs[0].key: block.shortcut for block in blocks}
    smaller = _Reduction(gone, instead).of(graph)
    left = {id(v) for v in _variables(smaller)}
    return dataclasses.replace(smaller, unused=tuple(v for v in _variables(graph) if id(v) not in left))


def _variables(graph: Graph) -> Iterator[Any]:
    """The variables of a model's layers; what a nested model has, its own layers have."""
    for call in graph.walk():
        if graph.family.is_layer(call.op) and (call.inner is None or call.is_opened):
            yield from call.op.variables


def _block_at(addition: Call, scope: Graph, readers: Mapping[int, Sequence[Call | None]]) -> ResidualBlock | None:
    family, inputs = scope.family, addition.inputs
    if len(inputs) != 2 or inputs[0].key == inputs[1].key:
        return None
    if not rules.states_trait(addition.op, "sum", is_layer=family.is_layer(addition.op)):
        return None
    whole = addition.outputs[0]
    branches = [_behind(x, addition, scope, readers) for x in inputs]
    sides = [(_weighted(branch), x, branch) for x, branch in zip(inputs, branches, strict=True)]
    (fewer, shortcut, other), (more, end, branch) = sorted(sides, key=lambda side: side[0])
    origin = _entries(branch)
    same_shape = (shortcut.shape, shortcut.dtype) == (whole.shape, whole.dtype)
    if more == fewer or not same_shape or origin != (_entries(other) or {shortcut.key}):
        return None
    return ResidualBlock(addition.path, addition, shortcut, end, tuple(branch))


def _behind(end: Tensor, addition: Call, scope: Graph, readers: Mapping[int, Sequence[Call | None]]) -> list[Call]:
    """The calls that compute one side of an addition and nothing else, the last one first."""
    inside: list[Call] = []
    ids: set[int] = set()
    for call in reversed(scope.calls):
        # An output that nothing reads needs no call.
        reading = [reader for x in call.outputs for reader in readers.get(x.key, ())]
        if end.key in [x.key for x in call.outputs]:
            alone = all(reader is addition for reader in reading)
        else:
            alone = bool(reading) and all(id(reader) in ids for reader in reading)
        if alone:
            inside.append(call)
            ids.add(id(call))
    return inside


def _entries(branch: Sequence[Call]) -> set[int]:
    """Keys of the tensors that a branch is given from outside."""
    made = {x.key for call in branch for x in call.outputs}
    return {x.key for call in branch for x in call.inputs} - made


def _weighted(branch: Sequence[Call]) -> int:
    return sum(1 for call in branch if getattr(call.op, "weights", ()))


class _Reduction:
    """Graphs without some calls, the nested ones included, each once."""

    def __init__(self, gone: Collection[int], instead: Mapping[int, Tensor]) -> None:
        self._gone, self._instead = gone, instead
        self._done: dict[int, Graph] = {}

    def of(self, graph: Graph) -> Graph:
        if id(graph) not in self._done:
            calls = [
                dataclasses.replace(
                    call,
                    args=self._replaced(call.args),
                    kwargs=self._replaced(call.kwargs),
                    inner=self.of(call.inner) if call.inner is not None else None,
                )
                for call in graph.calls
                if id(call) not in self._gone
            ]
            self._done[id(graph)] = dataclasses.replace(graph, outputs=self._replaced(graph.outputs), calls=tuple(calls))
        return self._done[id(graph)]

    def _replaced(self, structure: Any) -> Any:
        return tree.map_structure(lambda x: self._left(x) if isinstance(x, Tensor) else x, structure)

    def _left(self, tensor: Tensor) -> Tensor:
        # The shortcut may be the addition of another block that goes.
        while tensor.key in self._instead:
            tensor = self._instead[tensor.key]
        return tensor
