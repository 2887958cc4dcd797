"""Pictures and boxes as they are loaded, against the toolkit's own loader; COCO's annotations; batches."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import numpy as np
import pytest
from golden_detection import cases, ids
from PIL import Image

from tlt_prune.data import BatchOrder
from tlt_prune.detection.augmentation import Augmentation
from tlt_prune.detection.dataset import (
    evaluation_batches,
    large_enough,
    stretched_as_tf1,
    training_batches,
)
from tlt_prune.detection.geometry import Grid
from tlt_prune.detection.reading import load_coco, load_kitti
from tlt_prune.detection.targets import Ellipse, Rasterizer
from tlt_prune.errors import DataError

LOADED = cases("dataloader.json.gz")
# About records, which are not read here.
CASES = [x for x in LOADED if "error" not in x["expected"]]


def write(folder: pathlib.Path, pictures: Any) -> None:
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for name, x in pictures.items():
        Image.fromarray(np.array(x["image_hwc"], np.uint8)).save(folder / f"images/{name}.png")
        lines = [f"{label} 0 0 0 {' '.join(map(str, box))} 0 0 0 0 0 0 0\n" for label, box in x["labels"]]
        (folder / f"labels/{name}.txt").write_text("".join(lines))


def test_all_golden_cases_are_there() -> None:
    assert (len(LOADED), len(CASES)) == (5, 4)


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_golden(case: Any, tmp_path: pathlib.Path) -> None:
    write(tmp_path, case["pictures"])
    settings = dict(re.findall(r"(\w+): (\w+)", case["preprocessing"]))
    size = int(settings["output_image_width"]), int(settings["output_image_height"])
    resize: Any = "tf1" if settings.get("enable_auto_resize") == "true" else "pad"
    arguments = (tmp_path / "images", tmp_path / "labels", case["target_class_mapping"], size)
    if case["id"] == "mapping_key_must_be_lower_case":
        # There every label is lost without a word.
        with pytest.raises(DataError, match=r"target_class_mapping: expected keys in lower case.*Received: 'Car'"):
            load_kitti(*arguments, resize=resize)
        return
    split = load_kitti(*arguments, resize=resize)
    expected = {x["frame_id"].removeprefix("images/"): x for x in case["expected"]["examples"]}
    for i, name in enumerate(split.names):
        found = split.pictures[i].astype(np.float32) / 255
        np.testing.assert_allclose(np.moveaxis(found, -1, 0), expected[name]["image_chw"], atol=1e-3)
        boxes = np.array([box for _, box in expected[name]["boxes"]]).reshape(-1, 4)
        np.testing.assert_allclose(split.boxes[i][split.numbers[i] >= 0], boxes, atol=1e-2)


RESIZED, (SMALL,) = (cases("augmentation.json.gz", kind) for kind in ("auto_resize", "min_size_filter"))


@pytest.mark.parametrize("case", RESIZED, ids=ids(RESIZED))
def test_golden_resizing(case: Any) -> None:
    height, width = case["output_height_width"]
    found = stretched_as_tf1(np.array(case["image_hwc"], np.float32), (width, height))
    np.testing.assert_allclose(found, case["expected"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", [SMALL], ids=ids([SMALL]))
def test_golden_sizes_of_boxes(case: Any) -> None:
    # One has its corners the other way around: it does not get as far as here (`kitti.parse_labels`).
    boxes = np.array(case["boxes"])
    straight = np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    assert boxes[[large_enough(box) for box in straight.tolist()]].tolist() == case["expected"]


def test_pictures_of_mixed_sizes_are_stretched(tmp_path: pathlib.Path) -> None:
    write(tmp_path, {"a": {"image_hwc": np.full((24, 64, 3), 7), "labels": [["car", [8, 6, 40, 18]]]}})
    split = load_kitti(tmp_path / "images", tmp_path / "labels", {"car": "car"}, (32, 48))
    np.testing.assert_allclose(split.boxes[0, 0], [4, 12, 20, 36])
    np.testing.assert_allclose(split.factors, [[2.0, 0.5]])
    assert split.pictures.shape == (1, 48, 32, 3)


def test_coco(tmp_path: pathlib.Path) -> None:
    write(
        tmp_path,
        {"a": {"image_hwc": np.zeros((32, 32, 3)), "labels": []}, "b": {"image_hwc": np.ones((32, 32, 3)), "labels": []}},
    )
    content = {
        "images": [{"id": 3, "file_name": "a.png"}, {"id": 5, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "Traffic Light"}, {"id": 2, "name": "car"}],
        "annotations": [
            {"image_id": 3, "category_id": 1, "bbox": [4, 5, 10, 12]},
            {"image_id": 3, "category_id": 2, "bbox": [1, 1, 20, 8], "iscrowd": 1},
            {"image_id": 5, "category_id": 2, "bbox": [2, 3, 6, 7], "iscrowd": 0},
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    mapping = {"trafficlight": "light", "car": "car"}
    split = load_coco(tmp_path / "coco.json", tmp_path / "images", mapping, (32, 32), classes=("car", "light"))
    assert split.names == ("a", "b")
    assert [[x.tolist() for x in split.of_class(i)] for i in (0, 1)] == [
        [[], [[2.0, 3.0, 8.0, 10.0]]],
        [[[4.0, 5.0, 14.0, 17.0]], []],
    ]
    (tmp_path / "coco.json").write_text(json.dumps({"images": []}))
    with pytest.raises(DataError, match=r"coco\.json: expected annotations in COCO's format"):
        load_coco(tmp_path / "coco.json", tmp_path / "images", mapping, (32, 32))
    content["images"].append({"id": 9, "file_name": "c.png"})  # type: ignore[attr-defined]
    (tmp_path / "coco.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"c\.png, which does not exist"):
        load_coco(tmp_path / "coco.json", tmp_path / "images", mapping, (32, 32))


def test_no_object_is_left(tmp_path: pathlib.Path) -> None:
    write(tmp_path, {"a": {"image_hwc": np.zeros((32, 32, 3)), "labels": [["bush", [1, 2, 9, 9]]]}})
    with pytest.raises(
        DataError, match=r"No object of a class .*\(car\) is left\. .*1 labels are of classes .*\(bush 1\), the first in a"
    ):
        load_kitti(tmp_path / "images", tmp_path / "labels", {"car": "car"}, (32, 32))


@pytest.mark.parametrize("channels_first", [False, True])
def test_batches_follow_the_seed_and_the_epoch(tmp_path: pathlib.Path, channels_first: bool) -> None:
    rng = np.random.default_rng(0)
    pictures = {
        f"p{i}": {"image_hwc": rng.integers(0, 255, (32, 48, 3)), "labels": [["car", [4 + i, 5, 20 + i, 28]]]} for i in range(5)
    }
    write(tmp_path, pictures)
    split = load_kitti(tmp_path / "images", tmp_path / "labels", {"car": "car"}, (48, 32))
    raster = Rasterizer(Grid(48, 32, 3, 2), {"car": Ellipse()})

    def batches(first_epoch: int, seed: int = 1) -> list[Any]:
        order = BatchOrder(batch_size=2, seed=seed, first_epoch=first_epoch, epochs=3)
        pipeline = training_batches(split, raster, Augmentation(), order, channels_first=channels_first)
        found, steps = pipeline.batches, pipeline.steps
        assert steps == 3
        return [[np.asarray(x), *map(np.asarray, y)] for x, y in found]

    whole, resumed, other = batches(0), batches(1), batches(0, seed=2)
    assert len(whole) == 9
    assert whole[0][0].shape == ((2, 3, 32, 48) if channels_first else (2, 32, 48, 3))
    assert whole[0][1].shape == ((2, 5, 2, 3) if channels_first else (2, 2, 3, 5))
    for a, b in zip(whole[3:], resumed, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    assert not np.array_equal(whole[0][0], whole[3][0])
    assert not np.array_equal(whole[0][0], other[0][0])
    plain = list(evaluation_batches(split, raster, batch_size=5, channels_first=channels_first))
    x = np.asarray(plain[0][0])
    np.testing.assert_allclose(np.transpose(x, (0, 2, 3, 1)) if channels_first else x, split.pictures / 255, atol=1e-6)
