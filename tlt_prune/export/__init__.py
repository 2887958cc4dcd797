"""Export of Keras models to SavedModel, ONNX and LiteRT files, each compared with Keras before it is written."""

import importlib
from typing import TYPE_CHECKING, Any

from tlt_prune.io import register_with_keras

if TYPE_CHECKING:
    from tlt_prune.export.formats import ExportFormat, register_format, scoped_formats
    from tlt_prune.export.job import export_formats, export_outputs, finish_formats, main_output, source_of
    from tlt_prune.export.litert import export_litert
    from tlt_prune.export.material import ExportMaterial, PicturePreprocessing
    from tlt_prune.export.onnx_file import export_onnx
    from tlt_prune.export.saved_model import export_saved_model
    from tlt_prune.export.tensorrt import EngineOptions, build_engine, trtexec_command, write_build_script
    from tlt_prune.onnx import Predictor, latency_ms, load_predictor

# Module -> what it defines. Imported when asked for: the names of the formats are read before a framework is imported.
_DEFINED_IN = {
    "tlt_prune.export.formats": ("ExportFormat", "register_format", "scoped_formats"),
    "tlt_prune.export.job": ("export_formats", "finish_formats", "main_output", "export_outputs", "source_of"),
    "tlt_prune.export.litert": ("export_litert",),
    "tlt_prune.export.material": ("ExportMaterial", "PicturePreprocessing"),
    "tlt_prune.export.onnx_file": ("export_onnx",),
    "tlt_prune.export.saved_model": ("export_saved_model",),
    "tlt_prune.export.tensorrt": ("EngineOptions", "build_engine", "trtexec_command", "write_build_script"),
    "tlt_prune.onnx": ("Predictor", "latency_ms", "load_predictor"),
}

__all__ = [
    "EngineOptions",
    "ExportFormat",
    "ExportMaterial",
    "PicturePreprocessing",
    "Predictor",
    "build_engine",
    "export_formats",
    "export_litert",
    "export_onnx",
    "export_outputs",
    "export_saved_model",
    "finish_formats",
    "latency_ms",
    "load_predictor",
    "main_output",
    "register_format",
    "scoped_formats",
    "source_of",
    "trtexec_command",
    "write_build_script",
]


def __getattr__(name: str) -> Any:
    for home, defined in _DEFINED_IN.items():
        if name in defined:
            value = getattr(importlib.import_module(home), name)
            register_with_keras()
            return value
    raise AttributeError(f"module 'tlt_prune.export' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
