"""The law: pruned(x) == original(x) with the consumers' rows of every removed channel set to zero."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from keras import tree
from numpy.typing import NDArray

from tlt_prune.errors import LawError, first_line
from tlt_prune.graph import Alive, ChannelGraph, Family, KerasModel, Tensor, Variable, all_layers, as_array, has_trait, read
from tlt_prune.pruning.rewrite.gates import close
from tlt_prune.pruning.rewrite.law_in_training import difference_in_training
from tlt_prune.pruning.rewrite.rewrite import full_size, rewrite

# Statistics of a batch are divided by, and of two inputs they are small.
_LOOSER_IN_TRAINING = 100
_SATURATING = ("softmax", "sigmoid", "tanh")
# Sizes tried for axes that the model leaves open: of pictures and signals, and of sequences of tokens, which often
# have position embeddings of a limited length.
_OPEN_SIZES = ((64, 8), (224, 32), (32, 4))

OutputsOf = Callable[[Any], Sequence[NDArray[Any]]]
"""Inputs -> what a model computes of them."""


@dataclasses.dataclass(frozen=True)
class LawReport:
    """Result of the check of the law.

    Attributes:
        relative_error: largest difference of any output, relative to that output's largest magnitude, where
            every removed channel is exact.
        tolerance: largest difference allowed.
        approximate: why the removal of some channels is not exact; empty if all are.
        approximate_error: the same difference with those removed too.
    """

    relative_error: float
    tolerance: float
    approximate: tuple[str, ...] = ()
    approximate_error: float = 0.0


def zeroed_reference(channels: ChannelGraph, alive: Alive) -> Any:
    """The original model, full size, with the consumers' rows of the removed channels set to zero."""
    reference, variables = full_size(channels)
    _zero(channels, variables, alive)
    return reference


def _zero(channels: ChannelGraph, variables: Mapping[int, Variable], alive: Alive) -> None:
    """Sets the rows that read removed channels to zero, in the rebuilt model's `variables`."""
    family = channels.graph.family
    close(channels, variables, alive)
    for axis in channels.axes:
        gone = ~alive[axis.labels]
        if axis.role == "in" and gone.any():
            old = family.weights(axis.op)[axis.index]
            new = variables[id(old)]
            value = family.numpy(new).reshape(old.shape).copy()
            np.moveaxis(value, axis.axis, 0)[gone] = 0
            new.assign(value.reshape(new.shape))


# Sums of fewer terms round otherwise: a few times the distance of two neighboring numbers, in float32 of many layers.
_TOLERANCES = {"bfloat16": 3e-2, "float16": 4e-3}


def _tolerance_of(channels: ChannelGraph) -> float:
    """The difference that rounding makes in the numbers that a model computes in."""
    names = {str(getattr(call.op, "compute_dtype", "")) for call in channels.graph.walk()}
    return max((_TOLERANCES[name] for name in names if name in _TOLERANCES), default=1e-4)


def check_law(
    channels: ChannelGraph,
    alive: Alive,
    pruned: KerasModel,
    *,
    tolerance: float | None = None,
    seed: int = 0,
    batch_size: int = 2,
    outputs_of: OutputsOf | None = None,
) -> LawReport:
    """Compares the pruned model with the zeroed original on random inputs.

    The zeroed original is itself a rebuilt model, so first the rebuilt model with nothing removed is compared with the
    original. Channels whose removal is only approximate (LayerNormalization...) cannot obey the law: it is checked
    with those retained, and the difference they make is reported.

    Args:
        channels, alive, pruned: the traced original, `(n_labels,)` what was retained, and the rewritten model.
        tolerance: largest difference allowed, relative to the output's largest magnitude; by default 1e-4, in 16 bits more.
        seed: of the random inputs (standard normal; small integers for integer inputs).
        batch_size: number of inputs, where the model leaves it open.
        outputs_of: inputs -> what the original computes, where that is not what its model does: without some blocks.

    Raises:
        LawError: an output differs by more than `tolerance` or is not finite, or the original cannot be checked: it
            does not run on random inputs, or is random itself.
    """
    model, family, tolerance = channels.graph.model, channels.graph.family, tolerance or _tolerance_of(channels)
    original = _run_original(channels, seed, batch_size, outputs_of)
    inputs = original.inputs
    reference, variables = full_size(channels)
    if not largest_error(original.outputs, inference_outputs(reference, family, inputs)) <= tolerance:
        raise LawError(_differs_once_rebuilt(original, channels.left_out, tolerance))
    reasons = {root: why for root, why in channels.bundles.approximate.items() if not alive[root]}
    exact = alive | np.isin(channels.bundles.root, list(reasons))
    _zero(channels, variables, exact)
    compared = rewrite(channels, exact) if reasons else pruned
    with _unsaturated(reference), _unsaturated(compared), _unsaturated(pruned):
        error = largest_error(inference_outputs(reference, family, inputs), inference_outputs(compared, family, inputs))
        approximate_error = 0.0
        if reasons:
            _zero(channels, variables, alive)
            zeroed = inference_outputs(reference, family, inputs)
            approximate_error = largest_error(zeroed, inference_outputs(pruned, family, inputs))
    in_training = _difference_in_training(channels, exact, inputs)
    if in_training is not None and not in_training <= _LOOSER_IN_TRAINING * tolerance:
        raise LawError(
            f"In training mode what became of '{model.name}' differs from the original with the consumers of the removed "
            f"channels zeroed by {in_training:.2e} of the largest output or state. A layer without a rule does something else in "
            "training: exclude the layers before it (excluded_layers), or give it a rule."
        )
    if not (error <= tolerance and np.isfinite(approximate_error)):
        if original.is_random(tolerance):
            raise LawError(_random_itself(model))
        raise LawError(
            f"The pruned model '{pruned.name}' differs from the original with the removed channels' consumers zeroed "
            f"by {max(error, approximate_error):.2e} of the largest output. Expected at most {tolerance:.0e}. "
            "Exclude the layers concerned, and report the model: this is a bug."
        )
    return LawReport(error, tolerance, tuple(sorted(set(reasons.values()))), approximate_error)


