"""Attention: a head is a channel of its own kind; with a single head, the width of its values is.

Removing a head is exact: its rows in the output projection are what the law zeroes. The width of queries and
keys stays, because the softmax scale depends on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlt_prune.graph.attention_parts import AttentionParts, attention_parts
from tlt_prune.graph.call_trace import CallTrace, Count
from tlt_prune.graph.labels import Labels, Shape, varying_axes
from tlt_prune.graph.rules.registry import layer, raw_op
from tlt_prune.graph.types import Projection, Variable


def _sources(call: CallTrace, xs: tuple[Labels, ...]) -> tuple[list[Labels], list[Shape]]:
    """Labels on the last axis, and shapes, of query, value and key; masks are frozen."""
    # By argument, not by tensor: in self-attention all of them are one tensor.
    query, value, key = (call.given(name) for name in ("query", "value", "key"))
    sources = [*query, *value, *(key or value)]
    for i, x in enumerate(xs):
        if i not in sources and varying_axes(x):
            call.freeze(x, "attention mask")
    return [call.vector(xs[i], -1, tensor=i) for i in sources], [call.in_shapes[i] for i in sources]


@layer("MultiHeadAttention")
def multi_head_attention(call: CallTrace, *xs: Labels) -> Any:
    parts = attention_parts(call.op)
    (query, value, key), shapes = _sources(call, xs)
    config = call.op.get_config()
    n_heads, key_dim, value_dim = config["num_heads"], config["key_dim"], config["value_dim"]
    heads = call.fresh(n_heads)
    widths = call.fresh(value_dim)
    if n_heads > 1:
        call.freeze(widths, "heads are removed whole")
    _project(call, parts.query, query, shapes[0], heads, None)
    _project(call, parts.key, key, shapes[2], heads, None)
    _project(call, parts.value, value, shapes[1], heads, widths)
    if parts.gate is not None:
        _project(call, parts.gate, query, shapes[0], heads, widths)
    call.produce(heads, *_kernels(parts, heads, heads), part="heads", unit=key_dim)
    if n_heads == 1:
        call.produce(widths, (parts.value.kernel, (2,), widths), part="value")
    _attend(call, shapes, heads, widths, key_dim)
    call.count("num_heads", heads)
    call.count("value_dim", widths)
    out = _output(call, parts.output, shapes[0], heads, widths)
    if out is None:
        return call.freeze_all([], "an attention output of several axes")
    call.configure("output_shape", (Count(out),))
    return _placed(call, out, heads)


@layer("GroupQueryAttention", "GroupedQueryAttention")
def group_query_attention(call: CallTrace, *xs: Labels) -> Any:
    """Each key/value head goes with the query heads that read it."""
    op = call.op
    parts = attention_parts(op)
    (query, value, key), shapes = _sources(call, xs)
    shared = call.fresh(op.num_key_value_heads)
    readers = op.num_query_heads // op.num_key_value_heads
    heads = np.repeat(shared, readers)
    widths = call.fresh(op.head_dim)
    call.freeze(widths, "heads are removed whole")
    _project(call, parts.query, query, shapes[0], heads, None)
    _project(call, parts.key, key, shapes[2], shared, None)
    _project(call, parts.value, value, shapes[1], shared, widths)
    if parts.gate is not None:
        _project(call, parts.gate, query, shapes[0], heads, widths)
    call.produce(shared, *_kernels(parts, heads, shared), part="heads", unit=op.head_dim * readers)
    _attend(call, shapes, heads, widths, op.head_dim)
    call.count("num_query_heads", heads)
    call.count("num_key_value_heads", shared)
    out = _output(call, parts.output, shapes[0], heads, widths)
    assert out is not None, "the layer's output has one feature axis"
    # The layer has no output width of its own: it is the query's.
    call.table.unify(out, query)
    return _placed(call, out, heads)


def _project(call: CallTrace, dense: Projection, incoming: Labels, shape: Shape, heads: Labels, widths: Labels | None) -> None:
    """A kernel (features, heads, width) with its bias (heads, width); the width of queries and keys (None) stays."""
    call.attach(dense.kernel, 0, incoming, "in")
    call.attach(dense.kernel, 1, heads, "out")
    call.attach(dense.bias, 0, heads, "follow")
    if widths is not None:
        call.attach(dense.kernel, 2, widths, "out")
        call.attach(dense.bias, 1, widths, "follow")
    call.macs(dense.kernel, call.positions(shape, -1))


def _kernels(parts: AttentionParts, heads: Labels, shared: Labels) -> list[tuple[Variable, tuple[int, ...], Labels]]:
    return [(parts.query.kernel, (1,), heads), (parts.key.kernel, (1,), shared), (parts.value.kernel, (1,), shared)]


def _attend(call: CallTrace, shapes: list[Shape], heads: Labels, widths: Labels, key_dim: int) -> None:
    """Scores (query length x key length x key width, a head), and their product with the values."""
    pairs = call.positions(shapes[0], -1) * call.positions(shapes[2], -1)
    call.work(pairs * key_dim, heads)
    call.work(pairs, heads, widths)


def _output(call: CallTrace, dense: Projection, shape: Shape, heads: Labels, widths: Labels) -> Labels | None:
    """The projection (heads, width, features): its fresh channels, None where it has several feature axes."""
    call.attach(dense.kernel, 0, heads, "in")
    call.attach(dense.kernel, 1, widths, "in")
    call.macs(dense.kernel, call.positions(shape, -1))
    if len(dense.kernel.shape) != 3:
        return None
    out = call.fresh(dense.kernel.shape[-1])
    call.attach(dense.kernel, -1, out, "out")
    call.follow(out, dense.bias)
    call.produce(out, (dense.kernel, (2,), out))
    return out


def _placed(call: CallTrace, out: Labels, heads: Labels) -> list[Labels]:
    """The output, and the scores where they are returned."""
    placed = [call.place(out, -1)]
    return placed if len(call.out_shapes) == 1 else [*placed, call.place(heads, 1, output=1)]


@layer("Attention")
def attention(call: CallTrace, *xs: Labels) -> Any:
    """softmax(query . key) . value: the values' channels pass, those of queries and keys are summed over."""
    query, value, key = at = _query_value_key(call)
    compared, width = _compared(call, xs, at)
    # One factor of zero is enough for a product; a sum of tanh(query + key) needs both.
    call.contract(compared, -1, *((query,) if call.op.score_mode == "dot" else (query, key)))
    return _averaged(call, compared, width, query, value)


