"""Normal equations in blocks."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from tlt_prune.errors import PlanError
from tlt_prune.pruning.compensation import equations
from tlt_prune.pruning.compensation.equations import solved, summed

pytestmark = pytest.mark.one_backend


def test_blocks_add_up_alike_on_any_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((1000, 30)).astype("float32"), rng.standard_normal((1000, 5)).astype("float32")

    def block(begin: int) -> tuple[np.ndarray, np.ndarray]:
        return x[begin : begin + 64], y[begin : begin + 64]

    results = []
    for cores in (1, 3, 100):
        monkeypatch.setattr(equations, "_cores", lambda n=cores: n)
        results.append(summed((functools.partial(block, i) for i in range(0, 1000, 64)), 30, 5))
    with_ones = np.hstack([x, np.ones((1000, 1))]).astype(np.float64)
    gram, moment = results[0]
    np.testing.assert_allclose(gram, with_ones.T @ with_ones, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(moment, with_ones.T @ y, rtol=1e-5, atol=1e-3)
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))
    change = solved(gram, moment, 0.0, 30, "layer")
    np.testing.assert_allclose(change, np.linalg.lstsq(with_ones, y, rcond=None)[0], atol=1e-4)


def test_what_fails_in_a_block_is_told() -> None:
    def block() -> tuple[np.ndarray, np.ndarray]:
        raise PlanError("no data")

    with pytest.raises(PlanError, match="no data"):
        summed([block], 3, 2)
