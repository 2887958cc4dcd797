"""Steps at the start of a training that are the same for every task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras

from tlt_prune import quantization
from tlt_prune.config import QatConfig, Train
from tlt_prune.errors import SpecError
from tlt_prune.io import model_info, say
from tlt_prune.onnx import Predictor, load_predictor
from tlt_prune.training.retrain_callbacks import WARM_UP

if TYPE_CHECKING:
    import tensorflow as tf


def seed(number: int) -> None:
    """Seeds the random numbers of Python, NumPy and Keras."""
    keras.utils.set_random_seed(number)


def read_teacher(path: str) -> Predictor | None:
    """The model file that `train.distill.teacher` names; None for an empty path.

    Raises:
        SpecError: it is no Keras model.
    """
    if not path:
        return None
    teacher = load_predictor(path)
    if teacher.model is None:
        raise SpecError(f"train.distill.teacher: expected a .keras or .h5 file. Received: {teacher.path}.")
    return teacher


def check_classes(teacher: Predictor | None, classes: Sequence[str]) -> None:
    """Raises SpecError where a teacher was trained on other classes than `classes`, or in another order."""
    if teacher is not None and teacher.info is not None and teacher.info.classes != tuple(classes):
        raise SpecError(
            f"train.distill.teacher: {teacher.path} was trained on the classes {', '.join(teacher.info.classes[:10])}. Expected "
            f"those of this training, in the same order: {', '.join(classes[:10])}."
        )


def start_quantization_aware(model: keras.Model, pictures: tf.data.Dataset, count: int, config: QatConfig) -> keras.Model:
    """A model that trains in int8, with ranges from `count` training pictures; one that does so already stays."""
    if quantization.is_quantization_aware(model):
        return model
    say(f"Quantization-aware: int8 ranges start from {count} training pictures.")
    return quantization.quantization_aware(
        model,
        pictures,
        learned=config.ranges == "learned",
        method=config.method,
        percentile=config.percentile,
        excluded=config.excluded_layers,
    )


def is_pruned(start: Predictor | None) -> bool:
    """Whether a training starts from a model that was pruned."""
    return start is not None and start.info is not None and bool(start.info.pruning)


def retraining_defaults(train: Train, start: Predictor | None) -> Train:
    """The `train` section of a training: for a pruned model, what it leaves open is the recipe, which is said in one line.

    The learning rate is measured and rises over a tenth of the training, there is no weight decay, and the model that was pruned
    teaches, where its file is still there.
    """
    if start is None or not is_pruned(start):
        return train
    changes: dict[str, object] = {}
    told = []
    rate, decay, distill = train.lr_config, train.reg_config, train.distill
    if "soft_start" not in rate.model_fields_set:
        changes["lr_config"] = rate.model_copy(update={"soft_start": WARM_UP})
    if rate.learning_rate == "auto":
        told.append("the learning rate is measured")
    if not decay.model_fields_set:
        changes["reg_config"] = decay.model_copy(update={"type": "none"})
        told.append("there is no weight decay")
    if "teacher" not in distill.model_fields_set and not train.qat:
        unpruned = model_info.unpruned_file(start.info)
        if unpruned is not None:
            changes["distill"] = distill.model_copy(update={"teacher": str(unpruned)})
            told.append(f"{unpruned} teaches")
        elif start.info is not None and start.info.unpruned:
            told.append(f"labels alone teach, since {start.info.unpruned} is not there as it was pruned")
    if told:
        say(f"Retraining a pruned model: {', '.join(told)}. Keys of `train` in the spec say otherwise.")
    return train.model_copy(update=changes)
