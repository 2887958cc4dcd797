"""A third task, in one file: the mean brightness of a picture, by regression."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tlt_prune.errors import SpecError
from tlt_prune.io import files, places
from tlt_prune.io.console import say
from tlt_prune.tasks import Examples, Measure, Task, register
from tlt_prune.tasks.task import Inputs

SIZE = 8


@register
class Brightness(Task):
    name = "brightness"
    sections = ("brightness_config",)
    measure = Measure("val_r2", "Share of the variance explained", "R2")
    score_files = ("evaluation.json",)

    @property
    def has_data(self) -> bool:
        return "brightness_config" in self.spec.experiment

    def data_inputs(self) -> dict[str, str]:
        return {}

    def split(self, seed: int) -> tuple[Any, Any]:
        """Pictures `(n, 8, 8, 1)` and their brightness `(n, 1)`, 0 to 1."""
        config = self.spec.experiment["brightness_config"]
        if set(config) != {"pictures"}:
            raise SpecError(f"brightness_config: expected the key 'pictures'. Received: {', '.join(config)}.")
        rng = np.random.default_rng(seed)
        level = rng.uniform(size=(config["pictures"], 1, 1, 1))
        x = (level * rng.uniform(size=(config["pictures"], SIZE, SIZE, 1))).astype(np.float32)
        return x, x.mean(axis=(1, 2))

    def training(self, folder: pathlib.Path) -> Any:
        import keras

        from tlt_prune import training
        from tlt_prune.io.model_files import load_keras

        config = self.spec.train
        keras.utils.set_random_seed(config.random_seed)

        def make_model() -> keras.Model:
            if config.pretrained_model_path:
                return load_keras(pathlib.Path(config.pretrained_model_path))
            image = keras.Input((SIZE, SIZE, 1), name="image")
            y = keras.layers.Conv2D(32, 3, activation="relu", name="features")(image)
            y = keras.layers.GlobalAveragePooling2D()(y)
            return keras.Model(image, keras.layers.Dense(1, name="brightness")(y), name="brightness")

        x, y = self.split(0)
        size = config.batch_size_per_gpu

        def make_batches(first_epoch: int) -> Any:
            import tensorflow as tf

            from tlt_prune.data import Pipeline

            return Pipeline(tf.data.Dataset.from_tensor_slices((x, y)).batch(size).repeat(), -(-len(x) // size))

        objective = training.Objective(
            lambda: {"loss": "mse", "metrics": [keras.metrics.R2Score(name="r2")]},
            lambda step, total: config.lr_config.learning_rate,
            self.measure.column,
            self.measure.label,
        )
        return training.TrainingJob(make_model, make_batches, self.split(1), config, objective, self.spec.experiment)

    def evaluate(self, path: str, folder: pathlib.Path) -> None:
        from tlt_prune.onnx import load_predictor

        x, y = self.split(1)
        error = float(np.sqrt(np.mean((load_predictor(path)(x) - y) ** 2)))
        files.write_json(folder / "evaluation.json", {"rmse": error})
        say(f"Root mean square error {error:.4f}")

    def infer(self, path: str, folder: pathlib.Path, inputs: Inputs, *, draw: bool) -> None:
        from tlt_prune.onnx import load_predictor

        target = folder / "brightness.csv"
        with places.writing(inputs, [places.Output("The results (-o)", target)], "measuring into"):
            values = load_predictor(path)(self.split(1)[0])
            files.write_text(target, "brightness\n" + "".join(f"{value:.4f}\n" for value in values[:, 0]))
        say(f"Wrote {target}")

    def examples(self, predictor: Any, *, required: bool) -> Examples:
        x, y = self.split(0)
        return Examples(x, y, "mse", "mse")

    def export_material(self, predictor: Any) -> Any:
        return Material(self, predictor)


class Material:
    """What its files are made and checked with."""

    channels_first = False
    size = (SIZE, SIZE)

    def __init__(self, task: Brightness, predictor: Any) -> None:
        self.spec, self.predictor, self._task = task.spec, predictor, task

    def samples(self) -> Any:
        return self._task.split(1)[0]

    def calibration(self) -> Any:
        return self._task.split(0)[0]

    def training(self, epochs: int) -> Mapping[str, Any]:
        return self._task.twin_training(self.predictor, epochs, "export.litert_qat_epochs").arguments

    def write_decoded(self, onnx: pathlib.Path, path: pathlib.Path, samples: Any) -> str:
        raise SpecError("export.decoding: expected false for a number.")

    def pictures(self) -> None:
        """No second signature: a number is measured on what the model takes."""
        return
