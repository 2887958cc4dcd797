"""What a user may choose when pruning: one definition for `prune_model`, the spec's `prune` section and the flags."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypedDict, TypeVar, get_args, get_origin

import pydantic
from pydantic import Field

from tlt_prune.errors import PlanError, TltPruneError

S = TypeVar("S", bound="Settings")


class Settings(pydantic.BaseModel):
    """Frozen, typed, validated values. Lists become tuples, NumPy scalars numbers; nothing else is converted."""

    model_config = pydantic.ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {key: cls._in_any_case(str(key), _as_plain(value, str(key))) for key, value in data.items()}

    @classmethod
    def _in_any_case(cls, key: str, value: Any) -> Any:
        """Where one of several names is expected, "l2" and "SGD" are as good as "L2" and "sgd"."""
        if isinstance(value, tuple):
            return tuple(cls._in_any_case(key, x) for x in value)
        if not isinstance(value, str) or key not in cls.model_fields:
            return value
        names = [x for x in _literals(cls.model_fields[key].annotation) if isinstance(x, str)]
        return next((name for name in names if name.lower() == value.lower()), value)


def _literals(annotation: Any) -> list[Any]:
    """The values of every Literal in a type."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [x for part in get_args(annotation) for x in _literals(part)]


# Of float32, which is what is computed with.
_LARGEST_NUMBER = 3.4e38


def _as_plain(value: Any, key: str) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_as_plain(x, key) for x in value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, str) and ("\0" in value or not _is_utf8(value)):
        raise ValueError(f"'{key[:60]}': expected text in UTF-8 without NUL. Received: {value[:60]!r}")
    if isinstance(value, (int, float)) and math.isfinite(value) and abs(value) > _LARGEST_NUMBER:
        raise ValueError(f"'{key[:60]}': expected a number below {_LARGEST_NUMBER:.1e}. Received: {str(value)[:60]}")
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def at_most(limit: float, why: str) -> pydantic.AfterValidator:
    """A bound that says what it is for."""

    def check(value: float) -> float:
        if value > limit:
            raise ValueError(f"expected at most {limit:,}: {why}. Received: {str(value)[:40]}")
        return value

    return pydantic.AfterValidator(check)


def checked(kind: type[S], data: Mapping[str, Any], what: str, error: type[TltPruneError]) -> S:
    """What was read from a file, held against the class that says what it is.

    Raises:
        TltPruneError: of the type `error`, where it is something else; `what` begins the message.
    """
    try:
        return kind.model_validate(data)
    except pydantic.ValidationError as found:
        raise error(f"{what}: {'; '.join(problems(found, kind))}") from found


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


def _as_share(value: Any) -> Any:
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
CRITERIA_WITHOUT_DATA = ("L2", "L1", "Linf", "FPGM", "BNScale", "LAMP", "Random")
CRITERIA_WITH_DATA = ("Taylor", "Fisher", "Activation", "APoZ", "Ablation")


class LayerOptions(Settings):
    """What is decided otherwise for some layers. Where coupled layers say different things, the one that keeps more wins."""

    ratio: Ratio | None = None
    """Share of the channels to remove there, whatever the budget."""
    max_ratio: Ratio | None = None
    """Largest share that may go."""
    granularity: Whole | None = None
    min_num_filters: Whole | None = None


