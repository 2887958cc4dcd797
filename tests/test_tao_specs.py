"""The keys of every public YAML of TAO's TensorFlow 2 classification, as tables: each loads, and what it says is heard."""

from __future__ import annotations

from typing import Any

import pytest

from tlt_prune.config.specs import spec_from_dict
from tlt_prune.errors import SpecError

OPTIM = ("lr", "decay", "epsilon", "rho", "beta_1", "beta_2", "momentum", "nesterov")
# Dotted key -> the value it has in one of them, of all keys in any.
KEYS: dict[str, Any] = {
    "results_dir": "/results",
    "encryption_key": "nvidia_tlt",
    "num_gpus": 1,
    "data_format": "channels_first",
    "data.train_dataset_path": "train",
    "data.val_dataset_path": "val",
    "data.preprocess_mode": "caffe",
    "data.image_mean": [7834.4968],
    "augment.enable_random_crop": True,
    "augment.enable_center_crop": True,
    "augment.enable_color_augmentation": False,
    "augment.disable_horizontal_flip": False,
    "augment.mixup_alpha": 0,
    "model.num_classes": 20,
    "model.backbone": "efficientnet-b0",
    "model.input_width": 256,
    "model.input_height": 256,
    "model.input_channels": 1,
    "model.input_image_depth": 16,
    "model.use_batch_norm": True,
    "model.use_bias": False,
    "model.use_pooling": True,
    "model.all_projections": False,
    "model.freeze_bn": False,
    "model.freeze_blocks": [],
    "model.retain_head": False,
    "model.dropout": 0.0,
    "model.resize_interpolation_method": "bicubic",
    "model.activation_type": None,
    "model.byom_model": "",
    "train.qat": False,
    "train.pretrained_model_path": "",
    "train.checkpoint_interval": 1,
    "train.batch_size_per_gpu": 64,
    "train.num_epochs": 80,
    "train.n_workers": 10,
    "train.random_seed": 42,
    "train.label_smoothing": 0.01,
    "train.results_dir": "",
    "train.enable_color_augmentation": False,
    "train.mixup_alpha": 0.0,
    "train.reg_config.type": "L2",
    "train.reg_config.scope": ["conv2d", "dense"],
    "train.reg_config.weight_decay": 0.00005,
    "train.bn_config.momentum": 0.9,
    "train.bn_config.epsilon": 1e-5,
    "train.optim_config.optimizer": "sgd",
    **{f"train.optim_config.{key}": True if key == "nesterov" else 0.01 for key in OPTIM},
    "train.lr_config.scheduler": "cosine",
    "train.lr_config.learning_rate": 0.05,
    "train.lr_config.soft_start": 0.05,
    "train.lr_config.annealing_points": [0.33, 0.66, 0.88],
    "train.lr_config.annealing_divider": 10,
    "train.lr_config.min_lr_ratio": 0.00003,
    "train.lr_config.gamma": 0.000015,
    "train.lr_config.step_size": 10,
    "train.wandb.entity": "metropolis",
    "train.wandb.tags": ["training"],
    "train.clearml.task": "x",
    "evaluate.dataset_path": "test",
    "evaluate.model_path": "model.keras",
    "evaluate.batch_size": 256,
    "evaluate.n_workers": 8,
    "evaluate.top_k": 3,
    "evaluate.classmap": "",
    "evaluate.trt_engine": "x.engine",
    "prune.model_path": "model.keras",
    "prune.byom_model_path": "",
    "prune.normalizer": "max",
    "prune.output_path": "pruned.keras",
    "prune.equalization_criterion": "union",
    "prune.granularity": 8,
    "prune.threshold": 0.68,
    "prune.min_num_filters": 16,
    "prune.excluded_layers": [],
    "inference.model_path": "model.keras",
    "inference.image_dir": "pictures",
    "inference.classmap": "classmap.json",
    "inference.trt_engine": "x.engine",
    "export.model_path": "model.keras",
    "export.output_path": "model.onnx",
    "export.data_type": "fp32",
    "export.engine_file": "",
    "export.max_workspace_size": 2,
    "export.cal_image_dir": "",
    "export.cal_cache_file": "",
    "export.cal_data_file": "",
    "export.batch_size": 16,
    "export.batches": 10,
    "export.max_batch_size": 1,
    "export.min_batch_size": 1,
    "export.opt_batch_size": 1,
    "gen_trt_engine.onnx_file": "x.onnx",
    "gen_trt_engine.tensorrt.data_type": "int8",
    "gen_trt_engine.tensorrt.calibration.cal_batches": 10,
}


