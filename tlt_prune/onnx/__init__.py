"""Running and comparing model files of any format; traversal and names of ONNX graphs."""

from tlt_prune.onnx.graphs import (
    fed_inputs,
    float_tensors,
    is_quantized,
    makers,
    names_read,
    remove_unread_constants,
    stored_tensors,
    with_outputs,
)
from tlt_prune.onnx.names import with_call_scopes, with_layer_names
from tlt_prune.onnx.noise import quiet, quiet_natively
from tlt_prune.onnx.parity import InputArrays, Run, check_parity, fits, relative_difference, samples_of, session_of
from tlt_prune.onnx.pixel_classes import write_classes
from tlt_prune.onnx.predictor import (
    Predictor,
    check_stateless,
    input_structure,
    keras_predictor,
    keras_runner,
    latency_ms,
    load_predictor,
    onnx_runner,
    spread,
)

__all__ = [
    "InputArrays",
    "Predictor",
    "Run",
    "check_parity",
    "check_stateless",
    "fed_inputs",
    "fits",
    "float_tensors",
    "input_structure",
    "is_quantized",
    "keras_predictor",
    "keras_runner",
    "latency_ms",
    "load_predictor",
    "makers",
    "names_read",
    "onnx_runner",
    "quiet",
    "quiet_natively",
    "relative_difference",
    "remove_unread_constants",
    "samples_of",
    "session_of",
    "spread",
    "stored_tensors",
    "with_call_scopes",
    "with_layer_names",
    "with_outputs",
    "write_classes",
]
