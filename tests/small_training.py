"""A training that takes a second: what tests of the loop share."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import keras

from tlt_prune import data, training
from tlt_prune.config.specs import Dataset, Train

DIGITS = Dataset(train_dataset_path="sklearn_digits")
SIZE = (8, 8, 1)
FORM = data.PictureFormat(*SIZE)


def small_model() -> keras.Model:
    keras.utils.set_random_seed(5)
    x = keras.Input(SIZE)
    y = keras.layers.Conv2D(8, 3, name="c")(x)
    y = keras.layers.BatchNormalization(name="bn")(y)
    y = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(y))
    return keras.Model(x, keras.layers.Dense(10, activation="softmax", name="head")(y))


def run(
    folder: pathlib.Path,
    epochs: int = 3,
    identity: dict[str, object] | None = None,
    restart: bool = False,
    say: Callable[[str], None] = print,
    model: Callable[[], keras.Model] = small_model,
    teacher: keras.Model | None = None,
    pruned: bool = False,
    as_arrays: bool = False,
    **changes: object,
) -> training.TrainResult:
    config = Train(num_epochs=epochs, batch_size_per_gpu=64, tensorboard=False, **changes)  # type: ignore[arg-type]
    splits = data.load_splits(DIGITS, FORM)
    small = [dataclasses.replace(s, images=s.images[:200], labels=s.labels[:200]) for s in splits]
    validation = data.evaluation_pipeline(small[1], DIGITS, FORM, batch_size=200, channels_first=False).batches

    def make_batches(first_epoch: int) -> data.Pipeline:
        return data.training_pipeline(
            small[0], DIGITS, FORM, data.BatchOrder(64, seed=1, first_epoch=first_epoch, epochs=epochs), channels_first=False
        )

    if as_arrays:
        ((x, y),) = validation.as_numpy_iterator()
        validation = x, y
    job = training.TrainingJob(
        model, make_batches, validation, config, training.classification(config), identity or {}, teacher=teacher, pruned=pruned
    )
    return training.train(job, folder, restart=restart, say=say)
