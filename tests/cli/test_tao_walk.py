"""The toolkit's tutorial, start to end, with specs of its keys and its flags, on 60 pictures of three classes.

The specs below hold the keys of NVIDIA's public ones for this walk (train, prune, retrain, retrain with QAT, evaluate, infer,
export, and the one with 16-bit pictures), with small values; their texts are not copied.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scripts import one_line, run

from tlt_prune.config.yaml_texts import dump_yaml, parse_yaml


def pictures(folder: pathlib.Path, count: int, *, deep: bool = False) -> None:
    """Three kinds of stripes, in color or in gray of 16 bits."""
    rng = np.random.default_rng(count)
    y, x = np.mgrid[:16, :16]
    for name, pattern in {"across": y, "along": x, "slanted": x + y}.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            stripes = ((pattern + rng.integers(0, 4)) // 2 % 2).astype(float)
            if deep:
                gray = 20_000 * stripes + rng.uniform(0, 9_000, (16, 16))
                Image.fromarray(gray.astype(np.uint16)).save(folder / name / f"{i}.png")
            else:
                colors = 150 * stripes[..., None] + rng.uniform(0, 90, (16, 16, 3))
                Image.fromarray(colors.astype(np.uint8)).save(folder / name / f"{i}.png")


def written(path: pathlib.Path, spec: dict[str, Any]) -> pathlib.Path:
    path.write_text(dump_yaml(spec))
    return path


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("walk")
    for name, count in (("train", 12), ("val", 4), ("test", 4)):
        pictures(folder / name, count)
    dataset = {
        "train_dataset_path": str(folder / "train"),
        "val_dataset_path": str(folder / "val"),
        "preprocess_mode": "torch",
        "num_classes": 3,
        "augmentation": {"enable_color_augmentation": True, "enable_center_crop": True},
    }
    training = {
        "qat": False,
        "batch_size_per_gpu": 12,
        "num_epochs": 6,
        "optim_config": {"optimizer": "SGD", "lr": 0.05, "momentum": 0.9, "decay": 0.0001},
        "lr_config": {"scheduler": "cosine", "learning_rate": 0.05, "soft_start": 0.05},
        "reg_config": {"type": "l2", "scope": ["Conv2D", "dense"], "weight_decay": 0.00005},
        "bn_config": {"momentum": 0.7, "epsilon": 1e-5},
        "wandb": {"name": "x", "tags": ["a"]},
        "n_workers": 4,
    }
    model = {
        "backbone": "resnet_10",
        "input_width": 16,
        "input_height": 16,
        "input_channels": 3,
        "input_image_depth": 8,
        "retain_head": False,
        "dropout": 0.1,
        "resize_interpolation_method": "bicubic",
        "byom_model": "",
        "width": 0.25,
    }
    common = {"results_dir": str(folder / "results"), "encryption_key": "nvidia_tlt", "num_gpus": 1}
    trained, pruned, retrained = (folder / f"results/{x}/model.keras" for x in ("train", "prune", "retrain"))
    written(
        folder / "spec.yaml",
        {
            **common,
            "dataset": dataset,
            "train": {**training, "checkpoint": ""},
            "model": model,
        },
    )
    removal = {"checkpoint": str(trained), "output_path": str(pruned), "threshold": 0.9, "byom_model_path": ""}
    written(folder / "prune.yaml", {**common, "prune": removal})
    written(
        folder / "retrain_qat.yaml", {**common, "dataset": dataset, "train": {**training, "qat": True, "checkpoint": str(pruned)}}
    )
    engine = {
        "onnx_file": "x.onnx",
        "trt_engine": "x.engine",
        "tensorrt": {"data_type": "int8", "calibration": {"cal_batches": 10}},
    }
    written(
        folder / "retrain.yaml",
        {
            **common,
            "dataset": dataset,
            "train": {**training, "checkpoint": str(pruned), "lr_config": {**training["lr_config"], "scheduler": "soft_anneal"}},
            "evaluate": {
                "dataset_path": str(folder / "test"),
                "checkpoint": str(retrained),
                "trt_engine": "x.engine",
                "top_k": 3,
            },
            "export": {"checkpoint": str(retrained), "onnx_file": str(folder / "results/export/model.onnx")},
            "gen_trt_engine": engine,
        },
    )
    # As NVIDIA's own: not a word about preprocessing, and the older names of keys.
    data = {"train_dataset_path": str(folder / "train"), "val_dataset_path": str(folder / "val")}
    written(
        folder / "eval.yaml",
        {
            **common,
            "data": data,
            "train": {"pretrained_model_path": "", "batch_size_per_gpu": 16},
            "evaluate": {
                "dataset_path": str(folder / "test"),
                "model_path": str(trained),
                "top_k": 1,
                "batch_size": 16,
                "n_workers": 0,
            },
            "model": {"backbone": "resnet_10", "input_image_depth": 8},
            "data_format": "channels_last",
        },
    )
    written(
        folder / "infer.yaml",
        {
            "results_dir": common["results_dir"],
            "inference": {"model_path": str(retrained), "image_dir": str(folder / "test/along"), "trt_engine": "x.engine"},
            "model": {"backbone": "resnet_10", "input_image_depth": 8},
        },
    )
    written(
        folder / "export.yaml",
        {"export": {"model_path": str(retrained), "output_path": str(folder / "tao.onnx"), "data_type": "fp16"}, "data": data},
    )
    return folder


def accuracy(folder: pathlib.Path, name: str, spec: str, *arguments: object) -> float:
    run("evaluate", "-e", folder / spec, *arguments, "-o", folder / "scores" / name)
    return float(json.loads((folder / "scores" / name / "evaluation.json").read_text())["accuracy"])


def test_the_walk(walk: pathlib.Path) -> None:
    results = walk / "results"
    out, err = run("train", "-e", walk / "spec.yaml", "-k", "nvidia_tlt", "--gpus", 1, "model.freeze_bn=false")
    assert err == ""
    for key in ("encryption_key", "num_gpus", "train.wandb", "train.n_workers", "train.optim_config.lr"):
        assert key in out
    # The same model scores the same, whoever's spec is used: the training's, or one that says nothing of preprocessing.
    test = f"evaluate.dataset_path={walk / 'test'}"
    dense = accuracy(walk, "dense", "spec.yaml", "-m", results / "train/model.keras", "--set", test)
    assert accuracy(walk, "dense_tao", "eval.yaml") == dense > 0.8

    run("prune", "-e", walk / "prune.yaml", "-pg", 8, "-nf", 8, "-n", "max", "-eq", "union", "-el", "predictions", "conv1")
    plan = json.loads((results / "prune/model.plan.json").read_text())
    rows = {x["layer"]: x for x in plan["layers"]}
    assert rows["predictions"]["filters_after"] == 3
    assert rows["conv1"]["filters_after"] == rows["conv1"]["filters_before"]
    assert plan["params_after"] < 0.7 * plan["params_before"]

    run("train", "-e", walk / "retrain.yaml", "-o", results / "retrain", "train.num_epochs=4")
    retrained = accuracy(walk, "retrained", "retrain.yaml")
    assert retrained >= dense - 0.2
    run("export", "-e", walk / "retrain.yaml")
    run("export", "-e", walk / "export.yaml", "--set", "export.formats=[onnx]")
    # int8, trained so from what was retrained.
    aware = ("train.num_epochs=1", f"train.checkpoint={results / 'retrain/model.keras'}", "train.lr_config.learning_rate=0.001")
    run("train", "-e", walk / "retrain_qat.yaml", "-o", results / "qat", *aware)
    run("export", "-e", walk / "retrain.yaml", "-m", results / "qat/model.keras", "-o", results / "export/qat.onnx")
    assert accuracy(walk, "qat", "retrain.yaml", "-m", results / "export/qat.onnx") >= retrained - 0.2
    for name, model in {
        "onnx": results / "export/model.onnx",
        "saved": results / "export/saved_model",
        "tao": walk / "tao.onnx",
    }.items():
        # Scored by a spec without preprocessing: the file itself knows.
        assert accuracy(walk, name, "eval.yaml", "-m", model) == retrained

    run("infer", "-e", walk / "infer.yaml", "-o", walk / "inferred")
    table = pd.read_csv(walk / "inferred/predictions.csv")
    assert len(table) == 4
    assert set(table["class"]) <= {"across", "along", "slanted"}

    a_spec_that_says_otherwise_than_the_model_is_an_error(walk)
    retraining_another_size_is_one_line(walk)


def a_spec_that_says_otherwise_than_the_model_is_an_error(walk: pathlib.Path) -> None:
    model = walk / "results/train/model.keras"
    for setting, said in {
        "dataset.preprocess_mode=caffe": "dataset.preprocess_mode: the spec says 'caffe'",
        "model.input_width=32": "model.input_width: the spec says 32",
        "model.input_channels=1": "pictures with 1 channels",
        "data_format=channels_first": "model.data_format: the spec says 'channels_first'",
        "dataset.num_classes=4": "dataset.num_classes: the spec says 4",
        "dataset.augmentation.enable_center_crop=false": "enable_center_crop: the spec says False",
        "model.resize_interpolation_method=nearest": "resize_interpolation_method: the spec says 'nearest'",
    }.items():
        _, err = run("evaluate", "-e", walk / "eval.yaml", "-m", model, "-o", walk / "x", setting, code=1)
        assert said in one_line(err, "evaluate")


def retraining_another_size_is_one_line(walk: pathlib.Path) -> None:
    for setting in ("model.input_width=24", "model.data_format=channels_first", "model.input_channels=1"):
        out = walk / "other"
        _, err = run("train", "-e", walk / "retrain.yaml", "-o", out, setting, code=1)
        assert "the spec says" in one_line(err, "train") or "channels" in one_line(err, "train")
        assert not (out / "model.keras").exists()


def test_pictures_of_sixteen_bits(walk: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for name, count in (("train", 12), ("val", 4)):
        pictures(tmp_path / name, count, deep=True)
    spec = parse_yaml((walk / "spec.yaml").read_text())
    spec["results_dir"] = str(tmp_path / "results")
    spec["dataset"] |= {"train_dataset_path": str(tmp_path / "train"), "val_dataset_path": str(tmp_path / "val")}
    spec["model"] |= {"input_channels": 1, "input_image_depth": 16, "backbone": "resnet_10"}
    run("train", "-e", written(tmp_path / "spec.yaml", spec), "train.num_epochs=16", "augment.enable_color_augmentation=false")
    model = tmp_path / "results/train/model.keras"
    bare = {"dataset": {k: spec["dataset"][k] for k in ("train_dataset_path", "val_dataset_path")}}
    run("evaluate", "-e", written(tmp_path / "eval.yaml", bare), "-m", model, "-o", tmp_path / "scores")
    assert json.loads((tmp_path / "scores/evaluation.json").read_text())["accuracy"] > 0.8
    _, err = run("train", "-e", tmp_path / "spec.yaml", "model.input_channels=3", "-o", tmp_path / "y", code=1)
    assert "pictures of 16 bits have one channel" in one_line(err, "train")
