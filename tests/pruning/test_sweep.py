"""Choosing a threshold: what each would leave, and the smallest that does anything."""

from __future__ import annotations

import math
import pathlib
import re

import keras
import numpy as np
import pytest
from helpers import randomize
from PIL import Image

import tlt_prune
from tlt_prune.graph.family import Family, family_of
from tlt_prune.io.figures import save_figure
from tlt_prune.pruning import plots

pytestmark = pytest.mark.one_backend


@pytest.fixture
def model() -> keras.Model:
    x = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(24, 3, name="a")(x)
    y = keras.layers.Conv2D(16, 3, name="b<c>")(y)
    return randomize(keras.Model(x, keras.layers.Dense(2, name="head")(keras.layers.GlobalAveragePooling2D()(y))))


OPTIONS = {"granularity": 4, "min_num_filters": 4}


def test_a_row_is_what_the_plan_of_that_threshold_says(model: keras.Model) -> None:
    frame = tlt_prune.sweep(model, [0.0, 0.4, 0.7], **OPTIONS)
    assert list(frame.columns) == ["channels", "parameters", "MACs"]
    for threshold, row in frame.iterrows():
        plan = tlt_prune.plan_pruning(model, threshold=threshold, **OPTIONS)
        kept = sum(len(indices) for indices in plan.kept.values())
        assert (row["channels"], row["parameters"], row["MACs"]) == (kept, plan.params_after, plan.macs_after)
    assert frame["parameters"].iloc[0] == model.count_params() == frame.attrs["whole"]["parameters"]


def test_by_default_it_goes_from_everything_to_nearly_nothing(model: keras.Model) -> None:
    plan = tlt_prune.plan_pruning(model, ratio=0.5, **OPTIONS)
    frame = plan.sweep(model)
    assert frame.index[0] == 0.0
    assert frame.index.is_monotonic_increasing
    assert frame["channels"].is_monotonic_decreasing
    assert frame["channels"].iloc[-1] < 0.5 * frame["channels"].iloc[0]
    assert plan.first_threshold in frame.index


def test_weights_are_read_once_for_scores_however_many_thresholds(model: keras.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    family = type(family_of(model))
    whole = family.numpy

    def numpy(self: Family, variable: keras.Variable) -> np.ndarray:
        read.append(variable.path)
        return whole(self, variable)

    monkeypatch.setattr(family, "numpy", numpy)
    tlt_prune.sweep(model, [0.1 * i for i in range(8)], **OPTIONS)
    # Every weight once, for NaN and infinity; what is scored once more.
    assert set(read) == {w.path for w in model.weights}
    assert max(read.count(x) for x in read) == 2


@pytest.mark.parametrize("granularity", [1, 4, 8])
@pytest.mark.parametrize("minimum", [1, 12, 20])
def test_the_first_threshold_removes_and_a_smaller_one_does_not(model: keras.Model, granularity: int, minimum: int) -> None:
    options = {"granularity": granularity, "min_num_filters": minimum}
    first = tlt_prune.plan_pruning(model, threshold=0.5, **options).first_threshold
    if (granularity, minimum) == (8, 20):
        # Of 24 filters at least 20 stay, rounded up to 24; of 16 all.
        assert first == math.inf
        assert not tlt_prune.plan_pruning(model, threshold=1.0, **options).removed
        return
    assert tlt_prune.plan_pruning(model, threshold=first, **options).removed
    assert not tlt_prune.plan_pruning(model, threshold=np.nextafter(first, 0), **options).removed


def test_where_nothing_can_go_there_is_no_first_threshold(model: keras.Model) -> None:
    plan = tlt_prune.plan_pruning(model, threshold=0.5, min_num_filters=100)
    assert plan.first_threshold == math.inf
    again = tlt_prune.PruningPlan.from_json(plan.to_json())
    assert again.first_threshold == math.inf
    assert "null" in plan.to_json()


def test_the_warning_names_the_smallest_threshold_that_works(model: keras.Model) -> None:
    plan = tlt_prune.plan_pruning(model, threshold=0.05, **OPTIONS)
    (text,) = re.findall(r"smallest threshold that removes anything is ([\d.]+)\. ", plan.advice())
    assert tlt_prune.plan_pruning(model, threshold=float(text), **OPTIONS).removed
    assert float(text) - plan.first_threshold < 0.001
    stuck = tlt_prune.plan_pruning(model, threshold=0.05, min_num_filters=100)
    assert "no threshold removes anything" in stuck.advice()


def test_a_plan_is_a_picture_and_a_table(model: keras.Model, tmp_path: pathlib.Path) -> None:
    plan = tlt_prune.plan_pruning(model, ratio=0.5, **OPTIONS)
    figure = plan.plot()
    (axis,) = figure.axes
    assert [t.get_text().strip() for t in axis.texts] == ["24 → 12", "16 → 8", "2 → 2"]
    save_figure(figure, tmp_path / "plan.png")
    with Image.open(tmp_path / "plan.png") as picture:
        assert picture.width > 500
    text = plan._repr_html_()
    assert "b&lt;c&gt;" in text
    assert "<c>" not in text
    assert text.count("<tr>") == 4
    assert "24 → 12" in text
    save_figure(plots.draw_sweep(plan.sweep(model)), tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 5000
