"""One reader of pictures for every task: the same pixels, the same orientation, the same refusals."""

from __future__ import annotations

import pathlib
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tlt_prune import data
from tlt_prune.data.formats import load_picture as classified
from tlt_prune.data.pictures import by_name, list_pictures, open_picture
from tlt_prune.detection.reading import read_picture as detected
from tlt_prune.errors import DataError

READERS: dict[str, Callable[..., Any]] = {
    "classification": lambda path, channels=1: classified(path, data.PictureFormat(8, 8, channels)),
    "detection": lambda path, channels=1: detected(path, (8, 8), channels)[0],
}
RAMP = np.linspace(0, 65535, 64).reshape(8, 8)


def png(path: pathlib.Path, *chunks: tuple[bytes, bytes]) -> None:
    body = b"".join(struct.pack(">I", len(x)) + kind + x + struct.pack(">I", zlib.crc32(kind + x)) for kind, x in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["sixteen.png", "sixteen.tif", "thirtytwo.tif", "eight.png", "palette.gif", "color.webp"])
def test_pixels(reader: str, name: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / name
    if "sixteen" in name:
        Image.fromarray(RAMP.astype(np.uint16)).save(path)
    elif "thirtytwo" in name:
        Image.fromarray(RAMP.astype(np.int32)).save(path)
    elif "color" in name:
        Image.fromarray(np.repeat((RAMP / 257).astype(np.uint8)[..., None], 3, axis=2)).save(path, lossless=True)
    else:
        Image.fromarray((RAMP / 257).astype(np.uint8)).save(path)
    np.testing.assert_allclose(READERS[reader](path)[..., 0], RAMP / 257, atol=1.01)


def huge(path: pathlib.Path) -> None:
    png(path, (b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 0, 0, 0, 0)), (b"IEND", b""))


REFUSED: dict[str, Callable[[pathlib.Path], object]] = {
    "floats": lambda path: Image.fromarray(RAMP.astype(np.float32)).save(path, format="TIFF"),
    "too many bits": lambda path: Image.fromarray((RAMP * 1000).astype(np.int32)).save(path, format="TIFF"),
    "a header of 2^31": huge,
    "a chunk too short": lambda path: png(
        path, (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)), (b"pHYs", b"\0"), (b"IEND", b"")
    ),
    "PostScript": lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n"),
    "text": lambda path: path.write_bytes(b"no picture"),
    "nothing": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_alike(name: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.png"
    REFUSED[name](path)
    messages = []
    for read in READERS.values():
        with pytest.raises(DataError, match=r"x\.png") as error:
            read(path)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert len(messages[0]) < 500


# pytest forgets the filter that the package sets.
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_mosaic_of_192_megapixels_is_refused_and_one_of_99_is_read(tmp_path: pathlib.Path) -> None:
    Image.new("L", (16000, 12000)).save(tmp_path / "a.png")
    Image.new("L", (11000, 9000)).save(tmp_path / "b.png")
    for read in READERS.values():
        with pytest.raises(DataError, match="too large"):
            read(tmp_path / "a.png")
        assert read(tmp_path / "b.png").shape == (8, 8, 1)


def test_a_thin_picture_is_not_blown_up(tmp_path: pathlib.Path) -> None:
    Image.new("L", (60_000, 1)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="long and thin"):
        classified(tmp_path / "x.png", data.PictureFormat(224, 224, 1, center_crop=True))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("suffix", "options"), [("jpg", {"quality": 100}), ("png", {}), ("webp", {"lossless": True})])
def test_pictures_are_turned_as_viewers_show_them(
    orientation: int, suffix: str, options: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:4, :2] = 250
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(pixels).save(path, exif=exif, **options)
    turned = [
        pixels,
        pixels[:, ::-1],
        pixels[::-1, ::-1],
        pixels[::-1],
        pixels.T,
        pixels.T[:, ::-1],
        pixels.T[::-1, ::-1],
        pixels.T[::-1],
    ]
    for read in READERS.values():
        np.testing.assert_allclose(read(path)[..., 0], turned[orientation - 1], atol=12)
    stored = open_picture(path, 1, oriented=False)
    np.testing.assert_allclose(np.asarray(stored), pixels, atol=12)