class Options(Settings):
    """How much goes, and how it is decided. Names and defaults are the toolkit's.

    Exactly one of `threshold`, `ratio`, `params`, `macs`, `size_mb` and `latency_ms` says how much.
    """

    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Keep the filters whose normalised score is strictly above it: the toolkit's way. At most 1 with normalizer "max"."""
    ratio: Ratio | None = None
    """Share of the channels to remove in each group, 0 <= ratio < 1."""
    params: Amount | None = None
    """Parameters that may stay: a number, or a share (at most 1, or "30%")."""
    macs: Amount | None = None
    """Multiply-accumulates for one input that may stay: a number, or a share (at most 1, or "50%")."""
    size_mb: Amount | None = None
    """Size of the weights that may stay, in megabytes of 10^6 bytes: a number, or a share like "25%"."""
    latency_ms: Amount | None = None
    """Latency at batch 1 in onnxruntime on this machine, in milliseconds: a number, or a share like "50%". Predicted from layers
    that are measured one by one."""
    criterion: (
        Literal["L2", "L1", "Linf", "FPGM", "BNScale", "LAMP", "Random", "Taylor", "Fisher", "Activation", "APoZ", "Ablation"]
        | Callable[..., Any]
    ) = "L2"
    """What a filter is worth: a name, one of `tlt_prune.criteria`, or a function of yours; "L2" is the toolkit's `min_weight`.
    Taylor, Fisher, Activation, APoZ and Ablation need data: in Python `criteria.Taylor(data, loss)`, by script the spec's
    dataset."""
    normalizer: Literal["auto", "max", "L2", "off"] = "auto"
    """How scores of different layers are made comparable: "max" divides by the layer's largest, "L2" by the norm of the scores
    times their number, "off" leaves them. "auto" is the toolkit's "max", or "off" where a criterion's scores compare as they
    are."""
    equalization_criterion: Literal["union", "intersection", "arithmetic_mean", "geometric_mean", "sum", "mean"] = "union"
    """How layers that must keep the same channels agree: max, min, a mean (arithmetic, "mean" for short, or geometric) or the
    sum of their scores."""
    ranking: Literal["auto", "local", "global"] = "auto"
    """With a budget: "local" takes the same share of every group, to its nearest step, "global" what scores least for what it
    saves, wherever it is. "auto" is global where a criterion's scores compare as they are (Taylor, Fisher, Ablation, LAMP), else
    local."""
    max_ratio: Ratio | None = None
    """Largest share of a group's channels that may go; none by default, 0.9 with global ranking, which must not cut a layer
    through."""
    latency_table: str | None = None
    """File that keeps measured latencies; without one all are measured anew."""
    granularity: Whole | Literal["auto"] = 8
    """Retained counts are multiples of it, where the layer's width is; a head of attention counts as the channels it has: 2 heads
    of 6 are 12. "auto" takes it from the model's dtype policy."""
    min_num_filters: Whole = 16
    """Fewest filters a layer keeps."""
    excluded_layers: tuple[str | type, ...] = ()
    """Names, paths, shell patterns or types of layers whose channels all stay."""
    channelwise_layers: tuple[str, ...] = ()
    """Names, paths or shell patterns of Lambda or custom layers without a rule that treat every channel by itself."""
    layer_options: Mapping[str, LayerOptions] = {}
    """Layer name, path or shell pattern -> `ratio`, `max_ratio`, `granularity` or `min_num_filters` for those layers."""

    @pydantic.field_validator("excluded_layers", "channelwise_layers", mode="before")
    @classmethod
    def _one_name_is_a_list_of_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, (str, type)) else value

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        given = {name: value for name in BUDGETS if (value := getattr(self, name)) is not None}
        if len(given) > 1:
            raise ValueError(
                f"expected one of {', '.join(BUDGETS)}. Received: {', '.join(f'{name}={value}' for name, value in given.items())}"
            )
        if self.ranking == "global" and given.keys() & {"threshold", "ratio"}:
            raise ValueError(
                f"ranking='global' needs a budget for the whole network. Expected params, macs, size_mb or latency_ms. "
                f"Received: {', '.join(f'{name}={value}' for name, value in given.items())}"
            )
        by_largest = self.normalizer == "max" or (
            self.normalizer == "auto" and self.criterion in ("auto", *CRITERIA_WITHOUT_DATA)
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
    ranking: Literal["auto", "local", "global"]
    max_ratio: float | str | None
    latency_table: str | None
    granularity: int | Literal["auto"]
    min_num_filters: int
    excluded_layers: Sequence[str | type] | str | type
    channelwise_layers: Sequence[str] | str
    layer_options: Mapping[str, Mapping[str, Any]]


F = TypeVar("F", bound=Callable[..., Any])


def options_spelled_out(function: F, without: Sequence[str] = ()) -> F:
    """Writes the options that a function takes as `**options` into its signature and its docstring, but for those `without`."""
    chosen = {name: field for name, field in Options.model_fields.items() if name not in without}
    signature = inspect.signature(function)
    keyword = inspect.Parameter.KEYWORD_ONLY
    spelled = [inspect.Parameter(name, keyword, default=field.default) for name, field in chosen.items()]
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    before, after = ([p for p in own if (p.kind is keyword) is last] for last in (False, True))
    function.__signature__ = signature.replace(parameters=[*before, *spelled, *after])  # type: ignore[attr-defined]
    lines = [
        f"            {name} (default {field.default!r}): {' '.join(str(field.description).split())}"
        for name, field in chosen.items()
    ]
    head, separator, rest = str(function.__doc__).partition("        **options: ")
    if separator:
        said, _, others = rest.partition("\n\n")
        function.__doc__ = f"{head}{separator}{said}\n" + "\n".join(lines) + f"\n\n{others}"
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


# Told of at once.
_MOST_PROBLEMS = 5
# In a user's words; pydantic's own where they do.
_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "model_type": "a section with keys",
    "string_too_short": "a text that is not empty",
}


