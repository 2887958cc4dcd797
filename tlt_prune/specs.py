"""Spec files: YAML -> frozen, typed, validated objects.

Sections and keys are those of TAO's TensorFlow 2 classification specs, so that an existing spec needs its
paths changed and little else. An unknown key raises and names the nearest known one. Keys that TAO has
and this package has no use for are accepted and listed in `IGNORED`.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic
import yaml

from tlt_prune.errors import SpecError, first_line
from tlt_prune.options import Settings, problems
from tlt_prune.sections import (
    Augmentation,
    BNConfig,
    Dataset,
    EarlyStop,
    Evaluate,
    Export,
    Inference,
    LRConfig,
    Model,
    OptimConfig,
    Prune,
    RegConfig,
    Spec,
    Train,
)

__all__ = [
    "Augmentation",
    "BNConfig",
    "Dataset",
    "EarlyStop",
    "Evaluate",
    "Export",
    "Inference",
    "LRConfig",
    "Model",
    "OptimConfig",
    "Prune",
    "RegConfig",
    "Spec",
    "Train",
    "load_spec",
    "parse_value",
    "spec_from_dict",
    "to_yaml",
]

# What the toolkit's specs of detection consist of; `tlt_prune.detection.experiment` reads it.
EXPERIMENT = (
    "random_seed",
    "dataset_config",
    "augmentation_config",
    "postprocessing_config",
    "model_config",
    "evaluation_config",
    "cost_function_config",
    "training_config",
    "bbox_rasterizer_config",
    "loss_mask_label_filter",
    "dataset_export_config",
    "compatibility",
)

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
        *(f"export.{key}" for key in ("max_workspace_size", "cal_data_file", "results_dir", "verbose")),
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
    data = {} if path is None else read_yaml(pathlib.Path(path))
    return spec_from_dict(data, "command line" if path is None else str(path), parse_overrides(overrides))


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Of "section.key=value" strings: dotted key -> value, which is read as YAML.

    Raises:
        SpecError: one has another form.
    """
    given = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise SpecError(f"Expected an override like train.num_epochs=3. Received: {override!r}.")
        given[key.strip().lstrip("+")] = parse_value(text, f"override {override!r}")
    return given


def spec_from_dict(data: Mapping[str, Any], source: str = "spec", overrides: Mapping[str, Any] | None = None) -> Spec:
    """Validates a nested dictionary; `source` names it in errors, `overrides` (dotted keys) replace what it says."""
    plain: dict[str, Any] = {}
    ignored = _add_renamed(data, plain, source)
    for key, value in (overrides or {}).items():
        # One by one: a later one may say otherwise than an earlier one or the file.
        nested = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        ignored += _add_renamed(nested, plain, None)
    if plain.get("task") == "detection":
        found = {key: plain.pop(key) for key in EXPERIMENT if key in plain}
        plain["experiment"] = {**(plain.get("experiment") or {}), **found}
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
        merge = "tag:yaml.org,2002:merge"
        keys = [
            self.construct_object(key, deep=True)  # type: ignore[no-untyped-call]
            for key, _ in node.value
            if key.tag != merge
        ]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_value(text: str, what: str) -> Any:
    """A value as YAML has it; `what` names it in errors."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise SpecError(f"{what} is not valid YAML: {first_line(error)}") from error


def read_yaml(path: pathlib.Path) -> dict[str, Any]:
    """The sections of a YAML file.

    Raises:
        SpecError: it cannot be read, is no YAML, gives a key twice, or has no sections.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"Cannot read the spec file {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"Cannot read the spec file {path}: expected UTF-8 text. {first_line(error)}.") from error
    data = parse_value(text, str(path))
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