def test_files_are_found_by_their_names(tmp_path: pathlib.Path) -> None:
    for name in ("cam1/0.png", "cam2/0.png", "a.JPG", "._a.JPG", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    found = list_pictures(tmp_path)
    named = by_name(((x.relative_to(tmp_path).as_posix(), x) for x in found), tmp_path)
    assert sorted(named) == ["a", "cam1/0", "cam2/0"]
    for again in ("a.png", "./cam1/0.jpeg", "cam2/../cam1/0.png"):
        with pytest.raises(DataError, match="expected one picture of each name"):
            by_name([*((x.relative_to(tmp_path).as_posix(), x) for x in found), (again, tmp_path / again)], tmp_path)


def test_a_name_that_is_not_utf8(tmp_path: pathlib.Path) -> None:
    (tmp_path / "caf\udce9.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"caf\\udce9\.png: expected a name in UTF-8\. Rename it"):
        list_pictures(tmp_path)


def test_classes_are_matched_by_name() -> None:
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    split = data.Split(images, np.array([0, 1, 2, 2]), ("1", "10", "2"))
    found = data.matched(split, ("1", "2", "10"), "it")
    assert [found.classes[i] for i in found.labels] == ["1", "10", "2", "2"]
    assert data.matched(split, ("1", "2", "10", "3"), "it").classes[3] == "3"
    assert data.missing_classes(data.matched(split, ("1", "2", "10", "3"), "it")) == ["3"]
    with pytest.raises(DataError, match="not among those trained on: 10"):
        data.matched(split, ("1", "2"), "it")
    # A class without pictures does not count.
    assert data.matched(split.head(1), ("1",), "it").labels.tolist() == [0]


def folder(path: pathlib.Path, names: list[str]) -> pathlib.Path:
    for i, name in enumerate(names):
        (path / name).mkdir(parents=True)
        for j in range(2):
            Image.new("L", (4, 4), 10 * i + j).save(path / name / f"{j}.png")
    return path


def test_class_folders_are_compared_as_people_write_them(tmp_path: pathlib.Path) -> None:
    from tlt_prune.config.specs import Dataset

    train = folder(tmp_path / "train", ["ve\u0301lo", "auto"])
    val = folder(tmp_path / "val", ["v\u00e9lo"])
    found = data.load_splits(Dataset(train_dataset_path=str(train), val_dataset_path=str(val)), data.PictureFormat(4, 4, 1))
    assert found[0].classes == found[1].classes == ("auto", "v\u00e9lo")
    assert found[1].labels.tolist() == [1, 1]
    folder(tmp_path / "train", ["v\u00e9lo"])
    with pytest.raises(DataError, match="two class folders are called 'v\u00e9lo'"):
        data.load_splits(Dataset(train_dataset_path=str(train), val_dataset_path=str(val)), data.PictureFormat(4, 4, 1))


def test_pictures_on_both_sides_are_counted(tmp_path: pathlib.Path) -> None:
    train = data.Split(np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1), np.zeros(8, np.int64), ("a",))
    assert data.shared_pictures(train, train.head(3)) == 3
    assert data.shared_pictures(train.head(3), data.Split(train.images[3:], train.labels[3:], ("a",))) == 0


LABELS: dict[str, Any] = {
    "infinite": [0, np.inf],
    "beyond": [0, 1e300],
    "unsigned": np.array([0, 2**64 - 1], np.uint64),
    "complex": [0, 1j],
    "time": np.array([0, 1], "m8[s]"),
    "one class": [0, 0],
    "text": ["a", "b"],
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_npz_files(name: str, tmp_path: pathlib.Path) -> None:
    from tlt_prune.config.specs import Dataset

    images = np.zeros((2, 4, 4), np.uint8)
    np.savez(tmp_path / "x.npz", x_train=images, y_train=LABELS[name], x_test=images, y_test=LABELS[name])
    with pytest.raises(DataError, match=r"expected (whole numbers|at least two classes)"):
        data.load_splits(Dataset(train_dataset_path=str(tmp_path / "x.npz")), data.PictureFormat(4, 4, 1))


def test_npz_files_that_are_none(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tlt_prune.config.specs import Dataset
    from tlt_prune.io import memory

    def load(name: str) -> Any:
        return data.load_splits(Dataset(train_dataset_path=str(tmp_path / name)), data.PictureFormat(4, 4, 1))

    both = {"y_train": np.arange(2), "y_test": np.arange(2)}
    np.savez(tmp_path / "flat.npz", x_train=np.zeros((2, 0, 4), np.uint8), x_test=np.zeros((2, 0, 4), np.uint8), **both)
    with pytest.raises(DataError, match="expected x_train as uint8"):
        load("flat.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(DataError, match="Cannot read"):
        load("array.npz")
    np.savez_compressed(
        tmp_path / "bomb.npz", x_train=np.zeros((2, 999, 999), np.uint8), x_test=np.zeros((2, 4, 4), np.uint8), **both
    )
    monkeypatch.setattr(memory, "limit", lambda: 10**6)
    with pytest.raises(DataError, match=r"holds arrays of 1\.9 MiB\. Expected what fits into"):
        load("bomb.npz")


def test_pictures_of_a_folder_are_read_batch_by_batch(tmp_path: pathlib.Path) -> None:
    for i in range(7):
        Image.new("L", (4, 4), i).save(tmp_path / f"{i}.png")
    batches = data.picture_batches(data.picture_files(tmp_path), data.PictureFormat(4, 4, 1), 3)
    assert [x.max() for x in next(batches)] == [0, 1, 2]
    (tmp_path / "6.png").write_bytes(b"")
    assert [x.max() for x in next(batches)] == [3, 4, 5]
    with pytest.raises(DataError, match=r"6\.png"):
        next(batches)
