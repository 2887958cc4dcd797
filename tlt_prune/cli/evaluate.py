"""Scores a model on held-out pictures: a .keras file, a SavedModel folder or an .onnx file.

  tlt-evaluate -e specs/demo_digits.yaml -m results/train/model.keras
  tlt-evaluate -e specs/demo_digits.yaml -m results/export/model.onnx

Prints top-1 and top-k accuracy, loss, precision and recall a class; writes scores.csv, per_class.csv,
confusion_matrix.csv and evaluation.json to <results_dir>/evaluate/<model>.
"""

from __future__ import annotations

import pathlib
import re
from typing import Any

import numpy as np
from absl import flags

from tlt_prune import extras
from tlt_prune.cli import common
from tlt_prune.config.specs import Spec
from tlt_prune.io import files, places
from tlt_prune.io.frameworks import import_frameworks

_FILES = ("scores.csv", "per_class.csv", "confusion_matrix.csv", "evaluation.json")

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "Model to score.", short_name="m")
flags.DEFINE_string("dataset_path", None, "Folder of class folders, or .npz; default the spec's test split.", short_name="i")
flags.DEFINE_integer("batch_size", None, common.with_default("Pictures a batch.", "evaluate.batch_size"), short_name="b")
flags.DEFINE_string(
    "output_dir", None, "Folder for the tables; default one for the model in <results_dir>/evaluate.", short_name="o"
)


def main(argv: list[str]) -> None:
    overrides = {
        "evaluate.model_path": FLAGS.model,
        "evaluate.dataset_path": FLAGS.dataset_path,
        "evaluate.batch_size": FLAGS.batch_size,
    }
    spec = common.load(argv, overrides)
    path = common.required(spec.evaluate.model_path, "evaluate.model_path", "-m")
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", path).strip("_")
    folder = pathlib.Path(FLAGS.output_dir or f"{spec.results_dir}/evaluate/{name}")
    extras.require("train", "tlt-evaluate")
    detects = spec.task == "detection"
    names = ("per_class.csv", "evaluation.json", "precision_recall.png") if detects else _FILES
    inputs = {**common.spec_input(), **common.data_inputs(spec), "evaluate.model_path (-m)": path}
    inputs["evaluate.dataset_path (-i)"] = spec.evaluate.dataset_path
    outputs = [places.Output("The results (-o)", folder / x) for x in names]
    with places.writing(inputs, outputs, "evaluating into"):
        import_frameworks()
        if detects:
            from tlt_prune.cli.detecting import run_evaluation

            run_evaluation(spec, path, folder)
        else:
            _evaluate(spec, path, folder)
    common.say(f"Wrote {', '.join(names)} to the folder {folder}")


def _evaluate(spec: Spec, path: str, folder: pathlib.Path) -> None:
    from tlt_prune import data, training
    from tlt_prune.cli.models import agreed, facts
    from tlt_prune.export import latency_ms, load_predictor
    from tlt_prune.io import model_info

    predictor = load_predictor(path)
    spec, form, first = agreed(spec, predictor)
    split = data.load_test_split(spec.dataset, form, spec.evaluate.dataset_path)
    common.say(f"Scoring {path} on {len(split)} pictures of {len(split.classes)} classes.")

    def batches_of(pictures: Any) -> Any:
        return data.evaluation_pipeline(
            pictures, spec.dataset, form, batch_size=spec.evaluate.batch_size, channels_first=first
        ).batches

    one = np.concatenate([np.asarray(images) for images, _ in batches_of(split.head(1))])
    outputs = int(predictor(one).shape[-1])
    split = data.matched(split, model_info.classes_of(predictor.info, split.classes, outputs, path), "The dataset")
    missing = data.missing_classes(split)
    if missing:
        common.say(f"There are no pictures of {len(missing)} of the model's classes: {', '.join(missing[:5])}.")
    scores = training.score(predictor, batches_of(split), split.classes, spec.evaluate.top_k)
    report = {
        **facts(predictor, path),
        "accuracy": scores.accuracy,
        f"top_{scores.top_k}_accuracy": scores.top_k_accuracy,
        "loss": scores.loss,
        "pictures": len(split),
        "latency_ms": latency_ms(predictor, one),
    }
    scores.save(folder)
    files.write_json(folder / "evaluation.json", report)
    common.say(scores.per_class.round(4).to_string())
    common.say(
        f"\naccuracy {100 * scores.accuracy:.2f} %   top-{scores.top_k} {100 * scores.top_k_accuracy:.2f} %   "
        f"loss {scores.loss:.4f}   parameters {predictor.params:,}   latency at batch 1 {report['latency_ms']:.2f} ms"
    )


def entry() -> None:
    common.run(main)


if __name__ == "__main__":
    entry()
