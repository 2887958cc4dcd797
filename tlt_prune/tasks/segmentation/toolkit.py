"""Specs of the toolkit's UNet: protobuf text, as the sections that a spec has here. What is not set has the toolkit's default."""

from __future__ import annotations

import pathlib
from typing import Any

from tlt_prune.errors import SpecError
from tlt_prune.tasks.steps.toolkit_text import backbone, enumeration, fields, message_of, regularizer_section

SCHEMA: dict[str, list[dict[str, Any]]] = {
    "Experiment": fields(
        random_seed="uint32", dataset_config="DatasetConfig", model_config="ModelConfig", training_config="TrainingConfig",
        evaluation_config="EvaluationConfig", data_class_config="DataClassConfig",
    ),
    "DatasetConfig": fields(
        augment="bool", filter_data="bool", dataset="string", dataloader="string", preprocess="string", resize_padding="bool",
        resize_method="string", input_image_type="string", train_data_sources="Sources", val_data_sources="Sources",
        test_data_sources="Sources", data_class_config="DataClassConfig", augmentation_config="Augmentation",
        train_images_path="string", train_masks_path="string", val_images_path="string", val_masks_path="string",
        test_images_path="string", test_masks_path="string",
    ),
    "Sources": fields(data_source="[Source]"),
    "Source": fields(image_path="string", masks_path="string"),
    "DataClassConfig": fields(target_classes="[TargetClass]"),
    "TargetClass": fields(name="string", class_weight="float", label_id="int32", mapping_class="string"),
    "Augmentation": fields(spatial_augmentation="Spatial", brightness_augmentation="Brightness"),
    "Spatial": fields(
        hflip_probability="float", vflip_probability="float", crop_and_resize_prob="float", crop_and_resize_ratio="float"
    ),
    "Brightness": fields(delta="float"),
    "ModelConfig": [
        *fields(
            pretrained_model_file="string", freeze_pretrained_layers="bool", allow_loaded_model_modification="bool",
            num_layers="int32", use_pooling="bool", use_batch_norm="bool", remove_head="bool", byom_model="string",
            dropout_rate="float", activation="string", training_precision="Precision", freeze_bn="bool",
            freeze_blocks="[float]", arch="string", load_graph="bool", all_projections="bool", enable_qat="bool",
            model_input_height="int32", model_input_width="int32", model_input_channels="int32", pruned_model_path="string",
        ),
        *enumeration("initializer", "GLOROT_UNIFORM", "HE_NORMAL", "HE_UNIFORM"),
    ],
    "Precision": enumeration("backend_floatx", "INVALID", "FLOAT16", "FLOAT32"),
    "TrainingConfig": fields(
        batch_size="uint32", num_epochs="uint32", regularizer="Regularizer", optimizer="Optimizer",
        checkpoint_interval="uint32", max_steps="uint32", epochs="uint32", log_summary_steps="uint32", augment="bool",
        use_xla="bool", warmup_steps="uint32", use_amp="bool", learning_rate="float", weight_decay="float", use_trt="bool",
        crossvalidation_idx="bool", loss="string", weights_monitor="bool", lr_scheduler="Schedule", visualizer="Visualizer",
        buffer_size="uint32", data_options="bool",
    ),
    "Regularizer": [*enumeration("type", "NO_REG", "L1", "L2"), *fields(weight="float")],
    "Optimizer": fields(adam="Adam"),
    "Adam": fields(epsilon="float", beta1="float", beta2="float"),
    "Schedule": fields(exponential_decay="Exponential", cosine_decay="Cosine"),
    "Exponential": fields(decay_rate="float", decay_steps="int32"),
    "Cosine": fields(alpha="float", decay_steps="int32"),
    "Visualizer": fields(
        enabled="bool", save_summary_steps="uint32", infrequent_save_summary_steps="uint32", wandb_config="Service",
        clearml_config="Service",
    ),
    "Service": fields(project="string", entity="string", name="string", task="string", tags="[string]"),
    "EvaluationConfig": fields(validation_period_during_training="uint32", first_validation_epoch="uint32"),
}  # fmt: skip
# Backbones whose names end in the number of layers.
_NUMBERED = ("resnet", "vgg")
_MODES = {"": "tf", "min_max_-1_1": "tf", "div_by_255": "unit", "min_max_0_1": "unit"}
_METHODS = {"": "bilinear", "BILINEAR": "bilinear", "NEAREST_NEIGHBOR": "nearest", "BICUBIC": "bicubic", "AREA": "box"}
_RATE = 1e-4


def read_unet_spec(path: pathlib.Path) -> dict[str, Any] | None:
    """The sections of a file; None where it is not about masks.

    Raises:
        SpecError: it cannot be read as such a spec; the message says in which line, or which value is wrong.
    """
    message = message_of(path, SCHEMA, "unet", ("masks_path",))
    return None if message is None else unet_sections(message, str(path))


