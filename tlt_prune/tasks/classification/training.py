"""Training data of a classifier: for `tlt-train`, for criteria and compensations, for a tf_keras twin."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tlt_prune import data, training
from tlt_prune.config import Spec
from tlt_prune.errors import SpecError
from tlt_prune.io import model_info, say
from tlt_prune.onnx import Predictor, load_predictor
from tlt_prune.tasks.classification.models import is_whole_model, starting_model
from tlt_prune.tasks.classification.pictures import agreed_format, as_inputs, picture_format
from tlt_prune.tasks.steps.data import say_shared
from tlt_prune.tasks.steps.starting import (
    check_classes,
    is_pruned,
    read_teacher,
    retraining_defaults,
    seed,
    start_quantization_aware,
)
from tlt_prune.tasks.task import Examples, Task, TwinTraining, stacked

if TYPE_CHECKING:
    import keras

# As a metric, the loss tells more chunks of channels apart than the accuracy does.
_LOSS = "categorical_crossentropy"


def training_job(spec: Spec, folder: pathlib.Path) -> training.TrainingJob:
    """Reads the model and the data that the spec names.

    Raises:
        TltPruneError: something in the spec, the model or the data does not fit.
    """
    begun = begin(spec)
    spec, start, form, channels_first = begun.spec, begun.start, begun.form, begun.channels_first
    teacher = read_agreed_teacher(spec)
    splits = data.load_splits(spec.dataset, form)
    if start is not None and start.info is not None and set(start.info.classes) == set(splits[0].classes):
        # The head stays what it is, whatever the order of the folders.
        classes = start.info.classes
        splits = data.matched(splits[0], classes, "The dataset"), data.matched(splits[1], classes, "The dataset")
    train_split, test_split = splits
    classes = tuple(train_split.classes)
    _describe(spec, splits, folder, start)
    check_classes(teacher, classes)

    def make_batches(first_epoch: int) -> data.Pipeline:
        return training_pictures(spec, train_split, form, channels_first, range(first_epoch, spec.train.num_epochs))

    def make_model() -> keras.Model:
        model = starting_model(spec, len(classes), start.model if start is not None else None)
        if not spec.train.qat:
            return model
        few = train_split.sample(spec.train.qat_config.samples, spec.train.random_seed)
        pictures = as_inputs(spec, few, form, channels_first=channels_first)
        return start_quantization_aware(model, pictures, len(few), spec.train.qat_config)

    return training.TrainingJob(
        make_model,
        make_batches,
        as_inputs(spec, test_split, form, channels_first=channels_first),
        spec.train,
        training.classification(spec.train),
        identity={
            "model": spec.model.model_dump(),
            "dataset": spec.dataset.model_dump(),
            "classes": classes,
            "pictures": [len(train_split), len(test_split)],
            "contents": [train_split.checksum(), test_split.checksum()],
        },
        info=model_info.of_spec(spec, classes, start.info if start is not None else None),
        teacher=None if teacher is None else teacher.model,
        pruned=is_pruned(start),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Beginning:
    """What a training of a classifier starts from.

    Attributes:
        spec: with what the model file knows, and with the recipe where it was pruned.
        start: the model file; None for a new model.
        form: of the pictures.
        channels_first: whether the model takes them so.
    """

    spec: Spec
    start: Predictor | None
    form: data.PictureFormat
    channels_first: bool


def begin(spec: Spec) -> Beginning:
    """Seeds the training and reads the model file that it starts from.

    Raises:
        SpecError: the file is no Keras model, or says otherwise than the spec.
    """
    seed(spec.train.random_seed)
    start = load_predictor(spec.train.pretrained_model_path) if is_whole_model(spec) else None
    if start is None:
        form, channels_first = picture_format(spec), spec.model.data_format == "channels_first"
    elif start.model is None:
        raise SpecError(f"train.pretrained_model_path: expected a .keras, .h5 or .hdf5 file. Received: {start.path}.")
    else:
        spec, form, channels_first = agreed_format(spec, start)
    spec = spec.model_copy(update={"train": retraining_defaults(spec.train, start)})
    if spec.train.qat and start is None:
        raise SpecError("train.qat: expected a trained model in train.pretrained_model_path (.keras), to be trained on in int8.")
    return Beginning(spec, start, form, channels_first)


def read_agreed_teacher(spec: Spec) -> Predictor | None:
    """The teacher of the spec, if any.

    Raises:
        SpecError: it was trained on other pictures than the spec describes.
    """
    teacher = read_teacher(spec.train.distill.teacher)
    if teacher is not None:
        # It must see what it was trained on.
        model_info.agreed(spec, teacher.info, str(teacher.path))
    return teacher


def _describe(spec: Spec, splits: tuple[data.Split, data.Split], folder: pathlib.Path, start: Predictor | None) -> None:
    """Prints what is trained on what, and what looks like a mistake in the data."""
    train_split, test_split = splits
    classes = tuple(train_split.classes)
    say(
        f"Training {spec.train.pretrained_model_path or f'a new {spec.model.backbone}'} for {spec.train.num_epochs} epochs on "
        f"{len(train_split)} pictures of {len(classes)} classes; {len(test_split)} pictures are held out. Results: {folder}"
    )
    if start is not None and start.info is not None and start.info.classes != classes:
        say(f"Its classes were {', '.join(start.info.classes[:10])}; from now on they are those of the dataset.")
    absent = data.missing_classes(test_split)
    if absent:
        say(f"No pictures are held out of {len(absent)} classes: {', '.join(absent[:5])}.")
    say_shared(train_split.images, test_split.images)


def training_pictures(
    spec: Spec, split: data.Split, form: data.PictureFormat, channels_first: bool, epochs: range
) -> data.Pipeline:
    """The given epochs of a split, in batches as the spec's training has them."""
    order = data.BatchOrder(
        batch_size=spec.train.batch_size_per_gpu,
        seed=spec.train.random_seed,
        first_epoch=epochs.start,
        epochs=epochs.stop,
    )
    return data.training_pipeline(split, spec.dataset, form, order, channels_first=channels_first)


