"""Pictures and masks: what is read, how they are changed alike, and what is said when something is wrong."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tlt_prune import data
from tlt_prune.config.specs import Dataset
from tlt_prune.data import masks
from tlt_prune.data.mask_pipeline import Values, changed_alike
from tlt_prune.errors import DataError

FORM = data.PictureFormat(4, 6, 3)
FITTING = data.MaskFitting(FORM, (4, 6))
CLASSES = data.mask_classes([{"name": "ground", "label_id": 0}, {"name": "tree", "label_id": 7}])


def folders(place: pathlib.Path, *values: np.ndarray) -> tuple[pathlib.Path, pathlib.Path]:
    """A folder of pictures and one of masks, with these values."""
    for kind in ("images", "masks"):
        (place / kind).mkdir(parents=True)
    for i, mask in enumerate(values):
        Image.fromarray(np.full((*mask.shape, 3), 10 * i, np.uint8)).save(place / f"images/{i}.jpg")
        Image.fromarray(mask.astype(np.uint8)).save(place / f"masks/{i}.png")
    return place / "images", place / "masks"


def test_masks_are_read_by_the_names_of_their_pictures(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = np.zeros((4, 6)), np.full((8, 12), 7)
    second[:4], first[0, 0] = 0, 99
    given = folders(tmp_path, first, second)
    split, notes = data.load_masks([given], CLASSES, FITTING)
    assert [x.name for x in split.files] == ["0", "1"]
    assert notes == (f"{given[1]}: 0.83 % of the pixels have values that no class names (99): they do not count.",)
    assert split.kept is not None
    # The larger one is brought to the model's size.
    assert split.example(0)[1][0].tolist() == [-1, 0, 0, 0, 0, 0]
    assert split.example(1)[1].tolist() == [[0] * 6] * 2 + [[1] * 6] * 2
    monkeypatch.setattr(masks, "_MEMORY_BYTES", 0)
    lazy, _ = data.load_masks([given], CLASSES, FITTING)
    assert lazy.kept is None
    layout = data.MaskLayout(channels_first=False, outputs_first=False, one_channel=False, size=(4, 6))
    pipelines = [data.mask_evaluation_pipeline(x, Dataset(preprocess_mode="tf"), layout, 2) for x in (split, lazy)]
    for (x, y), (a, b) in zip(*(p.batches for p in pipelines), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(a))
        np.testing.assert_array_equal(np.asarray(y), np.asarray(b))
        # No class: no one in the place of one.
        assert np.asarray(y).sum() == 2 * 24 - 1


def test_one_channel_and_the_middle_of_a_mask(tmp_path: pathlib.Path) -> None:
    mask = np.zeros((4, 6))
    mask[1, 2] = 7
    split, _ = data.load_masks([folders(tmp_path, mask)], CLASSES, FITTING)
    layout = data.MaskLayout(channels_first=True, outputs_first=True, one_channel=True, size=(2, 2))
    ((x, y),) = data.mask_evaluation_pipeline(split, Dataset(preprocess_mode="tf"), layout, 1).batches
    assert x.shape == (1, 3, 4, 6)
    assert np.asarray(y).tolist() == [[[[1.0, 0.0], [0.0, 0.0]]]]
    assert data.classes_said(np.array([[[[0.5, -0.5], [0.0, -1.0]]]]), layout).tolist() == [[[1, 0], [1, 0]]]


def test_a_palette_counts_by_its_numbers(tmp_path: pathlib.Path) -> None:
    picture = Image.fromarray(np.array([[0, 7], [7, 0]], np.uint8), mode="P")
    picture.putpalette([255, 0, 0] * 256)
    picture.save(tmp_path / "m.png")
    assert masks.read_mask(tmp_path / "m.png").tolist() == [[0, 7], [7, 0]]


def test_pictures_and_masks_are_changed_alike() -> None:
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 2, (8, 8))
    picture = tf.constant(np.repeat(200.0 * mask[..., None], 3, axis=-1), tf.float32)
    draws = {"hflip": 0.1, "vflip": 0.9, "crop": 0.9, "left": 0.0, "right": 0.0, "top": 0.0, "bottom": 0.0, "brightness": 0.0}
    config, values = data.MaskAugmentation(), Values(0.0, 255.0, 127.5)
    x, y = changed_alike(picture, tf.constant(mask, tf.int32), config, draws, values)
    np.testing.assert_array_equal(np.asarray(y), mask[:, ::-1])
    np.testing.assert_array_equal(np.asarray(x)[..., 0], 200.0 * mask[:, ::-1])
    # A quarter of the picture is cut off at the left, and the rest enlarged.
    config = dataclasses.replace(config, crop_and_resize_ratio=0.25)
    x, y = changed_alike(picture, tf.constant(mask, tf.int32), config, {**draws, "hflip": 0.9, "crop": 0.1, "left": 1.0}, values)
    assert np.asarray(y)[:, 0].tolist() == mask[:, 2].tolist()
    assert np.asarray(y)[:, -1].tolist() == mask[:, -1].tolist()


def test_the_same_epoch_again_is_the_same(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    split, _ = data.load_masks([folders(tmp_path, *(7 * rng.integers(0, 2, (5, 4, 6))))], CLASSES, FITTING)
    layout = data.MaskLayout(channels_first=False, outputs_first=False, one_channel=False, size=(4, 6))

    def epochs(first: int, last: int) -> list[np.ndarray]:
        order = data.BatchOrder(batch_size=2, seed=3, first_epoch=first, epochs=last)
        pipeline = data.mask_training_pipeline(split, Dataset(), layout, order, data.MaskAugmentation())
        assert pipeline.steps == 3
        return [np.asarray(y) for _, y in pipeline.batches]

    whole = epochs(0, 2)
    for a, b in zip(whole[3:], epochs(1, 2), strict=True):
        np.testing.assert_array_equal(a, b)
    assert sum(len(y) for y in whole) == 10


def test_what_does_not_fit_is_refused(tmp_path: pathlib.Path) -> None:
    pictures, files = folders(tmp_path, np.zeros((4, 6)), np.zeros((4, 6)))
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(files / "0.png")
    with pytest.raises(DataError, match=r"The mask .*0.png has the mode RGB. Expected one channel"):
        data.load_masks([(pictures, files)], CLASSES, FITTING)
    (files / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"Cannot read the mask .*0.png"):
        data.load_masks([(pictures, files)], CLASSES, FITTING)
    (files / "0.png").unlink()
    with pytest.raises(DataError, match="Expected a mask for each picture"):
        data.load_masks([(pictures, files)], CLASSES, FITTING)
    (pictures / "0.jpg").unlink()
    other = data.mask_classes([{"name": "a", "label_id": 3}, {"name": "b", "label_id": 4}])
    with pytest.raises(DataError, match=r"no mask has a value that a class names \(3, 4\). Found: 0"):
        data.load_masks([(pictures, files)], other, FITTING)
    for targets in (
        [{"name": "a", "label_id": 0}, {"name": "a", "label_id": 1}],
        [{"name": "a", "label_id": 0, "mapping_class": "z"}, {"name": "b", "label_id": 1}],
        [{"name": "a", "label_id": 0}, {"name": "b", "label_id": 1}, {"name": "c", "label_id": 0, "mapping_class": "b"}],
    ):
        with pytest.raises(DataError, match="target_classes"):
            data.mask_classes(targets)


def gradient(height: int, width: int) -> np.ndarray:
    """Pixels that differ from all near them."""
    rows, columns = np.mgrid[:height, :width]
    return ((rows * 16 + columns * 3) % 251).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "output", "options"),
    [
        ((20, 31), (16, 24), {}),
        ((16, 24), (16, 24), {}),
        ((20, 31), (8, 12), {}),
        ((20, 31), (16, 24), {"padding": True}),
        ((31, 20), (16, 24), {"padding": True}),
        ((9, 50), (8, 12), {"padding": True}),
        ((40, 61), (16, 24), {"tiles": True}),
        ((40, 61), (8, 12), {"tiles": True}),
        ((9, 61), (16, 24), {"tiles": True}),
    ],
)
def test_a_picture_and_its_mask_lie_on_each_other(
    tmp_path: pathlib.Path, size: tuple[int, int], output: tuple[int, int], options: dict[str, bool]
) -> None:
    values = gradient(*size)
    classes = data.MaskClasses(tuple(f"c{i}" for i in range(256)), {i: i for i in range(256)})
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        Image.fromarray(values).save(tmp_path / kind / "a.png")
    form = data.PictureFormat(16, 24, 1, resample="nearest", center_crop=True)
    fitting = data.MaskFitting(form, output, **options)
    split, _ = data.load_masks([(tmp_path / "images", tmp_path / "masks")], classes, fitting)
    counted = 0
    for i in range(len(split)):
        picture, mask = split.example(i)
        assert picture.shape == (16, 24, 1)
        assert mask.shape == (16, 24)
        there = mask != -1
        np.testing.assert_array_equal(picture[..., 0][there], mask[there])
        counted += there.sum()
    if options.get("tiles"):
        # Each pixel once.
        assert counted == values.size
    elif not options:
        assert counted == output[0] * output[1]
    else:
        assert 0 < counted <= output[0] * output[1]

    # What says of each pixel its value gives the picture back, in its size.
    top, left = (16 - output[0]) // 2, (24 - output[1]) // 2
    found = fitting.classes_of(
        lambda x: np.eye(256)[x[top : top + output[0], left : left + output[1], 0]], Image.fromarray(values)
    )
    assert found.shape == size
    if options.get("tiles") or size == output:
        np.testing.assert_array_equal(found, values)
    else:
        assert set(np.unique(found)) <= set(np.unique(values))


def test_the_middle_of_a_tile_counts_most() -> None:
    fitting = data.MaskFitting(data.PictureFormat(8, 8, 1), (8, 8), tiles=True)
    tiles = fitting.tiles_of((8, 20), 0.25)
    assert [(x.left, x.done_columns) for x in tiles] == [(0, 0), (6, 2), (12, 2)]
    # Each tile says its own number: the border between two lies in the middle of what both cover.
    numbers = iter(range(3))
    found = fitting.classes_of(lambda x: np.broadcast_to(np.eye(3)[next(numbers)], (8, 8, 3)), Image.new("L", (20, 8)))
    assert found[0].tolist() == [0] * 7 + [1] * 6 + [2] * 7


def test_scores_of_one_channel_and_of_classes() -> None:
    layout = data.MaskLayout(channels_first=True, outputs_first=True, one_channel=True, size=(1, 3))
    logits = np.array([[[[-1.0, 0.0, 2.0]]]], np.float32)
    assert data.scores_said(logits, layout, 2).argmax(-1).tolist() == data.classes_said(logits, layout).tolist() == [[[0, 1, 1]]]
    decoded = np.array([[[2, 0, 1]]], np.int32)
    assert (
        data.scores_said(decoded, layout, 3).argmax(-1).tolist() == data.classes_said(decoded, layout).tolist() == [[[2, 0, 1]]]
    )
