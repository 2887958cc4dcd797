"""Exports a model to SavedModel, ONNX and LiteRT, and proves that the files compute what Keras computes.

  tlt-export -e specs/demo_digits.yaml -m results/retrain/model.keras
  tlt-export -m model.keras -o model.onnx --set export.onnx_layout=NCHW --set export.opset=13
  tlt-export -e specs/demo_digits.yaml -m results/retrain/model.keras --data_type int8
  tlt-export -e specs/demo_digits.yaml -m results/retrain/model.keras --set export.formats=[litert]

The written files are compared with Keras on pictures of the spec's test split; one that differs by more than
export.tolerance is not written. int8 is calibrated on pictures of the training split; a float file and TensorRT's calibration
cache are written beside it. Prints the trtexec command that builds a TensorRT engine, writes a script that does, and runs it
where the tensorrt package is installed.
"""

from __future__ import annotations

import pathlib

from tlt_prune import export, extras
from tlt_prune.cli import common
from tlt_prune.cli.section_flags import SectionFlags
from tlt_prune.io import import_frameworks, places, say

_OPTIONS = SectionFlags(
    "export", renamed={"model_path": "model", "onnx_file": "output_file"}, short={"model_path": "m", "onnx_file": "o"}
)
_OPTIONS.define()


def main(argv: list[str]) -> None:
    task = common.load_task(argv, _OPTIONS.overrides())
    spec = task.spec
    source = common.required(spec.export.model_path, "export.model_path", "-m")
    extras.require("train", "tlt-export")
    import_frameworks()

    inputs = {**common.inputs_of(task), "export.model_path (-m)": source}
    inputs["export.cal_image_dir"] = spec.export.cal_image_dir
    script = [pathlib.Path(spec.export.latency_script)] if spec.export.latency_script else []
    outputs = [*export.export_outputs(spec), *(places.Output("export.latency_script", x, folder=True) for x in script)]
    with places.writing(inputs, outputs, "exporting to"):
        exported = export.source_of(spec)
        lines = export.export_formats(task.export_material(exported))
        for folder in script:
            from tlt_prune.tasks.steps.latency import script_for

            lines += script_for(exported.model, folder, spec.prune.options, spec.export.data_type)
    for line in lines:
        say(line)
    for line in export.finish_formats(spec):
        say(line)
    written = export.main_output(spec)
    if written is not None:
        say(common.next_command("tlt-evaluate", "-m", written))


def entry() -> None:
    common.run(main)


if __name__ == "__main__":
    entry()