def examples(task: Task, predictor: Predictor) -> Examples:
    """See `Task.examples`; the task has data, and what reads it is installed."""
    spec, form, first = agreed_format(task.spec, predictor)
    split = _in_the_models_order(data.load_splits(spec.dataset, form)[:1], predictor)[0]
    few = split.sample(spec.prune.samples, spec.train.random_seed)
    return Examples(*stacked(as_inputs(spec, few, form, channels_first=first)), _LOSS, _LOSS)


def twin_training(task: Task, predictor: Predictor, epochs: int, key: str) -> TwinTraining:
    """See `Task.twin_training`."""
    if not task.has_data:
        raise SpecError(f"{key}: expected a spec (-e) whose dataset.train_dataset_path is the model's training data.")
    spec, form, first = agreed_format(task.spec, predictor)
    train_split, test_split = _in_the_models_order(data.load_splits(spec.dataset, form), predictor)
    pipeline = training_pictures(spec, train_split, form, first, range(epochs))
    held_out = as_inputs(spec, test_split, form, channels_first=first)
    arguments = {
        "data": pipeline.batches,
        "epochs": epochs,
        "steps_per_epoch": pipeline.steps,
        "learning_rate": spec.train.lr_config.peak / 10,
    }
    return TwinTraining(
        arguments, len(train_split), lambda predict: training.score(predict, held_out, test_split.classes, 1).accuracy
    )


def _in_the_models_order(splits: Sequence[data.Split], predictor: Predictor) -> list[data.Split]:
    """Splits whose classes are numbered as the outputs of a trained model are; the first one has all classes."""
    assert predictor.model is not None
    outputs = int(predictor.model.outputs[0].shape[-1])
    classes = model_info.classes_of(predictor.info, splits[0].classes, outputs, str(predictor.path))
    return [data.matched(x, classes, "The dataset") for x in splits]
