"""Attention: a head is a channel of its own kind; with a single head, the width of its values is.

Removing a head is exact: its rows in the output projection are what the law zeroes. The width of queries and
keys stays, because the softmax scale depends on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tlt_prune.graph.channels import Alive, CallTrace
from tlt_prune.graph.labels import Labels, varying_axes
from tlt_prune.graph.reader import Tensor
from tlt_prune.graph.rules.registry import layer


def _sources(call: CallTrace, xs: tuple[Labels, ...]) -> tuple[Labels, Labels, Labels, list[int]]:
    """Labels on the last axis of query, value and key, and which inputs are masks."""
    named = dict(zip(("query", "value", "key"), call.call.args, strict=False))
    named |= {k: v for k, v in call.call.kwargs.items() if k in ("query", "value", "key")}
    if named.get("key") is None:
        named["key"] = named["value"]
    inputs = call.call.inputs
    index = {name: inputs.index(x) for name, x in named.items() if isinstance(x, Tensor)}
    vectors = [call.vector(xs[index[name]], -1, tensor=index[name]) for name in ("query", "value", "key")]
    # By tensor, not by position: in self-attention all of them are one tensor.
    masks = [i for i, x in enumerate(inputs) if x not in named.values()]
    return vectors[0], vectors[1], vectors[2], masks


def _freeze_masks(call: CallTrace, xs: tuple[Labels, ...], masks: list[int]) -> None:
    for i in masks:
        if varying_axes(xs[i]):
            call.freeze(xs[i], "attention mask")


@layer("MultiHeadAttention")
def multi_head_attention(call: CallTrace, *xs: Labels) -> Any:
    op = call.op
    query, value, key, masks = _sources(call, xs)
    _freeze_masks(call, xs, masks)
    config = op.get_config()
    n_heads, key_dim, value_dim = config["num_heads"], config["key_dim"], config["value_dim"]
    heads = call.fresh(n_heads)
    widths = call.fresh(value_dim)
    if n_heads > 1:
        call.freeze(widths, "heads are removed whole")
    projections = [(op._query_dense, query, False), (op._key_dense, key, False), (op._value_dense, value, True)]
    gate = getattr(op, "_gate_dense", None)
    if gate is not None:
        projections.append((gate, query, True))
    _project(call, projections, heads, widths)
    _attend(call, op._output_dense, heads, heads, widths, key_dim, len(heads))
    call.count("num_heads", heads)
    call.count("value_dim", widths)
    return _outputs(call, op._output_dense, heads)


@layer("GroupQueryAttention", "GroupedQueryAttention")
def group_query_attention(call: CallTrace, *xs: Labels) -> Any:
    """Each key/value head goes with the query heads that read it."""
    op = call.op
    query, value, key, masks = _sources(call, xs)
    _freeze_masks(call, xs, masks)
    shared = call.fresh(op.num_key_value_heads)
    heads = np.repeat(shared, op.num_query_heads // op.num_key_value_heads)
    widths = call.fresh(op.head_dim)
    call.freeze(widths, "heads are removed whole")
    projections = [(op._query_dense, query, False)]
    gate = getattr(op, "_gate_dense", None)
    if gate is not None:
        projections.append((gate, query, True))
    _project(call, projections, heads, widths)
    _project(call, [(op._key_dense, key, False), (op._value_dense, value, True)], shared, widths)
    _attend(call, op._output_dense, heads, shared, widths, op.head_dim, op.num_query_heads)
    call.count("num_query_heads", heads)
    call.count("num_key_value_heads", shared)
    placed = _outputs(call, op._output_dense, heads, name_width=False)
    # The layer has no output width of its own: it is the query's.
    call.table.unify(placed[0].reshape(-1), query)
    return placed


def _project(call: CallTrace, projections: list[tuple[Any, Labels, bool]], heads: Labels, widths: Labels) -> None:
    """Kernels (features, heads, width), biases (heads, width); `widths` index the value side only."""
    for dense, incoming, is_value in projections:
        call.attach(dense.kernel, 0, incoming, "in")
        call.attach(dense.kernel, 1, heads, "out")
        call.attach(dense.bias, 0, heads, "follow")
        if is_value:
            call.attach(dense.kernel, 2, widths, "out")
            call.attach(dense.bias, 1, widths, "follow")
        call.macs(dense.kernel, call.positions(call.in_shapes[0], -1))


def _attend(call: CallTrace, dense: Any, heads: Labels, units: Labels, widths: Labels, key_dim: int, n_heads: int) -> None:
    op = call.op
    kernels = [(op._query_dense.kernel, (1,), heads)]
    kernels += [(d.kernel, (1,), units) for d in (op._key_dense, op._value_dense)]
    call.produce(units, *kernels, part="heads", unit=key_dim * n_heads // len(units))
    if n_heads == 1:
        call.produce(widths, (op._value_dense.kernel, (2,), widths), part="value")
    call.attach(dense.kernel, 0, heads, "in")
    call.attach(dense.kernel, 1, widths, "in")
    pairs = call.positions(call.in_shapes[0], -1) * call.positions(call.in_shapes[min(1, len(call.in_shapes) - 1)], -1)

    def products(alive: Alive) -> float:
        # Scores and their product with the values.
        return pairs * float(alive[heads].sum()) * (key_dim + float(alive[widths].sum()))

    call.work(products)


def _outputs(call: CallTrace, dense: Any, heads: Labels, *, name_width: bool = True) -> list[Labels]:
    out_rank = len(dense.kernel.shape) - 2
    call.macs(dense.kernel, call.positions(call.in_shapes[0], -1))
    if out_rank != 1:
        placed = call.freeze_all([], "an attention output of several axes")
    else:
        out = call.fresh(dense.kernel.shape[-1])
        call.attach(dense.kernel, -1, out, "out")
        call.follow(out, dense.bias)
        call.produce(out, (dense.kernel, (2,), out))
        if name_width:
            call.configure("output_shape", lambda alive: (int(alive[out].sum()),), out)
        placed = [call.place(out, -1)]
    if len(call.out_shapes) > 1:
        placed = [placed[0], call.place(heads, 1, output=1)]
    return placed


@layer("Attention", "AdditiveAttention")
def attention(call: CallTrace, query: Labels, value: Labels, *rest: Labels) -> Any:
    """softmax(query . key) . value: the values' channels pass, what is contracted stays."""
    keys = rest[:1] or (value,)
    contracted = [query, *keys, *rest[1:]]
    for x in contracted:
        call.freeze(x, "contracted with other activations")
    return [call.place(call.vector(value, -1, tensor=1), -1), *call.freeze_all([], "attention scores")[1:]]
