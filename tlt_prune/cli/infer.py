"""Runs a model on pictures, a file or a folder: classifies them, or detects objects in them.

  tlt-infer -e specs/demo_digits.yaml -m results/retrain/model.keras -d pictures/ --contact_sheet

A classifier's results are predictions.csv (file, class and probability) and, with --contact_sheet, a picture of the pictures with
their classes; a detector's are label files in KITTI's format and annotated pictures. Without -d it shows pictures of the spec's
test split.
"""

from __future__ import annotations

import pathlib

from absl import flags

from tlt_prune import extras
from tlt_prune.cli import common
from tlt_prune.cli.section_flags import SectionFlags
from tlt_prune.io import import_frameworks

FLAGS = flags.FLAGS
_OPTIONS = SectionFlags(
    "inference",
    renamed={"model_path": "model"},
    short={"model_path": "m", "image_dir": "d", "classmap": "cm", "batch_size": "b"},
)
_OPTIONS.define()
flags.DEFINE_string("image", None, "One picture, in the place of --image_dir.", short_name="i")
flags.DEFINE_bool("contact_sheet", False, "Draw contact_sheet.png: up to 48 pictures with their classes.")
flags.DEFINE_string("output_dir", None, "Folder for the results; default <results_dir>/infer.", short_name="o")


def main(argv: list[str]) -> None:
    overrides = _OPTIONS.overrides()
    if FLAGS.image is not None:
        overrides["inference.image_dir"] = FLAGS.image
    task = common.load_task(argv, overrides)
    spec = task.spec
    path = common.required(spec.inference.model_path, "inference.model_path", "-m")
    folder = pathlib.Path(FLAGS.output_dir or f"{spec.results_dir}/infer")
    extras.require("train", "tlt-infer")
    import_frameworks()
    inputs = {
        **common.inputs_of(task),
        "inference.model_path (-m)": path,
        "inference.image_dir (-d)": spec.inference.image_dir,
        "inference.classmap (-cm)": spec.inference.classmap,
    }
    task.infer(path, folder, inputs, draw=FLAGS.contact_sheet)


def entry() -> None:
    common.run(main)


if __name__ == "__main__":
    entry()
