"""A training as a spec describes it: what `tlt-train` does, and `tlt-prune` between the steps of a schedule."""

from __future__ import annotations

import pathlib
from typing import Any

from tlt_prune import data, training
from tlt_prune.cli import common
from tlt_prune.cli import models as model_files
from tlt_prune.config.sections import QatConfig
from tlt_prune.config.specs import Spec
from tlt_prune.errors import SpecError
from tlt_prune.io import files, model_info
from tlt_prune.onnx.predictor import load_predictor


def run_training(spec: Spec, folder: pathlib.Path, *, restart: bool) -> tuple[Spec, Any]:
    """Trains into `folder`; returns the spec with what its model knows, and the `TrainResult`.

    Raises:
        TltPruneError: something in the spec, the model or the data does not fit.
    """
    model_files.seed(spec)
    start = load_predictor(spec.train.pretrained_model_path) if model_files.is_whole_model(spec) else None
    if start is None:
        form, channels_first = model_files.picture_format(spec), spec.model.data_format == "channels_first"
    elif start.model is None:
        raise SpecError(f"train.pretrained_model_path: expected a .keras, .h5 or .hdf5 file. Received: {start.path}.")
    else:
        spec, form, channels_first = model_files.agreed(spec, start)
    if spec.train.qat and start is None:
        raise SpecError("train.qat: expected a trained model in train.pretrained_model_path (.keras), to be trained on in int8.")
    teacher = read_teacher(spec)
    train_split, test_split = data.load_splits(spec.dataset, form)
    if start is not None and start.info is not None and set(start.info.classes) == set(train_split.classes):
        # The head stays what it is, whatever the order of the folders.
        train_split, test_split = (data.matched(x, start.info.classes, "The dataset") for x in (train_split, test_split))
    classes = tuple(train_split.classes)
    common.say(
        f"Training {spec.train.pretrained_model_path or f'a new {spec.model.backbone}'} for {spec.train.num_epochs} epochs on "
        f"{len(train_split)} pictures of {len(classes)} classes; {len(test_split)} pictures are held out. Results: {folder}"
    )
    if start is not None and start.info is not None and start.info.classes != classes:
        common.say(f"Its classes were {', '.join(start.info.classes[:10])}; from now on they are those of the dataset.")
    if teacher is not None and teacher.info is not None and teacher.info.classes != classes:
        raise SpecError(
            f"train.distill.teacher: {teacher.path} was trained on the classes {', '.join(teacher.info.classes[:10])}. Expected "
            f"those of this training, in the same order: {', '.join(classes[:10])}."
        )
    absent = data.missing_classes(test_split)
    if absent:
        common.say(f"No pictures are held out of {len(absent)} classes: {', '.join(absent[:5])}.")
    shared = data.shared_pictures(train_split, test_split)
    if shared:
        common.say(f"{shared} of the {len(test_split)} held-out pictures are training pictures too: scores will be too good.")

    def make_batches(first_epoch: int) -> tuple[Any, int]:
        pipeline = training_pictures(spec, train_split, form, channels_first, first_epoch, spec.train.num_epochs)
        return pipeline.batches, pipeline.steps

    def make_model() -> Any:
        model = model_files.starting_model(spec, len(classes), start.model if start is not None else None)
        if not spec.train.qat:
            return model
        few = train_split.sample(spec.train.qat_config.samples, spec.train.random_seed)
        pictures = data.evaluation_pipeline(
            few, spec.dataset, form, batch_size=spec.evaluate.batch_size, channels_first=channels_first
        )
        return quantization_aware(model, pictures.batches, len(few), spec.train.qat_config)

    validation = data.evaluation_pipeline(
        test_split, spec.dataset, form, batch_size=spec.evaluate.batch_size, channels_first=channels_first
    )
    result = training.train(
        make_model,
        make_batches,
        validation.batches,
        spec.train,
        folder,
        identity={
            "model": spec.model.model_dump(),
            "dataset": spec.dataset.model_dump(),
            "classes": classes,
            "pictures": [len(train_split), len(test_split)],
            "contents": [train_split.checksum(), test_split.checksum()],
        },
        info=model_info.of_spec(spec, classes, start.info if start is not None else None),
        teacher=None if teacher is None else teacher.model,
        restart=restart,
        say=common.say,
    )
    files.write_text(folder / "classmap.json", model_files.classmap(classes))
    return spec, result


def training_pictures(spec: Spec, split: Any, form: Any, channels_first: bool, first_epoch: int, epochs: int) -> data.Pipeline:
    """Epochs `first_epoch` to `epochs` of a split, in batches as the spec's training has them."""
    return data.training_pipeline(
        split,
        spec.dataset,
        form,
        batch_size=spec.train.batch_size_per_gpu,
        seed=spec.train.random_seed,
        first_epoch=first_epoch,
        epochs=epochs,
        channels_first=channels_first,
    )


def quantization_aware(model: Any, pictures: Any, count: int, config: QatConfig) -> Any:
    """A model that trains in int8, with ranges from `count` training pictures; one that does so already stays."""
    from tlt_prune import quantization

    if quantization.is_quantization_aware(model):
        return model
    common.say(f"Quantization-aware: int8 ranges start from {count} training pictures.")
    return quantization.quantization_aware(
        model,
        pictures,
        learned=config.ranges == "learned",
        method=config.method,
        percentile=config.percentile,
        excluded=config.excluded_layers,
    )


def read_teacher(spec: Spec) -> Any:
    """The model that `train.distill` names, as it was loaded, or None."""
    if not spec.train.distill.teacher:
        return None
    teacher = load_predictor(spec.train.distill.teacher)
    if teacher.model is None:
        raise SpecError(f"train.distill.teacher: expected a .keras or .h5 file. Received: {teacher.path}.")
    # It must see what it was trained on.
    model_info.agreed(spec, teacher.info, str(teacher.path))
    return teacher
