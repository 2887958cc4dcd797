"""Options of pruning: one definition for `prune_model`, the spec's `prune` section and the flags."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypedDict, TypeVar

import pydantic
from pydantic import Field

from tlt_prune.config.registry import CRITERIA
from tlt_prune.config.settings import OneOf, Settings, at_most, problems
from tlt_prune.errors import PlanError


def _percent(text: str) -> float:
    """50 of "50%"; NaN of what is no share."""
    try:
        return float(text.removesuffix("%")) if text.endswith("%") else math.nan
    except ValueError:
        return math.nan


def _is_amount(value: float | str) -> float | str:
    if isinstance(value, str):
        if not 0 < _percent(value) <= 100:
            raise ValueError(f'expected a number above 0, or a share like "50%". Received: {value!r}')
    elif not (math.isfinite(value) and value > 0):
        raise ValueError(f'expected a number above 0, or a share like "50%". Received: {value!r}')
    return value


Amount = Annotated[float | str, pydantic.AfterValidator(_is_amount)]
"""An absolute number, or a share of the whole model's as a text like "50%"."""


def _as_share(value: object) -> object:
    """A share of channels: 0.5, or "50%"."""
    share = _percent(value) / 100 if isinstance(value, str) else value
    if isinstance(share, (int, float)) and not isinstance(share, bool) and not 0 <= share < 1:
        hint = f' For {share:g} per cent say {share / 100:g} or "{share:g}%".' if 1 < share < 100 else ""
        raise ValueError(f'expected a number of at least 0 and below 1, or a share like "50%".{hint} Received: {value!r}')
    return share


Ratio = Annotated[float, pydantic.BeforeValidator(_as_share)]
Whole = Annotated[int, Field(ge=1), at_most(2**31 - 1, "no layer has more channels")]

BUDGETS = ("threshold", "ratio", "params", "macs", "size_mb", "latency_ms")
"""The fields of `Options` that say how much goes; exactly one of them is given."""


class LayerOptions(Settings):
    """Options of single layers. Where coupled layers have different ones, the one that keeps more channels wins."""

    ratio: Ratio | None = None
    """Share of the channels to remove there, whatever the budget."""
    max_ratio: Ratio | None = None
    """Largest share that may go."""
    granularity: Whole | None = None
    min_num_filters: Whole | None = None


class Options(Settings):
    """Amount to remove and the way to choose it. Names and defaults are the toolkit's.

    Exactly one of `threshold`, `ratio`, `params`, `macs`, `size_mb` and `latency_ms` is given.
    """

    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Keep the filters whose normalized score is strictly above it: the toolkit's way. At most 1 with normalizer "max"."""
    ratio: Ratio | None = None
    """Share of the channels to remove in each group, 0 <= ratio < 1."""
    params: Amount | None = None
    """Parameters that may stay: a number, or a share (at most 1, or "30%")."""
    macs: Amount | None = None
    """Multiply-accumulates for one input that may stay: a number, or a share (at most 1, or "50%")."""
    size_mb: Amount | None = None
    """Size of the weights that may stay, in megabytes of 10^6 bytes: a number, or a share like "25%"."""
    latency_ms: Amount | None = None
    """Latency at batch 1 in milliseconds: a number, or a share like "50%". Predicted from layers that are measured one by one, in
    onnxruntime on one thread of this machine, or on the device of `latency_table`."""
    criterion: Annotated[str, OneOf(CRITERIA.names)] | Callable[..., Any] = "L2"
    """Score of a filter: a name, one of `tlt_prune.criteria`, or your own function; "L2" is the toolkit's `min_weight`.
    Some need data, such as Taylor and Fisher: in Python `criteria.Taylor(data, loss)`, by script the spec's dataset."""
    normalizer: Literal["auto", "max", "L2", "off"] = "auto"
    """Normalization that makes scores of different layers comparable: "max" divides by the layer's largest, "L2" by the norm of
    the scores times their number, "off" leaves them. "auto" is the toolkit's "max", or "off" where a criterion's scores compare
    as they are."""
    equalization_criterion: Literal["union", "intersection", "arithmetic_mean", "geometric_mean", "sum", "mean"] = "union"
    """Combined score of layers that must keep the same channels: max, min, a mean (arithmetic, "mean" for short, or geometric)
    or the sum of their scores."""
    ranking: Literal["auto", "local", "global", "isomorphic"] = "auto"
    """With a budget: "local" takes the same share of every group, to its nearest step, "global" what scores least for what it
    saves, wherever it is, "isomorphic" the same share of all layers of one structure (same type and kernel size), of these what
    scores least. "auto" is global where a criterion's scores compare as they are (Taylor, Fisher, Ablation, LAMP), else
    local."""
    max_ratio: Ratio | None = None
    """Largest share of a group's channels that may go; none by default, 0.9 with global and isomorphic ranking, which must not
    cut a layer through."""
    latency_table: str | None = None
    """File that keeps measured latencies; without one all are measured anew. With one that `latency_script` brought from a device
    `latency_ms` means that device."""
    granularity: Whole | Literal["auto"] = 8
    """Retained counts are multiples of it, where the layer's width is; a head of attention counts as its channels: 2 heads of 6
    are 12. "auto": what the dtype policy wants, or `export.data_type`."""
    min_num_filters: Whole = 16
    """Fewest filters a layer keeps."""
    blocks: tuple[str, ...] | Annotated[int, Field(ge=0), at_most(2**31 - 1, "no model has more blocks")] | Literal["auto"] = ()
    """Residual blocks that go as a whole, each addition x + branch(x) becoming x: names, paths or shell patterns of additions;
    or how many, those that are worth least by the criterion; or "auto": those without which the budget costs least, by a
    criterion such as Taylor. A share of a budget is one of the whole model."""
    excluded_layers: tuple[str | type, ...] = ()
    """Names, paths, shell patterns or types of layers whose channels all stay."""
    channelwise_layers: tuple[str, ...] = ()
    """Names, paths or shell patterns of Lambda or custom layers without a rule that treat every channel by itself."""
    inline: bool = False
    """Whether custom layers and Lambdas are replaced by the layers and operations that they are made of. More can go then, and
    the pruned model loads without their code; else they keep their class, and what their constructor cannot express stays."""
    layer_options: Mapping[str, LayerOptions] = {}
    """Layer name, path or shell pattern -> `ratio`, `max_ratio`, `granularity` or `min_num_filters` for those layers."""

    @pydantic.field_validator("blocks", mode="before")
    @classmethod
    def _a_number_is_a_count(cls, value: object) -> object:
        """On a command line, a number is text, and "auto" is a list of one."""
        value = (value,) if isinstance(value, str) else value
        alone = value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else ""
        if alone == "auto":
            return alone
        return int(alone) if isinstance(alone, str) and alone.isascii() and alone.isdigit() else value

    @pydantic.field_validator("excluded_layers", "channelwise_layers", mode="before")
    @classmethod
    def _one_name_is_a_list_of_one(cls, value: object) -> object:
        return (value,) if isinstance(value, (str, type)) else value

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        given = {name: value for name in BUDGETS if (value := getattr(self, name)) is not None}
        received = ", ".join(f"{name}={value}" for name, value in given.items())
        if len(given) > 1:
            raise ValueError(f"expected one of {', '.join(BUDGETS)}. Received: {received}")
        for name, needing in (("ranking", ("global", "isomorphic")), ("blocks", ("auto",))):
            if (value := getattr(self, name)) in needing and given.keys() & {"threshold", "ratio"}:
                raise ValueError(
                    f"{name}={value!r} needs a budget for the whole network. Expected params, macs, size_mb or latency_ms. "
                    f"Received: {received}"
                )
        by_largest = self.normalizer == "max" or (
            self.normalizer == "auto" and self.criterion in ("auto", *CRITERIA.names("nothing"))
        )
        if self.threshold is not None and self.threshold > 1 and by_largest and self.equalization_criterion != "sum":
            raise ValueError(
                "scores divided by their layer's largest are at most 1. Expected a threshold between 0 and 1, "
                f"or another normalizer. Received: threshold={self.threshold}"
            )
        return self