def problems(
    error: pydantic.ValidationError,
    model: type[pydantic.BaseModel],
    also: Sequence[str] = (),
    meant: Mapping[str, str] | None = None,
) -> list[str]:
    """One line a mistake: where, what was expected, what was received; the nearest known name for an unknown one.

    Args:
        error: what `model` says of the data.
        also: further names that are known at the top.
        meant: unknown name -> what is meant by it, where that is no question of spelling.
    """
    found: dict[str, list[str]] = {}
    received: dict[str, Any] = {}
    for item in error.errors():
        where, fields = _located(item["loc"], model)
        if item["type"] == "extra_forbidden":
            known = [*fields, *also] if "." not in where else fields
            hint = f" Did you mean '{meant[where]}'?" if meant and where in meant else _nearest(where, known)
            found[where] = [f"unknown key '{where}'.{hint}"]
        elif item["type"] == "value_error":
            text = str(item["ctx"]["error"])
            found[where] = [f"'{where}': {text}." if where else f"{text[0].upper()}{text[1:]}."]
        else:
            received[where] = item["input"]
            found.setdefault(where, []).append(
                _EXPECTED.get(item["type"]) or item["msg"].removeprefix("Input should be ").removeprefix("String should have ")
            )
    for where, value in received.items():
        found[where] = [f"'{where}' must be {' or '.join(dict.fromkeys(found[where]))}. Received: {_shown(value)}."]
    texts = [texts[0] for texts in found.values()]
    return texts if len(texts) <= _MOST_PROBLEMS else [*texts[:_MOST_PROBLEMS], f"And {len(texts) - _MOST_PROBLEMS} more."]


def _located(location: Sequence[Any], model: type[pydantic.BaseModel]) -> tuple[str, list[str]]:
    """The dotted name of a key, and its section's known keys. What pydantic adds for the branches of a union is left out."""
    names, fields = [], _keys(model)
    current: Any = model
    for part in location:
        if isinstance(part, int):
            names.append(str(part))
            break
        if _is_section(current):
            fields = _keys(current)
            names.append(part)
            current = current.model_fields[part].annotation if part in current.model_fields else None
        elif get_origin(current) is Mapping:
            names.append(part)
            current = get_args(current)[1]
        else:
            break
    return ".".join(str(name)[:60] for name in names), fields


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def _keys(model: type[pydantic.BaseModel]) -> list[str]:
    """What a user may write; `ignored` is what became of some of it."""
    return [name for name in model.model_fields if name != "ignored"]


def _nearest(where: str, fields: Sequence[str]) -> str:
    section, _, key = where.rpartition(".")
    near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
    if near:
        return f" Did you mean '{section}.{near[0]}'?" if section else f" Did you mean '{near[0]}'?"
    return f" Expected one of: {', '.join(fields)}."


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"
