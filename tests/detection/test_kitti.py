"""Label files and parts of a dataset against the toolkit's own."""

from __future__ import annotations

import re
from typing import Any

import pytest
from golden_detection import cases, ids

from tlt_prune.detection import kitti
from tlt_prune.errors import DataError

FILE = "kitti_convert.json.gz"
LABELS, PARTITIONS, MODIFIERS = (cases(FILE, kind) for kind in ("label_file", "partition", "sample_modifier"))
# About files: test_splits.py.
FILES = ("default_extension", "wrong_extension", "no_mode", "sequence_without_file", "missing_label_file")


def value_of(text: str, key: str) -> str | None:
    found = re.search(rf'{key}: "?([\w.]+)"?', text)
    return found[1] if found else None


def test_all_golden_cases_are_there() -> None:
    assert (len(LABELS), len(PARTITIONS), len(MODIFIERS)) == (11, 11, 5)


@pytest.mark.parametrize("case", LABELS, ids=ids(LABELS))
def test_label_files(case: Any) -> None:
    expected = case["expected"]
    if "error" in expected:
        with pytest.raises(DataError, match=r"a\.txt, line 1: expected"):
            kitti.parse_labels(case["label_file"], "a.txt")
        return
    kept, dropped = kitti.parse_labels(case["label_file"], "a.txt")
    assert [[int(x) for x in label.box] for label in dropped] == expected["warnings"]
    stored = expected["features"]
    corners = ("x1", "y1", "x2", "y2")
    world = ("bbox_h", "bbox_w", "bbox_l", "bbox_x", "bbox_y", "bbox_z", "bbox_rot_y")
    received = {
        "target/object_class": [x.name for x in kept],
        "target/truncation": [x.truncated for x in kept],
        "target/occlusion": [x.occluded for x in kept],
        "target/observation_angle": [x.alpha for x in kept],
        **{f"target/coordinates_{name}": [x.box[i] for x in kept] for i, name in enumerate(corners)},
        **{f"target/world_{name}": [x.rest[i] for x in kept] for i, name in enumerate(world)},
    }
    for key, values in received.items():
        assert values == (pytest.approx(stored[key], rel=1e-6) if key != "target/object_class" else stored[key])


@pytest.mark.parametrize("case", [x for x in PARTITIONS if x["id"] not in FILES], ids=lambda x: x["id"])
def test_parts(case: Any) -> None:
    config, expected = case["kitti_config"], case["expected"]
    if value_of(config, "partition_mode") == "random":
        folds = kitti.random_folds(case["files"], float(value_of(config, "val_split") or 0), tao=True)
    else:
        folds = kitti.sequence_folds(case["sequence_to_frames"], int(value_of(config, "num_partitions") or 0))
    count = int(value_of(config, "num_shards") or 0)
    received = [part for fold in folds for part in (kitti.shards(fold, count) if count else [fold])]
    assert [[f"images/{name}" for name in part] for part in received] == [expected[key] for key in sorted(expected)]


def modifier_of(text: str) -> kitti.SampleModifier:
    def pairs(key: str) -> dict[str, str]:
        return dict(re.findall(rf'{key} {{ key: "(\w+)" value: "?([\w.]+)"? }}', text))

    def strings(key: str) -> tuple[str, ...]:
        return tuple(re.findall(rf'{key}: "(\w+)"', text))

    return kitti.SampleModifier(
        pairs("source_to_target_class_mapping"),
        strings("filter_samples_containing_only"),
        strings("dominant_target_classes"),
        int(value_of(text, "num_duplicates") or 0),
        {key: float(value) for key, value in pairs("minimum_target_class_imbalance").items()},
        int(value_of(text, "max_training_samples") or 0),
    )


@pytest.mark.parametrize("case", MODIFIERS, ids=ids(MODIFIERS))
def test_what_is_left_out_and_comes_again(case: Any) -> None:
    text, expected = case["sample_modifier_config"], case["expected"]
    if "error" in expected:
        with pytest.raises(DataError, match="dominant_target_classes: expected values of source_to_target_class_mapping"):
            modifier_of(text)
        return
    labels = {name: kitti.parse_labels(content, name)[0] for name, content in case["label_files"].items()}
    modifier = modifier_of(text)
    # Which pictures are in a part is asserted above: here, that of validation stays and the other is changed.
    (validation, training) = (expected[key] for key in sorted(expected))
    names = [x.removeprefix("images/") for x in training]
    rest = sorted(set(labels) - {x.removeprefix("images/") for x in validation})
    found = modifier(rest, labels, 1)
    if modifier.max_training_samples:
        assert len(found) == len(names) == modifier.max_training_samples
    else:
        assert sorted(found) == sorted(names)


def test_a_random_part_is_random() -> None:
    names = [f"f{i:03d}" for i in range(100)]
    validation, training = kitti.random_folds(names, 20)
    assert sorted([*validation, *training]) == names
    assert len(validation) == 20
    assert validation != names[:20]
    assert kitti.random_folds(names[::-1], 20) == [validation, training]
    assert kitti.random_folds(names, 20, seed=1)[0] != validation


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("car 0 0 0 1 2 3 4 0 0 0 0 0 0 nan", "line 2: expected finite numbers"),
        ("car 0 0 0 1 2 3 4 0 0 0 0 0 0 0 0.9", "line 2: expected 15 columns .* Received 16"),
    ],
)
def test_broken_lines(line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        kitti.parse_labels(f"car 0 0 0 1 2 30 40 0 0 0 0 0 0 0\n{line}\n", "labels/a.txt")


def test_bad_settings() -> None:
    with pytest.raises(DataError, match="val_split: expected a number from 0 to below 100"):
        kitti.random_folds(["a"], 100)
    with pytest.raises(DataError, match="num_partitions: expected 1 to 1"):
        kitti.sequence_folds({"a": ["x"]}, 2)


LINES = cases("inference_labels.json")


@pytest.mark.parametrize("case", LINES, ids=ids(LINES))
def test_what_inference_writes(case: Any) -> None:
    import numpy as np

    from tlt_prune.detection.decoding import to_picture
    from tlt_prune.detection.geometry import Grid

    width, height = case["network_size"]
    factors = (case["picture_size"][0] / width, case["picture_size"][1] / height)
    text = ""
    for name, found in case["detections"].items():
        for x in found:
            box = to_picture(np.array(x["bbox"]), Grid(width, height, 1, 1), factors)
            text += kitti.label_line(case["output_map"][name], box.tolist(), x["confidence"])
    assert text == case["expected"]["text"]
