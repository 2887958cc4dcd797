"""The figures on the benchmark pages are those of the benchmarks' files."""

from __future__ import annotations

import pathlib

import bench_criteria
import bench_crowns
import bench_depth
import bench_peer
import bench_published
import bench_ranking
import bench_shape
import bench_shards
import bench_tao_models
import bench_training
import bench_transfer
import pandas as pd
import pytest
import scaling
import soak

TABLES = {
    "criteria": (bench_criteria.criterion_rows, bench_criteria.TABLE, 12),
    "budgets": (bench_criteria.budget_rows, bench_criteria.TABLE, 8),
    "crowns": (bench_crowns.crown_rows, bench_crowns.TABLE, 4),
    "depth": (bench_depth.depth_rows, bench_depth.TABLE, 4),
    "peer": (bench_peer.peer_rows, bench_peer.TABLE, 12),
    "published_peer": (bench_peer.published_peer_rows, bench_peer.PUBLISHED, 8),
    "ranking": (bench_ranking.ranking_rows, bench_ranking.TABLE, 8),
    "shape": (bench_shape.shape_rows, bench_shape.TABLE, None),
    "published": (bench_published.published_rows, bench_published.TABLE, None),
    "tao_models": (bench_tao_models.tao_rows, bench_tao_models.TABLE, 54),
    "scaling": (scaling.scaling_rows, scaling.TABLE, None),
    "links": (lambda table: scaling.link_rows(), scaling.TABLE, 6),
    "shards": (bench_shards.shard_rows, bench_shards.TABLE, None),
    "soak": (soak.soak_rows, soak.TABLE, None),
    "scratch": (bench_training.scratch_rows, bench_training.SCRATCH, 2),
    "transfer": (bench_transfer.transfer_rows, bench_transfer.TABLE, None),
    "decay": (bench_training.decay_rows, bench_training.DECAY, 5),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_on_a_page(name: str, root: pathlib.Path) -> None:
    rows_of, table, count = TABLES[name]
    rows: list[str] = rows_of(pd.read_csv(table))
    pages = [*(root / "docs/pages/benchmarks").glob("*.md"), *(root / "docs/pages/guides").glob("*.md")]
    lines = [line for page in pages for line in page.read_text("utf-8").splitlines()]
    # None: however many have been measured.
    assert rows
    assert count in (None, len(rows))
    assert [row for row in rows if row not in lines] == []


@pytest.mark.parametrize("page", ["docs/pages/index.md", "docs/pages/benchmarks/index.md"])
def test_the_main_table_is_the_same_everywhere(page: str, root: pathlib.Path) -> None:
    rows = [line for line in (root / "README.md").read_text("utf-8").splitlines() if line.startswith("|")]
    assert len(rows) == 6
    lines = (root / page).read_text("utf-8").splitlines()
    assert [row for row in rows if row not in lines] == []
