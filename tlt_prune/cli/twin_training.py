"""What comes after channels: weights that are sparse or share values, trained so on the model's tf_keras twin."""

from __future__ import annotations

import pathlib
from typing import Any

from tlt_prune import extras
from tlt_prune.cli import common
from tlt_prune.config.specs import Spec
from tlt_prune.errors import SpecError


def train_on_twin(spec: Spec, source: str, output: pathlib.Path, dry_run: bool) -> list[str]:
    """Writes `source` with 2:4 sparsity or clustered weights; with `dry_run`, prints what would get them.

    Returns:
        What to say once the file is in its place.
    """
    key, what = ("sparsity", "2:4 sparsity") if spec.prune.sparsity != "none" else ("clusters", "clustered weights")
    if "train_dataset_path" not in spec.dataset.model_fields_set:
        raise SpecError(f"prune.{key}: expected a spec (-e) whose dataset.train_dataset_path is the model's training data.")
    extras.require("train", f"tlt-prune with {what}")
    from tlt_prune import data, quantization, training
    from tlt_prune.cli.models import agreed, seed
    from tlt_prune.io import model_info
    from tlt_prune.onnx.predictor import keras_predictor, keras_runner
    from tlt_prune.training.saving import save_model

    table = quantization.sparsity_table if key == "sparsity" else quantization.cluster_table
    seed(spec)
    predictor = keras_predictor(pathlib.Path(source))
    if dry_run:
        common.say(table(predictor.model).to_string())
        return []
    spec, form, first = agreed(spec, predictor)
    splits = data.load_splits(spec.dataset, form)
    outputs = int(predictor.model.outputs[0].shape[-1])
    classes = model_info.classes_of(predictor.info, splits[0].classes, outputs, source)
    train_split, test_split = (data.matched(x, classes, "The dataset") for x in splits)
    held_out = data.evaluation_pipeline(
        test_split, spec.dataset, form, batch_size=spec.evaluate.batch_size, channels_first=first
    ).batches
    epochs = spec.prune.sparsity_epochs
    how = how_to_train(spec, train_split, form, first, epochs)
    common.say(f"{what[0].upper()}{what[1:]}: training {source} for {epochs} epochs on {len(train_split)} pictures.")
    if key == "sparsity":
        model, difference = quantization.sparsify(predictor.model, **how)
    else:
        model, difference = quantization.cluster_weights(predictor.model, clusters=spec.prune.clusters, **how)
    common.say(f"Its tf_keras twin is equal to it, to {difference:.1e}.")
    common.say(table(model).to_string(float_format="{:.2f}".format))

    run = keras_runner(model)
    before, after = (
        training.score(predict, held_out, test_split.classes, 1).accuracy for predict in (predictor, lambda x: run(x)[0])
    )
    common.say(f"Accuracy on the held-out pictures: {100 * before:.2f} % before, {100 * after:.2f} % with {what}.")
    save_model(model, output, info=predictor.info)
    return [f"Wrote {output}", f"Next: tlt-export{common.spec_flag()} -m {output}"]


def how_to_train(spec: Spec, split: Any, form: Any, channels_first: bool, epochs: int) -> dict[str, Any]:
    """The arguments of what trains on the twin."""
    from tlt_prune.cli.training_run import training_pictures

    pipeline = training_pictures(spec, split, form, channels_first, 0, epochs)
    return {
        "data": pipeline.batches,
        "epochs": epochs,
        "steps_per_epoch": pipeline.steps,
        "learning_rate": spec.train.lr_config.learning_rate / 10,
    }
