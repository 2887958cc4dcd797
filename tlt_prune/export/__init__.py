"""SavedModel, ONNX and LiteRT files, and the proof that they compute what Keras computes."""

from tlt_prune.export.litert import export_litert
from tlt_prune.export.onnx_file import export_onnx
from tlt_prune.export.saved_model import export_saved_model
from tlt_prune.export.tensorrt import EngineOptions, build_engine, trtexec_command, write_build_script
from tlt_prune.onnx.predictor import Predictor, latency_ms, load_predictor

__all__ = [
    "EngineOptions",
    "Predictor",
    "build_engine",
    "export_litert",
    "export_onnx",
    "export_saved_model",
    "latency_ms",
    "load_predictor",
    "trtexec_command",
    "write_build_script",
]
