"""Data at the edge: what is hidden or linked, values of classes in masks, pixels that count for no class."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from tlt_prune import data
from tlt_prune.data.folders import class_pictures, load_folder
from tlt_prune.data.masks import mask_classes
from tlt_prune.errors import DataError
from tlt_prune.training import SegmentationLoss, pixel_confusion

FORM = data.PictureFormat(4, 4, 3)


def test_what_is_hidden_is_left_out_and_links_are_followed(tmp_path: pathlib.Path) -> None:
    picture, form = Image.new("RGB", (8, 8)), {"jfif": "JPEG", "pgm": "PPM", "pnm": "PPM", "png": "PNG"}
    there = ["t/cat/a.png", "t/dog/a.png", "t/cat/b.jfif", "t/cat/c.pgm", "t/cat/d.pnm", "more/e.png"]
    for name in (*there, "t/cat/.ipynb_checkpoints/a-checkpoint.png", "t/cat/.hidden.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.convert("L" if path.suffix == ".pgm" else "RGB").save(path, format=form[path.suffix[1:]])
    os.symlink(tmp_path / "more", tmp_path / "t/cat/more")
    files, labels, classes = class_pictures(tmp_path / "t", training=True)
    found = [str(pathlib.Path(x).relative_to(tmp_path / "t")) for x in files]
    assert found == ["cat/a.png", "cat/b.jfif", "cat/c.pgm", "cat/d.pnm", "cat/more/e.png", "dog/a.png"]
    assert load_folder(tmp_path / "t", FORM).images.shape == (6, 4, 4, 3)
    assert (labels.tolist(), classes) == ([0] * 5 + [1], ("cat", "dog"))
    os.symlink(tmp_path / "t", tmp_path / "more/up")
    with pytest.raises(DataError, match=r"up is a link to .*, which holds it. Remove the link"):
        class_pictures(tmp_path / "t", training=True)


def entry(name: str, label_id: int, mapping: str = "") -> dict[str, object]:
    return {"name": name, "label_id": label_id, "mapping_class": mapping}


def test_a_class_is_written_by_its_own_value() -> None:
    entries = [entry("background", 0), entry("road", 7), entry("path", 3, "road"), entry("unlabeled", -1, "background")]
    classes = mask_classes(entries)
    assert classes.names == ("background", "road")
    assert classes.values == (0, 7)
    # One without a value has that of another entry for the class, or one that none has.
    assert mask_classes([entry("void", -1), entry("old", 4, "void"), entry("road", 7)]).values == (4, 7)
    assert mask_classes([entry("void", -1), entry("road", 255)]).values == (0, 255)


@pytest.mark.parametrize("kind", ["cross_entropy", "dice", "cross_dice_sum"])
def test_pixels_of_no_class_do_not_count_with_one_channel(kind: str) -> None:
    loss = SegmentationLoss(kind, one_channel=True)  # type: ignore[arg-type]
    true = np.array([[1.0, 1.0, 0.0, 0.0]], np.float32).reshape(1, 2, 2, 1)
    void = true.copy()
    void[0, 0, 0, 0] = -1
    right = np.where(true > 0, 9.0, -9.0).astype(np.float32)
    wrong_in_void = right.copy()
    wrong_in_void[0, 0, 0, 0] = -9.0
    assert float(loss(void, wrong_in_void)) == pytest.approx(float(loss(void, right)), abs=1e-6)
    assert float(loss(true, wrong_in_void)) > float(loss(true, right)) + 0.1
    assert pixel_confusion(void.ravel().astype(int), (right > 0).ravel(), 2).tolist() == [[2, 0], [0, 1]]
