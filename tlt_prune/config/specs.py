"""Spec files: YAML -> frozen, typed, validated objects.

Sections and keys are those of TAO's TensorFlow 2 classification specs, so that an existing spec needs its
paths changed and little else. An unknown key raises and names the nearest known one. Keys that TAO has
and this package has no use for are accepted and listed in `IGNORED`.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic

from tlt_prune.config.plugins import TASKS, names_in
from tlt_prune.config.sections import (
    AugmentationConfig,
    Dataset,
    Evaluate,
    Export,
    Inference,
    Model,
    Prune,
    Spec,
)
from tlt_prune.config.settings import Settings, problems
from tlt_prune.config.texts import TextError, read_text
from tlt_prune.config.train_sections import BNConfig, EarlyStop, LRConfig, OptimConfig, RegConfig, Train
from tlt_prune.config.yaml_texts import dump_yaml, parse_yaml
from tlt_prune.errors import SpecError

__all__ = [
    "AugmentationConfig",
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

# What people write, and what it is called here.
MEANT = {
    "dataset.test_dataset_path": "dataset.val_dataset_path",
    "dataset.eval_dataset_path": "dataset.val_dataset_path",
    "dataset.image_directory_path": "dataset.train_dataset_path",
    "train.lr": "train.lr_config.learning_rate",
    "train.learning_rate": "train.lr_config.learning_rate",
    "train.batch_size": "train.batch_size_per_gpu",
    "train.epochs": "train.num_epochs",
    "prune.amount": "prune.ratio",
    "eval_config": "evaluate",
}

# Bring-your-own-model files are TAO's encrypted archives: an empty path means none.
UNREADABLE = {
    "model.byom_model": "export the model to .keras or .h5 there and give train.pretrained_model_path",
    "prune.byom_model_path": "export the model to .keras there and give prune.model_path",
}


def load_spec(path: str | pathlib.Path | None, overrides: Sequence[str] = (), values: Mapping[str, object] | None = None) -> Spec:
    """Reads a spec file and applies overrides.

    Args:
        path: a YAML file; None starts from the defaults.
        overrides: "section.key=value" strings; the value is read as YAML.
        values: dotted key -> value, as it is; they win.

    Raises:
        SpecError: the file cannot be read, a key is unknown or given twice, or a value has the wrong kind or is out of
            range. All mistakes are reported at once.
    """
    data = {} if path is None else read_yaml(pathlib.Path(path))
    given = {**parse_overrides(overrides), **(values or {})}
    return spec_from_dict(data, "command line" if path is None else str(path), given)


# Text in YAML that is not what it says, but in quotes, over several lines, or with a name or a type.
_MARKED = ("'", '"', "|", ">", "&", "!", "*")


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Of "section.key=value" strings: dotted key -> value, which is read as YAML.

    Raises:
        SpecError: one has another form.
    """
    given = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise SpecError(f"Expected an override like train.num_epochs=3. Received: {override[:80]!r}.")
        value, plain = parse_value(text, f"The override {override[:80]!r}"), text.strip()
        # What stands on a command line has no comments: a path may have " #" in it.
        given[key.strip().lstrip("+")] = plain if isinstance(value, str) and plain[:1] not in _MARKED else value
    return given


def spec_from_dict(data: Mapping[str, object], source: str = "spec", overrides: Mapping[str, object] | None = None) -> Spec:
    """Validates a nested dictionary; `source` names it in errors, `overrides` (dotted keys) replace what it says."""
    plain: dict[str, Any] = {}
    ignored = _add_renamed(data, plain, source)
    for key, value in (overrides or {}).items():
        # One by one: a later one may say otherwise than an earlier one or the file.
        *outer, last = _parts(key, source)
        nested: dict[str, object] = {last: value}
        for part in reversed(outer):
            nested = {part: nested}
        ignored += _add_renamed(nested, plain, None)
    if "ignored" in plain:
        raise SpecError(f"{source}: unknown key 'ignored'.")
    tasks = names_in(TASKS)
    task = plain.get("task", Spec().task)
    sections = tasks.get(task, ()) if isinstance(task, str) else ()
    if sections and isinstance(plain.get("experiment", {}), dict):
        of_task = {key: plain.pop(key) for key in sections if key in plain}
        plain["experiment"] = {**(plain.get("experiment") or {}), **of_task}
    try:
        return Spec.model_validate({**plain, "ignored": tuple(sorted(ignored))})
    except pydantic.ValidationError as error:
        others = {key: sorted(x for x, keys in tasks.items() if key in keys) for keys in tasks.values() for key in keys}
        meant = {key: f"{key}, with task: {' or '.join(names)}" for key, names in others.items() if task not in names}
        raise SpecError(f"{source}: {' '.join(problems(error, Spec, sections, {**MEANT, **meant}))}") from error


