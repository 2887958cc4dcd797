"""Writes training data as TFRecord files: many small files become a few large ones.

  tlt-convert -e spec.yaml -o data/shards
  tlt-convert -d kitti_spec.txt -o data/tfrecords/kitti

A classifier's folder of class folders becomes shards, which dataset.train_dataset_path takes in its place; a detector's pictures
and labels in KITTI's format become the toolkit's records, as its dataset_convert writes them. Every picture is decoded once, so
that a broken one is found now. Files have checksums; run again after being killed, it goes on where it was.
"""

from __future__ import annotations

import pathlib

from absl import flags

from tlt_prune import extras
from tlt_prune.cli import common
from tlt_prune.cli.section_flags import SectionFlags
from tlt_prune.errors import SpecError
from tlt_prune.io import import_frameworks, say

FLAGS = flags.FLAGS
_OPTIONS = SectionFlags("convert", short={"output": "o", "validation_fold": "f"})
_OPTIONS.define()
flags.DEFINE_string("dataset_export_spec", None, "The toolkit's converter spec, in the place of -e.", short_name="d")


def main(argv: list[str]) -> None:
    if FLAGS.dataset_export_spec is not None:
        if FLAGS.experiment_spec_file is not None:
            raise SpecError("Both -e and -d are given. Expected one spec.")
        FLAGS.experiment_spec_file = FLAGS.dataset_export_spec
    task = common.load_task(argv, _OPTIONS.overrides())
    output = task.spec.convert.output
    if not output:
        raise SpecError("No place for the files is given. Expected convert.output in the spec, or -o on the command line.")
    extras.require("train", "tlt-convert")
    import_frameworks()
    for line in task.convert(pathlib.Path(output)):
        say(line)


def entry() -> None:
    common.run(main)


if __name__ == "__main__":
    entry()
