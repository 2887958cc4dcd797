"""Trains a model, or retrains a pruned one.

  tlt-train -e specs/demo_digits.yaml
  tlt-train -e specs/demo_digits.yaml --set train.pretrained_model_path=results/prune/model.keras

Writes model.keras, history.csv, history.png, checkpoints/ and tensorboard/ to <results_dir>/train, and best.keras where
train.keep_best is set or a detector is trained. Run again after being killed, it goes on from the last finished epoch.
"""

from __future__ import annotations

import math
import pathlib
from typing import TYPE_CHECKING

from absl import flags

from tlt_prune import extras
from tlt_prune.cli import common
from tlt_prune.errors import SpecError
from tlt_prune.io import files, import_frameworks, model_info, places, say
from tlt_prune.tasks import Task
from tlt_prune.tasks.steps.training import run_training

if TYPE_CHECKING:
    from tlt_prune.training import TrainResult

FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", None, "Folder for this training; default <results_dir>/train.", short_name="o")
flags.DEFINE_bool("restart", False, "Start afresh where the folder holds checkpoints, even those of another training.")


def main(argv: list[str]) -> None:
    task = common.load_task(argv, {})
    if not FLAGS.experiment_spec_file and not task.has_data:
        raise SpecError(
            "No spec is given. Expected -e SPEC (see specs/demo_digits.yaml), or at least --set dataset.train_dataset_path=DATA."
        )
    folder = pathlib.Path(FLAGS.output_dir or f"{task.spec.results_dir}/train")
    names = ("model.keras", "best.keras", "history.csv", "history.png", "classmap.json")
    outputs = [places.Output("The results folder (-o, -r, results_dir)", folder / name) for name in names]
    places.check({**common.inputs_of(task), **task.start_inputs()}, outputs)
    files.output_folder(folder)
    extras.require("train", "tlt-train")
    import_frameworks()
    _report(task, run_training(task, folder, restart=FLAGS.restart))


def _report(task: Task, result: TrainResult) -> None:
    measure = task.measure.column
    scores = {} if measure not in result.history else dict(zip(result.history["epoch"], result.history[measure], strict=True))
    say(f"\nTrained {result.epochs} epochs; {result.model.count_params():,} parameters.")
    if math.isfinite(scores.get(result.model_epoch, math.nan)):
        say(f"{task.measure.title} on the held-out pictures: {100 * scores[result.model_epoch]:.2f} %")
    say(f"Wrote {result.path}: {_which(result)}")
    if result.best is not None:
        which = f"after epoch {result.best_epoch}" if result.best_epoch else "the pruned model itself"
        say(f"Wrote {result.best}: {which}, {100 * scores[result.best_epoch]:.2f} %")
    info = model_info.read_info(result.path)
    ready = result.quantization_aware or (info is not None and bool(info.pruning))
    onwards = "tlt-export" if ready else "tlt-prune"
    results = task.spec.results_dir
    target = f"{results}/export/model.onnx" if ready else f"{results}/prune/model.keras"
    say(common.next_command(onwards, "-m", result.best or result.path, "-o", target))


def _which(result: TrainResult) -> str:
    """The epoch of the resulting model, in words."""
    if result.model_epoch == result.epochs:
        return "after the last epoch"
    return (
        f"after epoch {result.model_epoch}, the best one" if result.model_epoch else "the pruned model, which no epoch improved"
    )


def entry() -> None:
    common.run(main, shared=True)


if __name__ == "__main__":
    entry()
