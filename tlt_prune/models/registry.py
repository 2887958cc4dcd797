"""Architectures by name: `build(name, input_shape, classes, **options)`.

Each architecture is a function in a module of this package that registers itself with `@register_architecture`: a new one is a
new file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import keras

from tlt_prune.models.blocks import ArchitectureOptions, InputShape, Net

Builder = Callable[..., keras.Model]
B = TypeVar("B", bound=Builder)
# What a detector on a backbone is called: "detectnet_v2_resnet18".
_DETECTOR = "detectnet_v2_"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A registered architecture.

    Attributes:
        build: makes the model from `input_shape`, `classes`, `options` and options of its own.
        classifier: defaults of its own options in the toolkit's classification network.
        detector: its own options as the backbone of a detector with stride 16; None where the toolkit has no such detector.
    """

    build: Builder
    classifier: Mapping[str, Any]
    detector: Mapping[str, Any] | None


_ARCHITECTURES: dict[str, Architecture] = {}


def register_architecture(
    stem: str,
    variants: Sequence[int] = (),
    *,
    classifier: Mapping[str, Any] | None = None,
    detector: Mapping[str, Any] | None = None,
    detectors: Collection[int] | None = None,
) -> Callable[[B], B]:
    """Decorator: makes a function that builds models available by name. All arguments are literals: specs are checked by them.

    Args:
        stem: the name, or what the names of all variants begin with.
        variants: first argument of the function, such as the number of layers, and the end of the name: "resnet" with
            `(18, 50)` is "resnet18" and "resnet50".
        classifier, detector: see `Architecture`.
        detectors: variants that `detector` is meant for; all by default.

    Raises:
        ValueError: a name is taken.
    """

    def decorate(function: B) -> B:
        for name, arguments in _variants(stem, variants).items():
            if name in _ARCHITECTURES:
                raise ValueError(f"An architecture '{name}' is registered already. Expected another name.")
            as_backbone = detector if detectors is None or set(arguments) <= set(detectors) else None
            _ARCHITECTURES[name] = Architecture(functools.partial(function, *arguments), classifier or {}, as_backbone)
        return function

    return decorate


def _variants(stem: str, variants: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Name -> first arguments."""
    return {f"{stem}{x}": (x,) for x in variants} if variants else {stem: ()}


@contextlib.contextmanager
def registered_architecture(stem: str, variants: Sequence[int], function: Builder, **defaults: Any) -> Iterator[None]:
    """Registers an architecture for the length of a block: for tests."""
    load_architectures()
    register_architecture(stem, variants, **defaults)(function)
    try:
        yield
    finally:
        for name in _variants(stem, variants):
            del _ARCHITECTURES[name]


@functools.cache
def load_architectures() -> None:
    """Imports all modules of this package, which registers their architectures."""
    package = importlib.import_module("tlt_prune.models")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"tlt_prune.models.{module.name}")


def names() -> list[str]:
    """Names of all architectures, detectors after the backbones."""
    load_architectures()
    return [*_ARCHITECTURES, *(_DETECTOR + name for name, x in _ARCHITECTURES.items() if x.detector is not None)]


def own_options(name: str) -> frozenset[str]:
    """Options that an architecture has besides `ArchitectureOptions`, such as "use_pooling".

    Raises:
        ValueError: no architecture has that name.
    """
    parameters = inspect.signature(_architecture(_key(name)).build).parameters
    return frozenset(_split(parameters)[1]) - {"input_shape", "classes", "options"}


def build(name: str, input_shape: InputShape = (224, 224, 3), classes: int | None = None, **options: Any) -> keras.Model:
    """Builds an architecture by name, with the head of its template.

    Args:
        name: such as "resnet18" or "detectnet_v2_resnet18"; TAO's spellings "resnet_18" and "efficientnet-b0" work too.
        input_shape: (height, width, channels), whatever the data format.
        classes: outputs of the head; None for a bare backbone.
        **options: the fields of `ArchitectureOptions` (`data_format`, `kernel_regularizer`, `freeze_bn`...) and the
            architecture's own (`all_projections`, `use_pooling`, `alpha`...).

    Raises:
        ValueError: no architecture has that name, or it lacks one of the options.
    """
    key = _key(name)
    shared, rest = _split(options)
    if key.startswith(_DETECTOR):
        shared = {"data_format": "channels_first", **shared}
    try:
        return _builder(key)(input_shape=input_shape, classes=classes, options=ArchitectureOptions(**shared), **rest)
    except TypeError as error:
        fields = sorted(x.name for x in dataclasses.fields(ArchitectureOptions))
        raise ValueError(f"'{name}' does not take these options: {error}. Shared ones: {', '.join(fields)}.") from error


def classifier(
    name: str, input_shape: InputShape = (224, 224, 3), classes: int = 1000, *, dropout: float = 0.0, **options: Any
) -> keras.Model:
    """Builds the toolkit's classification network: a bare backbone, pooling over its whole map, and one dense layer.

    The layers are `avg_pool`, `flatten` and `predictions`, the same on every backbone.

    Args:
        name, input_shape, **options: as for `build`. `use_pooling` is False and ResNet's
            `all_projections` True unless given, as in the toolkit.
        classes: outputs.
        dropout: share of the pooled features dropped while training.

    Raises:
        ValueError: as `build`.
    """
    options = {**_architecture(_key(name)).classifier, **options}
    backbone = build(name, input_shape, None, **options)
    net = Net(ArchitectureOptions(**_split(options)[0]))
    x = backbone.outputs[0]
    x = keras.layers.AveragePooling2D(net.spatial(x), data_format=net.options.data_format, name="avg_pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    if dropout:
        x = keras.layers.Dropout(dropout, name="dropout")(x)
    x = net.dense(x, classes, "predictions")
    return keras.Model(backbone.inputs[0], x, name=backbone.name)


def _split(options: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options that all architectures share, and the others."""
    fields = {x.name for x in dataclasses.fields(ArchitectureOptions)}
    return {k: v for k, v in options.items() if k in fields}, {k: v for k, v in options.items() if k not in fields}


def _architecture(key: str) -> Architecture:
    return _ARCHITECTURES[key.removeprefix(_DETECTOR)]


def _builder(key: str) -> Builder:
    architecture = _architecture(key)
    if not key.startswith(_DETECTOR):
        return architecture.build
    from tlt_prune.models.detectnet import detectnet_v2

    return functools.partial(detectnet_v2, architecture.build, **(architecture.detector or {}))


def _key(name: str) -> str:
    """The name as it is registered.

    Raises:
        ValueError: no architecture has that name.
    """
    choices = names()
    wanted = name.lower().replace("-", "_")
    for key in choices:
        if wanted.replace("_", "") == key.replace("_", ""):
            return key
    near = difflib.get_close_matches(wanted, choices, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise ValueError(f"There is no architecture name={name[:40]!r}.{hint} Expected one of {', '.join(choices)}.")
