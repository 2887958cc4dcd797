"""Detection data at the edge: pictures and labels that do not belong together, boxes beyond pictures, specs that ask for more."""

from __future__ import annotations

import pathlib
import unicodedata
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from golden_detection import load
from PIL import Image

from tlt_prune.detection import messages
from tlt_prune.detection.average_precision import Curve
from tlt_prune.detection.converting import convert_kitti
from tlt_prune.detection.dataset import BoxSplit, _uniform_order, joined
from tlt_prune.detection.reading import load_kitti
from tlt_prune.detection.splits import held_out_files, read_splits
from tlt_prune.errors import DataError, SpecError

CAR = "car 0 0 0 {} {} {} {} 0 0 0 0 0 0 0\n"


def write(folder: pathlib.Path, names: list[str], box: tuple[int, ...] = (8, 8, 40, 40)) -> pathlib.Path:
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (64, 64)).save(folder / f"images/{name}.png")
        (folder / f"labels/{name}.txt").write_text(CAR.format(*box))
    return folder


def source(folder: pathlib.Path, **more: Any) -> dict[str, Any]:
    return {"image_directory_path": str(folder / "images"), "label_directory_path": str(folder / "labels"), **more}


def spec(preprocessing: dict[str, Any] | None = None, **dataset: Any) -> Any:
    data = load("default_spec.json")["package_training"]
    size = {"output_image_width": 64, "output_image_height": 64, **(preprocessing or {})}
    data["augmentation_config"]["preprocessing"] |= size
    mapping = data["dataset_config"]["target_class_mapping"]
    return messages.from_dict({**data, "dataset_config": {"target_class_mapping": mapping, **dataset}}, "spec")


@pytest.mark.parametrize(
    "asked",
    [{"crop_left": 0, "crop_top": 0, "crop_right": 32, "crop_bottom": 32}, {"scale_width": 0.5}, {"scale_height": 2.0}],
)
def test_a_crop_is_refused_and_not_forgotten(asked: dict[str, Any], tmp_path: pathlib.Path) -> None:
    folder = write(tmp_path, ["a", "b", "c", "d", "e"])
    with pytest.raises(SpecError, match="a crop or a scale is not applied here"):
        read_splits(spec(asked, data_sources=[source(folder)]))
    whole = {"crop_left": 0, "crop_top": 0, "crop_right": 64, "crop_bottom": 64, "scale_width": 1.0}
    training, validation = read_splits(spec(whole, data_sources=[source(folder)]))
    assert len(training) + len(validation) == 5


def test_boxes_end_where_their_pictures_end(tmp_path: pathlib.Path) -> None:
    write(tmp_path, ["a"], (-40, 8, 20, 90))
    split = load_kitti(tmp_path / "images", tmp_path / "labels", {"car": "car"}, (32, 32))
    assert split.boxes[0].tolist() == [[0, 4, 10, 32]]


def test_labels_without_a_picture_are_counted(tmp_path: pathlib.Path) -> None:
    write(tmp_path, ["a"])
    for name in ("b", "c"):
        (tmp_path / f"labels/{name}.txt").write_text(CAR.format(8, 8, 20, 20))
    split = load_kitti(tmp_path / "images", tmp_path / "labels", {"car": "car"}, (32, 32))
    (note,) = split.notes
    assert "2 label files have no picture" in note
    assert note.endswith("the first: b.txt.")
    assert not load_kitti(tmp_path / "images", tmp_path / "labels", {"car": "car"}, (32, 32), names=["a"]).notes


def test_names_are_one_in_either_way_of_writing_them(tmp_path: pathlib.Path) -> None:
    write(tmp_path, [unicodedata.normalize("NFD", "größe"), "b"])
    config = messages.from_dict(
        {
            **load("default_spec.json")["package_training"],
            "dataset_export_config": [{
                "kitti_config": {
                    "root_directory_path": str(tmp_path), "image_dir_name": "images", "label_dir_name": "labels",
                    "image_extension": ".png", "partition_mode": "random", "num_partitions": 2, "val_split": 50, "num_shards": 1,
                },
                "image_directory_path": str(tmp_path),
            }],
        },
        "spec",
    ).dataset_export_config[0]  # fmt: skip
    assert sum(convert_kitti(config, tmp_path / "records/x").pictures) == 2


def test_records_that_there_are_not_are_told_though_labels_stand_beside(tmp_path: pathlib.Path) -> None:
    folder = write(tmp_path, ["a", "b", "c"])
    with pytest.raises(DataError, match="there are no records"):
        read_splits(spec(data_sources=[source(folder, tfrecords_path=str(tmp_path / "typo/*"))]))


def test_pictures_to_infer_are_those_held_out(tmp_path: pathlib.Path) -> None:
    train, held_out = write(tmp_path / "t", ["a", "b", "c", "d", "e"]), write(tmp_path / "v", ["u", "w"])
    said = spec(data_sources=[source(train)], validation_data_source=source(held_out))
    assert held_out_files(said) == {name: held_out / f"images/{name}.png" for name in "uw"}
    said = spec(data_sources=[source(train)], val_split=40)
    assert list(held_out_files(said)) == list(read_splits(said)[1].names)
    assert len(held_out_files(said)) == 2


def test_a_source_without_a_training_picture_is_not_drawn_from() -> None:
    def one(name: str) -> BoxSplit:
        return BoxSplit.of((name,), np.zeros((1, 16, 16, 3), np.uint8), [[(0, [1, 1, 9, 9])]], [(1.0, 1.0)], ("car",))

    split = joined([one("a"), one("b"), one("c")], [1, 1, 1]).part(["b", "c"])
    assert set(_uniform_order(split, tf.constant([1, 0])).numpy().tolist()) <= {0, 1}


def test_recalls_of_three_tenths_reach_their_level() -> None:
    for hits, levels in ((3, 4), (6, 7), (7, 8), (10, 11)):
        curve = Curve(10, np.array([True] * hits), np.ones(hits))
        assert curve.average_precision("SAMPLE") == pytest.approx(levels / 11)


def test_a_converters_spec_is_known_by_what_stands_at_its_top(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("random_seed: 1\ndataset_export_config {\n  kitti_config {\n    num_partitions: 2\n  }\n}\n")
    assert not messages.is_of_converter(path)
    path.write_text("# of the converter\n  kitti_config {\n  num_partitions: 2\n}\nimage_directory_path: 'x'\n")
    assert messages.is_of_converter(path)
