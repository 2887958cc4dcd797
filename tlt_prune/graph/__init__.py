"""A Keras model read once: calls, labels of channels, rules, and the channel graph."""

from tlt_prune.graph.blocks import ResidualBlock, chosen_blocks, residual_blocks, without_blocks
from tlt_prune.graph.call_trace import CallTrace
from tlt_prune.graph.channel_graph import ChannelGraph, Edit, Producer, resolve
from tlt_prune.graph.classes import is_keras_class
from tlt_prune.graph.execute import Execution, PendingCall, filled, rewired, run_through
from tlt_prune.graph.family import Family, all_layers, as_array, dtype_name, family_of, producing_layer
from tlt_prune.graph.finite import assign_finite, refuse_not_finite
from tlt_prune.graph.kinds import has_kernel, has_trait, is_batch_norm, is_convolution, is_dense
from tlt_prune.graph.labels import Alive, Labels, kept_shape
from tlt_prune.graph.opening import open_layer
from tlt_prune.graph.outputs import by_output, labels_by_output, loss_function, output_names
from tlt_prune.graph.reader import Call, Graph, Tensor, duplicate_names, matches, nearest_name, read
from tlt_prune.graph.rules import Trait, inherits_trait
from tlt_prune.graph.rules.elementwise import acts_on_each_element
from tlt_prune.graph.tracer import trace
from tlt_prune.graph.types import (
    BatchNormalization,
    Convolution,
    KerasModel,
    Layer,
    Operation,
    Projection,
    SymbolicTensor,
    TensorLike,
    Variable,
)

__all__ = [
    "Alive",
    "BatchNormalization",
    "Call",
    "CallTrace",
    "ChannelGraph",
    "Convolution",
    "Edit",
    "Execution",
    "Family",
    "Graph",
    "KerasModel",
    "Labels",
    "Layer",
    "Operation",
    "PendingCall",
    "Producer",
    "Projection",
    "ResidualBlock",
    "SymbolicTensor",
    "Tensor",
    "TensorLike",
    "Trait",
    "Variable",
    "acts_on_each_element",
    "all_layers",
    "as_array",
    "assign_finite",
    "by_output",
    "chosen_blocks",
    "dtype_name",
    "duplicate_names",
    "family_of",
    "filled",
    "has_kernel",
    "has_trait",
    "inherits_trait",
    "is_batch_norm",
    "is_convolution",
    "is_dense",
    "is_keras_class",
    "kept_shape",
    "labels_by_output",
    "loss_function",
    "matches",
    "nearest_name",
    "open_layer",
    "output_names",
    "producing_layer",
    "read",
    "refuse_not_finite",
    "residual_blocks",
    "resolve",
    "rewired",
    "run_through",
    "trace",
    "without_blocks",
]
