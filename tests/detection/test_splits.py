"""What of a folder is trained on: several sources and their weights, parts by chance and by recording, sample modifiers."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import numpy as np
import pytest
from golden_detection import cases, ids, load
from PIL import Image

from tlt_prune.data import BatchOrder
from tlt_prune.detection import messages
from tlt_prune.detection.dataset import BoxSplit, evaluation_batches, joined, training_batches
from tlt_prune.detection.geometry import Grid
from tlt_prune.detection.splits import read_splits
from tlt_prune.detection.targets import Ellipse, Rasterizer
from tlt_prune.errors import DataError, SpecError

# The converter's cases about files -> what is said here; nothing where it finds what it looks for.
FOUND = {
    "default_extension": "",
    "wrong_extension": r"images: expected pictures \(\.jpg\)",
    "no_mode": "partition_mode: expected 'random' or 'sequence'",
    "sequence_without_file": "expected kitti_sequence_to_frames_file",
    "missing_label_file": r"f001\.txt: expected a label file for every picture",
}


def write(folder: pathlib.Path, names: list[str], objects: str = "car 0 0 0 8 8 40 40 0 0 0 0 0 0 0\n") -> pathlib.Path:
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (64, 64)).save(folder / f"images/{name}.png")
        (folder / f"labels/{name}.txt").write_text(objects)
    return folder


def spec(**dataset: Any) -> Any:
    """The toolkit's default spec with 64 x 64 pictures and another `dataset_config`; `export` is the converter's."""
    data = load("default_spec.json")["package_training"]
    data["augmentation_config"]["preprocessing"] |= {"output_image_width": 64, "output_image_height": 64}
    converter = {"dataset_export_config": [dataset.pop("export")]} if "export" in dataset else {}
    mapping = data["dataset_config"]["target_class_mapping"]
    return messages.from_dict({**data, **converter, "dataset_config": {"target_class_mapping": mapping, **dataset}}, "spec")


def source(folder: pathlib.Path, **more: Any) -> dict[str, Any]:
    return {"image_directory_path": str(folder / "images"), "label_directory_path": str(folder / "labels"), **more}


def test_several_sources_and_what_their_pictures_count(tmp_path: pathlib.Path) -> None:
    first, second = write(tmp_path / "a", ["p", "q", "r"]), write(tmp_path / "b", ["s", "t"])
    held_out = write(tmp_path / "c", ["u"])
    said = spec(data_sources=[source(first), source(second, source_weight=2.5)], validation_data_source=source(held_out))
    training, validation = read_splits(said)
    assert training.names == ("p", "q", "r", "s", "t")
    assert training.weights.tolist() == [1, 1, 1, 2.5, 2.5]
    assert training.sources.tolist() == [0, 0, 0, 1, 1]
    assert validation.names == ("u",)
    # The weight of a picture is on every cell of its targets.
    grid = Grid(64, 64, 4, 4)
    raster = Rasterizer(grid, {name: Ellipse() for name in training.classes})
    count = len(training.classes)
    ((_, (bbox, cov)),) = evaluation_batches(training, raster, batch_size=5, channels_first=True)
    assert (np.asarray(cov[:, count:]) == training.weights[:, None, None, None]).all()
    norm = np.asarray(bbox[:, 4 * count :])
    np.testing.assert_allclose(norm[3], 2.5 * norm[0])
    assert norm[0].max() > 0


def test_a_name_in_two_sources(tmp_path: pathlib.Path) -> None:
    folders = [source(write(tmp_path / x, ["p", x])) for x in "ab"]
    with pytest.raises(DataError, match=r"data_sources: expected different names of pictures\. 'p' is in several"):
        read_splits(spec(data_sources=folders))


def part(names: list[str], **arrays: Any) -> BoxSplit:
    n = len(names)
    zeros = {"boxes": np.zeros((n, 1, 4), np.float32), "numbers": np.zeros((n, 1), np.int32), "factors": np.ones((n, 2))}
    pictures = np.zeros((n, 16, 16, 1), np.uint8)
    both = {"sources": np.zeros(n, np.int32), "weights": np.ones(n, np.float32)}
    return BoxSplit(names=tuple(names), pictures=pictures, classes=("a",), **(zeros | both | arrays))


def test_sources_are_drawn_from_equally_often() -> None:
    split = joined([part([f"a{i}" for i in range(190)]), part([f"b{i}" for i in range(10)])], [1, 1])
    # Which picture it is stands in its first pixel.
    split.pictures[:, 0, 0, 0] = np.arange(200)
    raster = Rasterizer(Grid(16, 16, 1, 1), {"a": Ellipse()})

    def epochs(*, uniform: bool, first: int = 0) -> list[list[int]]:
        order = BatchOrder(batch_size=50, seed=1, first_epoch=first, epochs=2)
        pipeline = training_batches(split, raster, None, order, channels_first=False, uniform=uniform)
        batches, steps = pipeline.batches, pipeline.steps
        assert steps == 4
        pixels = [np.rint(np.asarray(x)[:, 0, 0, 0] * 255).astype(int).tolist() for x, _ in batches]
        return [[x for some in pixels[i : i + 4] for x in some] for i in range(0, len(pixels), 4)]

    plain = epochs(uniform=False)
    assert sorted(plain[0]) == list(range(200))
    fair = epochs(uniform=True)
    assert [len(x) for x in fair] == [200, 200]
    assert fair[0] != fair[1]
    rare = [x for x in fair[0] if x >= 190]
    # A half, within three standard deviations, and all of them before any comes again.
    assert 79 <= len(rare) <= 121
    assert sorted(rare[:10]) == sorted(rare[10:20]) == list(range(190, 200))
    often = [x for x in fair[0] if x < 190]
    assert len(set(often)) == len(often)
    assert epochs(uniform=True, first=1) == fair[1:]


def converter(folder: pathlib.Path, **more: Any) -> dict[str, Any]:
    config = {"root_directory_path": str(folder), "image_dir_name": "images", "label_dir_name": "labels", "num_partitions": 2}
    modifier = more.pop("modifier", {})
    return {"kitti_config": config | more, "sample_modifier_config": modifier, "image_directory_path": str(folder)}


def test_parts_by_recording(tmp_path: pathlib.Path) -> None:
    recordings = {"one": ["p", "q", "r"], "two": ["s"]}
    folder = write(tmp_path, [*recordings["one"], *recordings["two"]])
    (folder / "sequences.json").write_text(json.dumps(recordings))
    export = converter(folder, partition_mode="sequence", kitti_sequence_to_frames_file="sequences.json")
    found = {}
    for fold in (0, 1):
        data = {"data_sources": [{"image_directory_path": str(folder)}], "validation_fold": fold, "export": export}
        training, validation = read_splits(spec(**data))
        assert not set(training.names) & set(validation.names)
        found[fold] = sorted(validation.names)
    assert sorted(found.values()) == [["p", "q", "r"], ["s"]]


FILES = [x for x in cases("kitti_convert.json.gz", "partition") if x["id"] in FOUND]


@pytest.mark.parametrize("case", FILES, ids=ids(FILES))
def test_golden_files(case: Any, tmp_path: pathlib.Path) -> None:
    """What the toolkit's converter finds in a folder, or cannot do without."""
    write(tmp_path, case["files"])
    if case["id"] == "missing_label_file":
        (tmp_path / f"labels/{case['files'][-1]}.txt").unlink()
    text = f'kitti_config {{ {case["kitti_config"]} }} image_directory_path: "x"'
    export = converter(tmp_path, **messages.to_dict(messages.from_text(text, case["id"], "dataset_convert"))["kitti_config"])
    said = spec(data_sources=[{"image_directory_path": "."}], validation_fold=0, export=export)
    wanted = FOUND[case["id"]]
    if wanted:
        # There an error, or a file of nothing.
        assert case["expected"] in ({}, *({"error": x} for x in ("NotImplementedError", "ValueError", "FileNotFoundError")))
        with pytest.raises((DataError, SpecError), match=wanted):
            read_splits(said, tao=True)
        return
    training, validation = read_splits(said, tao=True)
    folds = [[x.removeprefix("images/") for x in case["expected"][key]] for key in sorted(case["expected"])]
    assert [list(validation.names), list(training.names)] == folds