def nested(keys: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in keys.items():
        *sections, last = key.split(".")
        target = data
        for section in sections:
            target = target.setdefault(section, {})
        target[last] = value
    return data


def test_all_keys_together() -> None:
    spec = spec_from_dict(nested(KEYS))
    assert spec.model.data_format == "channels_first"
    assert spec.dataset.num_classes == 20
    assert spec.dataset.image_mean == (7834.4968,)
    assert (spec.model.input_image_depth, spec.model.resize_interpolation_method) == (16, "bicubic")
    assert spec.train.optim_config.decay == spec.train.optim_config.rho == 0.01
    assert spec.export.onnx_file == "model.onnx"
    assert set(spec.ignored) == {
        *("encryption_key", "num_gpus", "gen_trt_engine", "train.n_workers", "train.results_dir", "train.wandb", "train.clearml"),
        *("train.optim_config.lr", "evaluate.n_workers", "evaluate.trt_engine", "inference.trt_engine"),
        *("export.max_workspace_size", "export.cal_data_file"),
    }


@pytest.mark.parametrize("key", KEYS)
def test_each_key_alone(key: str) -> None:
    others = {"model.input_channels": 1} if key == "model.input_image_depth" else {}
    spec_from_dict(nested({**others, key: KEYS[key]}))


@pytest.mark.parametrize("section", ["evaluate", "prune", "inference", "export"])
def test_a_model_is_called_checkpoint_or_model_path(section: str) -> None:
    spec = spec_from_dict({section: {"checkpoint": "a.keras"}})
    assert getattr(spec, section).model_path == "a.keras"
    with pytest.raises(
        SpecError, match=rf"'{section}.model_path' and '{section}.checkpoint' are the same key and say 'b' and 'a'"
    ):
        spec_from_dict({section: {"model_path": "b", "checkpoint": "a"}})
    # What the command line says wins, whatever the file calls it.
    overridden = spec_from_dict({section: {"model_path": "a", "checkpoint": "a"}}, overrides={f"{section}.model_path": "c"})
    assert getattr(overridden, section).model_path == "c"


@pytest.mark.parametrize("key", KEYS)
def test_each_key_as_an_override(key: str) -> None:
    others = {"model.input_channels": 1} if key == "model.input_image_depth" else {}
    assert spec_from_dict({}, overrides={**others, key: KEYS[key]}) == spec_from_dict(nested({**others, key: KEYS[key]}))


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("train.reg_config.type", "l2", "L2"),
        ("train.reg_config.type", "NONE", "none"),
        ("train.optim_config.optimizer", "Adam", "adam"),
        ("train.optim_config.optimizer", "RMSprop", "rmsprop"),
        ("train.lr_config.scheduler", "Step", "step"),
        ("train.lr_config.scheduler", "EXPONENTIAL", "exponential"),
        ("dataset.preprocess_mode", "Torch", "torch"),
        ("prune.normalizer", "MAX", "max"),
        ("train.reg_config.scope", ["Conv2D", "Dense"], ("conv2d", "dense")),
    ],
)
def test_names_in_any_case(key: str, given: Any, expected: Any) -> None:
    value: Any = spec_from_dict(nested({key: given}))
    for part in key.split("."):
        value = getattr(value, part)
    assert value == expected


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("export.data_type", "int4", "must be one of|'fp32'"),
        ("model.byom_model", "model.tltb", "one of TAO's encrypted files"),
        ("prune.byom_model_path", "model.tltb", "one of TAO's encrypted files"),
        ("model.input_image_depth", 12, "must be 8 or 16"),
        ("model.input_channels", 2, "must be 1 or 3"),
        ("model.width", 0, "greater than 0"),
        ("model.dropout", 1.0, "less than 1"),
        ("train.num_epochs", 0, "greater than or equal to 1"),
        ("train.lr_config.learning_rate", float("nan"), "a finite number"),
        ("train.lr_config.gamma", 2.0, "less than or equal to 1"),
        ("results_dir", "", "a text that is not empty"),
    ],
)
def test_what_matters_is_never_ignored(key: str, value: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec_from_dict(nested({key: value}))