@layer("AdditiveAttention")
def additive_attention(call: CallTrace, *xs: Labels) -> Any:
    """softmax(scale . tanh(query + key)) . value."""
    query, value, key = at = _query_value_key(call)
    compared, width = _compared(call, xs, at)
    if call.op.use_scale:
        call.attach(call.op.scale, 0, compared, "in")
        if len(width) == len(compared):
            # tf_keras makes the scale as wide as the values are.
            call.table.unify(compared, width)
    else:
        call.contract(compared, -1, query, key)
    return _averaged(call, compared, width, query, value)


def _query_value_key(call: CallTrace) -> tuple[int, int, int]:
    """Positions among the inputs; the values are the keys where there are no others."""
    query, value, *key = call.given("inputs", 0)
    return query, value, key[0] if key else value


def _compared(call: CallTrace, xs: Sequence[Labels], at: tuple[int, int, int]) -> tuple[Labels, Labels]:
    """Channels of queries and keys, which go together, and those of values."""
    for i in set(range(len(xs))) - set(at):
        call.freeze(xs[i], "attention mask")
    of_query, of_value, of_key = (call.vector(xs[i], -1, tensor=i) for i in at)
    call.table.unify(of_query, of_key)
    return of_query, of_value


def _averaged(call: CallTrace, compared: Labels, width: Labels, query: int, value: int) -> Any:
    """Labels of the values, averaged with the scores as weights; of the scores nothing may be removed."""
    pairs = call.positions(call.in_shapes[query], -1) * call.positions(call.in_shapes[value], -1)
    call.work(pairs, compared)
    call.work(pairs, width)
    return [call.place(width, -1), *call.freeze_all([], "attention scores")[1:]]


@raw_op("DotProductAttention")
def dot_product_attention(call: CallTrace, *xs: Labels) -> Any:
    """Query, key and value of shape (batch, length, heads, width): heads go whole, and the width of the values."""
    query, value, key = (call.given(name) for name in ("query", "value", "key"))
    q, k, v = (xs[i] for i in (*query, *key, *value))
    for i, x in enumerate(xs):
        if i not in (*query, *key, *value):
            call.freeze(x, "attention mask")
    pairs = call.positions(call.in_shapes[query[0]], -1, -2) * call.positions(call.in_shapes[key[0]], -1, -2)
    heads, width = call.in_shapes[query[0]][-2:]
    if all(varying_axes(x) in ((), (2,)) for x in (q, k, v)) and any(varying_axes(x) for x in (q, k, v)):
        # Grouped queries share keys and values: head i of these belongs to the heads i r to (i + 1) r of the queries.
        vectors = [np.broadcast_to(xs[i].reshape(-1), (call.in_shapes[i][-2] or 1,)) for i in (*query, *key, *value)]
        for vector in vectors[1:]:
            call.table.unify(vectors[0].reshape(len(vector), -1), vector[:, None])
        call.work(2 * pairs * float(width or math.nan), vectors[0])
        return call.place(vectors[0], 2)
    for x in (q, k):
        call.freeze(x, "contracted with other activations")
    call.work(2 * pairs * float(width or math.nan) * float(heads or math.nan))
    if varying_axes(v) == (3,):
        return call.place(v.reshape(-1), 3)
    return call.freeze_all([v], "attention over channels that lie on another axis")
