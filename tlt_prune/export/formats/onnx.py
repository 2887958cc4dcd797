"""The export format "onnx": an ONNX file, and a calibration cache and a build script for TensorRT beside it."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import shlex
from typing import TYPE_CHECKING, Any

import numpy as np

from tlt_prune.config import Spec
from tlt_prune.export.formats.registry import DATA_TYPES, ExportFormat, register_format
from tlt_prune.export.material import ExportMaterial
from tlt_prune.export.tensorrt import EngineOptions, build_engine, build_script, trtexec_command, write_build_script
from tlt_prune.io import Output, files

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tlt_prune.quantization import Quantized


def onnx_path(spec: Spec) -> pathlib.Path:
    """Path of the ONNX file; the files beside it are named after it."""
    return pathlib.Path(spec.export.onnx_file or f"{spec.results_dir}/export/model.onnx")


def onnx_output(spec: Spec) -> Output:
    """The ONNX file as an output."""
    return Output("export.onnx_file (-o)", onnx_path(spec), (".onnx",))


@register_format("onnx")
class Onnx(ExportFormat):
    """An ONNX file in the data type of the spec.

    int8 is calibrated on data: a float file, NAME_fp32.onnx, and TensorRT's calibration cache are written beside it. A model
    that was trained with quantization is written as int8 whatever the spec says.
    """

    suffix = ".onnx"
    extra = "export"

    def path(self, spec: Spec) -> pathlib.Path:
        return onnx_path(spec)

    def outputs(self, spec: Spec) -> list[Output]:
        path, e = onnx_path(spec), spec.export
        outputs = [onnx_output(spec), Output("The build script, beside -o", build_script(path), (".py",))]
        engine = pathlib.Path(e.engine_file) if e.engine_file else path.with_suffix(".engine")
        outputs.append(Output("export.engine_file", engine, (".engine", ".plan", ".trt")))
        if e.data_type == "int8":
            outputs.append(Output("The float file, beside -o", _float_file(path)))
            outputs.append(Output("export.cal_cache_file", _cache_file(spec), (".bin", ".cache", ".txt")))
        return outputs

    def write(self, material: ExportMaterial, samples: NDArray[Any]) -> list[str]:
        from tlt_prune.quantization import is_quantization_aware

        spec, model = material.spec, material.predictor.model
        path, aware = onnx_path(spec), is_quantization_aware(model)
        if spec.export.data_type == "int8" and not aware:
            return _write_calibrated(material, samples)
        # A model that was trained with quantization becomes int8 by itself.
        data_type = "fp32" if aware and spec.export.data_type == "int8" else spec.export.data_type
        kind = "int8, trained so" if aware else data_type
        written = _write(material, path, samples, DATA_TYPES[data_type], kind)
        return [written, *_engine_lines(material, int8=aware)]

    def finish(self, spec: Spec) -> list[str]:
        """Builds the engine where the tensorrt package is installed."""
        return ["The tensorrt package is installed: built the engine."] if build_engine(build_script(onnx_path(spec))) else []


def _float_file(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.stem}_fp32.onnx")


def _cache_file(spec: Spec) -> pathlib.Path:
    cache = spec.export.cal_cache_file
    return pathlib.Path(cache) if cache else onnx_path(spec).with_name("cal.bin")


def _write(material: ExportMaterial, path: pathlib.Path, samples: NDArray[Any], precision: str, kind: str) -> str:
    """Writes the model by `export_onnx`; returns the line that describes it."""
    from tlt_prune.export.onnx_file import export_onnx

    e = material.spec.export
    error = export_onnx(
        material.predictor.model,
        path,
        samples,
        opset=e.opset,
        layout=e.onnx_layout,
        precision=precision,
        tolerance=e.tolerance,
        info=material.predictor.info,
    )
    return f"Wrote {path}: {kind}, opset {e.opset}, {e.onnx_layout}, equal to Keras on {len(samples)} pictures, to {error:.1e}."


def _write_calibrated(material: ExportMaterial, samples: NDArray[Any]) -> list[str]:
    """Writes the float file, the int8 file and the calibration cache."""
    from tlt_prune.quantization import write_calibration_cache

    spec, path = material.spec, onnx_path(material.spec)
    e, source, cache = spec.export, _float_file(path), _cache_file(spec)
    lines = [_write(material, source, samples, "float32", "fp32")]
    result = _quantize(material, files.written(source), path)
    if math.isfinite(result.agreement):
        told = f"the largest class is that of the float file on {100 * result.agreement:.1f} % of them"
    else:
        told = f"the largest difference from the float file is {100 * result.difference:.2g} % of the largest output"
    lines.append(f"Wrote {path}: int8 for {e.target}, calibrated by {e.calibration} on {result.examples} pictures; {told}.")
    if result.narrow:
        named = f"{', '.join(result.narrow[:3])}{', ...' if len(result.narrow) > 3 else ''}"
        lines.append(
            f"In float, as TensorRT computes them faster: {len(result.narrow)} layers of fewer than 16 channels ({named}). "
            "export.int8_narrow_layers=true for int8."
        )
    lines += _engine_lines(material, int8=True)
    write_calibration_cache(cache, result.scales, e.calibration)
    lines.append(f"or, where TensorRT is to place int8 by itself, by the scales in {cache}:")
    options = dataclasses.replace(_engine_options(material), calibration_cache=cache)
    lines.append(f"  {trtexec_command(source, options)}")
    return lines


def _quantize(material: ExportMaterial, source: pathlib.Path, path: pathlib.Path) -> Quantized:
    """Writes the int8 file of a float one."""
    from tlt_prune.quantization import narrow_layers, quantize_onnx

    e = material.spec.export
    inputs = material.calibration()
    if e.onnx_layout == "NCHW" and not material.channels_first:
        inputs = np.ascontiguousarray(np.transpose(inputs, (0, 3, 1, 2)))
    batches = [inputs[i : i + e.batch_size] for i in range(0, len(inputs), e.batch_size)]
    excluded = list(e.excluded_nodes)
    if e.target == "tensorrt" and not e.int8_narrow_layers:
        excluded += narrow_layers(source)
    return quantize_onnx(source, path, batches, method=e.calibration, percentile=e.percentile, target=e.target, excluded=excluded)


def _engine_options(material: ExportMaterial) -> EngineOptions:
    e = material.spec.export
    engine = pathlib.Path(e.engine_file) if e.engine_file else None
    return EngineOptions(material.size, e.min_batch_size, e.opt_batch_size, e.max_batch_size, engine)


def _engine_lines(material: ExportMaterial, *, int8: bool) -> list[str]:
    """Writes the script that builds the engine; returns lines with both ways to build it."""
    path, options = onnx_path(material.spec), _engine_options(material)
    script = write_build_script(path, options)
    return [
        f"TensorRT engine, {'int8 and ' if int8 else ''}float16: python {shlex.quote(str(script))}, or",
        f"  {trtexec_command(path, options)}",
    ]
