"""What Keras records while something runs on symbolic tensors: its nodes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from keras import tree

from tlt_prune.graph.family import Family


@contextlib.contextmanager
def noted_nodes(nodes: list[Any], family: Family) -> Iterator[None]:
    """Notes what Keras records; at the end no layer knows of it anymore."""
    kind = family.node_type()
    node_init = kind.__init__

    def noted(node: Any, *args: Any, **kwargs: Any) -> None:
        node_init(node, *args, **kwargs)
        family.mend_node(node)
        nodes.append(node)

    kind.__init__ = noted
    try:
        yield
    finally:
        kind.__init__ = node_init
        for made in reversed(nodes):
            for op in family.linked_operations(made):
                for known in (getattr(op, "_inbound_nodes", []), getattr(op, "_outbound_nodes", [])):
                    known[:] = [x for x in known if x is not made]


def operations_of(function: Callable[[Any], Any], family: Family) -> list[tuple[Any, list[Any]]] | None:
    """The operations that a function of one tensor is made of, with those of their arguments that are no tensors.

    None if it does not run on symbolic tensors of that Keras.
    """
    nodes: list[Any] = []
    with family.unnoticed():
        try:
            symbol = family.symbol((None, 3, 5), "float32")
            with noted_nodes(nodes, family):
                result = function(symbol)
        # A user's may raise anything on what is no array.
        except Exception:  # noqa: BLE001
            return None
    if not family.is_tensor(result):
        return None
    calls = [family.node_call(x) for x in nodes if not x.is_input]
    return [(op, [x for x in tree.flatten((args, kwargs)) if not family.is_tensor(x)]) for op, args, kwargs in calls]
