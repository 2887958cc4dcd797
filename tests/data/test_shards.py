"""Shards: the pictures of a folder, once each, in its order; resumed, checked, and read in bounded places."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tlt_prune import config, data
from tlt_prune.data import converting, folders, record_files, shards
from tlt_prune.errors import DataError, NotReplacedError, TltPruneError

FORM = data.PictureFormat(8, 8, 3)
COUNTS = {"cat": 11, "dog": 7, "eel": 5}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Two folders of class folders, with pictures of many formats."""
    place, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part in ("train", "val"):
        for name, count in COUNTS.items():
            (place / part / name).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(rng.integers(0, 256, (8 + i % 2, 8, 3), dtype=np.uint8))
                image.save(place / part / name / f"{i}.{('png', 'jpg', 'bmp')[i % 3]}")
    return place


def dataset(train: object, val: object = "", **options: Any) -> config.Dataset:
    return config.Dataset(train_dataset_path=str(train), val_dataset_path=str(val), **options)


def converted(pictures: pathlib.Path, place: pathlib.Path, count: int = 4) -> pathlib.Path:
    data.convert_folders(dataset(pictures / "train", pictures / "val"), place, count)
    return place


def test_shards_hold_what_the_folder_holds(
    pictures: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded or read when needed: pictures, labels, classes and their order are those of the folder."""
    place = converted(pictures, tmp_path / "shards")
    names = sorted(x.name for x in place.iterdir())
    assert [x for x in names if x.endswith(".tfrecord")] == [
        *(f"train-{i:05d}-of-00004.tfrecord" for i in range(4)),
        "val-00000-of-00001.tfrecord",
    ]
    wanted = data.load_splits(dataset(pictures / "train", pictures / "val"), FORM)
    for kept in (True, False):
        if not kept:
            monkeypatch.setattr(folders, "_MEMORY_BYTES", 0)
        for found, other in zip(data.load_splits(dataset(place), FORM), wanted, strict=True):
            assert found.classes == other.classes
            np.testing.assert_array_equal(found.labels, other.labels)
            assert isinstance(found.images, data.Stored) is not kept
            np.testing.assert_array_equal(np.concatenate(list(data.pictures_of(found, FORM, 5))), other.images)
            few = found.sample(6, seed=1)
            np.testing.assert_array_equal(np.concatenate(list(data.pictures_of(few, FORM, 4))), other.sample(6, seed=1).images)
            # The first picture of a set of which 1 is changed.
            assert found.checksum() != dataclasses.replace(found, labels=found.labels[::-1].copy()).checksum()


def test_any_reader_of_records_reads_them(pictures: pathlib.Path, tmp_path: pathlib.Path) -> None:
    place = converted(pictures, tmp_path / "shards")
    seen = {}
    for path in sorted(place.glob("train-*.tfrecord")):
        contents = [x.numpy() for x in tf.data.TFRecordDataset(str(path))]
        with path.open("rb") as file:
            for (offset, length), content in zip(record_files.spans(path), contents, strict=True):
                file.seek(offset)
                assert file.read(length) == content
        for content in contents:
            feature = tf.train.Example.FromString(content).features.feature
            name = feature["image/filename"].bytes_list.value[0].decode()
            seen[name] = (
                feature["image/class/text"].bytes_list.value[0].decode(),
                feature["image/class/label"].int64_list.value[0],
            )
            assert feature["image/encoded"].bytes_list.value[0] == (pictures / "train" / name).read_bytes()
    names = sorted(COUNTS)
    files = [x for x in (pictures / "train").rglob("*") if x.is_file()]
    assert seen == {f"{x.parent.name}/{x.name}": (x.parent.name, names.index(x.parent.name)) for x in files}


def test_held_out_pictures_are_a_share_of_every_class(pictures: pathlib.Path, tmp_path: pathlib.Path) -> None:
    said = dataset(pictures / "train", test_fraction=0.4)
    found = data.convert_folders(said, tmp_path / "shards")
    assert found.pictures == {"train": 14, "val": 9}
    train, test = data.load_splits(dataset(tmp_path / "shards"), FORM)
    assert np.bincount(test.labels).tolist() == [round(0.4 * n) for n in COUNTS.values()]
    assert data.shared_pictures(train, test) == 0
    everything, _ = data.load_splits(dataset(pictures / "train", pictures / "train"), FORM)
    rows = [x.tobytes() for split in (train, test) for x in split.images]
    assert sorted(rows) == sorted(x.tobytes() for x in everything.images)
    with pytest.raises(DataError, match="no pictures are left for the part 'train'"):
        data.convert_folders(dataset(pictures / "train", test_fraction=0.99), tmp_path / "other")


def test_training_on_shards_sees_every_picture_once_an_epoch_and_the_same_ones_when_it_goes_on(
    pictures: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = converted(pictures, tmp_path / "shards")
    monkeypatch.setattr(folders, "_MEMORY_BYTES", 0)
    plain = {"enable_random_crop": False, "disable_horizontal_flip": True}
    said = dataset(place, augmentation=plain, preprocess_mode="unit", shuffle_buffer=5, interleaved_shards=2)
    split, _ = data.load_splits(said, FORM)

    def epochs(first: int) -> list[np.ndarray]:
        order = data.BatchOrder(batch_size=5, seed=3, first_epoch=first, epochs=3)
        pipeline = data.training_pipeline(split, said, FORM, order, channels_first=False)
        batches = [np.round(255 * x.numpy()).astype(np.uint8) for x, _ in pipeline.batches]
        return [np.concatenate(batches[i : i + pipeline.steps]) for i in range(0, len(batches), pipeline.steps)]

    wanted = sorted(x.tobytes() for x in np.concatenate(list(data.pictures_of(split, FORM, 50))))
    whole = epochs(0)
    assert [sorted(x.tobytes() for x in epoch) for epoch in whole] == [wanted] * 3
    assert whole[0].tobytes() != whole[1].tobytes()
    np.testing.assert_array_equal(np.concatenate(epochs(1)), np.concatenate(whole[1:]))


def test_what_an_epoch_reads_is_asked_for_a_block_at_a_time(
    pictures: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = converted(pictures, tmp_path / "shards")
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(shards, "_BLOCK", 512)
    monkeypatch.setattr(os, "posix_fadvise", lambda handle, offset, *_: asked.append((os.fstat(handle).st_ino, offset)))
    stored, _, _ = shards.load_shards(place, "train", dataset(place))
    for i in range(len(stored)):
        stored.load(i, FORM)
    # Single pictures are no reason to read others.
    assert not asked
    for _ in range(2):
        asked.clear()
        for i in stored.order(np.array([1, 2])):
            stored.load(int(i), FORM)
        assert len(asked) == len(set(asked)) > 4
        assert {offset % 512 for _, offset in asked} == {0}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 15), st.integers(1, 60), st.integers(0, 2**31 - 1))
def test_reading_order(counts: list[int], interleaved: int, buffer: int, seed: int) -> None:
    """Every record once; of at most `interleaved` shards at a time, but for what a window of `buffer` mixes."""
    shard = np.repeat(np.arange(len(counts)), counts)
    offset = np.concatenate([100 * np.arange(n) for n in counts])
    order = shards.reading_order(shard, offset, np.array([seed, 0]), interleaved=interleaved, buffer=buffer)
    assert sorted(order.tolist()) == list(range(len(shard)))
    again = shards.reading_order(shard, offset, np.array([seed, 0]), interleaved=interleaved, buffer=buffer)
    np.testing.assert_array_equal(order, again)
    if buffer == 1:
        # Without mixing, each shard is read from its begin to its end, and no more than `interleaved` are open.
        first, last = {}, {}
        for place, i in enumerate(order):
            assert offset[i] == 100 * sum(shard[j] == shard[i] for j in order[:place])
            first.setdefault(shard[i], place)
            last[shard[i]] = place
        assert max(sum(first[x] <= p <= last[x] for x in first) for p in range(len(order))) <= interleaved


def test_a_conversion_that_was_ended_goes_on(
    pictures: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, ended = converted(pictures, tmp_path / "whole"), tmp_path / "ended"
    wrote, calls = converting._write, []

    def until_the_third(*arguments: Any) -> None:
        calls.append(arguments[2])
        if len(calls) == 3:
            raise KeyboardInterrupt
        wrote(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(converting, "_write", until_the_third)
        with pytest.raises(KeyboardInterrupt):
            converted(pictures, ended)
    with pytest.raises(DataError, match=r"the conversion into shards has not finished\. Run the same tlt-convert again"):
        data.load_splits(dataset(ended), FORM)
    # A file that was cut since is written again; the other one stays.
    first, second = sorted(ended.glob("*.tfrecord"))
    first.write_bytes(first.read_bytes()[:-1])
    stays = second.stat().st_mtime_ns
    found = data.convert_folders(dataset(pictures / "train", pictures / "val"), ended, 4)
    assert (found.kept, found.shards) == (1, 5)
    assert second.stat().st_mtime_ns == stays
    assert {x.name: x.read_bytes() for x in ended.iterdir()} == {x.name: x.read_bytes() for x in whole.iterdir()}
    assert data.convert_folders(dataset(pictures / "train", pictures / "val"), ended, 4).kept == 5


def test_other_data_or_settings_are_not_mixed_with_what_is_there(pictures: pathlib.Path, tmp_path: pathlib.Path) -> None:
    place = converted(pictures, tmp_path / "shards")
    before = {x.name: x.read_bytes() for x in place.iterdir()}
    with pytest.raises(NotReplacedError, match="another conversion: other data or other settings"):
        converted(pictures, place, 3)
    (place / "shards.json").write_text("[]")
    with pytest.raises(NotReplacedError, match="Remove it, or choose another place"):
        converted(pictures, place)
    before["shards.json"] = b"[]"
    assert {x.name: x.read_bytes() for x in place.iterdir()} == before


def test_a_broken_picture_is_found_while_converting(pictures: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(pictures / "train", tmp_path / "train")
    broken = tmp_path / "train/dog/0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(DataError, match=r"Cannot read the picture .*dog/0\.png"):
        data.convert_folders(dataset(tmp_path / "train", pictures / "val"), tmp_path / "shards")
    assert not list((tmp_path / "shards").glob(".tlt_prune-*"))


def damaged(place: pathlib.Path, what: str) -> None:
    """Shards with one thing wrong."""
    first, second = sorted(place.glob("train-*.tfrecord"))[:2]
    index = first.with_suffix(".index")
    listing = json.loads((place / "shards.json").read_text())
    if what == "cut":
        first.write_bytes(first.read_bytes()[:-5])
    elif what == "gone":
        first.unlink()
    elif what == "another of the same name":
        first.write_bytes(second.read_bytes())
    elif what == "a byte":
        content = bytearray(first.read_bytes())
        content[len(content) // 2] ^= 1
        first.write_bytes(content)
    elif what == "another set beside":
        second.rename(place / "train-00000-of-00009.tfrecord")
        shutil.copy(place / "train-00000-of-00009.tfrecord", second)
    elif what == "index":
        content = bytearray(index.read_bytes())
        content[0] ^= 1
        index.write_bytes(content)
    elif what == "index of another":
        index.write_bytes(second.with_suffix(".index").read_bytes())
    elif what == "index and list":
        content = np.frombuffer(index.read_bytes(), shards.INDEX).copy()
        content["offset"][0] = 2**63
        index.write_bytes(content.tobytes())
        from tlt_prune.io import checksums

        listing["files"][index.name]["sha256"] = checksums.of_file(index)
        (place / "shards.json").write_text(json.dumps(listing))
    elif what == "outside":
        listing["files"]["../../etc/passwd"] = listing["files"].pop(first.name)
        (place / "shards.json").write_text(json.dumps(listing))
    elif what == "not listed":
        del listing["files"][first.name], listing["files"][index.name]
        (place / "shards.json").write_text(json.dumps(listing))
        first.unlink()
    elif what == "no pictures held out":
        listing["files"] = {key: value for key, value in listing["files"].items() if not key.startswith("val-")}
        for path in place.glob("val-*"):
            path.unlink()
        (place / "shards.json").write_text(json.dumps(listing))


DAMAGES = {
    "cut": r"train-00000-of-00004\.tfrecord: expected [\d,]+ bytes, by shards\.json. Received: [\d,]+ bytes",
    "gone": r"train-00000-of-00004\.tfrecord: expected [\d,]+ bytes, by shards\.json. Received: no such file",
    "another of the same name": r"(expected [\d,]+ bytes)|(the record at byte [\d,]+ is damaged, or of another set)",
    "a byte": r"train-00000-of-00004\.tfrecord: the record at byte [\d,]+ is damaged, or of another set",
    "another set beside": r"train-00000-of-00009\.tfrecord is no file of this set: shards\.json does not list it",
    "index": r"train-00000-of-00004\.index: its checksum is not the one in shards\.json",
    "index of another": r"train-00000-of-00004\.index: (its checksum is not the one|expected [\d,]+ bytes)",
    "index and list": r"an entry is beyond the end of train-00000-of-00004\.tfrecord",
    "outside": r"expected names of files beside it\. Received: \.\./\.\./etc/passwd",
    "not listed": "the shards of 'train' do not hold every picture once",
    "no pictures held out": "lists no shards of the part 'val'",
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damaged_shards_are_refused(what: str, pictures: pathlib.Path, tmp_path: pathlib.Path) -> None:
    place = converted(pictures, tmp_path / "shards")
    damaged(place, what)
    with pytest.raises(TltPruneError, match=DAMAGES[what]) as refused:
        data.load_splits(dataset(place), FORM)
    assert "\n" not in str(refused.value)
