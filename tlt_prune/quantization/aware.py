"""Quantization-aware training: a float model becomes a model that is trained with int8 rounding.

Inference folds batch normalization into the kernel before it, so the folded kernel is what is rounded; training still normalizes
by the batch. Quantized are the kernels of weighted layers, and the activations that enter these, average poolings and additions:
the same places as in `qdq`.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import keras
import numpy as np
from keras import tree
from numpy.typing import NDArray

from tlt_prune.errors import QuantizationError
from tlt_prune.graph import Call, Family, Graph, all_layers, inherits_trait, matches, nearest_name, read, rewired
from tlt_prune.io import progress
from tlt_prune.pruning.running import Batches
from tlt_prune.quantization.copying import in_float32, read_copy
from tlt_prune.quantization.layers import QUANTIZED, FakeQuantize, QuantizedWithNorm, along_channels, rounding_off
from tlt_prune.quantization.ranges import Histogram, check_method

if TYPE_CHECKING:
    import tensorflow as tf

CalibrationInputs: TypeAlias = "NDArray[Any] | tuple[NDArray[Any], ...] | tf.data.Dataset | keras.utils.PyDataset | Iterable[Any]"
"""Inputs to measure ranges on: arrays, one per input of the model, or batches of these."""


def fold_batch_norms(model: keras.Model) -> keras.Model:
    """A copy of a model with batch normalizations folded into the kernels and biases of the layers before them.

    It computes in inference what `model` does. A batch normalization is folded if it alone follows a convolution or dense layer.

        kernel' = kernel gamma / sqrt(variance + epsilon),   bias' = (bias - mean) gamma / sqrt(variance + epsilon) + beta

    Raises:
        UnsupportedModelError: the model has no graph that can be read, or a layer cannot be rebuilt.
    """
    graph = read_copy(model)
    norms = _folded_norms(graph)
    gone = {id(norm.op) for norm in norms.values()}

    def visit(call: Call, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Any:
        if id(call.op) in gone:
            return args[0]
        if id(call.op) in norms:
            return _with_norm(call.op, norms[id(call.op)].op)(*args, **kwargs)
        return call.op(*args, **kwargs)

    return rewired(graph, visit)


def is_quantization_aware(model: keras.Model) -> bool:
    """Whether a model came from `quantization_aware`."""
    return any(isinstance(layer, FakeQuantize) for layer in all_layers(model))


def folded(model: keras.Model) -> keras.Model:
    """A quantization-aware model as it computes in inference, with its batch normalizations folded into the quantized kernels.

    A model without such layers is returned as it is.
    """
    if not any(isinstance(layer, QuantizedWithNorm) for layer in all_layers(model)):
        return model

    def visit(call: Call, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Any:
        op = _with_norm(call.op.layer, call.op.norm) if isinstance(call.op, QuantizedWithNorm) else call.op
        return op(*args, **kwargs)

    return rewired(read(model), visit)


def quantization_aware(
    model: keras.Model,
    data: CalibrationInputs,
    *,
    learned: bool = False,
    method: str = "percentile",
    percentile: float = 99.99,
    excluded: Sequence[str] = (),
    steps: int | None = None,
) -> keras.Model:
    """A copy of a trained model that rounds kernels, and the activations that meet them, to symmetric int8.

    Train it like any model, with a tenth of the learning rate or less; `export.export_onnx` writes it with QuantizeLinear and
    DequantizeLinear. `model` stays as it is. The copy of a model of mixed precision computes in float32.

    Args:
        model: a trained float model.
        data: inputs to start the ranges of activations from: arrays, read in batches of 64, a `tf.data.Dataset`, a `PyDataset`
            or batches.
        learned: ranges are trained with the weights (`layers.FakeQuantize`); otherwise they follow the batches.
        method, percentile: how a range follows from the data: see `quantization.ranges`.
        excluded: names, paths or patterns of layers that stay float.
        steps: batches to read; None for all.

    Raises:
        QuantizationError: a layer has no quantized form (and is not excluded), `excluded` names none, an option is out of
            range, or there is nothing to quantize.
        PlanError: the data is empty or does not fit the model.
        UnsupportedModelError: the model has no graph that can be read, or a layer cannot be rebuilt.
    """
    check_method(method, percentile)
    if isinstance(data, tuple) and len(data) == len(model.inputs) > 1 and all(hasattr(x, "shape") for x in data):
        # One array per input, rather than x and y.
        data = list(data)
    batches = Batches(data, read(model), steps=steps, what="quantization_aware")
    copy = read_copy(in_float32(model))
    calls = list(read(model).walk())
    for pattern in excluded:
        if not any(matches(call, pattern) for call in calls):
            near = nearest_name(pattern, {call.path for call in calls})
            raise QuantizationError(f"excluded: '{model.name}' has no layer {pattern!r}.{near}")
    paths = {call.path for call in calls if any(matches(call, pattern) for pattern in excluded)}
    floats = {id(call.op) for call in copy.walk() if call.path in paths}
    # Nested models are flattened first, so that each call of a layer is visited.
    graph = read(rewired(copy, lambda call, args, kwargs: call.op(*args, **kwargs)))
    _check_quantizable(graph, floats)
    aware = rewired(graph, _Quantizer(graph, floats, learned).visit)
    _set_ranges(aware, batches, method, percentile)
    return aware


# --- folding ---


def _folded_norms(graph: Graph) -> dict[int, Call]:
    """`id` of a layer -> the call of the batch normalization that is folded into it."""
    family = graph.family
    times = collections.Counter(id(call.op) for call in graph.walk())
    readers = graph.readers_by_tensor()
    norms = {}
    for call in graph.walk():
        if (
            _quantized_name(family, call.op) is None
            or times[id(call.op)] > 1
            or call.op.activation is not keras.activations.linear
        ):
            continue
        after = readers[call.outputs[0].key]
        norm = after[0] if len(after) == 1 else None
        if norm is None or not family.is_a(norm.op, "BatchNormalization") or times[id(norm.op)] > 1 or len(norm.inputs) > 1:
            continue
        rank = len(call.outputs[0].shape)
        channels = 1 if getattr(call.op, "data_format", None) == "channels_first" else rank - 1
        if norm.op.axis % rank == channels:
            norms[id(call.op)] = norm
    return norms


def _quantized_name(family: Family, op: keras.Operation) -> str | None:
    """Key in `QUANTIZED` of the class that replaces a layer; None if there is none."""
    return next((name for name in QUANTIZED if family.is_layer(op) and family.is_a(op, name)), None)


def _with_norm(layer: keras.layers.Layer, norm: keras.layers.Layer) -> _Later:
    """A new layer that computes `layer` followed by `norm`."""
    gain = 1 / np.sqrt(np.asarray(norm.moving_variance, np.float64) + norm.epsilon)
    if norm.scale:
        gain = gain * np.asarray(norm.gamma, np.float64)
    shift = -np.asarray(norm.moving_mean, np.float64)
    if layer.use_bias:
        shift = shift + np.asarray(layer.bias, np.float64)
    bias = shift * gain + (np.asarray(norm.beta, np.float64) if norm.center else 0.0)
    kernel = np.asarray(layer.kernel, np.float64)
    axes = next(cls.channel_axes for name, cls in QUANTIZED.items() if isinstance(layer, getattr(keras.layers, name)))
    kernel = kernel * gain.reshape(along_channels(kernel.shape, axes))
    return _Later(type(layer).from_config({**layer.get_config(), "use_bias": True}), [kernel, bias])


class _Later:
    """A layer whose weights are set after its first call, which builds it."""

    def __init__(self, layer: keras.layers.Layer, weights: Sequence[NDArray[Any] | Sequence[NDArray[Any]]]) -> None:
        self._layer, self._weights = layer, weights

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        outputs = self._layer(*args, **kwargs)
        if isinstance(self._layer, QuantizedWithNorm):
            for part, weights in zip((self._layer.layer, self._layer.norm), self._weights, strict=True):
                part.set_weights(weights)
        else:
            self._layer.set_weights(self._weights)
        return outputs


# --- quantizing ---


def _check_quantizable(graph: Graph, floats: set[int]) -> None:
    """Raises QuantizationError if a layer with weights has no quantized form and is not excluded."""
    family = graph.family
    for call in graph.walk():
        if not family.is_layer(call.op) or id(call.op) in floats or not call.op.weights:
            continue
        if _quantized_name(family, call.op) is None and not inherits_trait(call.op, "elementwise weights"):
            raise QuantizationError(
                f"Layer '{call.path}' of type {type(call.op).__name__} has no quantized form. Expected {', '.join(QUANTIZED)}; "
                f"excluded=['{call.path}'] leaves it in floating point."
            )


class _Quantizer:
    def __init__(self, graph: Graph, floats: set[int], learned: bool) -> None:
        self._family, self._floats, self._learned = graph.family, floats, learned
        self._norms = {op: norm for op, norm in _folded_norms(graph).items() if op not in floats and id(norm.op) not in floats}
        self._gone = {id(norm.op) for norm in self._norms.values()}
        self._readers = graph.readers_by_tensor()
        self._makers = {tensor.key: call for call in graph.walk() for tensor in call.outputs}
        self._quantized: dict[int, Any] = {}
        self._layers: dict[int, _Later] = {}

    def visit(self, call: Call, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Any:
        op = call.op
        if id(op) in self._gone:
            return args[0]
        if id(op) in self._floats:
            return op(*args, **kwargs)
        name = _quantized_name(self._family, op)
        if name is not None:
            return self._layer(op, name)(self._activation(args[0], call.inputs[0].key), *args[1:], **kwargs)
        if inherits_trait(op, "averaging"):
            return op(self._activation(args[0], call.inputs[0].key), *args[1:], **kwargs)
        if type(op).__name__ == "Add" and len(call.inputs) > 1:
            return self._addition(call, args, kwargs)
        return op(*args, **kwargs)

    def _layer(self, op: keras.layers.Layer, name: str) -> _Later:
        """The quantized layer of a float layer; the same for every call of it."""
        if id(op) not in self._layers:
            layer = QUANTIZED[name].from_config(op.get_config())
            weights = op.get_weights()
            norm = self._norms.get(id(op))
            if norm is not None:
                # The statistics and weights of the batch normalization move into the new layer.
                layer = QuantizedWithNorm(layer, type(norm.op).from_config(norm.op.get_config()), name=op.name)
                weights = [weights, norm.op.get_weights()]
            self._layers[id(op)] = _Later(layer, weights)
        return self._layers[id(op)]

    def _addition(self, call: Call, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Any:
        """Quantizes all summands but one that a convolution computes for this sum alone: its kernel can add the others."""
        keys = [x.key for x in call.inputs]
        fused = next((i for i, key in enumerate(keys) if self._is_made_for(key)), None)
        flat = tree.flatten((args, kwargs))
        position = -1
        for i, value in enumerate(flat):
            if isinstance(value, keras.KerasTensor):
                position += 1
                if position != fused:
                    flat[i] = self._activation(value, keys[position])
        args, kwargs = tree.pack_sequence_as((args, kwargs), flat)
        return call.op(*args, **kwargs)

    def _is_made_for(self, key: int) -> bool:
        maker = self._makers.get(key)
        if maker is not None and id(maker.op) in self._gone:
            maker = self._makers[maker.inputs[0].key]
        if maker is None or len(self._readers[key]) != 1 or id(maker.op) in self._floats:
            return False
        return "Conv" in (_quantized_name(self._family, maker.op) or "")

    def _activation(self, value: keras.KerasTensor, key: int) -> keras.KerasTensor:
        if id(value) not in self._quantized:
            maker = self._makers.get(key)
            name = (maker.path if maker is not None else "input").replace("/", "_")
            self._quantized[id(value)] = (
                value,
                FakeQuantize(self._learned, name=f"{name}_quantized_{len(self._quantized)}")(value),
            )
        return self._quantized[id(value)][1]


def _set_ranges(aware: keras.Model, batches: Batches, method: str, percentile: float) -> None:
    """Sets the ranges of activations to those measured on the data without rounding."""
    layers = [x for x in aware.layers if isinstance(x, FakeQuantize)]
    if not layers:
        raise QuantizationError(
            f"'{aware.name}' has nothing to quantize: no layer of {', '.join(QUANTIZED)} is left, and no average pooling or "
            "addition."
        )
    histograms = [Histogram() for _ in layers]
    shown = keras.Model(aware.input, [x.input for x in layers])
    with rounding_off(layers), progress(len(batches), f"Ranges of activations on {batches}") as advance:
        for x, _ in batches:
            values = shown(x, training=False)
            for layer, histogram, value in zip(layers, histograms, tree.flatten(values), strict=True):
                try:
                    histogram.add(keras.ops.convert_to_numpy(value))
                except QuantizationError as error:
                    raise QuantizationError(f"The input of '{layer.name}' has {error}. Expected a trained model.") from error
            advance()
    for layer, histogram in zip(layers, histograms, strict=True):
        layer.maximum.assign(histogram.range(method, percentile).maximum)
