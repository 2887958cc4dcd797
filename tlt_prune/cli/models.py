"""Model files and specs: what train, evaluate, infer and export all need."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from tlt_prune.errors import SpecError, TltPruneError
from tlt_prune.specs import Spec


def seed(spec: Spec) -> None:
    import keras

    keras.utils.set_random_seed(spec.train.random_seed)


def picture_size(spec: Spec) -> tuple[int, int, int]:
    """(height, width, channels) of the spec's model."""
    return spec.model.input_height, spec.model.input_width, spec.model.input_channels


def load_keras(path: str) -> Any:
    """A .keras (or .h5) model, not compiled."""
    import keras

    file = pathlib.Path(path)
    if not file.is_file():
        raise TltPruneError(f"There is no model file {path}. Expected a .keras file, as tlt-train writes it.")
    try:
        return keras.models.load_model(file, compile=False)
    except (ValueError, TypeError, OSError) as error:
        raise TltPruneError(f"Cannot load {path} as a Keras model: {str(error).splitlines()[0]}") from error


def input_of(spec: Spec, predictor: Any) -> tuple[tuple[int, int, int], bool]:
    """(picture size, channels first) of what a model file takes, for pictures of the spec's channels."""
    channels = spec.model.input_channels
    return predictor.picture_size(channels), predictor.channels_first(channels)


def starting_model(spec: Spec, classes: int) -> Any:
    """The model to train: a new one, one with weights from an .h5 or .hdf5 file, or the .keras model at that path."""
    source = spec.train.pretrained_model_path
    if source.endswith((".h5", ".hdf5")):
        return _with_weights(_new_model(spec, classes), source)
    if source:
        model = load_keras(source)
        if model.outputs[0].shape[-1] != classes:
            raise SpecError(
                f"train.pretrained_model_path: {spec.train.pretrained_model_path} has {model.outputs[0].shape[-1]} outputs. "
                f"Expected {classes}, one for each class of the dataset."
            )
        return model
    return _new_model(spec, classes)


def _with_weights(model: Any, path: str) -> Any:
    """The toolkit's `pretrained_model_file`: weights by layer name, with an account of what fitted."""
    from tlt_prune import models

    try:
        table = models.load_weights_by_name(model, path)
    except ValueError as error:
        raise SpecError(f"train.pretrained_model_path: {error}") from error
    print(f"Weights by name from {path}:\n{table['status'].value_counts().to_string(header=False)}")
    others = table[table["status"] != "loaded"]
    if len(others):
        print(others.to_string())
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
        "bn_momentum": spec.train.bn_config.momentum,
        "bn_epsilon": spec.train.bn_config.epsilon,
    }
    family = m.backbone.lower()
    if family.startswith(("resnet", "vgg")):
        shared["use_pooling"] = m.use_pooling
    if family.startswith(("resnet", "mobilenet_v2")):
        shared["all_projections"] = m.all_projections
    try:
        return models.build(m.backbone, picture_size(spec), classes, **shared)
    except ValueError as error:
        raise SpecError(f"model: {error}") from error


def classmap(classes: tuple[str, ...]) -> str:
    """JSON text {class name: index}, as the toolkit writes it."""
    return json.dumps({name: i for i, name in enumerate(classes)}, indent=1) + "\n"


def read_classmap(path: str) -> tuple[str, ...]:
    try:
        data = json.loads(pathlib.Path(path).read_text("utf-8"))
        return tuple(sorted(data, key=lambda name: data[name]))
    except (OSError, ValueError, TypeError) as error:
        raise SpecError(f"Cannot read the class map {path}: {error}. Expected JSON {{class name: index}}.") from error
