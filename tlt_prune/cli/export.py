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

import dataclasses
import pathlib
from typing import Any

import numpy as np
from absl import flags

from tlt_prune import extras
from tlt_prune.cli import common
from tlt_prune.config.specs import Spec
from tlt_prune.errors import SpecError
from tlt_prune.io import files, places
from tlt_prune.io.console import say
from tlt_prune.io.frameworks import import_frameworks
from tlt_prune.tasks import Task

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "Trained .keras model.", short_name="m")
flags.DEFINE_string("output_file", None, "ONNX file to write; default <results_dir>/export/model.onnx.", short_name="o")
flags.DEFINE_integer("opset", None, common.with_default("ONNX opset, 13 to 17.", "export.opset"))
flags.DEFINE_enum("onnx_layout", None, ["NHWC", "NCHW"], common.with_default("Layout of the ONNX input.", "export.onnx_layout"))
flags.DEFINE_enum(
    "data_type", None, ["fp32", "fp16", "int8"], common.with_default("Of the ONNX and LiteRT files.", "export.data_type")
)
flags.DEFINE_string("cal_cache_file", None, "TensorRT calibration cache to write, with int8; default cal.bin beside the file.")


def main(argv: list[str]) -> None:
    overrides = {
        "export.model_path": FLAGS.model,
        "export.onnx_file": FLAGS.output_file,
        "export.opset": FLAGS.opset,
        "export.onnx_layout": FLAGS.onnx_layout,
        "export.data_type": FLAGS.data_type,
        "export.cal_cache_file": FLAGS.cal_cache_file,
    }
    task = common.load_task(argv, overrides)
    spec, e = task.spec, task.spec.export
    source = common.required(e.model_path, "export.model_path", "-m")
    onnx_path = pathlib.Path(e.onnx_file or f"{spec.results_dir}/export/model.onnx")
    saved_model_path = pathlib.Path(e.saved_model_dir or f"{spec.results_dir}/export/saved_model")
    litert_path = pathlib.Path(e.litert_file or f"{spec.results_dir}/export/model.tflite")
    extras.require("train", "tlt-export")
    extras.require("export", "tlt-export")
    import_frameworks()
    from tlt_prune.export import build_engine

    inputs = {**common.inputs_of(task), "export.model_path (-m)": source}
    inputs["export.cal_image_dir"] = e.cal_image_dir
    with places.writing(inputs, _outputs(spec, onnx_path, saved_model_path, litert_path), "exporting to"):
        said, script = _export(task, source, onnx_path, saved_model_path, litert_path)
    for line in said:
        say(line)
    if script is not None and build_engine(script):
        say("The tensorrt package is installed: built the engine.")
    paths = {"onnx": onnx_path, "saved_model": saved_model_path, "litert": litert_path}
    written = next(path for name, path in paths.items() if name in e.formats)
    say(f"Next: tlt-evaluate{common.spec_flag()} -m {written}")


def _outputs(spec: Spec, onnx: pathlib.Path, saved_model: pathlib.Path, litert: pathlib.Path) -> list[places.Output]:
    from tlt_prune.export.tensorrt import build_script

    e = spec.export
    outputs = []
    if "onnx" in e.formats or e.decoding:
        outputs.append(places.Output("export.onnx_file (-o)", onnx, (".onnx",)))
    if "onnx" in e.formats:
        outputs.append(places.Output("The build script, beside -o", build_script(onnx), (".py",)))
        engine = pathlib.Path(e.engine_file) if e.engine_file else onnx.with_suffix(".engine")
        outputs.append(places.Output("export.engine_file", engine, (".engine", ".plan", ".trt")))
        if e.data_type == "int8":
            outputs.append(places.Output("The float file, beside -o", _float_file(onnx)))
            outputs.append(places.Output("export.cal_cache_file", _cache_file(spec, onnx), (".bin", ".cache", ".txt")))
    if e.decoding:
        outputs.append(places.Output("The decoding file, beside -o", _decoded_file(onnx)))
    if "saved_model" in e.formats:
        outputs.append(places.Output("export.saved_model_dir", saved_model, folder=True))
    if "litert" in e.formats:
        outputs.append(places.Output("export.litert_file", litert, (".tflite",)))
    return outputs


def _float_file(onnx: pathlib.Path) -> pathlib.Path:
    return onnx.with_name(f"{onnx.stem}_fp32.onnx")


def _decoded_file(onnx: pathlib.Path) -> pathlib.Path:
    return onnx.with_name(f"{onnx.stem}_decoded.onnx")


