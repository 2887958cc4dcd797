"""Labels as people write them: read right, or refused, or counted; never dropped without a word."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tlt_prune.detection.dataset import BoxSplit
from tlt_prune.detection.reading import load_coco, load_kitti
from tlt_prune.errors import DataError

MAPPING = {"car": "car", "van": "van", "v\u00e9lo": "van"}
ZEROS = " 0 0 0 0 0 0 0"


def line(name: str, *box: object) -> str:
    return f"{name} 0 0 0 {' '.join(map(str, box))}{ZEROS}"


CLEAN = f"{line('car', 2, 3, 12, 13)}\n{line('Van', 20, 4, 30, 14)}\n"


def picture(path: pathlib.Path, size: tuple[int, int] = (32, 32), **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, **options)


def kitti(folder: pathlib.Path, text: bytes | str, **options: Any) -> BoxSplit:
    picture(folder / "images/a.png")
    (folder / "labels").mkdir()
    (folder / "labels/a.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_kitti(folder / "images", folder / "labels", MAPPING, (32, 32), **options)


ENCODED = {
    "plain": CLEAN.encode(),
    "mark": b"\xef\xbb\xbf" + CLEAN.encode(),
    "windows": CLEAN.replace("\n", "\r\n").encode(),
    "old mac": CLEAN.replace("\n", "\r").encode(),
    "blank lines": b"\n\n" + CLEAN.encode() + b"\n",
}


@pytest.mark.parametrize("name", ENCODED)
def test_encodings(name: str, tmp_path: pathlib.Path) -> None:
    split = kitti(tmp_path, ENCODED[name])
    assert split.boxes[0].tolist() == [[2, 3, 12, 13], [20, 4, 30, 14]]
    assert split.numbers[0].tolist() == [0, 1]
    assert split.notes == ()


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-16-be"])
def test_other_encodings_are_refused(encoding: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match=r"a\.txt.*expected text in UTF-8"):
        kitti(tmp_path, (line("v\u00e9lo", 1, 2, 9, 9) + "\n" + CLEAN).encode(encoding))


def test_names_are_compared_as_people_write_them(tmp_path: pathlib.Path) -> None:
    assert kitti(tmp_path, line("VE\u0301LO", 1, 2, 9, 9)).numbers[0].tolist() == [1]


NOTED = {
    "swapped": (line("car", 12, 13, 2, 3), "1 labels had their corners swapped and were put right (car 1)", [[2, 3, 12, 13]]),
    "half swapped": (line("car", 12, 3, 2, 13), "were put right", [[2, 3, 12, 13]]),
    "empty": (line("car", 2, 3, 2, 13), "less than a pixel wide or high and are left out (car 1)", []),
    "0 to 1": (line("car", 0.1, 0.2, 0.5, 0.6), "have coordinates from 0 to 1, where pixels are expected, and are left out", []),
    "unmapped": (line("bush", 1, 2, 9, 9), "of classes that target_class_mapping does not name and are left out (bush 1)", []),
    "unmapped outside": (line("DontCare", 64, 4, 70, 20), "of other classes lie outside of their picture", []),
    "unmapped nan": (line("DontCare", "nan", 4, 70, 20), "of other classes have no usable box", []),
    "unmapped huge": (line("DontCare", -1e300, 4, 70, 20), "of other classes have no usable box", []),
}


@pytest.mark.parametrize("name", NOTED)
def test_what_is_left_out_is_said(name: str, tmp_path: pathlib.Path) -> None:
    text, note, boxes = NOTED[name]
    split = kitti(tmp_path, f"{text}\n{CLEAN}")
    (said,) = split.notes
    assert note in said
    assert said.endswith("the first in a.")
    found = split.boxes[0][split.is_object[0]].tolist()
    assert sorted(found) == sorted([*boxes, [2, 3, 12, 13], [20, 4, 30, 14]])
    alone = tmp_path / "alone"
    alone.mkdir()
    if not boxes:
        with pytest.raises(DataError, match=r"No object of a class in target_class_mapping .* is left") as error:
            kitti(alone, text)
        assert note in str(error.value)


def test_the_toolkit_leaves_swapped_corners_out(tmp_path: pathlib.Path) -> None:
    split = kitti(tmp_path, f"{line('car', 12, 13, 2, 3)}\n{CLEAN}", resize="pad")
    assert split.is_object.sum() == 2
    assert "are left out, as in the toolkit (car 1)" in split.notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (line("car", 1, 2, "nan", 9), "line 1: expected finite numbers"),
        (line("car", 1, 2, 1e300, 9), "expected finite boxes in pixels"),
        (line("car", 1, 2, 1e39, 9), "expected finite boxes in pixels"),
        (line("car", 64, 2, 80, 9), "outside of its picture"),
        (line("car", "5_0", 2, 60, 9), "expected numbers after the name"),
        (line("car", "\u0663", 2, 60, 9), "expected numbers after the name"),
        ("car 1 2 3", "expected 15 columns"),
        (line("traffic light", 1, 2, 9, 9), "expected 15 columns"),
    ],
)
def test_broken_lines(text: str, message: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match=message):
        kitti(tmp_path, f"{text}\n{CLEAN}")


def test_two_pictures_of_one_name(tmp_path: pathlib.Path) -> None:
    picture(tmp_path / "images/a.jpg")
    with pytest.raises(DataError, match="expected one picture of each name"):
        kitti(tmp_path, CLEAN)


def test_pictures_in_folders(tmp_path: pathlib.Path) -> None:
    for camera in ("cam1", "cam2"):
        picture(tmp_path / f"images/{camera}/0.png")
        (tmp_path / f"labels/{camera}").mkdir(parents=True)
        (tmp_path / f"labels/{camera}/0.txt").write_text(CLEAN)
    split = load_kitti(tmp_path / "images", tmp_path / "labels", MAPPING, (32, 32))
    assert split.names == ("cam1/0", "cam2/0")
    assert load_kitti(tmp_path / "images", tmp_path / "labels", MAPPING, (32, 32), names=["cam2/0.png"]).names == ("cam2/0",)


def coco(folder: pathlib.Path, **changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "cam1/0.png"}, {"id": 2, "file_name": "cam2/0.png"}],
        "categories": [{"id": 1, "name": "Car"}],
        "annotations": [{"image_id": i, "category_id": 1, "bbox": [i, 2, 10, 10]} for i in (1, 2)],
    }
    for x in content["images"]:
        picture(folder / x["file_name"])
    content |= changes
    (folder / "a.json").write_text(json.dumps(content))
    return content


def test_equal_names_in_several_folders_are_several_pictures(tmp_path: pathlib.Path) -> None:
    coco(tmp_path)
    split = load_coco(tmp_path / "a.json", tmp_path, MAPPING, (32, 32))
    assert split.names == ("cam1/0", "cam2/0")
    assert split.boxes[:, 0].tolist() == [[1, 2, 11, 12], [2, 2, 12, 12]]
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.json").read_bytes())
    assert len(load_coco(tmp_path / "a.json", tmp_path, MAPPING, (32, 32))) == 2


IMAGE, BOX = {"id": 1, "file_name": "cam1/0.png"}, {"image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 10]}
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "id twice": ({"images": [IMAGE, {"id": 1, "file_name": "cam2/0.png"}]}, "1 comes twice"),
    "id true": ({"images": [{**IMAGE, "id": True}]}, "expected an id"),
    "id a list": ({"images": [{**IMAGE, "id": [1]}]}, "expected an id"),
    "file twice": ({"images": [IMAGE, {"id": 2, "file_name": "./cam1/0.png"}]}, "expected one picture of each name"),
    "category twice": ({"categories": [{"id": 1, "name": "car"}, {"id": 1, "name": "van"}]}, "1 comes twice"),
    "no file": ({"images": [{"id": 1, "file_name": "x.png"}]}, "which does not exist"),
    "no name": ({"images": [{"id": 1, "file_name": ""}]}, "a text 'file_name'"),
    "control characters": ({"images": [{"id": 1, "file_name": "a\x1b[31m.png"}]}, "a text 'file_name'"),
    "annotation null": ({"annotations": [None]}, "a list of objects called 'annotations'"),
    "other picture": ({"annotations": [{**BOX, "image_id": 9}]}, "annotation 0: expected the image_id of something that"),
    "unhashable picture": ({"annotations": [{**BOX, "image_id": [1]}]}, "annotation 0: expected the image_id"),
    "other category": ({"annotations": [{**BOX, "category_id": 9}]}, "expected the category_id"),
    "box of texts": ({"annotations": [{**BOX, "bbox": ["1", 2, 3, 4]}]}, "expected bbox as four numbers"),
    "box of three": ({"annotations": [{**BOX, "bbox": [1, 2, 3]}]}, "expected bbox as four numbers"),
    "box beyond float": ({"annotations": [{**BOX, "bbox": [10**390, 2, 3, 4]}]}, "expected finite boxes"),
    "other size": ({"images": [{**IMAGE, "width": 64, "height": 32}], "annotations": [BOX]}, "is said to be 64 x 32"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_annotations(name: str, tmp_path: pathlib.Path) -> None:
    changes, message = BROKEN[name]
    coco(tmp_path, **changes)
    with pytest.raises(DataError, match="json") as error:
        load_coco(tmp_path / "a.json", tmp_path, MAPPING, (32, 32))
    assert message in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("box", "note"), [([5, 5, -3, 8], "put right"), ([5, 5, 0, 8], "less than a pixel"), ([0.1, 0.1, 0.2, 0.2], "0 to 1")]
)
def test_boxes_of_coco_are_counted_too(box: list[float], note: str, tmp_path: pathlib.Path) -> None:
    coco(tmp_path, annotations=[BOX, {**BOX, "bbox": box}, {**BOX, "iscrowd": 1}])
    split = load_coco(tmp_path / "a.json", tmp_path, MAPPING, (32, 32))
    assert len(split.notes) == 2
    assert any(note in x and "annotation 1" in x for x in split.notes)
    assert any("are crowds and left out (car 1)" in x for x in split.notes)


@pytest.mark.parametrize("oriented", [True, False])
def test_boxes_are_in_pixels_of_the_turned_picture(oriented: bool, tmp_path: pathlib.Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "a.jpg", (64, 32), exif=exif)
    size = (32, 64) if oriented else (64, 32)
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": size[0], "height": size[1]}],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [BOX],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    split = load_coco(tmp_path / "a.json", tmp_path, MAPPING, (32, 32), oriented=oriented)
    np.testing.assert_allclose(split.factors[0], np.array(size) / 32)
    with pytest.raises(DataError, match="It is turned by its EXIF entry"):
        load_coco(tmp_path / "a.json", tmp_path, MAPPING, (32, 32), oriented=not oriented)


def test_a_source_without_objects_is_one(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match="There are no labels"):
        kitti(tmp_path, "")
    (tmp_path / "other").mkdir()
    assert not kitti(tmp_path / "other", "", needs_objects=False).is_object.any()


NAMES: dict[str, Callable[[], bytes]] = {
    "blanks": lambda: b"my picture 1\nb\n",
    "mark and windows": lambda: b"\xef\xbb\xbfmy picture 1\r\nb\r\n",
    "suffixes": lambda: b"my picture 1.png\nb.png\n",
}


@pytest.mark.parametrize("name", NAMES)
def test_one_name_a_line(name: str, tmp_path: pathlib.Path) -> None:
    from tlt_prune.detection.splits import _names

    (tmp_path / "names.txt").write_bytes(NAMES[name]())
    config = type("Config", (), {"train_names_path": str(tmp_path / "names.txt")})
    assert _names(config, "train") == ["my picture 1", "b"]
