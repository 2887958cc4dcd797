"""INT8: ranges of activations measured on data, Q/DQ in ONNX, and training with quantisation in the loop; 2:4 sparsity."""

from tlt_prune.quantization.aware import fold_batch_norms, folded, is_quantisation_aware, quantisation_aware
from tlt_prune.quantization.cache import read_calibration_cache, write_calibration_cache
from tlt_prune.quantization.post_training import calibrate, quantize_onnx
from tlt_prune.quantization.ranges import METHODS, Range
from tlt_prune.quantization.sparsity import sparsify, sparsity_table
from tlt_prune.quantization.twin import to_keras, to_tf_keras

__all__ = [
    "METHODS",
    "Range",
    "calibrate",
    "fold_batch_norms",
    "folded",
    "is_quantisation_aware",
    "quantisation_aware",
    "quantize_onnx",
    "read_calibration_cache",
    "sparsify",
    "sparsity_table",
    "to_keras",
    "to_tf_keras",
    "write_calibration_cache",
]
