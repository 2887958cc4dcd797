"""Model files ready to run, the comparison of two models, and the names inside an ONNX graph."""

from tlt_prune.onnx.names import scoped, with_layer_names
from tlt_prune.onnx.noise import quiet, quiet_natively
from tlt_prune.onnx.parity import Run, check_parity, fits, relative_difference, samples_of, session_of
from tlt_prune.onnx.predictor import (
    Predictor,
    inputs_of,
    keras_predictor,
    keras_runner,
    latency_ms,
    load_predictor,
    onnx_runner,
    refuse_states,
)

__all__ = [
    "Predictor",
    "Run",
    "check_parity",
    "fits",
    "inputs_of",
    "keras_predictor",
    "keras_runner",
    "latency_ms",
    "load_predictor",
    "onnx_runner",
    "quiet",
    "quiet_natively",
    "refuse_states",
    "relative_difference",
    "samples_of",
    "scoped",
    "session_of",
    "with_layer_names",
]