def _difference_in_training(channels: ChannelGraph, alive: Alive, inputs: Any) -> float | None:
    """The same in training mode; None where no layer was opened: those that have a rule are known."""
    if not any(call.is_opened for call in channels.graph.walk()) and not channels.graph.opened:
        return None
    # Of its own: training changes its states.
    reference, variables = full_size(channels)
    _zero(channels, variables, alive)
    return difference_in_training(channels, alive, reference, variables, inputs)


@contextlib.contextmanager
def _unsaturated(model: KerasModel) -> Iterator[None]:
    """Takes softmax and its kin off a model's outputs: a trained network is so sure of random inputs that behind them every
    difference would vanish."""
    graph = read(model)
    ends = {x.key for x in graph.flat_outputs}
    last = [call.op for call in graph.calls if call.inner is None and any(x.key in ends for x in call.outputs)]
    plain = [op for op in last if has_trait(graph.family, op, "activation attribute")]
    taken = [(op, op.activation) for op in plain if getattr(op.activation, "__name__", "") in _SATURATING]
    function = model.predict_function
    for op, _ in taken:
        op.activation = graph.family.namespace().activations.linear
    try:
        model.predict_function = None
        yield
    finally:
        for op, activation in taken:
            op.activation = activation
        model.predict_function = function


def _run_original(channels: ChannelGraph, seed: int, batch_size: int, outputs_of: OutputsOf | None) -> _Original:
    """Inputs that the model takes, and its outputs; arguments as for `check_law`."""
    model, family = channels.graph.model, channels.graph.family
    outputs_of = outputs_of or functools.partial(inference_outputs, model, family)
    failures: dict[str, Exception] = {}
    found: list[_Original] = []
    for positive in (False, True):
        for inputs in _candidates(channels, seed, batch_size, positive=positive):
            shapes = ", ".join(f"{np.shape(x)} {np.asarray(x).dtype}" for x in tree.flatten(inputs))
            if shapes in failures:
                continue
            try:
                with family.untouched(model):
                    found.append(_Original(model, family, inputs, outputs_of(inputs), outputs_of))
            # Whatever a model raises, it is the model that cannot be checked.
            except Exception as error:  # noqa: BLE001
                failures[shapes] = error
                continue
            if found[-1].finite_share == 1:
                return found[-1]
            # Roots and logarithms of the inputs: of positive ones, they are finite.
            break
    if found:
        best = max(found, key=lambda x: x.finite_share)
        if best.finite_share:
            return best
        raise LawError(
            f"The check cannot compare '{model.name}': an output is not finite on random inputs, positive ones included. "
            "Expected finite weights; without the check (verify=False, --noverify) it is pruned all the same."
        )
    first = next(iter(failures.values()))
    raise LawError(
        f"The check cannot run '{model.name}' on random inputs of {' or '.join(failures)}: {first_line(first)} "
        "Expected a model that takes them; without the check (verify=False, --noverify) it is pruned all the same."
    ) from first


@dataclasses.dataclass(frozen=True, eq=False)
class _Original:
    """What the original computes.

    Attributes:
        inputs, outputs: of its first run.
        outputs_of: runs it once more.
    """

    model: KerasModel
    family: Family
    inputs: Any
    outputs: Sequence[NDArray[Any]]
    outputs_of: OutputsOf

    @property
    def finite_share(self) -> float:
        """Share of finite numbers, of the output that has fewest of them."""
        return min((float(np.isfinite(x).mean()) for x in self.outputs if x.size), default=1.0)

    def is_random(self, tolerance: float) -> bool:
        """Whether another run on the same inputs has other results."""
        with self.family.untouched(self.model):
            self.outputs_of(self.inputs)
            return largest_error(self.outputs, self.outputs_of(self.inputs)) > tolerance