def _cache_file(spec: Spec, onnx: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(spec.export.cal_cache_file) if spec.export.cal_cache_file else onnx.with_name("cal.bin")


def _export(
    task: Task, source: str, onnx_path: pathlib.Path, saved_model_path: pathlib.Path, litert_path: pathlib.Path
) -> tuple[list[str], pathlib.Path | None]:
    """Writes everything; returns what to say of it once it is in its place, and the script that builds an engine."""
    from tlt_prune.export import export_onnx, export_saved_model, load_predictor

    e = task.spec.export
    predictor = load_predictor(source)
    if "litert" in e.formats:
        extras.require("litert", "export.formats: litert")
    if predictor.model is None:
        raise SpecError(f"export.model_path: expected a .keras file. Received: {source}.")
    job = task.export_material(predictor)
    samples = job.samples()
    said: list[str] = []
    script = None
    if "onnx" in e.formats:
        script = _onnx(job, onnx_path, samples, said)
    if e.decoding:
        decoded = _decoded_file(onnx_path)
        export_onnx(job.decoded(), decoded, samples, opset=e.opset, layout=e.onnx_layout, info=predictor.info)
        said.append(f"Wrote {decoded}: boxes (pictures, classes, cells, 4) in pixels, and scores (pictures, classes, cells).")
    if "litert" in e.formats:
        said.append(f"Wrote {litert_path}: {_litert(job, litert_path, samples)}")
    if "saved_model" in e.formats:
        pictures = job.pictures() if e.preprocessing else None
        error = export_saved_model(predictor.model, saved_model_path, samples, e.tolerance or 1e-4, predictor.info, pictures)
        said.append(f"Wrote the folder {saved_model_path}: equal to Keras on {len(samples)} pictures, to {error:.1e}.")
    return said, script


def _onnx(job: Any, path: pathlib.Path, samples: Any, said: list[str]) -> pathlib.Path:
    """Writes the ONNX file and what belongs to it; returns the script that builds its engine."""
    from tlt_prune.export import EngineOptions, export_onnx, trtexec_command, write_build_script
    from tlt_prune.quantization import is_quantization_aware, write_calibration_cache

    e, model = job.spec.export, job.predictor.model
    aware = is_quantization_aware(model)
    calibrated = e.data_type == "int8" and not aware
    precision = "float16" if e.data_type == "fp16" else "float32"
    source = _float_file(path) if calibrated else path
    error = export_onnx(
        model,
        source,
        samples,
        opset=e.opset,
        layout=e.onnx_layout,
        precision=precision,
        tolerance=e.tolerance,
        info=job.predictor.info,
    )
    kind = "int8, trained so" if aware else {"float32": "fp32", "float16": "fp16"}[precision]
    said.append(
        f"Wrote {source}: {kind}, opset {e.opset}, {e.onnx_layout}, equal to Keras on {len(samples)} pictures, to {error:.1e}."
    )
    found = _calibrated(job, files.written(source), path) if calibrated else None
    if found is not None:
        said.append(
            f"Wrote {path}: int8 for {e.target}, calibrated by {e.calibration} on {found.examples} pictures; the largest class "
            f"is that of the float file on {100 * found.agreement:.1f} % of them."
        )
    engine = EngineOptions(
        job.size,
        e.min_batch_size,
        e.opt_batch_size,
        e.max_batch_size,
        pathlib.Path(e.engine_file) if e.engine_file else None,
    )
    script = write_build_script(path, engine)
    said.append(f"TensorRT engine, {'int8 and ' if aware or calibrated else ''}float16: python {script}, or")
    said.append(f"  {trtexec_command(path, engine)}")
    if found is not None:
        cache = _cache_file(job.spec, path)
        write_calibration_cache(cache, found.scales, e.calibration)
        said.append(f"or, where TensorRT is to place int8 by itself, by the scales in {cache}:")
        said.append(f"  {trtexec_command(source, dataclasses.replace(engine, calibration_cache=cache))}")
    return script


def _litert(job: Any, path: pathlib.Path, samples: Any) -> str:
    from tlt_prune import quantization
    from tlt_prune.export import export_litert, load_predictor

    e, model = job.spec.export, job.predictor.model
    precision = {"fp32": "float32", "fp16": "float16", "int8": "int8"}[e.data_type]
    calibration, how = None, {"float32": "fp32", "float16": "fp16"}.get(precision, "int8, trained so")
    if precision == "int8" and e.litert_qat_epochs:
        model = quantization.train_for_litert(model, **job.training(e.litert_qat_epochs))
    elif precision == "int8":
        calibration = job.calibration()
        how = f"int8, calibrated by min_max on {len(calibration)} pictures"
    error = export_litert(
        model, path, samples, precision=precision, calibration=calibration, tolerance=e.tolerance, info=job.predictor.info
    )
    if e.data_type != "int8":
        return f"LiteRT, {how}, equal to Keras on {len(samples)} pictures, to {error:.1e}."
    same = np.mean(load_predictor(files.written(path))(samples).argmax(1) == job.predictor(samples).argmax(1))
    return f"LiteRT, {how}; the largest class is that of Keras on {100 * same:.1f} % of {len(samples)} pictures."


def _calibrated(job: Any, source: pathlib.Path, path: pathlib.Path) -> Any:
    """Writes the int8 file of a float one."""
    from tlt_prune import quantization

    e = job.spec.export
    inputs = job.calibration()
    if e.onnx_layout == "NCHW" and not job.channels_first:
        inputs = np.ascontiguousarray(np.transpose(inputs, (0, 3, 1, 2)))
    batches = [inputs[i : i + e.batch_size] for i in range(0, len(inputs), e.batch_size)]
    return quantization.quantize_onnx(
        source, path, batches, method=e.calibration, percentile=e.percentile, target=e.target, excluded=e.excluded_nodes
    )


def entry() -> None:
    common.run(main)


if __name__ == "__main__":
    entry()
