"""Trains a classifier or a detector, or retrains a pruned one.

  tlt-train -e specs/demo_digits.yaml
  tlt-train -e specs/demo_digits.yaml --set train.pretrained_model_path=results/prune/model.keras

Writes model.keras, history.csv, checkpoints/ and tensorboard/ to <results_dir>/train, and best.keras where
train.keep_best is set or a detector is trained. Run again after being killed, it goes on from the last finished epoch.
"""

from __future__ import annotations

import math
import pathlib
from typing import Any

from absl import flags

from tlt_prune import extras
from tlt_prune.cli import common
from tlt_prune.config.specs import Spec
from tlt_prune.errors import SpecError
from tlt_prune.io import files, model_info, places
from tlt_prune.io.frameworks import import_frameworks

FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", None, "Folder for this training; default <results_dir>/train.", short_name="o")
flags.DEFINE_bool("restart", False, "Start afresh where the folder holds checkpoints, even those of another training.")


def main(argv: list[str]) -> None:
    spec = common.load(argv, {})
    if not FLAGS.experiment_spec_file and "train_dataset_path" not in spec.dataset.model_fields_set:
        raise SpecError(
            "No spec is given. Expected -e SPEC (see specs/demo_digits.yaml), or at least --set dataset.train_dataset_path=DATA."
        )
    folder = pathlib.Path(FLAGS.output_dir or f"{spec.results_dir}/train")
    start = spec.experiment.get("model_config")
    inputs = {
        **common.spec_input(),
        **common.data_inputs(spec),
        "train.pretrained_model_path": spec.train.pretrained_model_path,
        "train.distill.teacher": spec.train.distill.teacher,
        "model_config.pretrained_model_file": start.get("pretrained_model_file") if isinstance(start, dict) else None,
    }
    names = ("model.keras", "best.keras", "history.csv", "classmap.json")
    places.check(inputs, [places.Output("The results folder (-o, -r, results_dir)", folder / name) for name in names])
    files.output_folder(folder)
    extras.require("train", "tlt-train")
    import_frameworks()
    if spec.task == "detection":
        from tlt_prune.cli.detection_training import run_training
    else:
        from tlt_prune.cli.training_run import run_training

    spec, result = run_training(spec, folder, restart=FLAGS.restart)
    _report(spec, result)


def _report(spec: Spec, result: Any) -> None:
    last = result.history.iloc[-1] if len(result.history) else None
    measure, name = ("val_map", "Mean average precision") if spec.task == "detection" else ("val_accuracy", "Accuracy")
    common.say(f"\nTrained {result.epochs} epochs; {result.model.count_params():,} parameters.")
    if last is not None and math.isfinite(last.get(measure, math.nan)):
        common.say(f"{name} on the held-out pictures: {100 * last[measure]:.2f} %")
    common.say(f"Wrote {result.path}: after the last epoch")
    if result.best is not None:
        best = result.history.set_index("epoch").loc[result.best_epoch, measure]
        common.say(f"Wrote {result.best}: after epoch {result.best_epoch}, {100 * best:.2f} %")
    info = model_info.read(result.path)
    ready = spec.train.qat or (info is not None and bool(info.pruning))
    onwards = "tlt-export" if ready else "tlt-prune"
    target = f"{spec.results_dir}/export/model.onnx" if ready else f"{spec.results_dir}/prune/model.keras"
    common.say(f"Next: {onwards}{common.spec_flag()} -m {result.best or result.path} -o {target}")


def entry() -> None:
    common.run(main)


if __name__ == "__main__":
    entry()
