"""The benchmark of published networks runs for a few steps: what is measured on a GPU is ready for it."""

from __future__ import annotations

import pathlib

import bench_published
import numpy as np
import pandas as pd
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("name", [x for x, network in bench_published.NETWORKS.items() if network.stored is None])
def test_a_few_steps(name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (64, 32, 32, 3), np.uint8),
        "x_test": rng.integers(0, 256, (20, 32, 32, 3), np.uint8),
    }
    labels = {"y_train": np.arange(64) % 10, "y_test": np.arange(20) % 10}
    np.savez(tmp_path / "cifar10.npz", **arrays, **labels)
    monkeypatch.setattr(bench_published, "SEEDS", (1,))
    rows = pd.DataFrame(list(bench_published.rows_of(name, tmp_path / "results", tmp_path, divisor=1000)))
    assert rows["macs"].tolist() == list(bench_published.NETWORKS[name].budgets)
    for row in rows.itertuples():
        assert row.macs_left <= row.macs
        assert row.macs_left > 0.9 * row.macs
        # The state before retraining counts.
        assert row.retrained >= row.accuracy
    assert len(bench_published.published_rows(rows)) == len(rows)
