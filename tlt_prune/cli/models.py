"""Model files and specs: what train, evaluate, infer and export all need."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from tlt_prune.cli import common
from tlt_prune.config.settings import Settings, checked
from tlt_prune.config.specs import Spec
from tlt_prune.config.texts import read_json
from tlt_prune.errors import DataError, SpecError, first_line
from tlt_prune.io import model_info


def seed(spec: Spec) -> None:
    import keras

    keras.utils.set_random_seed(spec.train.random_seed)


def load_keras(path: str) -> Any:
    """A .keras (or .h5) model, not compiled."""
    from tlt_prune.io.model_files import load_keras as load

    return load(pathlib.Path(path))


def agreed(spec: Spec, predictor: Any) -> tuple[Spec, Any, bool]:
    """(the spec with what the model file knows, the format of the pictures it takes, whether channels come first).

    Raises:
        SpecError: the spec says otherwise than the model.
    """
    spec = model_info.agreed(spec, predictor.info, str(predictor.path))
    said = spec.model.model_fields_set
    channels = spec.model.input_channels if "input_channels" in said or predictor.channels is None else predictor.channels
    open_size = (spec.model.input_height, spec.model.input_width)
    height, width, channels = predictor.picture_size(channels, open_size)
    first = predictor.channels_first(channels)
    for key, value in {
        "input_height": height,
        "input_width": width,
        "input_channels": channels,
        "data_format": "channels_first" if first else "channels_last",
    }.items():
        # An exported file may have another layout than its model.
        if key in said and getattr(spec.model, key) != value and (key != "data_format" or predictor.kind == "keras"):
            raise model_info.disagreement(f"model.{key}", getattr(spec.model, key), f"{predictor.path} has {value!r}")
    return spec, picture_format(spec, (height, width, channels)), first


def picture_format(spec: Spec, size: tuple[int, int, int] | None = None) -> Any:
    """What pictures are brought to, for a model of the spec's size or of `size`."""
    from tlt_prune.data import PictureFormat

    m = spec.model
    return PictureFormat(
        *(size or (m.input_height, m.input_width, m.input_channels)),
        depth=m.input_image_depth,
        resample=m.resize_interpolation_method,
        center_crop=spec.dataset.augmentation.enable_center_crop,
        oriented=not spec.dataset.ignore_exif_orientation,
    )


def is_whole_model(spec: Spec) -> bool:
    """Whether the training starts from a model file, rather than from a new model or one with some weights."""
    source = spec.train.pretrained_model_path
    return bool(source) and not source.endswith((".h5", ".hdf5"))


def starting_model(spec: Spec, classes: int, whole: Any = None) -> Any:
    """The model to train: a new one, one with weights from an .h5 or .hdf5 file, or `whole`, a model that was loaded."""
    source = spec.train.pretrained_model_path
    if whole is None:
        model = _new_model(spec, classes)
        return with_weights(model, source, "train.pretrained_model_path") if source else model
    if whole.outputs[0].shape[-1] != classes:
        raise SpecError(
            f"train.pretrained_model_path: {source} has {whole.outputs[0].shape[-1]} outputs. "
            f"Expected {classes}, one for each class of the dataset."
        )
    return whole


def with_weights(model: Any, path: str, key: str) -> Any:
    """The toolkit's `pretrained_model_file`: weights by layer name, with an account of what fitted; `key` names it in errors."""
    from tlt_prune import models

    try:
        table = models.load_weights_by_name(model, path)
    except ValueError as error:
        raise SpecError(f"{key}: {error}") from error
    common.say(f"Weights by name from {path}:\n{table['status'].value_counts().to_string(header=False)}")
    others = table[table["status"] != "loaded"]
    if len(others):
        common.say(others.to_string())
    return model


def _new_model(spec: Spec, classes: int) -> Any:
    from tlt_prune import models

    m = spec.model
    shared = {
        "use_batch_norm": m.use_batch_norm,
        "use_bias": m.use_bias,
        "freeze_bn": m.freeze_bn,
        "freeze_blocks": m.freeze_blocks,
        "data_format": m.data_format,
        "width": m.width,
        "activation": m.activation_type,
        "bn_momentum": spec.train.bn_config.momentum,
        "bn_epsilon": spec.train.bn_config.epsilon,
    }
    family = m.backbone.lower()
    if family.startswith(("resnet", "vgg")):
        shared["use_pooling"] = m.use_pooling
    if family.startswith(("resnet", "mobilenet_v2")):
        shared["all_projections"] = m.all_projections
    size = (m.input_height, m.input_width, m.input_channels)
    if m.retain_head and m.dropout:
        raise SpecError("model.dropout belongs to the toolkit's head. Expected 0 with model.retain_head: true.")
    try:
        if m.retain_head:
            return models.build(m.backbone, size, classes, **shared)
        return models.classifier(m.backbone, size, classes, dropout=m.dropout, **shared)
    except ValueError as error:
        raise SpecError(f"model: {first_line(error)}") from error


def classmap(classes: tuple[str, ...]) -> str:
    """JSON text {class name: index}, as the toolkit writes it."""
    return json.dumps({name: i for i, name in enumerate(classes)}, indent=1) + "\n"


class _ClassMap(Settings):
    names: Mapping[str, Annotated[int, Field(ge=0, lt=2**31)]]


def read_classmap(path: str) -> tuple[str, ...]:
    """Class names by index.

    Raises:
        SpecError: the file is no JSON object of names with the indices 0, 1, 2...
    """
    try:
        found = checked(_ClassMap, {"names": read_json(pathlib.Path(path), "JSON {class name: index}")}, path, SpecError).names
    except (DataError, SpecError) as error:
        raise SpecError(f"Cannot read the class map: {error}") from error
    if sorted(found.values()) != list(range(len(found))):
        raise SpecError(f"Cannot read the class map {path}: expected the indices 0 to {len(found) - 1}, each once.")
    return tuple(sorted(found, key=lambda name: found[name]))


def facts(predictor: Any, path: str) -> dict[str, Any]:
    """What a report says of a model file, whatever it is scored by."""
    return {
        "model": path,
        "kind": predictor.kind,
        "params": predictor.params,
        "macs": macs(predictor),
        "file_bytes": predictor.file_bytes,
    }


def macs(predictor: Any) -> float | None:
    """Multiply-accumulates of a Keras model for one picture; None where they cannot be counted."""
    if predictor.model is None:
        return None
    from tlt_prune.graph.tracer import trace
    from tlt_prune.pruning.cost.costs import costs
    from tlt_prune.quantization import folded

    total = costs(trace(folded(predictor.model))).total_macs
    return None if math.isnan(total) else total
