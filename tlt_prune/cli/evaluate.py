"""Scores a model on held-out data: a .keras file, a SavedModel folder, an .onnx or a .tflite file.

  tlt-evaluate -e specs/demo_digits.yaml -m results/train/model.keras
  tlt-evaluate -e specs/demo_digits.yaml -m results/export/model.onnx

Prints the scores of the spec's task (of a classifier: top-1 and top-k accuracy, loss, precision and recall per class; of a
detector: average precision) and writes them as tables to <results_dir>/evaluate/<model>.
"""

from __future__ import annotations

import pathlib
import re

from absl import flags

from tlt_prune import extras
from tlt_prune.cli import common
from tlt_prune.cli.section_flags import SectionFlags
from tlt_prune.io import import_frameworks, places, say

FLAGS = flags.FLAGS
_OPTIONS = SectionFlags(
    "evaluate", renamed={"model_path": "model"}, short={"model_path": "m", "dataset_path": "i", "batch_size": "b"}
)
_OPTIONS.define()
flags.DEFINE_string(
    "output_dir", None, "Folder for the tables; default one for the model in <results_dir>/evaluate.", short_name="o"
)


def main(argv: list[str]) -> None:
    task = common.load_task(argv, _OPTIONS.overrides())
    spec = task.spec
    path = common.required(spec.evaluate.model_path, "evaluate.model_path", "-m")
    name = re.sub(r"[^\w-]+", "_", path).strip("_")
    folder = pathlib.Path(FLAGS.output_dir or f"{spec.results_dir}/evaluate/{name}")
    extras.require("train", "tlt-evaluate")
    inputs = {**common.inputs_of(task), "evaluate.model_path (-m)": path}
    inputs["evaluate.dataset_path (-i)"] = spec.evaluate.dataset_path
    outputs = [places.Output("The results (-o)", folder / x) for x in task.score_files]
    with places.writing(inputs, outputs, "evaluating into"):
        import_frameworks()
        task.evaluate(path, folder)
    say(f"Wrote {', '.join(task.score_files)} to the folder {folder}")


def entry() -> None:
    common.run(main, shared=True)


if __name__ == "__main__":
    entry()
