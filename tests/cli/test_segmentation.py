"""Segmentation through the five scripts: squares and discs on noise."""

from __future__ import annotations

import json
import pathlib

import keras
import numpy as np
import onnx
import pandas as pd
import pytest
from PIL import Image, ImageDraw
from scripts import one_line, with_overrides

# As the toolkit's documentation has them.
SPEC = """
random_seed: 1
model_config {{
  model_input_width: 32
  model_input_height: 32
  model_input_channels: 3
  num_layers: 10
  arch: "resnet"
  use_batch_norm: true
  training_precision {{ backend_floatx: FLOAT32 }}
}}
training_config {{
  batch_size: 8
  epochs: 12
  log_summary_steps: 10
  checkpoint_interval: 1
  loss: "cross_dice_sum"
  learning_rate: 0.005
  lr_scheduler {{ cosine_decay {{ alpha: 0.1 decay_steps: 96 }} }}
  regularizer {{ type: L2 weight: 2e-5 }}
  optimizer {{ adam {{ epsilon: 9.99999993923e-09 beta1: 0.899999976158 beta2: 0.999000012875 }} }}
}}
dataset_config {{
  dataset: "custom"
  augment: true
  augmentation_config {{ brightness_augmentation {{ delta: 0.05 }} }}
  input_image_type: "color"
  train_images_path: "{folder}/train/images"
  train_masks_path: "{folder}/train/masks"
  val_images_path: "{folder}/val/images"
  val_masks_path: "{folder}/val/masks"
  test_images_path: "{folder}/val/images"
  data_class_config {{
    target_classes {{ name: "background" mapping_class: "background" label_id: 0 class_weight: 1 }}
    target_classes {{ name: "square" mapping_class: "square" label_id: 10 class_weight: 2 }}
    target_classes {{ name: "disc" mapping_class: "disc" label_id: 20 class_weight: 1 }}
  }}
}}
"""
# What the toolkit has no keys for.
tlt = with_overrides((
    "results_dir={folder}/results", "model.width=0.25", "train.bn_config.momentum=0.9", "prune.macs=0.5",
    "prune.min_num_filters=8", "prune.samples=32", "export.formats=[onnx]", "export.batches=2", "export.decoding=true",
))  # fmt: skip
COLORS = {10: (230, 60, 60), 20: (60, 200, 230)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Pictures of 40 x 32 pixels with a square and a disc, whose colors differ; one value of a mask has no class."""
    place, rng = tmp_path_factory.mktemp("segmentation"), np.random.default_rng(0)
    for part, count in (("train", 64), ("val", 12)):
        for kind in ("images", "masks"):
            (place / part / kind).mkdir(parents=True)
        for i in range(count):
            picture, mask = Image.new("RGB", (40, 32), (60, 60, 60)), Image.new("L", (40, 32), 0)
            for value in (10, 20):
                x, y, side = (int(v) for v in rng.integers((0, 0, 13), (22, 14, 19)))
                for image, ink in ((picture, COLORS[value]), (mask, value)):
                    draw = ImageDraw.Draw(image)
                    (draw.rectangle if value == 10 else draw.ellipse)((x, y, x + side, y + side), fill=ink)
            mask.putpixel((0, 0), 99)
            noisy = np.asarray(picture) + rng.normal(0, 10, (32, 40, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(place / part / f"images/{i:02d}.png")
            mask.save(place / part / f"masks/{i:02d}.png")
    (place / "spec.txt").write_text(SPEC.format(folder=place), "utf-8")
    return place


def test_through_all_five_scripts(folder: pathlib.Path) -> None:
    results = folder / "results"
    out, _ = tlt("train", folder)
    assert "0.078 % of the pixels have values that no class names (99): they do not count." in out
    history = pd.read_csv(results / "train/history.csv")
    assert history["val_miou"].iloc[-1] > 0.45
    assert list((results / "train/tensorboard").glob("*.pictures"))

    dense = results / "train/best.keras"
    tlt("evaluate", folder, "-m", dense, "-o", results / "dense")
    found = json.loads((results / "dense/evaluation.json").read_text())
    assert found["mean_iou"] == pytest.approx(history["val_miou"].max(), abs=1e-6)
    table = pd.read_csv(results / "dense/per_class.csv", index_col="class")
    # All pixels at the model's size, but for the one in the corner.
    assert table["pixels"].sum() == 12 * (32 * 32 - 1)

    pruned = results / "prune/model.keras"
    out, _ = tlt("prune", folder, "-m", dense, "-o", pruned)
    assert "Compensated by LeastSquares on 32 examples" in out
    model = keras.models.load_model(pruned)
    assert model.output_shape == (None, 32, 32, 3)
    assert any("transpose" in x.name and x.filters < 64 for x in model.layers if isinstance(x, keras.layers.Conv2DTranspose))

    again = ["train.num_epochs=2", "train.lr_config=", f"train.pretrained_model_path={pruned}"]
    out, _ = tlt("train", folder, "-o", results / "retrain", *again)
    assert "Before retraining: mIoU" in out
    history = pd.read_csv(results / "retrain/history.csv")
    assert history["epoch"].tolist() == [0, 1, 2]
    best = history["val_miou"].max()
    exported(folder, results / "retrain/model.keras", best)


def exported(folder: pathlib.Path, model: pathlib.Path, best: float) -> None:
    results = folder / "results"
    out, _ = tlt("export", folder, "-m", model, "-o", results / "onnx/model.onnx", "--data_type", "int8")
    assert "nan" not in out
    found = {}
    for name, low in (("model_fp32", best - 1e-6), ("model", best - 0.1), ("model_decoded", best - 0.1)):
        tlt("evaluate", folder, "-m", results / f"onnx/{name}.onnx", "-o", results / name)
        found[name] = json.loads((results / name / "evaluation.json").read_text())
        assert found[name]["mean_iou"] >= low
    # The classes of the int8 file, computed in the file.
    assert found["model_decoded"]["mean_iou"] == found["model"]["mean_iou"]
    graph = onnx.load(results / "onnx/model_decoded.onnx").graph
    assert [(x.name, x.type.tensor_type.elem_type) for x in graph.output] == [("classes", onnx.TensorProto.INT32)]
    assert any(node.op_type == "QuantizeLinear" for node in graph.node)
    segmented(folder, results / "onnx/model_fp32.onnx")
    segmented(folder, results / "onnx/model_decoded.onnx", "dataset_config.tiles=true")


def segmented(folder: pathlib.Path, model: pathlib.Path, *more: str) -> None:
    results = folder / "results"
    tlt("infer", folder, "-m", model, *more)
    for name in ("00", "11"):
        with Image.open(results / f"infer/masks/{name}.png") as mask, Image.open(folder / f"val/masks/{name}.png") as true:
            assert mask.size == true.size == (40, 32)
            assert set(np.unique(mask)) <= {0, 10, 20}
            assert (np.asarray(mask) == np.asarray(true)).mean() > 0.75
    assert len(list((results / "infer/images").glob("*.png"))) == 12


def test_mistakes_get_one_line(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for override, expected in {
        "segmentation_config.class_weights={cat: 2}": "there is no class 'cat'. Expected some of background, square, disc",
        "segmentation_config.loss=focal": "segmentation_config",
        "segmentation_config.activation=sigmoid": "2, one of them the background, for output='sigmoid'",
        "dataset_config.train_masks_path=nowhere": "Expected two folders, or two text files",
        f"dataset_config.train_masks_path={folder}/val/masks": "has no file of the same name in",
        "dataset_config.target_classes=[{name: a, label_id: 1}]": "expected two classes or more",
        "model.backbone=alexnet": "There is no architecture name='unet_alexnet'",
        "train.qat=true": "train.qat",
        "model.input_width=40": "Expected height and width of a UNet on resnet10 to be multiples of 16. Received: (32, 40)",
        "compatibility=toolkit": "compatibility: expected '' or 'tao'. Received: 'toolkit'",
        "dataset_config={tiles: true, resize_padding: true}": "parts of pictures are not scaled. Expected resize_padding: false",
    }.items():
        _, err = tlt("train", folder, "-o", tmp_path / "a", override, code=1)
        assert expected in one_line(err, "train")
    _, err = tlt("evaluate", folder, "-m", "x.keras", "-i", "nowhere", "-o", tmp_path / "a", code=1)
    assert "evaluate.dataset_path (-i): with `task: segmentation`, dataset_config.val_images_path" in one_line(err, "evaluate")
    _, err = tlt("infer", folder, "-m", "x.keras", "-cm", "map.json", "-o", tmp_path / "a", code=1)
    assert "inference.classmap (-cm): with `task: segmentation`" in one_line(err, "infer")
    both = ("compatibility=tao", "model.resize_interpolation_method=lanczos")
    _, err = tlt("train", folder, "-o", tmp_path / "a", *both, code=1)
    assert "the toolkit has no 'lanczos'" in one_line(err, "train")
    Image.new("L", (8, 8)).save(tmp_path / "00.png")
    (tmp_path / "pictures.txt").write_text(f"{folder}/train/images/00.png\n")
    (tmp_path / "masks.txt").write_text(f"{tmp_path}/00.png\n")
    lists = [
        f"dataset_config.train_{kind}_path={tmp_path}/{name}.txt" for kind, name in (("images", "pictures"), ("masks", "masks"))
    ]
    _, err = tlt("train", folder, "-o", tmp_path / "a", *lists, code=1)
    assert "has 8 x 8 pixels, and its picture 40 x 32. Expected the same." in one_line(err, "train")
