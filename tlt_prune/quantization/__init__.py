"""Quantization to int8, after training or in training; 2:4 sparsity and weight clustering."""

from tlt_prune.quantization.aware import fold_batch_norms, folded, is_quantization_aware, quantization_aware
from tlt_prune.quantization.cache import read_calibration_cache, write_calibration_cache
from tlt_prune.quantization.calibration import calibrated_ranges
from tlt_prune.quantization.clustering import cluster_table, cluster_weights
from tlt_prune.quantization.copying import copied, in_float32
from tlt_prune.quantization.litert_aware import train_for_litert
from tlt_prune.quantization.node_types import FEWEST_CHANNELS
from tlt_prune.quantization.post_training import Quantized, narrow_layers, quantize_onnx
from tlt_prune.quantization.qdq import with_int8_weights
from tlt_prune.quantization.ranges import METHODS, Range
from tlt_prune.quantization.sparsity import sparsify, sparsity_table
from tlt_prune.quantization.twin import to_keras, to_tf_keras

__all__ = [
    "FEWEST_CHANNELS",
    "METHODS",
    "Quantized",
    "Range",
    "calibrated_ranges",
    "cluster_table",
    "cluster_weights",
    "copied",
    "fold_batch_norms",
    "folded",
    "in_float32",
    "is_quantization_aware",
    "narrow_layers",
    "quantization_aware",
    "quantize_onnx",
    "read_calibration_cache",
    "sparsify",
    "sparsity_table",
    "to_keras",
    "to_tf_keras",
    "train_for_litert",
    "with_int8_weights",
    "write_calibration_cache",
]
