"""tlt-convert as a user runs it: a folder into shards, and KITTI's labels into the toolkit's records."""

from __future__ import annotations

import pathlib
import signal
import time

import numpy as np
import pytest
from PIL import Image
from scripts import begun, one_line, run

SPEC = """
results_dir: {folder}/results
dataset: {{train_dataset_path: {folder}/pictures, test_fraction: 0.25, preprocess_mode: unit}}
model: {{backbone: resnet_10, width: 0.125, input_width: 8, input_height: 8, input_channels: 3}}
train: {{num_epochs: 2, batch_size_per_gpu: 8, tensorboard: false}}
"""
KITTI = """kitti_config {{
  root_directory_path: "{folder}"
  image_dir_name: "images"
  label_dir_name: "labels"
  partition_mode: "random"
  num_partitions: 2
  val_split: 25
  num_shards: 2
}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder, rng = tmp_path_factory.mktemp("convert"), np.random.default_rng(0)
    for level, name in ((60, "dark"), (190, "light")):
        (folder / "pictures" / name).mkdir(parents=True)
        for i in range(16):
            pixels = np.clip(rng.normal(level, 40, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"pictures/{name}/{i}.png")
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for i in range(8):
        Image.new("RGB", (64, 48)).save(folder / f"images/{i}.png")
        (folder / f"labels/{i}.txt").write_text("Car 0 0 0 8 8 40 40 0 0 0 0 0 0 0\nVan 0 0 0 8 8 8 9 0 0 0 0 0 0 0\n")
    (folder / "spec.yaml").write_text(SPEC.format(folder=folder))
    kitti = KITTI.format(folder=folder)
    (folder / "kitti.txt").write_text(kitti)
    (folder / "no_labels.txt").write_text(kitti.replace('"labels"', '"images"'))
    (folder / "no_mode.txt").write_text(kitti.replace('"random"', '"odd"'))
    (folder / "unknown.txt").write_text(kitti.replace("num_shards", "shards"))
    return folder


def test_a_folder_becomes_shards_that_train(place: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out, _ = run("convert", "-e", place / "spec.yaml", "-o", tmp_path / "shards", "--num_shards", 3)
    assert "Wrote 4 shards" in out
    assert "pictures of 2 classes, 24 in 'train', 8 in 'val'" in out
    source = f"dataset.train_dataset_path={tmp_path}/shards"
    assert source in out
    again, _ = run("convert", "-e", place / "spec.yaml", "-o", tmp_path / "shards", "--num_shards", 3)
    assert "4 were there already and are whole." in again
    out, _ = run("train", "-e", place / "spec.yaml", "-o", tmp_path / "results", source)
    assert "on 24 pictures of 2 classes; 8 pictures are held out" in out
    assert "Wrote" in out
    (tmp_path / "shards/train-00000-of-00003.tfrecord").unlink()
    _, err = run("train", "-e", place / "spec.yaml", "-o", tmp_path / "other", source, code=1)
    assert "train-00000-of-00003.tfrecord: expected" in one_line(err, "train")


def test_the_toolkits_converter_spec_makes_its_records(place: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out, _ = run("convert", "-d", place / "kitti.txt", "-o", tmp_path / "tf/kitti")
    assert "Wrote 4 record files" in out
    assert "pictures: 2 in fold 0, 6 in fold 1; objects: 8 car." in out
    assert "Left out 8 boxes" in out
    assert sorted(x.name for x in (tmp_path / "tf").glob("kitti*")) == [
        f"kitti-fold-{fold:03d}-of-002-shard-{i:05d}-of-00002" for fold in (0, 1) for i in (0, 1)
    ]
    again, _ = run("convert", "-d", place / "kitti.txt", "-o", tmp_path / "tf/kitti")
    assert "4 were there already and are whole." in again


def test_a_conversion_that_is_ended_by_a_signal_goes_on(place: pathlib.Path, tmp_path: pathlib.Path) -> None:
    # Slow enough to be met in the middle.
    prelude = """import time, PIL.Image
opened = PIL.Image.open
PIL.Image.open = lambda *a, **k: (time.sleep(0.5), opened(*a, **k))[1]"""
    words = ["-e", str(place / "spec.yaml"), "-o", str(tmp_path / "shards"), "--num_shards", "12"]
    process = begun("convert", *words, prelude=prelude)
    for _ in range(1000):
        if list((tmp_path / "shards").glob("*.tfrecord")):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    expected = "interrupted. Run the same command again to go on with the files that are missing."
    assert expected in one_line(err, "convert")
    assert {x.suffix for x in (tmp_path / "shards").iterdir() if not x.name.startswith(".")} == {".tfrecord", ".index", ".json"}
    out, _ = run("convert", *words)
    kept = int(out.split(" were there already")[0].rsplit(" ", 1)[1])
    assert 1 <= kept < 12


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-e", "{place}/spec.yaml"], "No place for the files is given"),
        (["-e", "{place}/spec.yaml", "-d", "{place}/kitti.txt", "-o", "{tmp}/x"], "Both -e and -d are given"),
        (["-e", "{place}/spec.yaml", "-o", "{place}/pictures/shards"], "would be read as a class"),
        (["-e", "{place}/spec.yaml", "-o", "{tmp}/x", "dataset.train_dataset_path=sklearn_digits"], "There is no folder"),
        (["-d", "{place}/nothing.txt", "-o", "{tmp}/x"], "nothing.txt"),
        (["--set", "task=segmentation", "-o", "{tmp}/x"], "The data of the task 'segmentation' is read as it is"),
        (["--set", "task=detection", "-o", "{tmp}/x"], "expected dataset_export_config once"),
        (["-d", "{place}/no_labels.txt", "-o", "{tmp}/x"], "expected a label file for every picture"),
        (["-d", "{place}/no_mode.txt", "-o", "{tmp}/x"], "partition_mode: expected 'random' or 'sequence'"),
        (["-d", "{place}/unknown.txt", "-o", "{tmp}/x"], 'no field named "shards"'),
    ],
)
def test_one_clear_line(words: list[str], expected: str, place: pathlib.Path, tmp_path: pathlib.Path) -> None:
    _, err = run("convert", *(x.format(place=place, tmp=tmp_path) for x in words), code=1)
    assert expected in one_line(err, "convert")
    assert not [x for x in tmp_path.rglob("*") if x.suffix in (".tfrecord", ".index", ".json")]
