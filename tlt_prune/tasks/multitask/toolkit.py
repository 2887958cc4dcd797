"""Specs of the toolkit's multitask classification: protobuf text, as the sections that a spec has here.

What is not set is 0, "" or false, as there. Its checks: Adam's and SGD's parameters in their ranges, a schedule and an optimizer.
"""

from __future__ import annotations

import pathlib
from typing import Any

from google.protobuf import json_format

from tlt_prune.errors import SpecError
from tlt_prune.tasks.steps.toolkit_text import backbone, enumeration, fields, message_of, regularizer_section

SCHEMA: dict[str, list[dict[str, Any]]] = {
    "Experiment": fields(
        random_seed="uint32", dataset_config="DatasetConfig", model_config="ModelConfig", training_config="TrainingConfig"
    ),
    "DatasetConfig": fields(train_csv_path="string", val_csv_path="string", image_directory_path="string"),
    "ModelConfig": [
        *fields(
            arch="string", input_image_size="string", n_layers="uint32", use_pooling="bool", use_batch_norm="bool",
            use_bias="bool", all_projections="bool", freeze_bn="bool", freeze_blocks="[uint32]", dropout="float",
            retain_head="bool", use_imagenet_head="bool", byom_model="string",
        ),
        *enumeration("resize_interpolation_method", "BILINEAR", "BICUBIC"),
    ],
    "TrainingConfig": fields(
        batch_size_per_gpu="uint32", num_epochs="uint32", checkpoint_interval="uint32", enable_qat="bool",
        learning_rate="LearningRate", regularizer="Regularizer", optimizer="Optimizer", pretrain_model_path="string",
        resume_model_path="string", pruned_model_path="string", n_workers="uint32", use_multiprocessing="bool",
    ),
    "LearningRate": fields(soft_start_annealing_schedule="Annealing", soft_start_cosine_annealing_schedule="Cosine"),
    "Annealing": fields(min_learning_rate="float", max_learning_rate="float", soft_start="float", annealing="float"),
    "Cosine": fields(max_learning_rate="float", soft_start="float", min_learning_rate="float"),
    "Regularizer": [*enumeration("type", "NO_REG", "L1", "L2"), *fields(weight="float")],
    "Optimizer": fields(adam="Adam", sgd="Sgd", rmsprop="Rmsprop"),
    "Adam": fields(epsilon="float", beta1="float", beta2="float", amsgrad="bool"),
    "Sgd": fields(momentum="float", nesterov="bool"),
    "Rmsprop": fields(rho="float", momentum="float", epsilon="float", centered="bool"),
}  # fmt: skip
# Backbones whose names end in the number of layers.
_NUMBERED = ("resnet", "vgg", "darknet", "cspdarknet")
_AS_THEY_ARE = ("use_batch_norm", "use_bias", "use_pooling", "all_projections", "freeze_bn", "dropout")


def read_multitask_spec(path: pathlib.Path) -> dict[str, Any] | None:
    """The sections of a file; None where it is not about tables of labels.

    Raises:
        SpecError: it cannot be read as such a spec; the message says in which line, or which value is wrong.
    """
    message = message_of(path, SCHEMA, "multitask_classification", ("train_csv_path", "val_csv_path"))
    return None if message is None else multitask_sections(message, str(path))


def multitask_sections(message: Any, source: str) -> dict[str, Any]:
    """The sections of a spec here, from the toolkit's message.

    Raises:
        SpecError: a value is out of its range, or something is missing.
    """
    model, train = message.model_config, message.training_config
    if model.byom_model:
        raise SpecError(f"{source}: model_config.byom_model is one of TAO's encrypted files. Expected none.")
    size = _size(model.input_image_size, source)
    start = train.pretrain_model_path or train.resume_model_path or train.pruned_model_path
    return {
        "dataset_config": json_format.MessageToDict(message.dataset_config, preserving_proto_field_name=True),
        "dataset": {
            "preprocess_mode": "caffe",
            "augmentation": {"enable_center_crop": False, "enable_random_crop": False, "shift": 0.1, "zoom": 0.2},
        },
        "model": {
            "backbone": backbone(model.arch, model.n_layers or 18, _NUMBERED, source),
            **dict(zip(("input_channels", "input_height", "input_width"), size, strict=True)),
            "freeze_blocks": list(model.freeze_blocks),
            "resize_interpolation_method": "nearest",
            **{name: getattr(model, name) for name in _AS_THEY_ARE},
        },
        "train": {
            "random_seed": message.random_seed or 42,
            "batch_size_per_gpu": train.batch_size_per_gpu or 1,
            "num_epochs": train.num_epochs or 1,
            "checkpoint_interval": train.checkpoint_interval or 1,
            "qat": train.enable_qat,
            "pretrained_model_path": start,
            "lr_config": _rate(train.learning_rate, source),
            "reg_config": regularizer_section(train.regularizer, source),
            "optim_config": _optimizer(train.optimizer, source),
        },
    }


def _size(text: str, source: str) -> list[int]:
    """(channels, height, width) of "3,224,224"."""
    parts = [x.strip() for x in text.split(",")]
    if len(parts) != 3 or not all(x.isdecimal() and len(x) < 6 for x in parts):
        raise SpecError(f'{source}: model_config.input_image_size: expected a text like "3,224,224". Received: {text[:40]!r}.')
    return [int(x) for x in parts]


def _rate(config: Any, source: str) -> dict[str, Any]:
    for name, scheduler in (
        ("soft_start_annealing_schedule", "soft_start_annealing"),
        ("soft_start_cosine_annealing_schedule", "cosine"),
    ):
        if not config.HasField(name):
            continue
        schedule = getattr(config, name)
        low, high = schedule.min_learning_rate, schedule.max_learning_rate
        if not 0 < low <= high:
            raise SpecError(f"{source}: learning_rate.{name}: expected 0 < min_learning_rate <= max_learning_rate.")
        found = {"scheduler": scheduler, "learning_rate": high, "min_lr_ratio": low / high, "soft_start": schedule.soft_start}
        if scheduler == "cosine":
            return found
        if not schedule.soft_start < schedule.annealing:
            raise SpecError(f"{source}: learning_rate.{name}: expected soft_start below annealing.")
        return {**found, "annealing": schedule.annealing}
    raise SpecError(f"{source}: training_config.learning_rate: expected a schedule, such as soft_start_annealing_schedule.")


def _optimizer(config: Any, source: str) -> dict[str, Any]:
    if config.HasField("adam"):
        beta_1, beta_2, epsilon = config.adam.beta1, config.adam.beta2, config.adam.epsilon
        if not (0 < beta_1 < 1 and 0 < beta_2 < 1 and epsilon > 0):
            raise SpecError(f"{source}: optimizer.adam: expected beta1 and beta2 between 0 and 1, and epsilon above 0.")
        return {"optimizer": "adam", "beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon}
    if config.HasField("sgd"):
        return {"optimizer": "sgd", "momentum": config.sgd.momentum, "nesterov": config.sgd.nesterov}
    if config.HasField("rmsprop"):
        rho, epsilon = config.rmsprop.rho, config.rmsprop.epsilon
        return {"optimizer": "rmsprop", "rho": rho, **({"epsilon": epsilon} if epsilon > 0 else {})}
    raise SpecError(f"{source}: training_config.optimizer: expected adam, sgd or rmsprop.")
