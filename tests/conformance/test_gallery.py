"""Every graph of the gallery: traced, pruned exactly, saved; through Keras 3 and, where it exists, tf_keras."""

from __future__ import annotations

import pathlib
from typing import Any

import gallery
import keras
import numpy as np
import pandas as pd
import pytest
import renormalized
from helpers import assert_independent, assert_law, assert_same_after_reload, randomize

import tlt_prune
from tlt_prune.graph.tracer import trace
from tlt_prune.pruning.rewrite.law import check_law, random_inputs, relative_error, zeroed_reference

ALL = {**gallery.EXACT, **gallery.APPROXIMATE}


def tf_keras() -> Any:
    import tf_keras

    return tf_keras


def plan_of(model: Any) -> Any:
    return tlt_prune.plan_pruning(model, ratio=0.5, granularity=1, min_num_filters=1)


@pytest.mark.parametrize("name", gallery.EXACT)
def test_law(name: str) -> None:
    check(gallery.EXACT[name](keras), name)


@pytest.mark.parametrize("name", [name for name in gallery.EXACT if name not in gallery.KERAS3])
def test_law_in_tf_keras(name: str) -> None:
    check(gallery.EXACT[name](tf_keras()), name)


def check(model: Any, name: str) -> None:
    randomize(model)
    plan = plan_of(model)
    assert plan.removed, "the case must prune something"
    assert not plan.unknown
    pruned = plan.apply(model)
    assert type(pruned) is type(model)
    assert pruned.count_params() == plan.params_after
    tolerance = 2e-2 if name == "mixed_precision" else 1e-5
    channels = assert_law(model, plan, pruned, tolerance)
    frozen = {note.removeprefix("frozen: ") for note in plan.to_frame()["note"] if note and " stay: " not in note}
    expected = {gallery.FROZEN[name]} if name in gallery.FROZEN else set()
    assert frozen - {"model output", "a single channel"} == expected - {"model output"}
    inputs = random_inputs(channels, 0, 2)
    assert_same_after_reload(pruned, inputs)
    assert_independent(model, pruned, inputs, trains=name not in gallery.WITHOUT_GRADIENTS)


@pytest.mark.parametrize("name", gallery.APPROXIMATE)
@pytest.mark.parametrize("family", ["keras", "tf_keras"])
def test_approximate_cases_are_marked_and_still_whole(name: str, family: str) -> None:
    if family == "tf_keras" and name in gallery.KERAS3:
        pytest.skip("not in tf_keras")
    model = randomize(gallery.APPROXIMATE[name](keras if family == "keras" else tf_keras()))
    plan = plan_of(model)
    assert plan.removed
    assert "approximate" in " ".join(plan.to_frame()["note"])
    pruned = plan.apply(model)
    assert type(pruned) is type(model)
    assert pruned.count_params() == plan.params_after
    # The check holds where removal is exact, and says what the rest changes.
    channels = trace(model)
    report = check_law(channels, plan.alive(channels), pruned, tolerance=1e-5)
    assert report.approximate
    assert 1e-4 < report.approximate_error < 2
    assert_same_after_reload(pruned, random_inputs(channels, 0, 2))


KINDS = {
    "layer_norm": keras.layers.LayerNormalization,
    "rms_norm": keras.layers.RMSNormalization,
    "unit_norm": keras.layers.UnitNormalization,
    "group_norm": keras.layers.GroupNormalization,
    "softmax_in_the_middle": keras.layers.Softmax,
}


@pytest.mark.parametrize("name", gallery.APPROXIMATE)
def test_approximate_cases_are_exact_over_what_is_retained(name: str) -> None:
    """With the statistics taken over the retained channels in both, the law holds."""
    model = randomize(gallery.APPROXIMATE[name](keras))
    plan = plan_of(model)
    channels = trace(model)
    alive = plan.alive(channels)
    pruned = plan.apply(model)
    (layer,) = [x for x in model.layers if isinstance(x, KINDS[name])]
    first_conv = next(x for x in model.layers if isinstance(x, keras.layers.Conv2D))
    keep = np.isin(np.arange(first_conv.filters), plan.kept[first_conv.name])
    inputs = random_inputs(channels, 0, 2)
    expected = np.asarray(renormalized.reference(channels, alive, pruned, {layer.name: keep})(inputs), np.float64)
    assert relative_error(expected, np.asarray(pruned(inputs), np.float64)) < 1e-5
    # And it is the statistics alone: without renormalization the two differ.
    plain = np.asarray(zeroed_reference(channels, alive)(inputs), np.float64)
    assert relative_error(plain, np.asarray(pruned(inputs), np.float64)) > 1e-4


def test_the_gallery_is_what_the_documentation_says(root: pathlib.Path) -> None:
    assert (len(gallery.EXACT), len(gallery.APPROXIMATE)) == (126, 5)
    assert len([name for name in gallery.EXACT if name not in gallery.KERAS3]) == 93
    measured = pd.read_csv(root / "docs/pages/benchmarks/parity.csv").query("kind == 'gallery'").model
    assert sorted(measured) == sorted(ALL), "run tools/bench/parity_table.py"
    assert f"| graphs of the gallery | {len(measured)} |" in (root / "docs/pages/benchmarks/parity.md").read_text("utf-8")
