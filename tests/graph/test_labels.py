"""Label arrays: coupling, settling, reshaping."""

from __future__ import annotations

import numpy as np
import pytest

from tlt_prune.graph.labels import LabelTable, reshape, settle, varying_axes


def roots(table: LabelTable) -> list[int]:
    return table.resolve().root.tolist()


def test_unify_is_transitive_and_keeps_the_smallest_label() -> None:
    table = LabelTable()
    a = table.fresh(6)
    table.unify(a[4:], a[2:4])
    table.unify(a[2:4], a[:2])
    assert roots(table) == [0, 1, 0, 1, 0, 1]


def test_long_chains_resolve() -> None:
    table = LabelTable()
    a = table.fresh(1000)
    order = np.random.default_rng(0).permutation(999)
    for i in order:
        table.unify(a[i : i + 1], a[i + 1 : i + 2])
    assert set(roots(table)) == {0}


def test_random_coupling_agrees_with_a_plain_union_find() -> None:
    rng = np.random.default_rng(1)
    table = LabelTable()
    labels = table.fresh(200)
    parent = list(range(200))

    def find(x: int) -> int:
        while parent[x] != x:
            x = parent[x]
        return x

    for _ in range(120):
        a, b = rng.integers(0, 200, 2)
        table.unify(labels[a : a + 1], labels[b : b + 1])
        parent[max(find(a), find(b))] = min(find(a), find(b))
    assert roots(table) == [find(i) for i in range(200)]


def test_freezing_reaches_what_is_coupled_with_the_first_reason() -> None:
    table = LabelTable()
    a, b = table.fresh(3), table.fresh(3)
    table.unify(a[:2], b[:2])
    table.freeze(b[:1], "first")
    table.freeze(a[:1], "second")
    bundles = table.resolve()
    assert bundles.frozen == {0: "first"}


def test_flatten_repeats_channels_position_by_position() -> None:
    labels = np.arange(3).reshape(1, 1, 1, 3)
    flat = settle_free(reshape(labels, (None, 2, 2, 3), (None, 12)))
    assert flat.tolist() == [[0, 1, 2] * 4]


def test_flatten_of_channels_first_keeps_blocks() -> None:
    labels = np.arange(3).reshape(1, 3, 1, 1)
    flat = settle_free(reshape(labels, (None, 3, 2, 2), (None, 12)))
    assert flat.tolist() == [[0] * 4 + [1] * 4 + [2] * 4]


def settle_free(labels: np.ndarray | None) -> np.ndarray:
    assert labels is not None
    table = LabelTable()
    table.fresh(int(labels.max()) + 1)
    settled = settle(labels, table)
    assert len(set(roots(table))) == int(labels.max()) + 1, "no coupling was needed"
    return settled


def test_reshape_over_unknown_sizes() -> None:
    labels = np.arange(4).reshape(1, 1, 1, 4)
    assert reshape(labels, (None, None, None, 4), (None, None, 4)).shape == (1, 1, 4)
    # Channels scattered over an axis of unknown size cannot be followed.
    assert reshape(labels, (None, None, None, 4), (None, 4, None)) is None


def test_reshape_to_groups_couples_offsets() -> None:
    table = LabelTable()
    x = table.fresh(6).reshape(1, 6)
    grouped = settle(reshape(x, (None, 6), (None, 2, 3)), table)
    assert grouped.shape == (1, 1, 3)
    assert roots(table) == [0, 1, 2, 0, 1, 2]


def test_misaligned_reshape_couples_by_the_greatest_common_divisor() -> None:
    table = LabelTable()
    x = np.tile(table.fresh(12), 4).reshape(1, 48)
    moved = settle(reshape(x, (None, 48), (None, 6, 8)), table)
    assert varying_axes(moved) == (2,)
    assert len(set(roots(table))) == 4


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (4, 4)])
def test_settle_keeps_the_axis_with_most_channels(shape: tuple[int, int]) -> None:
    table = LabelTable()
    x = table.fresh(shape[0] * shape[1]).reshape(1, *shape)
    settled = settle(x, table)
    assert max(settled.shape) == max(shape)
    assert len(set(roots(table))) == max(shape)
