"""Exports a model to SavedModel and ONNX, and proves that the files compute what Keras computes.

  tlt-export -e specs/demo_digits.yaml -m results/retrain/model.keras
  tlt-export -m model.keras -o model.onnx --set export.onnx_layout=NCHW --set export.opset=13

The written files are compared with Keras on pictures of the spec's test split; one that differs by more than
export.tolerance is not written. Prints the trtexec command that builds a float16 TensorRT engine.
"""

from __future__ import annotations

import pathlib

import numpy as np
from absl import flags

from tlt_prune import extras, files
from tlt_prune.cli import common
from tlt_prune.cli.startup import import_frameworks
from tlt_prune.errors import SpecError

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "Trained .keras model.", short_name="m")
flags.DEFINE_string("output_file", None, "ONNX file to write.", short_name="o")
flags.DEFINE_integer("opset", None, "ONNX opset, 13 to 17.")
flags.DEFINE_enum("onnx_layout", None, ["NHWC", "NCHW"], "Layout of the ONNX input.")


def main(argv: list[str]) -> None:
    overrides = {
        "export.model_path": FLAGS.model,
        "export.onnx_file": FLAGS.output_file,
        "export.opset": FLAGS.opset,
        "export.onnx_layout": FLAGS.onnx_layout,
    }
    spec = common.load(argv, overrides)
    e = spec.export
    source = common.required(e.model_path, "export.model_path", "-m")
    onnx_path = pathlib.Path(e.onnx_file or f"{spec.results_dir}/export/model.onnx")
    saved_model_path = pathlib.Path(e.saved_model_dir or f"{spec.results_dir}/export/saved_model")
    files.output_folder(onnx_path.parent)
    extras.require("train", "tlt-export")
    extras.require("export", "tlt-export")
    import_frameworks()
    from tlt_prune import data
    from tlt_prune.cli.models import agreed
    from tlt_prune.export import export_onnx, export_saved_model, load_predictor, trtexec_command

    predictor = load_predictor(source)
    model = predictor.model
    if model is None:
        raise SpecError(f"export.model_path: expected a .keras file. Received: {source}.")
    spec, form, first = agreed(spec, predictor)
    split = data.load_test_split(spec.dataset, form, spec.evaluate.dataset_path).head(e.parity_samples)
    batches = data.evaluation_pipeline(split, spec.dataset, form, batch_size=e.parity_samples, channels_first=first).batches
    samples = np.asarray(next(iter(batches))[0])
    if "saved_model" in e.formats:
        error = export_saved_model(model, saved_model_path, samples, e.tolerance, predictor.info)
        common.say(f"Wrote {saved_model_path}: equal to Keras on {len(samples)} pictures, to {error:.1e}.")
    if "onnx" in e.formats:
        error = export_onnx(
            model, onnx_path, samples, opset=e.opset, layout=e.onnx_layout, tolerance=e.tolerance, info=predictor.info
        )
        common.say(
            f"Wrote {onnx_path}: opset {e.opset}, {e.onnx_layout}, equal to Keras on {len(samples)} pictures, to {error:.1e}."
        )
        common.say("TensorRT engine, float16:")
        command = trtexec_command(
            onnx_path, form.size[:2], minimum=e.min_batch_size, optimum=e.opt_batch_size, maximum=e.max_batch_size
        )
        common.say(f"  {command}")
        common.say(f"Next: tlt-evaluate{common.spec_flag()} -m {onnx_path}")


def entry() -> None:
    common.run(main)


if __name__ == "__main__":
    entry()
