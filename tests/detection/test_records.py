"""The toolkit's records: what is in them, which fold they belong to, and that they say what label files say."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import crc32c
import numpy as np
import pytest
import tensorflow as tf
from golden_detection import cases, ids, load
from PIL import Image

from tlt_prune.detection import converting, kitti, messages, records
from tlt_prune.detection.splits import read_splits
from tlt_prune.errors import DataError, NotReplacedError, SpecError

FILE = "kitti_convert.json.gz"
LABELS = [x for x in cases(FILE, "label_file") if "features" in x["expected"]]
PARTITIONS = [x for x in cases(FILE, "partition") if any("fold" in name for name in x["expected"])]
CAR = "car 0 0 0 8 8 40 40 0 0 0 0 0 0 0\n"


def example(features: Mapping[str, Sequence[Any]]) -> bytes:
    """An example as the converter writes it, of its recorded values."""
    of_kind = {}
    for key, values in features.items():
        if key in ("frame/id", "target/object_class"):
            of_kind[key] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[x.encode() for x in values]))
        elif key in ("frame/width", "frame/height", "target/occlusion"):
            of_kind[key] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        else:
            of_kind[key] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Example(features=tf.train.Features(feature=of_kind)).SerializeToString()


def features_of(name: str, text: str, size: tuple[int, int] = (64, 64)) -> dict[str, Sequence[Any]]:
    """What the converter stores of a label file."""
    kept, _ = kitti.parse_labels(text, name)
    corners, world = ("x1", "y1", "x2", "y2"), ("bbox_h", "bbox_w", "bbox_l", "bbox_x", "bbox_y", "bbox_z", "bbox_rot_y")
    return {
        "frame/id": [name], "frame/width": [size[0]], "frame/height": [size[1]],
        "target/object_class": [x.name for x in kept],
        "target/truncation": [x.truncated for x in kept],
        "target/occlusion": [x.occluded for x in kept],
        "target/observation_angle": [x.alpha for x in kept],
        **{f"target/coordinates_{key}": [x.box[i] for x in kept] for i, key in enumerate(corners)},
        **{f"target/world_{key}": [x.rest[i] for x in kept] for i, key in enumerate(world)},
    }  # fmt: skip


def write(path: pathlib.Path, examples: Sequence[bytes]) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for each in examples:
            writer.write(each)
    return path


@pytest.mark.parametrize("case", LABELS, ids=ids(LABELS))
def test_a_record_says_what_its_label_file_says(case: Any, tmp_path: pathlib.Path) -> None:
    stored = case["expected"]["features"]
    (frame,) = records.read_frames(write(tmp_path / "tf", [example(stored)]))
    assert frame.name == stored["frame/id"][0]
    assert list(frame.size) == case["image_size"]
    kept, _ = kitti.parse_labels(case["label_file"], "a.txt")
    assert [x.name for x in frame.labels] == [x.name for x in kept]
    for mine, other in zip(frame.labels, kept, strict=True):
        assert mine.occluded == other.occluded
        for values, wanted in (
            (mine.box, other.box), (mine.rest, other.rest), ((mine.truncated, mine.alpha), (other.truncated, other.alpha)),
        ):  # fmt: skip
            np.testing.assert_allclose(values, wanted, rtol=1e-6)


def folder_of(case: Mapping[str, Any], place: pathlib.Path) -> pathlib.Path:
    """Pictures, label files and records as a partition was recorded."""
    for kind in ("images", "labels"):
        (place / kind).mkdir()
    for name in {x for names in case["expected"].values() for x in names}:
        Image.new("RGB", (64, 64)).save(place / f"{name}.png")
        (place / f"labels/{pathlib.PurePath(name).name}.txt").write_text(CAR)
    for file, names in case["expected"].items():
        write(place / "tf" / file, [example(features_of(name, CAR)) for name in names])
    # What the converter writes beside them.
    (place / "tf/tf_warning.json").write_text("{}")
    return place


def spec(place: pathlib.Path, fold: int = 0, **source: str) -> Any:
    data = load("default_spec.json")["package_training"]
    data["augmentation_config"]["preprocessing"] |= {"output_image_width": 64, "output_image_height": 64}
    sources = [{"tfrecords_path": f"{place}/tf/*", "image_directory_path": str(place), **source}]
    mapping = data["dataset_config"]["target_class_mapping"]
    config = {"target_class_mapping": mapping, "data_sources": sources, "validation_fold": fold}
    return messages.from_dict({**data, "dataset_config": config}, "spec")


@pytest.mark.parametrize("case", PARTITIONS, ids=ids(PARTITIONS))
def test_folds_and_shards_by_name(case: Any, tmp_path: pathlib.Path) -> None:
    place, names = folder_of(case, tmp_path), sorted(case["expected"])
    folds = sorted({int(re.findall(r"fold-(\d+)", x)[0]) for x in names})
    for fold in folds:
        said = spec(place, fold, label_directory_path=str(place / "labels"))
        if len(folds) == 1:
            with pytest.raises(DataError, match="no record file of another fold, for training"):
                read_splits(said)
            continue
        training, validation = read_splits(said)
        inside = [x for file in names if f"fold-{fold:03d}-of" in file for x in case["expected"][file]]
        outside = [x for file in names if f"fold-{fold:03d}-of" not in file for x in case["expected"][file]]
        assert list(validation.names) == inside
        assert list(training.names) == outside
        assert training.is_object.sum() == len(outside)
    with pytest.raises(DataError, match="no record file called fold-009-of-"):
        read_splits(spec(place, 9))


def test_a_picture_that_comes_several_times(tmp_path: pathlib.Path) -> None:
    """The converter's sample modifier writes pictures with rare objects again."""
    case = {
        "expected": {"tf-fold-000-of-002": ["images/a"], "tf-fold-001-of-002": ["images/b", "images/b", "images/c", "images/b"]}
    }
    training, _ = read_splits(spec(folder_of(case, tmp_path)))
    assert training.names == ("images/b", "images/b", "images/c", "images/b")


