"""2:4 sparsity, for the sparse tensor cores of NVIDIA GPUs since Ampere: two zeros in every four weights along the inputs.

tensorflow-model-optimization finds and keeps the pattern while it trains the model's tf_keras twin; the result is a Keras 3 model
again. Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021, arXiv:2104.08378, section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlt_prune.errors import QuantizationError
from tlt_prune.quantization.on_twin import Training, kernels, model_optimization, trained_on_twin

if TYPE_CHECKING:
    import tensorflow as tf

# Sparse tensor cores need multiples of 4 along the inputs for the pattern, and of 16 along both axes for their kernels.
_PATTERN, _KERNELS = 4, 16


def sparsity_table(model: keras.Model) -> pd.DataFrame:
    """Eligibility for 2:4 sparsity and share of weights with the pattern: one row per convolution or dense layer.

    Columns: inputs, outputs (channels); eligible; suits (channels are multiples of 16, as the GPU's kernels need); sparse (share
    of the groups of four weights along the input channels that have at least two zeros); note (why it is not eligible).
    """
    rows = {}
    for path, layer in kernels(model):
        kernel = np.asarray(layer.kernel)
        inputs, outputs = kernel.shape[-2:]
        note = _why_not_sparse(layer, inputs)
        rows[path] = {
            "inputs": inputs,
            "outputs": outputs,
            "eligible": not note,
            "suits": not note and inputs % _KERNELS == 0 and outputs % _KERNELS == 0,
            "sparse": _share(kernel) if not note else float("nan"),
            "note": note,
        }
    columns = ["inputs", "outputs", "eligible", "suits", "sparse", "note"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("layer")


def sparsify(
    model: keras.Model,
    data: tf.data.Dataset,
    loss: str = "categorical_crossentropy",
    *,
    epochs: int = 1,
    steps_per_epoch: int | None = None,
    learning_rate: float = 1e-3,
) -> tuple[keras.Model, float]:
    """A copy of a trained model with 2:4 sparsity in every eligible layer, after further training with it.

    Args:
        model: a Keras 3 model whose layers tf_keras has too. It stays as it is.
        data, loss, epochs, steps_per_epoch, learning_rate: see `Training`.

    Returns:
        The model, and the difference of its tf_keras twin before training, relative to the largest output.

    Raises:
        QuantizationError: no layer is eligible.
        UnsupportedModelError: a layer has no twin.
    """
    table = sparsity_table(model)
    eligible = {name.split("/")[-1] for name in table.index[table["eligible"]]}
    if not eligible:
        reasons = "; ".join(sorted(set(table["note"]))) or "it has no convolution or dense layer"
        raise QuantizationError(f"2:4 sparsity: no layer of '{model.name}' is eligible: {reasons}.")
    with model_optimization() as tfmot:
        tools = tfmot.sparsity.keras
        options = {"sparsity_m_by_n": (2, 4), "pruning_schedule": tools.ConstantSparsity(0.5, begin_step=0, frequency=1)}
        sparse, difference = trained_on_twin(
            model,
            eligible,
            lambda x: tools.prune_low_magnitude(x, **options),
            tools.strip_pruning,
            Training(data, loss, epochs, steps_per_epoch, learning_rate),
            [tools.UpdatePruningStep()],
        )
    after = sparsity_table(sparse)
    missed = after.index[after["eligible"] & (after["sparse"] < 1)]
    if len(missed):
        raise QuantizationError(f"2:4 sparsity: the pattern does not hold in {', '.join(missed)}.")
    return sparse, difference


def _why_not_sparse(layer: keras.layers.Layer, inputs: int) -> str:
    if getattr(layer, "groups", 1) != 1:
        return "a grouped convolution"
    return "" if inputs % _PATTERN == 0 else "input channels are no multiple of 4"


def _share(kernel: NDArray[Any]) -> float:
    """Share of the groups of four weights along the input channels that have at least two zeros."""
    groups = np.moveaxis(kernel, -2, -1).reshape(-1, _PATTERN)
    return float(np.mean((groups == 0).sum(axis=1) >= 2))
