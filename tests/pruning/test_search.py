"""Search: candidates that keep to the budget, the best of them returned, and one that was interrupted ends the same."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from typing import Any

import keras
import numpy as np
import pytest
from helpers import randomize
from PIL import Image

import tlt_prune
from tlt_prune.errors import PlanError
from tlt_prune.io.figures import save_figure

OPTIONS: dict[str, Any] = {"macs": 0.5, "granularity": 1, "min_num_filters": 2}


@pytest.fixture
def model() -> keras.Model:
    x = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(24, 3, name="a", activation="relu")(x)
    y = keras.layers.Conv2D(16, 3, name="b", activation="relu")(y)
    y = keras.layers.Conv2D(32, 1, name="c", activation="relu")(y)
    return randomize(keras.Model(x, keras.layers.Dense(2, name="head")(keras.layers.GlobalAveragePooling2D()(y))))


def width(pruned: keras.Model) -> float:
    """A score that wants "b" whole: what one share of every layer cannot give."""
    return float(pruned.get_layer("b").filters)


def test_the_best_candidate_within_the_budget(model: keras.Model, capsys: pytest.CaptureFixture[str]) -> None:
    found = tlt_prune.search(model, width, candidates=12, **OPTIONS)
    whole = tlt_prune.plan_pruning(model, **OPTIONS)
    assert (found.frame["macs"] <= whole.macs_before / 2).all()
    # The first is the plan of the options alone.
    assert found.frame.loc[0, ["params", "macs"]].tolist() == [whole.params_after, whole.macs_after]
    assert found.frame["origin"].tolist()[:2] == ["options", "start"]
    assert set(found.frame["origin"]) == {"options", "start", "best"}
    assert width(found.model) == found.frame["score"].max() == found.frame["score"][found.best] > found.frame["score"][0]
    assert found.shares.loc[found.best, "b"] == 1 - width(found.model) / 16
    assert found.model.count_params() == found.plan.params_after == found.frame["params"][found.best]
    # All that differs is how many go: of each layer those of the lowest norm.
    np.testing.assert_array_equal(found.plan.apply(model).get_weights()[0], found.model.get_weights()[0])
    line = capsys.readouterr().out.splitlines()[0]
    least = tlt_prune.plan_pruning(model, ratio=0.99, granularity=1, min_num_filters=2).macs_after
    assert line == (
        f"macs: {least:,.0f} MACs to {whole.macs_before:,.0f} MACs can be reached; the candidates have at most "
        f"{whole.macs_before / 2:,.0f} MACs."
    )


def test_no_plan_is_tried_twice(model: keras.Model) -> None:
    found = tlt_prune.search(model, width, candidates=12, **OPTIONS)
    assert not found.shares.duplicated().any()
    # Multiples of 8 leave next to no choice: the search ends early.
    few = tlt_prune.search(model, width, candidates=40, macs=0.5, granularity=8, min_num_filters=8)
    assert not few.shares.duplicated().any()
    assert 1 < len(few.frame) < 12


def test_it_keeps_the_law(model: keras.Model) -> None:
    plan = tlt_prune.search(model, width, candidates=6, **OPTIONS).plan
    plan.apply(model, verify=True)


def test_around_sensitivities(model: keras.Model) -> None:
    rng = np.random.default_rng(0)
    data = (rng.normal(size=(32, 8, 8, 3)).astype(np.float32), rng.integers(0, 2, 32))
    free = {key: OPTIONS[key] for key in ("granularity", "min_num_filters")}
    measured = tlt_prune.sensitivity(model, data, (0.25, 0.5, 0.75), **free)
    found = tlt_prune.search(model, width, candidates=3, around=measured, **OPTIONS)
    ratios = measured.layer_options(macs=0.5)
    assert found.frame["origin"].tolist()[1] == "sensitivity"
    # Where they say what the options say, nothing is tried twice.
    even = dataclasses.replace(measured, frame=measured.frame * 0 + measured.whole)
    assert not tlt_prune.search(model, width, candidates=4, around=even, **OPTIONS).shares.duplicated().any()
    # Rounded, and what still fits into the budget comes back.
    for layer in ("a", "b", "c"):
        assert found.shares.loc[1, layer] == pytest.approx(ratios[layer]["ratio"], abs=0.2)
    other = keras.Sequential([keras.Input((8, 8, 3)), *(keras.layers.Conv2D(8, 3, name=n) for n in "xyz")])
    elsewhere = tlt_prune.sensitivity(other, (data[0], np.zeros((32, 2, 2, 8))), (0.5,), metric="mean_squared_error", **free)
    with pytest.raises(PlanError, match="the sensitivities in around= say nothing about 'a'"):
        tlt_prune.search(model, width, around=elsewhere, **OPTIONS)


def test_an_interrupted_search_goes_on(model: keras.Model, tmp_path: pathlib.Path) -> None:
    cache = tmp_path / "search.jsonl"
    whole = tlt_prune.search(model, width, candidates=8, **OPTIONS)
    calls = []

    def counted(pruned: keras.Model) -> float:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return width(pruned)

    with pytest.raises(KeyboardInterrupt):
        tlt_prune.search(model, counted, candidates=8, cache=cache, **OPTIONS)
    cache.write_text(cache.read_text() + '{"candidate": "4", "sc')
    found = tlt_prune.search(model, counted, candidates=8, cache=cache, **OPTIONS)
    # Eight, and the one that was interrupted.
    assert len(calls) == 9
    assert found.frame.equals(whole.frame)
    assert found.shares.equals(whole.shares)
    numbers = [json.loads(line).get("candidate", "of").split()[0] for line in cache.read_text().splitlines()]
    assert numbers == ["of", *map(str, range(8))]
    # More of the same search.
    longer = tlt_prune.search(model, counted, candidates=10, cache=cache, **OPTIONS)
    assert len(calls) == 11
    assert longer.frame.iloc[:8].equals(whole.frame)
    # Scores of candidates that have the same numbers and are others are not taken for theirs.
    cache.write_text("".join(re.sub(r'("\d+) \d+"', r'\1 1"', line) for line in cache.read_text().splitlines(keepends=True)))
    assert tlt_prune.search(model, counted, candidates=2, cache=cache, **OPTIONS).frame.equals(whole.frame.iloc[:2])
    assert len(calls) == 13
    said = "results of another model, other options, sensitivities, compensations or another seed"
    for change in ({"seed": 1}, {"macs": 0.6}, {"criterion": "L1"}, {"compensation": "bias"}):
        with pytest.raises(PlanError, match=said):
            tlt_prune.search(model, counted, cache=cache, **{**OPTIONS, **change})
    # The same kernels before another head: the candidates are the same, what they score is not.
    model.get_layer("head").bias.assign([1.0, 2.0])
    with pytest.raises(PlanError, match=said):
        tlt_prune.search(model, counted, cache=cache, **OPTIONS)


def test_mistakes(model: keras.Model) -> None:
    for value in (float("nan"), None, "much"):
        with pytest.raises(PlanError, match="expected a finite number as the score of candidate 0"):
            tlt_prune.search(model, lambda pruned, value=value: value, **OPTIONS)
    with pytest.raises(PlanError, match=r"expected candidates >= 1, a whole number\. Received: 0"):
        tlt_prune.search(model, width, candidates=0, **OPTIONS)
    for mistake in ({"candidates": 2.5}, {"candidates": "3"}, {"seed": -1}, {"around": {}}):
        with pytest.raises(PlanError, match=f"search: expected {next(iter(mistake))}"):
            tlt_prune.search(model, width, **{**OPTIONS, **mistake})
    with pytest.raises(PlanError, match="Expected one of params, macs, size_mb, latency_ms"):
        tlt_prune.search(model, width, ratio=0.5)
    with pytest.raises(PlanError, match="cannot be met"):
        tlt_prune.search(model, width, macs=0.001)


def test_layers_with_options_of_their_own_keep_them(model: keras.Model, capsys: pytest.CaptureFixture[str]) -> None:
    own = {"a": {"ratio": 0.25}, "c": {"min_num_filters": 24}}
    found = tlt_prune.search(model, width, candidates=6, layer_options=own, excluded_layers="b", **{**OPTIONS, "macs": 0.8})
    assert list(found.shares) == ["a", "c"]
    # They bound what can be reached, too.
    most = tlt_prune.plan_pruning(model, ratio=0, layer_options={"a": {"ratio": 0.25}}, granularity=1, min_num_filters=2)
    assert f"MACs to {most.macs_after:,.0f} MACs can be reached" in capsys.readouterr().out
    assert (found.shares["a"] == 0.25).all()
    assert (found.shares["c"] <= 0.25).all()


def test_it_is_drawn(model: keras.Model, tmp_path: pathlib.Path) -> None:
    found = tlt_prune.search(model, width, candidates=6, **OPTIONS)
    save_figure(found.plot(), tmp_path / "search.png")
    with Image.open(tmp_path / "search.png") as picture:
        assert picture.width > 500
    assert "Search of 6 candidates" in repr(found)
    assert "<table" in found._repr_html_()
    assert "<Search" not in found._repr_html_()
