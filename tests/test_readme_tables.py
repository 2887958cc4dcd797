"""The README's figures are those of the benchmarks' files."""

from __future__ import annotations

import pathlib

import bench_criteria
import bench_peer
import pandas as pd
import pytest


@pytest.mark.parametrize("benchmark", [bench_criteria, bench_peer], ids=["criteria", "peer"])
def test_every_row_is_in_the_readme(benchmark: object, root: pathlib.Path) -> None:
    rows = benchmark.readme_rows(pd.read_csv(benchmark.TABLE))  # type: ignore[attr-defined]
    lines = (root / "README.md").read_text("utf-8").splitlines()
    assert len(rows) == 12
    assert [row for row in rows if row not in lines] == []
