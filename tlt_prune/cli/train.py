"""Trains a classifier, or retrains a pruned one.

  tlt-train -e specs/demo_digits.yaml
  tlt-train -e specs/demo_digits.yaml --set train.pretrained_model_path=results/prune/model.keras

Writes model.keras, history.csv, checkpoints/ and tensorboard/ to <results_dir>/train. Run again after
being killed, it goes on from the last finished epoch.
"""

from __future__ import annotations

from typing import Any

from absl import flags

from tlt_prune import extras, files
from tlt_prune.cli import common
from tlt_prune.cli.startup import import_frameworks
from tlt_prune.specs import Spec

FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", None, "Folder for this training; default <results_dir>/train.", short_name="o")


def main(argv: list[str]) -> None:
    spec = common.load(argv, {})
    folder = files.output_folder(FLAGS.output_dir or f"{spec.results_dir}/train")
    extras.require("train", "tlt-train")
    import_frameworks()
    from tlt_prune import data, training
    from tlt_prune.cli import models as model_files

    model_files.seed(spec)
    size = model_files.picture_size(spec)
    train_split, test_split = data.load_splits(spec.dataset, size)
    channels_first = spec.model.data_format == "channels_first"
    start = spec.train.pretrained_model_path or f"a new {spec.model.backbone}"
    common.say(
        f"Training {start} for {spec.train.num_epochs} epochs on {len(train_split)} pictures of "
        f"{len(train_split.classes)} classes; {len(test_split)} pictures are held out. Results: {folder}"
    )

    def make_batches(first_epoch: int) -> tuple[Any, int]:
        if first_epoch:
            common.say(f"Going on after epoch {first_epoch}, from the last checkpoint.")
        pipeline = data.training_pipeline(
            train_split,
            spec.dataset,
            size,
            batch_size=spec.train.batch_size_per_gpu,
            seed=spec.train.random_seed,
            first_epoch=first_epoch,
            epochs=spec.train.num_epochs,
            channels_first=channels_first,
        )
        return pipeline.batches, pipeline.steps

    validation = data.evaluation_pipeline(
        test_split, spec.dataset, size, batch_size=spec.evaluate.batch_size, channels_first=channels_first
    )
    result = training.train(
        lambda: model_files.starting_model(spec, len(train_split.classes)),
        make_batches,
        validation.batches,
        spec.train,
        folder,
        identity=f"{spec.model}\n{spec.dataset}",
    )
    files.write_text(folder / "classmap.json", model_files.classmap(train_split.classes))
    _report(spec, result)


def _report(spec: Spec, result: Any) -> None:
    last = result.history.iloc[-1] if len(result.history) else None
    common.say(f"\nTrained {result.epochs} epochs; {result.model.count_params():,} parameters.")
    if last is not None:
        common.say(f"Accuracy on the held-out pictures: {100 * last['val_accuracy']:.2f} %")
    common.say(f"Wrote {result.path}")
    common.say(f"Next: tlt-prune{common.spec_flag()} -m {result.path} -o {spec.results_dir}/prune/model.keras")


def entry() -> None:
    common.run(main)


if __name__ == "__main__":
    entry()