def to_yaml(spec: Spec) -> str:
    """The whole spec, defaults included, as YAML."""
    return dump_yaml(_listed(spec.model_dump(exclude={"ignored"})))


def _listed(value: object) -> object:
    if isinstance(value, dict):
        return {k: _listed(v) for k, v in value.items()}
    return [_listed(v) for v in value] if isinstance(value, tuple) else value


def parse_value(text: str, what: str) -> Any:
    """A value as YAML has it; `what` names it in errors."""
    try:
        return parse_yaml(text)
    except TextError as error:
        raise SpecError(f"{what} cannot be read: {error}") from error


def read_yaml(path: pathlib.Path) -> dict[str, Any]:
    """The sections of a YAML file.

    Raises:
        SpecError: it cannot be read, is no YAML, gives a key twice, or has no sections.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise SpecError(f"Cannot read the spec file {path}: {error.strerror}.") from error
    except TextError as error:
        raise SpecError(f"Cannot read the spec file {error}") from error
    data = parse_value(text, f"The spec file {path}")
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SpecError(f"{path}: expected sections with keys. Received a {type(data).__name__}.")
    return data


# No section lies deeper.
_MOST_PARTS = 8


def _parts(key: str, source: str | None) -> list[str]:
    """A dotted key's sections and its last name."""
    parts = key.split(".")
    if not all(parts) or len(parts) > _MOST_PARTS:
        raise SpecError(f"{source or 'override'}: expected a key like train.num_epochs. Received: {key[:80]!r}.")
    return parts


def _put(data: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    *sections, last = path
    for section in sections:
        # A section that the file leaves empty is None.
        inner = data.get(section)
        data[section] = {} if inner is None else inner
        data = data[section]
        if not isinstance(data, dict):
            raise SpecError(f"{'.'.join(path)[:80]!r}: '{section}' is not a section.")
    data[last] = value


def _add_renamed(data: Mapping[str, object], plain: dict[str, Any], source: str | None) -> list[str]:
    """Puts `data` into `plain` with aliases replaced, to any depth; returns the keys that are ignored.

    Raises:
        SpecError: with a `source`, one thing is said twice; or a file that nobody here can read is named.
    """
    ignored: list[str] = []
    seen: dict[tuple[str, ...], tuple[str, Any]] = {}

    def visit(path: tuple[str, ...], value: object, written: str) -> None:
        name = ".".join(path)
        if name in ALIASES:
            path, name = tuple(ALIASES[name].split(".")), ALIASES[name]
        if name in IGNORED:
            ignored.append(name)
        elif name in UNREADABLE:
            if value:
                raise SpecError(
                    f"{written}: {str(value)[:80]} is one of TAO's encrypted files. Expected none: {UNREADABLE[name]}."
                )
        elif isinstance(value, Mapping):
            if not value:
                _put(plain, path, {})
            for key, item in value.items():
                # Elsewhere a dot is part of a name, of a layer or a class.
                split = _parts(str(key), source) if "." in str(key) and _section(path) is not None else [str(key)]
                visit((*path, *split), item, f"{written}.{key}")
        else:
            other, before = seen.get(path, (None, None))
            if source is not None and other is not None and (other == written or before != value):
                if other == written:
                    raise SpecError(f"{source}: '{written}' is given twice.")
                raise SpecError(f"{source}: '{other}' and '{written}' are the same key and say {before!r} and {value!r}.")
            seen[path] = written, value
            _put(plain, path, _default_if_empty(path, value))

    for key, value in data.items():
        visit(tuple(_parts(str(key), source)), value, str(key))
    return ignored


def _section(path: tuple[str, ...]) -> type[Settings] | None:
    """The class of the section at a path; None where there is none."""
    kind: Any = Spec
    for part in path:
        field = kind.model_fields.get(part)
        kind = field.annotation if field is not None else None
        if not (isinstance(kind, type) and issubclass(kind, Settings)):
            return None
    return kind  # type: ignore[no-any-return]


def _default_if_empty(path: tuple[str, ...], value: object) -> object:
    """`key:` with nothing behind it: the default, be it an empty text or a section."""
    if value is not None:
        return value
    if _section(path) is not None:
        return {}
    section = _section(path[:-1])
    field = section.model_fields.get(path[-1]) if section is not None else None
    return field.default if field is not None and field.annotation is str else None