def test_files_of_validation_apart(tmp_path: pathlib.Path) -> None:
    """With a source of its own for validation, every file of the others trains."""
    case = {"expected": {"tf-fold-000-of-002": ["images/a"], "tf-fold-001-of-002": ["images/b"]}}
    place = folder_of(case, tmp_path)
    Image.new("RGB", (64, 64)).save(place / "images/v.png")
    write(place / "val/tf-fold-000-of-001", [example(features_of("images/v", CAR))])
    said = spec(place)
    said.dataset_config.validation_data_source.tfrecords_path = f"{place}/val/*"
    said.dataset_config.validation_data_source.image_directory_path = str(place)
    training, validation = read_splits(said)
    assert set(training.names) == {"images/a", "images/b"}
    assert validation.names == ("images/v",)


def test_one_clear_error(tmp_path: pathlib.Path) -> None:
    case = {"expected": {"tf-fold-000-of-002": ["images/a"], "tf-fold-001-of-002": ["images/b"]}}
    place = folder_of(case, tmp_path)
    with pytest.raises(DataError, match="there are no records"):
        read_splits(spec(tmp_path / "nowhere"))
    labels = str(place / "labels")
    (place / "labels/b.txt").write_text(CAR + CAR)
    with pytest.raises(DataError, match=r"b\.txt has 2 objects, and the records have 1 of this picture"):
        read_splits(spec(place, label_directory_path=labels))
    (place / "labels/b.txt").unlink()
    with pytest.raises(DataError, match="expected the label file of a picture in the records"):
        read_splits(spec(place, label_directory_path=labels))
    Image.new("RGB", (32, 64)).save(place / "images/b.png")
    with pytest.raises(DataError, match="is said to be 64 x 64, but has 32 x 64 pixels"):
        read_splits(spec(place))
    (place / "images/b.png").unlink()
    with pytest.raises(DataError, match="1 of them are not there, the first: images/b"):
        read_splits(spec(place))
    file = place / "tf/tf-fold-001-of-002"
    content = file.read_bytes()
    for broken, message in (
        (content[:-5], "cannot be read as records"),
        (content[:40] + bytes([content[40] ^ 255]) + content[41:], "cannot be read as records"),
        (b"{}", "cannot be read as records"),
    ):
        file.write_bytes(broken)
        with pytest.raises(DataError, match=message):
            read_splits(spec(place))
    stored = features_of("images/a", CAR)
    for changed, message in (
        ({key: value for key, value in stored.items() if key != "frame/id"}, "expected frame/id, as the toolkit's"),
        ({**stored, "target/coordinates_x1": []}, "expected 1 values of x1, one for each object. Received: 0"),
        ({**stored, "frame/width": []}, "expected one frame/id, frame/width and frame/height"),
    ):
        write(file, [example(changed)])
        with pytest.raises(DataError, match=message):
            read_splits(spec(place))
    write(file, [example(stored), example(features_of("images/a", CAR + CAR))])
    with pytest.raises(DataError, match="have images/a twice, with different objects"):
        read_splits(spec(place))


