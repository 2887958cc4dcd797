"""Where the loss counts less: which labels mask it, and which cells, classes and objectives."""

from __future__ import annotations

import math
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from golden_detection import load
from PIL import Image

from tlt_prune.detection import experiment, messages
from tlt_prune.detection.dataset import evaluation_batches
from tlt_prune.detection.geometry import Grid
from tlt_prune.detection.losses import TargetClass
from tlt_prune.detection.masks import LabelFilter, LossMask
from tlt_prune.detection.reading import load_kitti
from tlt_prune.detection.targets import Ellipse, Rasterizer
from tlt_prune.detection.training import objective
from tlt_prune.errors import SpecError

GRID = Grid(64, 64, 4, 4)


@pytest.mark.parametrize(
    ("one", "name", "box", "expected"),
    [
        (LabelFilter(source_classes=("dontcare",)), "dontcare", (0, 0, 1, 1), True),
        (LabelFilter(source_classes=("dontcare",)), "car", (0, 0, 1, 1), False),
        (LabelFilter(width=(0, 10)), "car", (0, 0, 10, 50), True),
        (LabelFilter(width=(0, 10)), "car", (0, 0, 10.5, 5), False),
        (LabelFilter(height=(20, math.inf)), "car", (0, 0, 10, 19), False),
        (LabelFilter(inside=(10, 10, 20, 20)), "car", (0, 0, 11, 11), True),
        (LabelFilter(inside=(10, 10, 20, 20)), "car", (0, 0, 10, 10), False),
    ],
)
def test_which_labels(one: LabelFilter, name: str, box: Any, expected: bool) -> None:
    assert one.holds(name, box) is expected


def targets(mask: LossMask) -> Any:
    """Of a car at the upper left, and something under the lower half that the first filter holds."""
    boxes = tf.constant([[[0.0, 0, 30, 30], [0, 20, 64, 64]]])
    return Rasterizer(GRID, {"car": Ellipse(), "cyclist": Ellipse()}, mask=mask)(boxes, tf.constant([[0, 2]]))


def test_which_cells() -> None:
    said = targets(LossMask((LabelFilter(classes=("car",), objectives=("cov",)),), 0.25))
    # Rows whose middles, 8, 24, 40 and 56, are under the label from 20 on.
    assert said["weights"]["cov"][0, 0].numpy().tolist() == [[1] * 4, [0.25] * 4, [0.25] * 4, [0.25] * 4]
    assert (said["weights"]["cov"][0, 1] == 1).numpy().all()
    assert (said["weights"]["bbox"] == 1).numpy().all()
    # What masks is no object.
    plain = Rasterizer(GRID, {"car": Ellipse(), "cyclist": Ellipse()})(tf.constant([[[0.0, 0, 30, 30]]]), tf.constant([[0]]))
    for key in plain:
        np.testing.assert_array_equal(said[key], plain[key])


def test_objects_may_be_preserved() -> None:
    covered = np.asarray(targets(LossMask())["cov"])[0, 0] > 0
    assert covered[1].any()
    weights = targets(LossMask((LabelFilter(),), 0.0, preserve=True))["weights"]["cov"].numpy()[0]
    np.testing.assert_array_equal(weights[0][1:] == 1, covered[1:])
    assert (weights[1][1:] == 0).all()


def test_from_files_to_the_loss(tmp_path: pathlib.Path) -> None:
    """A network that is wrong under a region that nobody cares for loses nothing by it."""
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "images/p.png")
    rest = "0 0 0 0 0 0 0"
    (tmp_path / "labels/p.txt").write_text(f"car 0 0 0 0 0 30 30 {rest}\nDontCare 0 0 0 32 32 64 64 {rest}\n")
    message = spec()
    mask = experiment.loss_mask(message)
    split = load_kitti(tmp_path / "images", tmp_path / "labels", {"car": "car"}, (64, 64), filters=mask.filters)
    assert split.numbers.tolist() == [[0, 1]]
    assert split.is_object.tolist() == [[True, False]]
    raster = Rasterizer(GRID, {"car": Ellipse()}, mask=mask)
    ((_, true),) = evaluation_batches(split, raster, batch_size=1, channels_first=True)
    losses = objective([TargetClass("car")], channels_first=True)["loss"]
    said = [np.zeros((1, 4, 4, 4), np.float32), np.full((1, 1, 4, 4), 0.1, np.float32)]
    there, elsewhere = ([x.copy() for x in said] for _ in range(2))
    there[1][0, 0, 2:, 2:] = 0.9
    elsewhere[1][0, 0, 2:, :2] = 0.9
    at_rest, masked, counted = (
        sum(float(f(y, p)) for f, y, p in zip(losses, true, x, strict=True)) for x in (said, there, elsewhere)
    )
    assert masked == pytest.approx(at_rest)
    assert counted > 1.5 * at_rest


def spec(**changes: Any) -> Any:
    data = load("default_spec.json")["package_training"]
    one = {"label_filter": {"source_class_label_filter": {"source_class_names": ["dontcare"]}}, **changes}
    return messages.from_dict({**data, "loss_mask_label_filter": {"objective_label_filter_configs": [one]}}, "spec")


def test_specs() -> None:
    assert experiment.loss_mask(spec()).filters == (LabelFilter(source_classes=("dontcare",)),)
    sizes = {"label_filter": {"bbox_dimensions_label_filter": {"min_width": 3, "max_height": 9}}}
    assert experiment.loss_mask(spec(**sizes)).filters == (LabelFilter(width=(3, math.inf), height=(0, 9)),)
    with pytest.raises(SpecError, match=r"objective_names: expected cov, bbox\. Received: 'depth'"):
        experiment.loss_mask(spec(objective_names=["depth"]))
    with pytest.raises(SpecError, match=r"target_class_names: expected some of car, .*Received: 'bus'"):
        experiment.rasterizer(spec(target_class_names=["bus"]), GRID)
