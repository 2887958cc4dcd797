"""Mean and variance of every channel, as far as batch normalization tells them: no data is needed.

A batch normalization's output has mean beta and standard deviation |gamma| on the data it was trained with; taken as normally
distributed, what follows is known: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV
2019, arXiv:1906.04721, section 4.2.1 and appendix C.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from tlt_prune.graph import (
    BatchNormalization,
    Call,
    Execution,
    Family,
    Graph,
    acts_on_each_element,
    as_array,
    has_trait,
    is_batch_norm,
)

_Vector = NDArray[np.float64]
# Nodes and weights of the integral over a standard normal, on a grid fine enough for functions with a kink.
_GRID = np.linspace(-8.0, 8.0, 2001)
_WEIGHTS = np.exp(-0.5 * _GRID**2) / np.exp(-0.5 * _GRID**2).sum()


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Of the channels of a tensor, on its channel axis: arrays `(channels,)`."""

    mean: _Vector
    variance: _Vector


def moments(graph: Graph) -> dict[int, Moments]:
    """Tensor key -> moments, for each tensor of which they are known."""
    execution: Execution[Moments | None] = Execution(graph, [None] * len(graph.flat_inputs))
    for pending in execution:
        after = _after(graph.family, pending.call, pending.inputs)
        pending.results = [after, *[None] * (len(pending.call.outputs) - 1)]
    return {key: x for scope in execution.scopes for key, x in scope.items() if x is not None}


def _after(family: Family, call: Call, given: Sequence[Moments | None]) -> Moments | None:
    op = call.op
    if is_batch_norm(family, op):
        return _normalized(family, op)
    if not given or any(x is None for x in given):
        return None
    inputs = [x for x in given if x is not None]
    if has_trait(family, op, "mean preserving"):
        return inputs[0]
    if has_trait(family, op, "flatten"):
        return _flattened(call, inputs[0])
    if has_trait(family, op, "activation"):
        return behind_activation(op, inputs[0])
    if family.is_a(op, "Activation"):
        return behind_activation(op.activation, inputs[0]) if acts_on_each_element(op.activation) else None
    if has_trait(family, op, "sum"):
        return _sum(inputs) if len(inputs) > 1 and len({len(x.mean) for x in inputs}) == 1 else None
    return _joined(call, inputs) if has_trait(family, op, "concatenation") else None


def _normalized(family: Family, op: BatchNormalization) -> Moments:
    count = op.moving_mean.shape[0]
    gamma = family.numpy(op.gamma).astype(np.float64) if op.gamma is not None else np.ones(count)
    beta = family.numpy(op.beta).astype(np.float64) if op.beta is not None else np.zeros(count)
    return Moments(beta, gamma**2)


def _sum(inputs: Sequence[Moments]) -> Moments:
    """Of what is independent."""
    return Moments(np.sum([x.mean for x in inputs], axis=0), np.sum([x.variance for x in inputs], axis=0))


def _joined(call: Call, inputs: Sequence[Moments]) -> Moments | None:
    axis = getattr(call.op, "axis", -1) % len(call.outputs[0].shape)
    mean, variance = (np.concatenate([getattr(x, part) for x in inputs]) for part in ("mean", "variance"))
    return Moments(mean, variance) if call.outputs[0].shape[axis] == len(mean) else None


def _flattened(call: Call, x: Moments) -> Moments | None:
    shape, channels = call.inputs[0].shape, len(x.mean)
    total = call.outputs[0].shape[-1]
    if total is None or None in shape[1:]:
        return None
    # Told that they come first, Flatten moves the channels to the end.
    last = shape[-1] == channels or getattr(call.op, "data_format", None) == "channels_first"
    spread = np.tile if last else np.repeat
    return Moments(spread(x.mean, total // channels), spread(x.variance, total // channels))


def behind_activation(function: Callable[[Any], Any], x: Moments) -> Moments:
    """Of `function(z)`, z normally distributed: closed form for ReLU, else the integral on a grid."""
    deviation = np.sqrt(x.variance)
    name = getattr(function, "__name__", "")
    if name == "linear":
        return x
    if name == "relu":
        return relu(x)
    values = as_array(function((x.mean[:, None] + deviation[:, None] * _GRID).astype(np.float32))).astype(np.float64)
    mean = values @ _WEIGHTS
    return Moments(mean, np.square(values - mean[:, None]) @ _WEIGHTS)


def relu(x: Moments) -> Moments:
    """E max(z, 0) = m Phi(m/s) + s phi(m/s), E max(z, 0)^2 = (m^2 + s^2) Phi(m/s) + m s phi(m/s)."""
    deviation = np.sqrt(x.variance)
    constant = deviation == 0
    ratio = np.divide(x.mean, deviation, out=np.where(x.mean > 0, np.inf, -np.inf), where=~constant)
    # Clipped: TensorFlow's erf of infinity is no number.
    below = 0.5 * (1 + as_array(keras.ops.erf(np.clip(ratio, -40, 40) / math.sqrt(2))).astype(np.float64))
    density = np.exp(-0.5 * ratio**2) / math.sqrt(2 * math.pi)
    mean = x.mean * below + deviation * density
    square = (x.mean**2 + x.variance) * below + x.mean * deviation * density
    return Moments(mean, np.maximum(square - mean**2, 0.0))
