"""The pruner against the toolkit's on its other models, run by run and index by index.

A run that the toolkit refused works here, and the law holds (`test_tao_models_refused`).
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterator
from typing import Any

import golden
import keras
import numpy as np
import pytest
import tao_models

from tlt_prune.config.options import Options
from tlt_prune.graph.tracer import ChannelGraph, trace
from tlt_prune.pruning.select.select import select

RUNS = [(name, i) for name in tao_models.names("prune") for i in range(len(tao_models.load(f"prune/{name}.json.gz")["runs"]))]


@pytest.fixture(autouse=True)
def _free() -> Iterator[None]:
    yield
    gc.collect()


@functools.lru_cache(1)
def channels_of(name: str) -> ChannelGraph:
    """Of the model that was pruned, built here, with the recorded weights."""
    model = tao_models.build(tao_models.load(f"templates/{name}.json.gz"))
    return trace(golden.set_deterministic_weights(model))


def kept(name: str, args: dict[str, Any]) -> dict[str, list[int]]:
    channels = channels_of(name)
    # The toolkit never prunes a transposed convolution.
    whole = [x.name for x in channels.graph.model.layers if isinstance(x, keras.layers.Conv2DTranspose)]
    options = Options(
        **{key: args[key] for key in ("threshold", "normalizer", "equalization_criterion", "granularity", "min_num_filters")},
        excluded_layers=tuple({*args["excluded_layers"], *whole} & {x.name for x in channels.graph.model.layers}),
    )
    selection = select(channels, options)
    return {p.name: np.flatnonzero(selection.alive[p.labels]).tolist() for p in channels.producers}


def expected(record: tuple[int, int, Any]) -> list[int]:
    before, _, indices = record
    return list(range(before)) if indices == "all" else indices


@pytest.mark.parametrize(("name", "index"), RUNS)
def test_tao_models_run(name: str, index: int, record_property: Any) -> None:
    run = tao_models.load(f"prune/{name}.json.gz")["runs"][index]
    received = kept(name, run["args"])
    if run.get("error"):
        assert received
        record_property("tao", "refused there, works here")
        return
    differing = {layer for layer, record in run["layers"].items() if received[layer] != expected(record)}
    assert not differing
    record_property("tao", "equal")
