"""SavedModels are programs: one from elsewhere can read and write files while it is loaded or run. Such ones are refused."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from tlt_prune.errors import ExportError, first_line

# Names of operations that touch files, other processes or the network. What TensorFlow's own saving and restoring has of
# them is not run by whoever computes outputs.
_REACHING_OUT = re.compile(
    r"File|Record|Dataset|Save|Restore|Checkpoint|RemapMatrix|Reader|Summary|LMDB|^Debug|^Print|Rpc|Send|Recv|Collective"
)


def refuse_unsafe(folder: pathlib.Path) -> None:
    """Looks at the operations of a SavedModel, without loading it.

    Raises:
        ExportError: it cannot be read, or some do more than compute outputs from inputs.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    message = saved_model_pb2.SavedModel()
    binary, text = folder / "saved_model.pb", folder / "saved_model.pbtxt"
    try:
        if binary.is_file():
            message.ParseFromString(binary.read_bytes())
        elif text.is_file():
            text_format.Parse(text.read_text("utf-8"), message)
    except (DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise ExportError(f"Cannot read {folder} as a SavedModel: {first_line(error, 100)}.") from error
    for graph in message.meta_graphs:
        for operation, place in _operations(graph):
            if _REACHING_OUT.search(operation):
                raise ExportError(
                    f"{folder} is refused: the operation {operation} in {place} reaches files, other processes or the network. "
                    "Expected a SavedModel that computes outputs from inputs, as tlt-export writes it."
                )


def _operations(graph: Any) -> Iterator[tuple[str, str]]:
    """(operation, where it is) of all that loading and running can reach: not what saves and restores variables."""
    functions = {x.signature.name: x for x in graph.graph_def.library.function}
    saver = {graph.saver_def.save_tensor_name.partition(":")[0], graph.saver_def.restore_op_name.partition(":")[0]}
    nodes = [x for x in graph.graph_def.node if x.name not in saver]
    saving, running = (_called(x, functions) for x in ([x for x in graph.graph_def.node if x.name in saver], nodes))
    for node in nodes:
        yield node.op, "its graph"
    # Functions that nothing in the graph calls are run by objects of the model, while they are loaded.
    for name, function in functions.items():
        if name in running or name not in saving:
            for node in function.node_def:
                yield node.op, f"the function {name}"


def _called(nodes: Iterable[Any], functions: Mapping[str, Any]) -> set[str]:
    """Names of the functions that nodes call, and of those that these call."""
    found: set[str] = set()
    waiting = list(nodes)
    while waiting:
        for attribute in waiting.pop().attr.values():
            for name in [attribute.func.name, *(x.name for x in attribute.list.func)]:
                if name in functions and name not in found:
                    found.add(name)
                    waiting += functions[name].node_def
    return found
