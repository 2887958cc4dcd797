"""The model that a classifier's training starts from."""

from __future__ import annotations

from typing import Any

import keras

from tlt_prune.config import Spec
from tlt_prune.errors import SpecError, first_line
from tlt_prune.tasks.steps.weights import with_weights


def is_whole_model(spec: Spec) -> bool:
    """Whether the training starts from a model file, rather than from a new model or one with some weights."""
    source = spec.train.pretrained_model_path
    return bool(source) and not source.endswith((".h5", ".hdf5"))


def starting_model(spec: Spec, classes: int, whole: keras.Model | None = None) -> keras.Model:
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


def architecture_options(spec: Spec, name: str) -> dict[str, Any]:
    """Options of the section `model`, for an architecture by its name."""
    from tlt_prune import models

    m = spec.model
    shared: dict[str, Any] = {
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
    own = {"use_pooling": m.use_pooling, "all_projections": m.all_projections}
    return {**shared, **{key: value for key, value in own.items() if key in models.own_options(name)}}


def _new_model(spec: Spec, classes: int) -> keras.Model:
    from tlt_prune import models

    m = spec.model
    shared = architecture_options(spec, m.backbone)
    size = (m.input_height, m.input_width, m.input_channels)
    if m.retain_head and m.dropout:
        raise SpecError("model.dropout belongs to the toolkit's head. Expected 0 with model.retain_head: true.")
    try:
        if m.retain_head:
            return models.build(m.backbone, size, classes, **shared)
        return models.classifier(m.backbone, size, classes, dropout=m.dropout, **shared)
    except ValueError as error:
        raise SpecError(f"model: {first_line(error)}") from error