def test_sample_modifiers(tmp_path: pathlib.Path) -> None:
    write(tmp_path, [f"c{i}" for i in range(4)])
    write(tmp_path, [f"w{i}" for i in range(4)], "pedestrian 0 0 0 8 8 40 40 0 0 0 0 0 0 0\n")
    write(tmp_path, ["v0", "v1", "v2"], "van 0 0 0 8 8 40 40 0 0 0 0 0 0 0\n")
    modifier = {
        "source_to_target_class_mapping": {"car": "car", "pedestrian": "person", "van": "van"},
        "dominant_target_classes": ["car"],
        "filter_samples_containing_only": ["van"],
        "num_duplicates": 2,
    }
    export = converter(tmp_path, partition_mode="random", val_split=20, modifier=modifier)
    training, validation = read_splits(spec(data_sources=[{"image_directory_path": "."}], export=export))
    times = {name: training.names.count(name) for name in training.names}
    assert {name[0]: count for name, count in times.items()} == {"c": 1, "w": 3}
    # Validation stays as it is.
    assert len(validation) == 2


@pytest.mark.parametrize(
    ("changes", "fold", "message"),
    [
        ({"partition_mode": "both"}, 0, "partition_mode: expected 'random' or 'sequence'. Received: 'both'"),
        ({"partition_mode": "random", "val_split": 50}, 2, "validation_fold: expected 0 to 1. Received: 2"),
        ({"partition_mode": "sequence", "kitti_sequence_to_frames_file": "x.json"}, 0, "x.json: expected JSON, recording"),
    ],
)
def test_converters_that_say_nothing(tmp_path: pathlib.Path, changes: dict[str, Any], fold: int, message: str) -> None:
    export = converter(write(tmp_path, ["p", "q"]), **changes)
    said = spec(data_sources=[{"image_directory_path": "."}], validation_fold=fold, export=export)
    with pytest.raises((DataError, SpecError), match=re.escape(message)):
        read_splits(said)