class OptionArguments(TypedDict, total=False):
    """The fields of `Options` as keyword arguments, for type checkers; a test holds the two together."""

    threshold: float | None
    ratio: float | str | None
    params: float | str | None
    macs: float | str | None
    size_mb: float | str | None
    latency_ms: float | str | None
    criterion: str | Callable[..., Any]
    normalizer: Literal["auto", "max", "L2", "off"]
    equalization_criterion: Literal["union", "intersection", "arithmetic_mean", "geometric_mean", "sum", "mean"]
    ranking: Literal["auto", "local", "global", "isomorphic"]
    max_ratio: float | str | None
    latency_table: str | None
    granularity: int | Literal["auto"]
    min_num_filters: int
    blocks: Sequence[str] | str | int
    excluded_layers: Sequence[str | type] | str | type
    channelwise_layers: Sequence[str] | str
    inline: bool
    layer_options: Mapping[str, Mapping[str, Any]]


F = TypeVar("F", bound=Callable[..., Any])


def options_spelled_out(function: F, without: Sequence[str] = ()) -> F:
    """Writes the options that a function takes as `**options` into its signature and its docstring, but for those `without`."""
    chosen = {name: field for name, field in Options.model_fields.items() if name not in without}
    signature = inspect.signature(function)
    keyword = inspect.Parameter.KEYWORD_ONLY
    spelled = [inspect.Parameter(name, keyword, default=field.default) for name, field in chosen.items()]
    parameters = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    before, after = ([p for p in parameters if (p.kind is keyword) is last] for last in (False, True))
    function.__signature__ = signature.replace(parameters=[*before, *spelled, *after])  # type: ignore[attr-defined]
    lines = [
        f"            - {name} (default {field.default!r}): {' '.join(str(field.description).split())}"
        for name, field in chosen.items()
    ]
    head, separator, rest = str(function.__doc__).partition("        **options: ")
    if separator:
        introduction, _, others = rest.partition("\n\n")
        # A list, with the empty line before it that Markdown wants.
        function.__doc__ = f"{head}{separator}{introduction}\n\n" + "\n".join(lines) + f"\n\n{others}"
    return function


def options_of(arguments: Mapping[str, Any]) -> Options:
    """Validated options with a budget.

    Raises:
        PlanError: an argument is unknown or out of range, or nothing says how much goes.
    """
    try:
        options = Options(**arguments)
    except pydantic.ValidationError as error:
        raise PlanError("; ".join(problems(error, Options))) from error
    return with_budget(options)


def with_budget(options: Options) -> Options:
    """`options`, if they say how much goes.

    Raises:
        PlanError: they do not.
    """
    if all(getattr(options, name) is None for name in BUDGETS):
        raise PlanError(
            "Expected one of threshold= (the toolkit's way), ratio= (share of channels to remove in each group), params=, macs=, "
            "size_mb= or latency_ms= (what may stay). Received none."
        )
    return options