def kitti_folder(case: Mapping[str, Any], place: pathlib.Path) -> Any:
    """Pictures and labels as they were before a partition was recorded; the converter's message."""
    suffix = case["image_extension_on_disk"]
    for kind in ("images", "labels"):
        (place / kind).mkdir()
    for name in case["files"]:
        Image.new("RGB", (64, 48)).save(place / f"images/{name}{suffix}")
        (place / f"labels/{name}.txt").write_text(CAR)
    if case["id"] == "missing_label_file":
        (place / f"labels/{case['files'][1]}.txt").unlink()
    if case["sequence_to_frames"] is not None:
        (place / "frames.json").write_text(json.dumps(case["sequence_to_frames"]))
    text = f'root_directory_path: "{place}" image_dir_name: "images" label_dir_name: "labels" {case["kitti_config"]}'
    text = re.sub(r'kitti_sequence_to_frames_file: "[^"]*"', 'kitti_sequence_to_frames_file: "frames.json"', text)
    return messages.from_text(f"kitti_config {{ {text} }}", "spec", "dataset_convert")


ALL_PARTITIONS = cases(FILE, "partition")


@pytest.mark.parametrize("case", ALL_PARTITIONS, ids=ids(ALL_PARTITIONS))
def test_records_are_the_converters(case: Any, tmp_path: pathlib.Path) -> None:
    """The files, and the pictures in each, that the toolkit's converter made; refused where it stops."""
    config = kitti_folder(case, tmp_path)
    output = tmp_path / "tf/tf"
    if not case["expected"] or not any("fold" in x for x in case["expected"]):
        with pytest.raises((DataError, SpecError)):
            converting.convert_kitti(config, output, tao=True)
        assert not (tmp_path / "tf").exists() or not list((tmp_path / "tf").glob("tf*"))
        return
    found = converting.convert_kitti(config, output, validation_fold=case["validation_fold"], tao=True)
    files = records.record_files(f"{tmp_path}/tf/*")
    assert {x.name: [f.name for f in records.read_frames(x)] for x in files} == case["expected"]
    assert found.objects == {"car": sum(map(len, case["expected"].values()))}
    assert all(frame.size == (64, 48) for x in files for frame in records.read_frames(x))
    again = converting.convert_kitti(config, output, validation_fold=case["validation_fold"], tao=True)
    assert again.kept == again.files == len(files)


