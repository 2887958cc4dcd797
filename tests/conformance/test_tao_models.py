"""Multitask, UNet, SSD, DSSD, RetinaNet and the YOLOs against the toolkit: each template layer by layer, then each of its pruning
runs index by index. All are equal, up to what Keras 3 forces (see `templates` and `tao_models`).

What the toolkit refuses works here, and the law holds, or is refused with a reason.
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
from helpers import assert_law, randomize, without_random_weights
from templates import assert_equal

import tlt_prune
from tlt_prune import models
from tlt_prune.config.options import Options
from tlt_prune.graph.tracer import ChannelGraph, trace
from tlt_prune.pruning.select.select import select

ERRORS = [name for name in tao_models.names("templates") if "error" in tao_models.load(f"templates/{name}.json.gz")]
# (model, run); None for its template. All of a model together: it is built once.
CASES = sorted(
    [
        *((name, -1) for name in tao_models.names("templates") if name not in ERRORS),
        *((name, i) for name in tao_models.names("prune") for i in range(len(tao_models.load(f"prune/{name}.json.gz")["runs"]))),
    ]
)


@functools.lru_cache(1)
def model_of(name: str) -> keras.Model:
    gc.collect()
    with without_random_weights():
        return tao_models.build(tao_models.load(f"templates/{name}.json.gz"))


@functools.lru_cache(1)
def channels_of(name: str) -> ChannelGraph:
    return trace(golden.set_deterministic_weights(model_of(name)))


@pytest.fixture(autouse=True, scope="module")
def _forget() -> Iterator[None]:
    yield
    model_of.cache_clear()
    channels_of.cache_clear()


@pytest.mark.parametrize(("name", "run"), CASES, ids=[f"{name}-{'template' if i < 0 else i}" for name, i in CASES])
def test_tao_models(name: str, run: int, record_property: Any) -> None:
    if run < 0:
        record = tao_models.load(f"templates/{name}.json.gz")
        assert_equal(model_of(name), record)
        record_property("tao_template", "equal")
        return
    recorded = tao_models.load(f"prune/{name}.json.gz")["runs"][run]
    received = kept(name, recorded["args"])
    if recorded.get("error"):
        assert received
        record_property("tao", "refused there, works here")
        return
    differing = {layer for layer, record in recorded["layers"].items() if received[layer] != expected(record)}
    assert not differing
    record_property("tao", "equal")


def kept(name: str, args: dict[str, Any]) -> dict[str, list[int]]:
    channels = channels_of(name)
    layers = channels.graph.model.layers
    # The toolkit never prunes a transposed convolution.
    whole = [x.name for x in layers if isinstance(x, keras.layers.Conv2DTranspose)]
    options = Options(
        **{key: args[key] for key in ("threshold", "normalizer", "equalization_criterion", "granularity", "min_num_filters")},
        excluded_layers=tuple({*args["excluded_layers"], *whole} & {x.name for x in layers}),
    )
    selection = select(channels, options)
    return {p.name: np.flatnonzero(selection.alive[p.labels]).tolist() for p in channels.producers}


def expected(record: tuple[int, int, Any]) -> list[int]:
    before, _, indices = record
    return list(range(before)) if indices == "all" else indices


@pytest.mark.parametrize("name", ERRORS)
def test_tao_models_that_the_toolkit_cannot_build(name: str) -> None:
    """They are built, or refused by a line that says what is expected."""
    record = tao_models.load(f"templates/{name}.json.gz")
    try:
        assert tao_models.build(record).outputs
    except ValueError as error:
        assert "Expected" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("name", "size", "classes", "options"),
    [
        # Shuffled channels; an initializer whose configuration does not make it again; transposed convolutions pruned as well.
        ("unet_shufflenet", 64, 3, {"groups": 1}),
        ("unet_resnet10", 32, 2, {"kernel_initializer": "he_normal", "output": "sigmoid", "width": 0.25}),
        # The input of a Split; a regressor that is shared over levels.
        ("multitask_cspdarknet_tiny", 64, {"color": 3, "size": 2}, {"width": 0.25}),
        ("retinanet_resnet10", 96, 4, {"n_kernels": 0, "width": 0.25, "data_format": "channels_last"}),
    ],
)
def test_tao_models_refused_or_damaged_there(name: str, size: int, classes: Any, options: dict[str, Any]) -> None:
    model = randomize(models.build(name, (size, size, 3), classes, **options))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, granularity=4, min_num_filters=4)
    assert plan.params_after < 0.6 * plan.params_before
    assert not plan.unknown
    cut = {x.layer for x in plan.layers if x.filters_after < x.filters_before}
    if name == "unet_resnet10":
        assert any("transpose" in x for x in cut)
    if "csp" in name:
        assert "conv_2_conv_0" in cut
    assert_law(model, plan, plan.apply(model), tolerance=2e-5)
