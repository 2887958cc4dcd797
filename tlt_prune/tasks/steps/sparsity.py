"""Weights that are sparse or share values, trained so on the model's tf_keras twin: what comes after channels."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from tlt_prune import extras
from tlt_prune.errors import SpecError
from tlt_prune.io import say
from tlt_prune.tasks.task import Task

if TYPE_CHECKING:
    import keras


def train_on_twin(task: Task, source: str, output: pathlib.Path, *, dry_run: bool) -> list[str]:
    """Writes `source` with 2:4 sparsity or clustered weights; with `dry_run`, prints what would get them.

    Returns:
        The line that names the file, to be printed once it is in its place.

    Raises:
        SpecError: the spec names no training data, or the task's models are not trained so.
    """
    prune = task.spec.prune
    key, what = ("sparsity", "2:4 sparsity") if prune.sparsity != "none" else ("clusters", "clustered weights")
    if not task.has_data:
        raise SpecError(f"prune.{key}: expected a spec (-e) whose dataset.train_dataset_path is the model's training data.")
    extras.require("train", f"tlt-prune with {what}")
    extras.require("sparsity", f"tlt-prune with {what}")
    from tlt_prune import quantization
    from tlt_prune.onnx import keras_predictor, keras_runner
    from tlt_prune.tasks.steps.starting import seed
    from tlt_prune.training import save_model

    table = quantization.sparsity_table if key == "sparsity" else quantization.cluster_table
    seed(task.spec.train.random_seed)
    predictor = keras_predictor(pathlib.Path(source))
    if dry_run:
        say(table(predictor.model).to_string())
        return []
    twin = task.twin_training(predictor, prune.sparsity_epochs, f"prune.{key}")
    say(f"{what[0].upper()}{what[1:]}: training {source} for {prune.sparsity_epochs} epochs on {twin.pictures} pictures.")
    model: keras.Model
    if key == "sparsity":
        model, difference = quantization.sparsify(predictor.model, **twin.arguments)
    else:
        model, difference = quantization.cluster_weights(predictor.model, clusters=prune.clusters, **twin.arguments)
    say(f"Its tf_keras twin is equal to it, to {difference:.1e}.")
    say(table(model).to_string(float_format="{:.2f}".format))
    run = keras_runner(model)
    before, after = twin.accuracy(predictor), twin.accuracy(lambda x: run(x)[0])
    say(f"Accuracy on the held-out pictures: {100 * before:.2f} % before, {100 * after:.2f} % with {what}.")
    save_model(model, output, info=predictor.info)
    return [f"Wrote {output}"]