def unet_sections(message: Any, source: str) -> dict[str, Any]:
    """The sections of a spec here, from the toolkit's message.

    Raises:
        SpecError: a value is out of its range, or something is missing.
    """
    model, train, data = message.model_config, message.training_config, message.dataset_config
    if model.byom_model:
        raise SpecError(f"{source}: model_config.byom_model is one of TAO's encrypted files. Expected none.")
    gray, epochs = data.input_image_type == "grayscale", train.epochs or train.num_epochs
    if not epochs:
        raise SpecError(f"{source}: training_config.epochs: expected the number of epochs. Received none.")
    classes = (data.data_class_config if data.data_class_config.target_classes else message.data_class_config).target_classes
    weights = {x.name: x.class_weight for x in classes if x.class_weight > 0 and (x.mapping_class or x.name) == x.name}
    return {
        "dataset_config": dataset(data, classes),
        "segmentation_config": {
            "loss": train.loss or "cross_entropy",
            "activation": model.activation or "softmax",
            "initializer": ("glorot_uniform", "he_normal", "he_uniform")[model.initializer],
            "class_weights": {} if set(weights.values()) <= {1.0} else weights,
        },
        "dataset": {
            # Gray pictures are from -1 to 1 there, whatever it says.
            "preprocess_mode": "tf" if gray else _one_of(_MODES, data.preprocess, f"{source}: dataset_config.preprocess")
        },
        "model": {
            "backbone": backbone(model.arch or "resnet", model.num_layers or 18, _NUMBERED, source),
            **{f"input_{side}": size for side in ("height", "width") if (size := getattr(model, f"model_input_{side}"))},
            "input_channels": 1 if gray else model.model_input_channels or 3,
            "resize_interpolation_method": _one_of(_METHODS, data.resize_method, f"{source}: dataset_config.resize_method"),
            "freeze_blocks": [int(x) for x in model.freeze_blocks],
            "dropout": model.dropout_rate,
            **{name: getattr(model, name) for name in ("use_batch_norm", "use_pooling", "all_projections", "freeze_bn")},
        },
        "train": {
            "random_seed": message.random_seed or 42,
            "batch_size_per_gpu": train.batch_size or 1,
            "num_epochs": epochs,
            "checkpoint_interval": train.checkpoint_interval or 1,
            "qat": model.enable_qat,
            "pretrained_model_path": model.pretrained_model_file or model.pruned_model_path,
            "lr_config": rate(train),
            # Its L2 is half of the squares' sum.
            "reg_config": regularizer_section(train.regularizer, source, 0.5),
            "optim_config": _optimizer(train.optimizer.adam, source),
        },
        **({"inference": {"image_dir": data.test_images_path}} if data.test_images_path else {}),
    }


def dataset(config: Any, classes: Any) -> dict[str, Any]:
    """The section `dataset_config`, from the toolkit's and its target classes."""
    found: dict[str, Any] = {
        "target_classes": [
            {"name": x.name, "label_id": x.label_id, **({"mapping_class": x.mapping_class} if x.mapping_class else {})}
            for x in classes
        ],
        **{name: getattr(config, name) for name in ("augment", "filter_data", "resize_padding")},
    }
    for part in ("train", "val"):
        sources = getattr(config, f"{part}_data_sources").data_source
        for key, field in (("images", "image_path"), ("masks", "masks_path")):
            folder = getattr(config, f"{part}_{key}_path")
            listed = [getattr(x, field) for x in sources]
            found[f"{part}_{key}_path"] = listed if len(listed) > 1 else [*listed, folder][0]
    spatial, changes = config.augmentation_config.spatial_augmentation, {}
    for name in ("hflip_probability", "vflip_probability", "crop_and_resize_prob", "crop_and_resize_ratio"):
        changes[name] = getattr(spatial, name)
    changes["delta"] = config.augmentation_config.brightness_augmentation.delta
    # 0 is the default there.
    return {**found, "augmentation_config": {name: value for name, value in changes.items() if value}}


def rate(train: Any) -> dict[str, Any]:
    """`train.lr_config`, from the toolkit's training_config."""
    found, schedule = {"learning_rate": train.learning_rate or _RATE}, train.lr_scheduler
    if schedule.HasField("cosine_decay"):
        config = schedule.cosine_decay
        return {**found, "scheduler": "cosine_decay", "min_lr_ratio": config.alpha, "decay_steps": config.decay_steps}
    if schedule.HasField("exponential_decay"):
        config = schedule.exponential_decay
        return {**found, "scheduler": "exponential_decay", "gamma": config.decay_rate, "decay_steps": config.decay_steps}
    return {**found, "scheduler": "constant"}


def _optimizer(adam: Any, source: str) -> dict[str, Any]:
    """The toolkit has Adam alone; what is not set is TensorFlow's default."""
    values = {"beta_1": adam.beta1 or 0.9, "beta_2": adam.beta2 or 0.999, "epsilon": adam.epsilon or 1e-8}
    if not (values["beta_1"] < 1 and values["beta_2"] < 1 and min(values.values()) > 0):
        raise SpecError(f"{source}: optimizer.adam: expected beta1 and beta2 between 0 and 1, and epsilon above 0.")
    return {"optimizer": "adam", **values}


def _one_of(known: dict[str, str], value: str, key: str) -> str:
    if value not in known:
        raise SpecError(f"{key}: expected one of {', '.join(x for x in known if x)}. Received: {value[:40]!r}.")
    return known[value]