def _differs_once_rebuilt(original: _Original, left_out: Sequence[str], tolerance: float) -> str:
    if original.is_random(tolerance):
        return _random_itself(original.model)
    name, blocks = original.model.name, ", ".join(left_out)
    removed, same = ("nothing", "the same") if not blocks else (f"only {blocks}", "what it does with those branches set to zero")
    return (
        f"Rebuilt from its layers' configurations and weights, with {removed} removed, '{name}' no longer computes {same}. "
        "Expected custom layers to keep their state in weights, or to hand it over in save_assets() and load_assets()."
    )


def _random_itself(model: KerasModel) -> str:
    return (
        f"The check cannot compare '{model.name}': two runs on the same inputs differ, so it is random in inference. "
        "Without the check (verify=False, --noverify) it is pruned all the same."
    )


def random_inputs(channels: ChannelGraph, seed: int, batch_size: int) -> Any:
    """Random inputs in the structure of the model's: the first that `check_law` tries."""
    return next(_candidates(channels, seed, batch_size))


def _candidates(channels: ChannelGraph, seed: int, batch_size: int, *, positive: bool = False) -> Iterator[Any]:
    fixed = _fixed_inside(channels)
    for sizes in _OPEN_SIZES:
        rng = np.random.default_rng(seed)
        flat = [_random(x, fixed.get(len(x.shape), {}), sizes, batch_size, rng) for x in channels.graph.flat_inputs]
        flat = [np.abs(x) if positive and x.dtype.kind == "f" else x for x in flat]
        yield tree.pack_sequence_as(channels.graph.inputs, flat)


def _random(
    tensor: Tensor, fixed: Mapping[int, int], sizes: tuple[int, int], batch_size: int, rng: np.random.Generator
) -> NDArray[Any]:
    tokens = not tensor.dtype.startswith(("float", "bfloat"))
    shape = [n or fixed.get(i, sizes[tokens]) for i, n in enumerate(tensor.shape)]
    shape[0] = tensor.shape[0] or batch_size
    if tensor.dtype == "string":
        return rng.integers(0, 10, shape).astype(str)
    return rng.integers(0, 2, shape).astype(tensor.dtype) if tokens else rng.standard_normal(shape).astype(np.float32)


def _fixed_inside(channels: ChannelGraph) -> dict[int, dict[int, int]]:
    """Rank -> axis -> the size that a nested model insists on: what an outer open axis most likely is."""
    sizes: dict[int, dict[int, int]] = {}
    for call in channels.graph.walk():
        for tensor in call.inner.flat_inputs if call.inner is not None else ():
            shape = (None, None, *tensor.shape[1:]) if call.over_time else tensor.shape
            for axis, size in enumerate(shape):
                if axis and size is not None:
                    sizes.setdefault(len(shape), {}).setdefault(axis, size)
    return sizes


def relative_error(expected: NDArray[Any], received: NDArray[Any]) -> float:
    """Relative difference max |a - b| / max |a| of what is finite; infinite where the shapes differ, or NaN and infinities."""
    finite = np.isfinite(expected)
    if expected.shape != received.shape or not np.array_equal(expected[~finite], received[~finite], equal_nan=True):
        return float("inf")
    a, b = expected[finite], received[finite]
    if not np.isfinite(b).all():
        return float("inf")
    return float(np.max(np.abs(a - b), initial=0.0)) / (float(np.max(np.abs(a), initial=0.0)) or 1.0)


def inference_outputs(model: KerasModel, family: Family, inputs: object) -> list[NDArray[Any]]:
    """Outputs in inference mode. Compiling a model takes longer than running it once; but eagerly, Keras 3.15 adds the bias of a
    channels-first map that is as wide as it has channels on the wrong axis."""
    family.reset_states(model)
    outputs = None
    if any(getattr(layer, "data_format", "") == "channels_first" for layer in all_layers(model)):
        # Some layers of others' cannot be compiled.
        with contextlib.suppress(Exception):
            outputs = model.predict_on_batch(inputs)
    if outputs is None:
        with family.without_gradients():
            outputs = model(inputs, training=False)
    return [as_array(x).astype(np.float64) for x in tree.flatten(outputs)]


def largest_error(expected: Sequence[NDArray[Any]], received: Sequence[NDArray[Any]]) -> float:
    """`relative_error` of the output where it is largest."""
    return max(relative_error(a, b) for a, b in zip(expected, received, strict=True))
