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
from tlt_prune.errors import SpecError
from tlt_prune.specs import Spec

FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", None, "Folder for this training; default <results_dir>/train.", short_name="o")
flags.DEFINE_bool("restart", False, "Start afresh where the folder holds checkpoints, even those of another training.")


def main(argv: list[str]) -> None:
    spec = common.load(argv, {})
    folder = files.output_folder(FLAGS.output_dir or f"{spec.results_dir}/train")
    extras.require("train", "tlt-train")
    import_frameworks()
    from tlt_prune import data, model_info, training
    from tlt_prune.cli import models as model_files
    from tlt_prune.export.runtime import load_predictor

    model_files.seed(spec)
    start = load_predictor(spec.train.pretrained_model_path) if model_files.is_whole_model(spec) else None
    if start is None:
        form, channels_first = model_files.picture_format(spec), spec.model.data_format == "channels_first"
    elif start.model is None:
        raise SpecError(f"train.pretrained_model_path: expected a .keras, .h5 or .hdf5 file. Received: {start.path}.")
    else:
        spec, form, channels_first = model_files.agreed(spec, start)
    train_split, test_split = data.load_splits(spec.dataset, form)
    classes = tuple(train_split.classes)
    common.say(
        f"Training {spec.train.pretrained_model_path or f'a new {spec.model.backbone}'} for {spec.train.num_epochs} epochs on "
        f"{len(train_split)} pictures of {len(classes)} classes; {len(test_split)} pictures are held out. Results: {folder}"
    )
    if start is not None and start.info is not None and start.info.classes != classes:
        common.say(f"Its classes were {', '.join(start.info.classes[:10])}; from now on they are those of the dataset.")

    def make_batches(first_epoch: int) -> tuple[Any, int]:
        pipeline = data.training_pipeline(
            train_split,
            spec.dataset,
            form,
            batch_size=spec.train.batch_size_per_gpu,
            seed=spec.train.random_seed,
            first_epoch=first_epoch,
            epochs=spec.train.num_epochs,
            channels_first=channels_first,
        )
        return pipeline.batches, pipeline.steps

    validation = data.evaluation_pipeline(
        test_split, spec.dataset, form, batch_size=spec.evaluate.batch_size, channels_first=channels_first
    )
    result = training.train(
        lambda: model_files.starting_model(spec, len(classes), start.model if start is not None else None),
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
        info=model_info.of_spec(spec, classes),
        restart=FLAGS.restart,
        say=common.say,
    )
    files.write_text(folder / "classmap.json", model_files.classmap(classes))
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
