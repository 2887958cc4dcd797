"""Naming of nodes and tensors of an ONNX graph after the Keras layers that they come from."""

from __future__ import annotations

import collections
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import keras

from tlt_prune.graph import Call, read, run_through

if TYPE_CHECKING:
    import onnx

# Scope names that TensorFlow keeps as they are and that no layer has.
_SCOPE = re.compile(r"tltcall(\d+)x")
# Roles of a node's inputs, by position.
_ROLES = dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), ("", "kernel", "bias"))
# tf2onnx names the nodes that it adds after a neighbor, with a number.
_ADDED = re.compile(r"__\d+(:\d+)?$")


def with_call_scopes(model: keras.Model) -> tuple[Callable[..., Any], list[str]]:
    """A function that computes a model with the operations of each layer call in a numbered name scope.

    Its arguments are the model's inputs in the order of `model.inputs`.

    Returns:
        The function, and the path of each call by the number in its scope.
    """
    import tensorflow as tf

    graph = read(model)
    numbers: dict[int, int] = {}
    paths: list[str] = []

    def visit(call: Call, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Any:
        # Layers of augmentation are active unless they are told otherwise.
        if graph.family.is_layer(call.op) and "training" in inspect.signature(call.op.call).parameters:
            kwargs = {**kwargs, "training": False}
        if id(call) not in numbers:
            numbers[id(call)] = len(paths)
            paths.append(call.path)
        with tf.name_scope(f"tltcall{numbers[id(call)]}x"):
            return call.op(*args, **kwargs)

    return lambda *inputs: run_through(graph, list(inputs), visit), paths


def with_layer_names(proto: onnx.ModelProto, paths: list[str]) -> onnx.ModelProto:
    """Renames nodes, tensors and constants after their layers, in place; inputs and outputs of the graph keep their names.

    A layer's only node and the node with its kernel get the layer's name, others also the operation's: "block/Relu".
    A tensor gets the name of the node that computes it, constants end in "/kernel", "/bias" or "/constant". A depthwise
    convolution may get the name of the normalization that was folded into it.
    """
    _rename(proto.graph, paths, _Names(()), _Names(x.name for x in (*proto.graph.input, *proto.graph.output)), {})
    return proto


def _rename(graph: onnx.GraphProto, paths: list[str], nodes: _Names, tensors: _Names, outside: Mapping[str, str]) -> None:
    """Renames in a graph and the graphs inside its nodes (bodies of loops). `outside`: old -> new names visible there."""
    constants = {x.name for x in graph.initializer}
    fixed = set() if outside else {x.name for x in (*graph.input, *graph.output)}
    calls = [_call_number(node, constants) for node in graph.node]
    counts = collections.Counter(calls)
    new = {**outside, **{name: name for name in fixed}}
    renamed: set[str] = set(fixed)

    def rename(name: str, wanted: str) -> None:
        if name and name not in renamed:
            renamed.add(name)
            new[name] = tensors.unique(wanted)

    for i, value in enumerate(graph.input):
        rename(value.name, f"in_{i}")
    for node, call in zip(graph.node, calls, strict=True):
        if call is None:
            wanted = node.op_type
        else:
            wanted = paths[call] if counts[call] == 1 or node.op_type in _ROLES else f"{paths[call]}/{node.op_type}"
        node.name = nodes.unique(wanted)
        for i, name in enumerate(node.output):
            rename(name, f"{node.name}/{i}" if i else node.name)
        roles = _ROLES.get(node.op_type, ())
        for i, name in enumerate(node.input):
            if name in constants:
                rename(name, f"{node.name}/{roles[i] if i < len(roles) and roles[i] else 'constant'}")
    for value in graph.initializer:
        rename(value.name, "constant")
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = new.get(name, name)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    inner.name = f"{node.name}/{attribute.name}"
                    _rename(inner, paths, nodes, tensors, new)
    for value in [x for x in graph.value_info if x.name not in new]:
        graph.value_info.remove(value)
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = new.get(value.name, value.name)


class _Names:
    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def unique(self, wanted: str) -> str:
        """`wanted`, with a number added if it is taken."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name


def _call_number(node: onnx.NodeProto, constants: set[str]) -> int | None:
    """Number of the layer call that a node comes from; None for nodes that the converter added.

    For a node with a kernel it is the earliest call: later layers may be folded into it.
    """
    if node.op_type in _ROLES:
        texts = [node.name, *node.output, *(name for name in node.input if name in constants)]
        return min((int(number) for text in texts for number in _SCOPE.findall(text)[-1:]), default=None)
    for text in (node.name, *node.output):
        scopes = _SCOPE.findall(text)
        if scopes and not _ADDED.search(text):
            return int(scopes[-1])
    return None
