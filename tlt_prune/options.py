"""What a user may choose when pruning: one definition for `prune_model`, the spec's `prune` section and the flags."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypedDict, get_args, get_origin

import pydantic
from pydantic import Field

from tlt_prune.errors import PlanError


class Settings(pydantic.BaseModel):
    """Frozen, typed, validated values. Lists become tuples, NumPy scalars numbers; nothing else is converted."""

    model_config = pydantic.ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {key: cls._in_any_case(key, _as_plain(value)) for key, value in data.items()}

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


def _as_plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_as_plain(x) for x in value)
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


class Options(Settings):
    """How much goes, and how it is decided. Names and defaults are the toolkit's.

    One of `threshold` and `ratio` says how much.
    """

    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Keep the filters whose normalised score is strictly above it: the toolkit's way. At most 1 with normalizer "max"."""
    ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the channels to remove in each group, 0 <= ratio < 1."""
    criterion: Literal["L2", "L1"] = "L2"
    """Norm of each filter's kernel; "L2" is the toolkit's `min_weight`."""
    normalizer: Literal["max", "L2", "off"] = "max"
    """How norms of different layers are made comparable: "max" divides by the layer's largest, "L2" by the norm of the scores
    times their number, "off" leaves them."""
    equalization_criterion: Literal["union", "intersection", "arithmetic_mean", "geometric_mean"] = "union"
    """How layers that must keep the same channels agree: max, min or a mean of their scores."""
    granularity: Annotated[int, Field(ge=1)] | Literal["auto"] = 8
    """Retained counts are multiples of it, where the layer's width is; "auto" takes it from the model's dtype policy."""
    min_num_filters: Annotated[int, Field(ge=1)] = 16
    """Fewest filters a layer keeps."""
    excluded_layers: tuple[str | type, ...] = ()
    """Names, paths, shell patterns or types of layers whose channels all stay."""
    channelwise_layers: tuple[str, ...] = ()
    """Names, paths or shell patterns of Lambda or custom layers without a rule that treat every channel by itself."""

    @pydantic.field_validator("excluded_layers", "channelwise_layers", mode="before")
    @classmethod
    def _one_name_is_a_list_of_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, (str, type)) else value

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.threshold is not None and self.ratio is not None:
            raise ValueError(f"expected one of threshold and ratio. Received: threshold={self.threshold}, ratio={self.ratio}")
        if self.threshold is not None and self.threshold > 1 and self.normalizer == "max":
            raise ValueError(
                "scores divided by their layer's largest are at most 1. Expected a threshold between 0 and 1, "
                f"or another normalizer. Received: threshold={self.threshold}"
            )
        return self


class OptionArguments(TypedDict, total=False):
    """The fields of `Options` as keyword arguments, for type checkers; a test holds the two together."""

    threshold: float | None
    ratio: float | None
    criterion: Literal["L2", "L1"]
    normalizer: Literal["max", "L2", "off"]
    equalization_criterion: Literal["union", "intersection", "arithmetic_mean", "geometric_mean"]
    granularity: int | Literal["auto"]
    min_num_filters: int
    excluded_layers: Sequence[str | type] | str | type
    channelwise_layers: Sequence[str] | str


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
    if options.threshold is None and options.ratio is None:
        raise PlanError(
            "Expected one of threshold= (the toolkit's way) or ratio= (share of channels to remove). Received neither."
        )
    return options


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


def problems(error: pydantic.ValidationError, model: type[pydantic.BaseModel]) -> list[str]:
    """One line a mistake: where, what was expected, what was received; the nearest known name for an unknown one."""
    found: dict[str, list[str]] = {}
    received: dict[str, Any] = {}
    for item in error.errors():
        where, fields = _located(item["loc"], model)
        if item["type"] == "extra_forbidden":
            found[where] = [f"unknown key '{where}'.{_nearest(where, fields)}"]
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
    return [texts[0] for texts in found.values()]


def _located(location: Sequence[Any], model: type[pydantic.BaseModel]) -> tuple[str, list[str]]:
    """The dotted name of a key, and its section's known keys. What pydantic adds for the branches of a union is left out."""
    names, fields = [], _keys(model)
    current: Any = model
    for part in location:
        if isinstance(part, int):
            names.append(str(part))
            break
        if current is None:
            break
        names.append(part)
        fields = _keys(current)
        kind = current.model_fields[part].annotation if part in current.model_fields else None
        current = kind if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel) else None
    return ".".join(names), fields


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