@pytest.mark.parametrize("case", LABELS, ids=ids(LABELS))
def test_a_converted_record_is_the_converters(case: Any, tmp_path: pathlib.Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    Image.new("RGB", tuple(case["image_size"])).save(tmp_path / "images/a.png")
    (tmp_path / "labels/a.txt").write_text(case["label_file"])
    config = messages.from_text(
        f'kitti_config {{ root_directory_path: "{tmp_path}" image_dir_name: "images" label_dir_name: "labels" '
        'partition_mode: "random" val_split: 0 }',
        "spec",
        "dataset_convert",
    )
    found = converting.convert_kitti(config, tmp_path / "tf", tao=True)
    (raw,) = tf.data.TFRecordDataset(str(tmp_path / "tf-fold-000-of-002")).as_numpy_iterator()
    assert raw == tf.train.Example.FromString(example(case["expected"]["features"])).SerializeToString(deterministic=True)
    assert found.dropped == len(kitti.parse_labels(case["label_file"], "a")[1])


def test_a_conversion_of_labels_goes_on_and_keeps_others_out(tmp_path: pathlib.Path) -> None:
    case = next(x for x in ALL_PARTITIONS if x["id"] == "random_20_percent")
    config = kitti_folder(case, tmp_path)
    output = tmp_path / "tf/tf"
    converting.convert_kitti(config, output, tao=True)
    files = records.record_files(f"{tmp_path}/tf/*")
    before = {x: x.read_bytes() for x in files}
    files[0].write_bytes(before[files[0]][:-1])
    files[1].unlink()
    assert converting.convert_kitti(config, output, tao=True).kept == len(files) - 2
    assert {x: x.read_bytes() for x in files} == before
    (tmp_path / "labels/f001.txt").write_text(CAR + CAR)
    with pytest.raises(NotReplacedError, match="another conversion"):
        converting.convert_kitti(config, output, tao=True)
    assert {x: x.read_bytes() for x in files} == before


DAMAGED = {
    "a length beyond the file": (lambda whole: crc32c.head(2**40) + whole[12:], r"record 0 would end at byte [\d,]+"),
    "the largest length": (lambda whole: crc32c.head(2**64 - 1) + whole[12:], r"record 0 would end at byte [\d,]+"),
    "a length that is damaged": (lambda whole: b"\x07" + whole[1:], "cannot be read as records"),
    "a checksum": (lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]), "cannot be read as records"),
    "a byte of the content": (lambda whole: whole[:20] + bytes([whole[20] ^ 1]) + whole[21:], "cannot be read as records"),
    "cut within a record": (lambda whole: whole[:-9], r"record 0 would end at byte [\d,]+"),
    "cut within a length": (lambda whole: whole + whole[:5], r"record 1 would end at byte [\d,]+"),
    "no records at all": (lambda whole: b"\x89PNG" + bytes(60), "cannot be read as records"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_records_take_no_memory_and_one_line(what: str, tmp_path: pathlib.Path) -> None:
    change, expected = DAMAGED[what]
    path = write(tmp_path / "tf", [example(features_of("images/a", CAR))])
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=expected) as refused:
        records.read_frames(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("removed", "added", "expected"),
    [
        (
            "tf-fold-001-of-002-shard-00001-of-00003",
            None,
            "expected 3 files .* tf-fold-001-of-002-shard-00001-of-00003 is missing",
        ),
        (None, "tf-fold-001-of-002-shard-00000-of-00007", "shards of two conversions"),
        (None, "tf-fold-001-of-004-shard-00000-of-00003", "shards of two conversions"),
    ],
)
def test_shards_of_another_conversion_and_missing_ones(
    removed: str | None, added: str | None, expected: str, tmp_path: pathlib.Path
) -> None:
    case = next(x for x in ALL_PARTITIONS if x["id"] == "random_20_percent")
    converting.convert_kitti(kitti_folder(case, tmp_path), tmp_path / "tf/tf", tao=True)
    if removed:
        (tmp_path / "tf" / removed).unlink()
    if added:
        shutil.copy(tmp_path / "tf/tf-fold-001-of-002-shard-00000-of-00003", tmp_path / "tf" / added)
    with pytest.raises(DataError, match=expected):
        read_splits(spec(tmp_path))
    # A part that is asked for by its name is what the user wants.
    if removed:
        assert len(records.record_files(f"{tmp_path}/tf/*fold-000*")) == 3
