"""What each of several workers reads of a batch: together what one process reads, changed by the same draws."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from tlt_prune import config, data
from tlt_prune.data import folders
from tlt_prune.data.stored import PictureFiles
from tlt_prune.detection.augmentation import Augmentation
from tlt_prune.detection.dataset import BoxSplit, training_batches
from tlt_prune.detection.geometry import Grid
from tlt_prune.detection.targets import Ellipse, Rasterizer
from tlt_prune.io import workers
from tlt_prune.training import replicas

FORM = data.PictureFormat(8, 8, 3)
COUNT = 17
ORDER = data.BatchOrder(batch_size=2, seed=3, first_epoch=1, epochs=3)
CHANGES = {"enable_color_augmentation": True, "shift": 0.2, "zoom": 0.2}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder, random = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / "pictures" / name).mkdir(parents=True)
    (folder / "masks").mkdir()
    for i in range(COUNT):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"pictures/{'ab'[i % 2]}/{i}.png")
    for i in range(COUNT):
        (folder / f"masks/{'ab'[i % 2]}").mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 2, (8, 8), np.uint8)).save(folder / f"masks/{'ab'[i % 2]}/{i}.png")
    return folder


def classified(folder: pathlib.Path, **changes: Any) -> data.Pipeline:
    said = config.Dataset(train_dataset_path=str(folder / "pictures"), augmentation={**CHANGES, **changes})
    split = folders.load_folder(folder / "pictures", FORM)
    return data.training_pipeline(split, said, FORM, ORDER, channels_first=False)


def segmented(folder: pathlib.Path) -> data.Pipeline:
    fitting = data.MaskFitting(FORM, (8, 8))
    classes = data.mask_classes([{"name": "ground", "label_id": 0}, {"name": "thing", "label_id": 1}])
    split, _ = data.load_masks([(folder / "pictures", folder / "masks")], classes, fitting)
    layout = data.MaskLayout(channels_first=False, outputs_first=False, one_channel=False, size=(8, 8))
    return data.mask_training_pipeline(split, config.Dataset(), layout, ORDER, data.MaskAugmentation())


def detected(folder: pathlib.Path) -> data.Pipeline:
    random = np.random.default_rng(0)
    names = tuple(map(str, range(COUNT)))
    rows = [[(0, (4 + i, 5, 20 + i, 28))] for i in range(COUNT)]
    found = random.integers(0, 255, (COUNT, 32, 48, 3)).astype(np.uint8)
    split = BoxSplit.of(names, found, rows, [(1.0, 1.0)] * COUNT, ("car",))
    return training_batches(split, Rasterizer(Grid(48, 32, 3, 2), {"car": Ellipse()}), Augmentation(), ORDER, channels_first=True)


@pytest.mark.parametrize(
    ("make", "count", "local"),
    [(classified, 2, 1), (classified, 2, 2), (classified, 5, 1), (segmented, 3, 1), (detected, 2, 1)],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_parts_are_the_batches(
    make: Callable[[pathlib.Path], data.Pipeline],
    count: int,
    local: int,
    pictures: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of every replica of every worker, `piece` of what its worker read is `piece` of the whole batch."""
    monkeypatch.setattr(workers, "count", lambda: count)
    monkeypatch.setattr(workers, "replicas", lambda: count * local)
    parts = []
    for index in range(count):
        monkeypatch.setattr(workers, "index", lambda index=index: index)
        pipeline = make(pictures)
        assert pipeline.parts is not None
        parts.append(list(pipeline.parts))
    for step, (x, y) in enumerate(pipeline.batches):
        for replica in range(count * local):
            read = parts[replica // local][step]
            for found, wanted in zip(
                keras.tree.flatten(replicas.piece(read[0], read[1], replica, *read[2:])),
                keras.tree.flatten(replicas.piece(x, y, replica)),
                strict=True,
            ):
                np.testing.assert_allclose(found, wanted, atol=1e-5)
        if len(x) >= count * local:
            assert sum(len(part[step][0]) for part in parts) == len(x)


def test_a_worker_reads_no_more_than_its_part(pictures: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_MEMORY_BYTES", 0)
    monkeypatch.setattr(workers, "count", lambda: 2)
    monkeypatch.setattr(workers, "replicas", lambda: 2)
    read: list[int] = []
    load = PictureFiles.load
    monkeypatch.setattr(PictureFiles, "load", lambda self, i, form: (read.append(i), load(self, i, form))[1])
    numbers = []
    for index in (0, 1):
        monkeypatch.setattr(workers, "index", lambda index=index: index)
        read.clear()
        pipeline = classified(pictures)
        assert pipeline.parts is not None
        for _ in pipeline.parts:
            pass
        numbers.append(list(read))
    # Two epochs: each picture is read once in each, by one of them, but for the last batch of one.
    assert sorted(numbers[0] + numbers[1]).count(0) in (2, 3)
    assert len(numbers[0]) + len(numbers[1]) == 2 * (COUNT + 1)
    assert {x for part in numbers for x in part} == set(range(COUNT))


def test_mixed_pictures_need_whole_batches(pictures: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "count", lambda: 2)
    monkeypatch.setattr(workers, "replicas", lambda: 2)
    assert classified(pictures, mixup_alpha=0.2).parts is None
    assert classified(pictures).parts is not None
