"""Specs of the toolkit's multitask classification: protobuf text, as the sections that a spec has here.

What is not set is 0, "" or false, as there. Its checks: Adam's and SGD's parameters in their ranges, a schedule and an optimizer.
"""

from __future__ import annotations

import functools
import pathlib
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format, text_format

from tlt_prune.config import read_lines
from tlt_prune.config.protobuf_messages import message_classes
from tlt_prune.errors import DataError, SpecError, first_line

if TYPE_CHECKING:
    from google.protobuf.message import Message


def _fields(**types: str) -> list[dict[str, Any]]:
    """Fields by their names: a scalar, the name of a message, or "[scalar]" for a list."""
    found: list[dict[str, Any]] = []
    for name, kind in types.items():
        field: dict[str, Any] = {"name": name, "type": kind.strip("[]"), "repeated": kind.startswith("[")}
        found.append(field | ({"type": "message", "message": kind} if kind[0].isupper() else {}))
    return found


def _names(name: str, *values: str) -> list[dict[str, Any]]:
    """A field that is one of some names."""
    return [{"name": name, "type": "enum", "values": {value: i for i, value in enumerate(values)}}]


SCHEMA: dict[str, list[dict[str, Any]]] = {
    "Experiment": _fields(
        random_seed="uint32", dataset_config="DatasetConfig", model_config="ModelConfig", training_config="TrainingConfig"
    ),
    "DatasetConfig": _fields(train_csv_path="string", val_csv_path="string", image_directory_path="string"),
    "ModelConfig": [
        *_fields(
            arch="string", input_image_size="string", n_layers="uint32", use_pooling="bool", use_batch_norm="bool",
            use_bias="bool", all_projections="bool", freeze_bn="bool", freeze_blocks="[uint32]", dropout="float",
            retain_head="bool", use_imagenet_head="bool", byom_model="string",
        ),
        *_names("resize_interpolation_method", "BILINEAR", "BICUBIC"),
    ],
    "TrainingConfig": _fields(
        batch_size_per_gpu="uint32", num_epochs="uint32", checkpoint_interval="uint32", enable_qat="bool",
        learning_rate="LearningRate", regularizer="Regularizer", optimizer="Optimizer", pretrain_model_path="string",
        resume_model_path="string", pruned_model_path="string", n_workers="uint32", use_multiprocessing="bool",
    ),
    "LearningRate": _fields(soft_start_annealing_schedule="Annealing", soft_start_cosine_annealing_schedule="Cosine"),
    "Annealing": _fields(min_learning_rate="float", max_learning_rate="float", soft_start="float", annealing="float"),
    "Cosine": _fields(max_learning_rate="float", soft_start="float", min_learning_rate="float"),
    "Regularizer": [*_names("type", "NO_REG", "L1", "L2"), *_fields(weight="float")],
    "Optimizer": _fields(adam="Adam", sgd="Sgd", rmsprop="Rmsprop"),
    "Adam": _fields(epsilon="float", beta1="float", beta2="float", amsgrad="bool"),
    "Sgd": _fields(momentum="float", nesterov="bool"),
    "Rmsprop": _fields(rho="float", momentum="float", epsilon="float", centered="bool"),
}  # fmt: skip
# Backbones whose names end in the number of layers.
_NUMBERED = ("resnet", "vgg", "darknet", "cspdarknet")
_MOST_LAYERS = 1000
_AS_THEY_ARE = ("use_batch_norm", "use_bias", "use_pooling", "all_projections", "freeze_bn", "dropout")


def sections_of(path: pathlib.Path) -> dict[str, Any] | None:
    """The sections of a file; None where it is not about tables of labels.

    Raises:
        SpecError: it cannot be read as such a spec; the message says in which line, or which value is wrong.
    """
    try:
        text = "\n".join(read_lines(path))
    except (OSError, DataError):
        return None
    if "train_csv_path" not in text and "val_csv_path" not in text:
        return None
    message = _messages()["Experiment"]()
    try:
        text_format.Merge(text, message)
    except text_format.ParseError as error:
        raise SpecError(f"{path}: expected protobuf text of the toolkit's spec. {first_line(error, 200)}") from error
    return sections(message, str(path))


@functools.cache
def _messages() -> dict[str, type[Message]]:
    return message_classes(SCHEMA, "multitask_classification")


def sections(message: Any, source: str) -> dict[str, Any]:
    """The sections of a spec here, from the toolkit's message.

    Raises:
        SpecError: a value is out of its range, or something is missing.
    """
    model, train = message.model_config, message.training_config
    if model.byom_model:
        raise SpecError(f"{source}: model_config.byom_model is one of TAO's encrypted files. Expected none.")
    size = _size(model.input_image_size, source)
    layers = model.n_layers or 18
    if layers > _MOST_LAYERS:
        raise SpecError(f"{source}: model_config.n_layers: expected at most {_MOST_LAYERS}. Received: {layers}.")
    start = train.pretrain_model_path or train.resume_model_path or train.pruned_model_path
    return {
        "dataset_config": json_format.MessageToDict(message.dataset_config, preserving_proto_field_name=True),
        "dataset": {"preprocess_mode": "caffe", "augmentation": {"enable_center_crop": False}},
        "model": {
            "backbone": f"{model.arch}{layers}" if model.arch in _NUMBERED else model.arch,
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
            "reg_config": _regularizer(train.regularizer, source),
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


def _regularizer(config: Any, source: str) -> dict[str, Any]:
    if not 0 <= config.weight < 1:
        raise SpecError(f"{source}: regularizer.weight: expected 0 or more, below 1. Received: {config.weight}.")
    return {"type": ("none", "L1", "L2")[config.type], "weight_decay": config.weight}


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
