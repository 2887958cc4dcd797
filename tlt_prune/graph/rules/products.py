"""Products: of activations with activations, and of activations with variables that an opened layer reads itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tlt_prune.graph.call_trace import CallTrace
from tlt_prune.graph.facets import Carried, Facet, Facets, plain
from tlt_prune.graph.inner_ops import ConvTranspose
from tlt_prune.graph.labels import Labels, first_label, varying_axes
from tlt_prune.graph.reader import Call
from tlt_prune.graph.rules.registry import inner_op, layer, raw_op, takes_facets, tf_op


@layer("Dot")
@takes_facets
def dot(call: CallTrace, a: Carried, b: Carried) -> Any:
    axes = call.op.axes
    rank_a, rank_b = a.ndim, b.ndim
    pair = (axes % rank_a, axes % rank_b) if isinstance(axes, int) else (axes[0] % rank_a, axes[1] % rank_b)
    letters_a = "Z" + "abcdefgh"[: rank_a - 1]
    letters_b = list("Z" + "ijklmnop"[: rank_b - 1])
    letters_b[pair[1]] = letters_a[pair[0]]
    terms_b = "".join(letters_b)
    kept = [c for c in letters_a if c != letters_a[pair[0]]] + [c for c in terms_b[1:] if c != letters_a[pair[0]]]
    output = "".join(kept) if len(kept) == len(call.out_shapes[0]) else "Z!"
    if call.op.normalize:
        for x, axis in zip((a, b), pair, strict=True):
            if varying_axes(plain(x)) == (axis,):
                call.approximate(plain(x), "normalized over the pruned channels")
    return contract(call, [a, b], [letters_a, terms_b], output)


def contract(call: CallTrace, xs: Sequence[Carried], terms: Sequence[str], output: str) -> Any:
    """Labels of a product, in einsum letters ("!" for an axis that is none's).

    Of activations, channels that are contracted on both sides go together; the others pass on.
    """
    variables = [i for i, x in enumerate(xs) if isinstance(x, Facets)]
    if len(variables) == 1 and len(xs) == 2 and "!" not in output:
        (of_variable,) = variables
        return contract_variable(call, xs, 1 - of_variable, terms, output)
    for x in xs:
        call.freeze_other_facets(x)
    return _contract_activations(call, [plain(x) for x in xs], terms, output)


def contract_variable(call: CallTrace, xs: Sequence[Any], position: int, terms: Sequence[str], output: str) -> Any:
    """Labels of a product with a variable, as of a kernel: what both have is contracted, what only the variable has is made.

    Args:
        position: of the activations among the two operands.
    """
    x, variable = xs[position], xs[1 - position]
    of_x, of_variable = terms[position], terms[1 - position]
    shape = call.in_shapes[position]
    contracted = [c for c in of_variable if c in of_x and c not in output]
    shared = [c for c in of_variable if c in of_x and c in output]
    varying = [of_x[axis] for axis in varying_axes(x)]
    if any(c not in contracted and c not in shared for c in varying):
        call.freeze(x, "channels on an axis that a variable is not multiplied along")
        x, varying = first_label(x), []

    def facet_of(letter: str) -> Facet | None:
        facet: Facet | None = variable.at(of_variable.index(letter) - len(of_variable))
        return facet

    call.multiplied_by(variable, call.positions(shape, *(of_x.index(c) for c in of_variable if c in of_x)))
    read: list[Facet | None] = []
    passing = None
    for c in (*contracted, *shared):
        facet = facet_of(c)
        if facet is not None and (c in varying or not varying):
            read.append(facet)
            vector = np.broadcast_to(x.reshape(-1), facet.vector.shape)
            if c in contracted:
                call.read_by_facet(facet, vector)
            else:
                call.table.unify(facet.vector, vector)
                passing = c
    issued = [c for c in of_variable if c not in of_x and c in output and facet_of(c) is not None]
    # One axis is pruned: that which products leave alone (the heads), else the last one that is made.
    best = call.best_axis([output.index(c) for c in issued])
    channel = output[best] if best is not None else max(issued, key=output.index, default="")
    made = facet_of(channel) if channel and passing not in varying else None
    call.freeze_other_facets(variable, *read, made)
    if made is not None:
        return call.place(call.made_by_facet(made), output.index(channel))
    if passing in varying:
        return call.place(x.reshape(-1), output.index(passing))
    return call.freeze_all([], "a product with a variable that makes no channels")


def _contract_activations(call: CallTrace, xs: Sequence[Labels], terms: Sequence[str], output: str) -> Any:
    varying: dict[str, list[Labels]] = {}
    at: dict[str, list[int]] = {}
    sizes = {
        c: size for shape, letters in zip(call.in_shapes, terms, strict=True) for c, size in zip(letters, shape, strict=True)
    }
    # Of one input: the first axis is the batch.
    del sizes[terms[0][0]]
    for i, (x, letters) in enumerate(zip(xs, terms, strict=True)):
        for axis in varying_axes(x):
            varying.setdefault(letters[axis], []).append(x.reshape(-1))
            at.setdefault(letters[axis], []).append(i)
    lost = [c for c in varying if c not in output]
    if len(varying) - len(lost) > 1:
        return call.freeze_all(xs, "channels of both operands would span two axes of a product")
    for letter in lost:
        _sum_over(call, letter, varying[letter], at[letter], terms)
    kept = [c for c in varying if c in output]
    others = [size for c, size in sizes.items() if c not in varying]
    call.work(math.nan if None in others else math.prod(others), *(x[0] for x in varying.values()))  # type: ignore[arg-type]
    if not kept:
        return call.freeze_all([], "product of activations")
    letter = kept[0]
    vectors = varying[letter]
    for vector in vectors[1:]:
        call.table.unify(vectors[0], vector)
    for x, letters, shape in zip(xs, terms, call.in_shapes, strict=True):
        if letter in letters and x.shape[letters.index(letter)] == 1 and shape[letters.index(letter)] != 1:
            # An operand of full size there whose own channels lie elsewhere: none of its slices can be told apart.
            call.freeze(vectors[0], "multiplied with a tensor whose channels lie on another axis")
            call.freeze(x, "multiplied with a tensor whose channels lie on another axis")
    return call.place(vectors[0], output.index(letter))


def _sum_over(call: CallTrace, letter: str, vectors: Sequence[Labels], at: Sequence[int], terms: Sequence[str]) -> None:
    """Couples the channels that operands of a product are summed over; `at` says which operands have channels there."""
    if letter == "!" or list(at) != [i for i, letters in enumerate(terms) if letter in letters] or len(at) < 2:
        for vector in vectors:
            call.freeze(vector, "contracted with activations of which nothing may be removed")
        return
    for vector in vectors[1:]:
        call.table.unify(vectors[0], vector)
    # One factor of zero is enough.
    call.contract(vectors[0], terms[at[0]].index(letter), at[0])


@raw_op("Matmul", "Einsum")
@tf_op("linalg.matmul", "einsum")
@takes_facets
def product(call: CallTrace, *xs: Carried) -> Any:
    terms = product_terms(call.call)
    if terms is None:
        is_einsum = getattr(call.op, "symbol", type(call.op).__name__).lower() == "einsum"
        why = "einsum with constants or implicit output" if is_einsum else "multiplied with a constant"
        return call.freeze_all([plain(x) for x in xs], why)
    return contract(call, xs, *terms)


def product_terms(call: Call) -> tuple[list[str], str] | None:
    """Letters of the operands of a matrix product or an einsum of tensors, and of its output; None where a call is none."""
    kind = getattr(call.op, "symbol", type(call.op).__name__)
    ranks = [len(x.shape) for x in call.inputs]
    if kind in ("Matmul", "linalg.matmul") and len(ranks) == 2 and min(ranks) >= 2:
        rank = max(ranks)
        batch = "abcdefghij"[: rank - 2]
        transposed_a, transposed_b = (call.argument(i, name, False) for i, name in ((2, "transpose_a"), (3, "transpose_b")))
        a, b = ("yx" if transposed_a else "xy"), ("zy" if transposed_b else "yz")
        # The other axes broadcast.
        return [batch[rank - ranks[0] :] + a, batch[rank - ranks[1] :] + b], batch + "xz"
    if kind in ("Einsum", "einsum"):
        subscripts = call.op.subscripts if kind == "Einsum" else call.argument(0, "equation")
        return _terms(str(subscripts).replace(" ", ""), ranks)
    return None


def _terms(subscripts: str, ranks: Sequence[int]) -> tuple[list[str], str] | None:
    """Letters of the operands and of the output, with "..." spelled out; None where they are not all given."""
    left, arrow, output = subscripts.partition("->")
    inputs = left.split(",")
    if not arrow or len(inputs) != len(ranks):
        return None
    spare = [c for c in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if c not in subscripts]
    extra = [rank - len(x.replace("...", "")) for x, rank in zip(inputs, ranks, strict=True)]
    # Broadcasting aligns from the right.
    letters = "".join(spare[: max([0, *(n for x, n in zip(inputs, extra, strict=True) if "..." in x)])])
    spelled = [x.replace("...", letters[len(letters) - n :] if n else "") for x, n in zip(inputs, extra, strict=True)]
    return spelled, output.replace("...", letters)


@raw_op("Tensordot")
@takes_facets
def tensordot(call: CallTrace, *xs: Carried) -> Any:
    return by_axes(call, call.op.axes, xs)


def by_axes(call: CallTrace, axes: Any, xs: Sequence[Carried]) -> Any:
    """Labels of a product over axes that are given as for `np.tensordot`."""
    if len(xs) != 2:
        return call.freeze_all([plain(x) for x in xs], "multiplied with a constant")
    a, b = xs
    if isinstance(axes, int):
        pairs = [(a.ndim - axes + i, i) for i in range(axes)]
    else:
        first, second = (np.atleast_1d(x).tolist() for x in axes)
        pairs = [(i % a.ndim, j % b.ndim) for i, j in zip(first, second, strict=True)]
    letters_a, letters_b = "abcdefgh"[: a.ndim], list("ijklmnop"[: b.ndim])
    for i, j in pairs:
        letters_b[j] = letters_a[i]
    contracted = {letters_a[i] for i, _ in pairs}
    output = "".join(c for c in (*letters_a, *letters_b) if c not in contracted)
    return contract(call, xs, [letters_a, "".join(letters_b)], output)


# --- convolutions with a kernel that is a variable of an opened layer ---


ConvRule = Callable[[CallTrace, Labels, Facets], Any]
"""(call, labels of the activations, those of the kernel) -> labels of the output."""


def _with_kernel(rule: ConvRule) -> Callable[..., Any]:
    """The rule of a convolution; with a kernel that is computed or constant, nothing may be removed."""

    def guarded(call: CallTrace, x: Carried, kernel: Carried | None = None) -> Any:
        if isinstance(kernel, Facets) and not isinstance(x, Facets):
            return rule(call, x, kernel)
        return _computed_kernel(call, x, kernel)

    return guarded


def _computed_kernel(call: CallTrace, *xs: Carried | None) -> list[Labels]:
    return call.freeze_all([plain(x) for x in xs if x is not None], "convolved with a computed kernel")


def _convolved(call: CallTrace, x: Labels, kernel: Facets, *, reads: int, makes: int) -> Any:
    """Labels of what a kernel makes of `x`, by the axes of the kernel, counted from its end."""
    read, made = kernel.at(reads), kernel.at(makes)
    if read is not None:
        call.read_by_facet(read, call.vector(x, call.channel_axis))
    else:
        call.freeze(x, "a single channel")
    call.freeze_other_facets(kernel, read, made)
    if made is None:
        return call.freeze_all([], "a single channel")
    return call.place(call.made_by_facet(made), call.channel_axis)


@raw_op("Conv")
@takes_facets
@_with_kernel
def conv_op(call: CallTrace, x: Labels, kernel: Facets) -> Any:
    axis = call.channel_axis
    incoming, makes = call.vector(x, axis), kernel.at(-1)
    call.multiplied_by(kernel, call.positions(call.out_shapes[0], axis))
    groups = len(incoming) // int(call.in_shapes[1][-2] or 1)
    if groups <= 1:
        return _convolved(call, x, kernel, reads=-2, makes=-1)
    if groups != len(incoming) or makes is None:
        return _computed_kernel(call, x, kernel)
    # One input channel for each group: a depthwise convolution by another name.
    out = np.repeat(incoming, len(makes.vector) // groups)
    call.table.unify(makes.vector, out)
    call.freeze_other_facets(kernel, makes)
    return call.place(out, axis)


@inner_op(ConvTranspose)
@raw_op("ConvTranspose")
@takes_facets
@_with_kernel
def conv_transpose_op(call: CallTrace, x: Labels, kernel: Facets) -> Any:
    call.multiplied_by(kernel, call.positions(call.in_shapes[0], call.channel_axis))
    return _convolved(call, x, kernel, reads=-1, makes=-2)


@raw_op("DepthwiseConv")
@takes_facets
@_with_kernel
def depthwise_conv_op(call: CallTrace, x: Labels, kernel: Facets) -> Any:
    axis = call.channel_axis
    incoming, follows = call.vector(x, axis), kernel.at(-2)
    call.multiplied_by(kernel, call.positions(call.out_shapes[0], axis))
    if follows is not None:
        call.table.unify(follows.vector, incoming)
    call.freeze_other_facets(kernel, follows)
    return call.place(np.repeat(incoming, int(call.in_shapes[1][-1] or 1)), axis)
