"""Architectures by name: `build(name, input_shape, classes, **options)`.

Each architecture is a function in a module of this package that registers itself with `@register_architecture`, and each network
on a backbone, such as a detector, one with `@register_network`: a new one is a new file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import keras

from tlt_prune.config import is_count
from tlt_prune.models.blocks import ArchitectureOptions, InputShape, Net, inputs

Builder = Callable[..., keras.Model]
B = TypeVar("B", bound=Builder)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A registered architecture.

    Attributes:
        build: makes the model from `input_shape`, `classes`, `options` and options of its own.
        classifier: defaults of its own options in the toolkit's classification network.
    """

    build: Builder
    classifier: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class OnBackbone:
    """A registered network on a backbone: "detectnet_v2" on "resnet18" is "detectnet_v2_resnet18".

    Attributes:
        build: makes the model from the backbone (a model without a head), its name, `classes`, `options` and options of its own.
        backbones: name of an architecture -> its options as this network's backbone; those that all architectures share win over
            the network's. None where the network has no backbone: it is given a model that returns its input.
        defaults: of the options that all architectures share.
    """

    build: Builder
    backbones: Mapping[str, Mapping[str, Any] | None]
    defaults: Mapping[str, Any]


_ARCHITECTURES: dict[str, Architecture] = {}
_NETWORKS: dict[str, OnBackbone] = {}


def register_architecture(
    stem: str,
    variants: Sequence[int] = (),
    *,
    classifier: Mapping[str, Any] | None = None,
) -> Callable[[B], B]:
    """Decorator: makes a function that builds models available by name. All arguments are literals: specs are checked by them.

    Args:
        stem: the name, or what the names of all variants begin with.
        variants: first argument of the function, such as the number of layers, and the end of the name: "resnet" with
            `(18, 50)` is "resnet18" and "resnet50".
        classifier: see `Architecture`.

    Raises:
        ValueError: a name is taken.
    """

    def decorate(function: B) -> B:
        for name, arguments in _variants(stem, variants).items():
            if name in _ARCHITECTURES:
                raise ValueError(f"An architecture '{name}' is registered already. Expected another name.")
            _ARCHITECTURES[name] = Architecture(functools.partial(function, *arguments), classifier or {})
        return function

    return decorate


def register_network(
    stem: str, backbones: Mapping[str, Mapping[str, Any] | None], defaults: Mapping[str, Any] | None = None
) -> Callable[[B], B]:
    """Decorator: makes a function that puts a network on a backbone available as "<stem>_<backbone>".

    Args:
        stem: the network's name.
        backbones, defaults: see `OnBackbone`.

    Raises:
        ValueError: the name is taken.
    """

    def decorate(function: B) -> B:
        if stem in _NETWORKS:
            raise ValueError(f"A network '{stem}' is registered already. Expected another name.")
        _NETWORKS[stem] = OnBackbone(function, backbones, defaults or {})
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


@contextlib.contextmanager
def registered_network(stem: str, function: Builder, *given: Mapping[str, Any]) -> Iterator[None]:
    """Registers a network for the length of a block: for tests."""
    load_architectures()
    register_network(stem, *given)(function)
    try:
        yield
    finally:
        del _NETWORKS[stem]


@functools.cache
def load_architectures() -> None:
    """Imports all modules of this package, which registers their architectures."""
    package = importlib.import_module("tlt_prune.models")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"tlt_prune.models.{module.name}")


def names() -> list[str]:
    """Names of all architectures, networks on backbones after the backbones."""
    load_architectures()
    return [*_ARCHITECTURES, *_on_backbones()]


def _on_backbones() -> dict[str, tuple[OnBackbone, str]]:
    """Name of a network on a backbone -> the network, and the backbone's name."""
    return {f"{stem}_{backbone}": (network, backbone) for stem, network in _NETWORKS.items() for backbone in network.backbones}


def own_options(name: str) -> frozenset[str]:
    """Options that an architecture has besides `ArchitectureOptions`, such as "use_pooling".

    Raises:
        ValueError: no architecture has that name.
    """
    key = _key(name)
    network, backbone = _on_backbones().get(key, (None, key))
    own = _parameters(_ARCHITECTURES[backbone].build) if backbone in _ARCHITECTURES else frozenset()
    return own | _parameters(network.build) if network is not None else own


def _parameters(builder: Builder) -> frozenset[str]:
    """Options of a builder besides those that all architectures share."""
    given = {"input_shape", "classes", "options", "base", "backbone"}
    return frozenset(_split(inspect.signature(builder).parameters)[1]) - given


def build(
    name: str, input_shape: InputShape = (224, 224, 3), classes: int | Mapping[str, int] | None = None, **options: Any
) -> keras.Model:
    """Builds an architecture by name, with the head of its template.

    Args:
        name: such as "resnet18" or "detectnet_v2_resnet18"; TAO's spellings "resnet_18" and "efficientnet-b0" work too.
        input_shape: (height, width, channels), whatever the data format.
        classes: outputs of the head; None for a bare backbone. A network on a backbone needs them; a multitask network a mapping
            from tasks to their numbers of classes.
        **options: the fields of `ArchitectureOptions` (`data_format`, `kernel_regularizer`, `freeze_bn`...) and the
            architecture's own (`all_projections`, `use_pooling`, `alpha`...).

    Raises:
        ValueError: no architecture has that name, or it lacks one of the options; a size is none.
    """
    key = _key(name)
    _check_sizes(name, input_shape, classes)
    shared, rest = _split(options)
    network, backbone = _on_backbones().get(key, (None, key))
    try:
        if network is None:
            return _ARCHITECTURES[key].build(
                input_shape=input_shape, classes=classes, options=ArchitectureOptions(**shared), **rest
            )
        own = {k: v for k, v in rest.items() if k in _parameters(network.build)}
        shared = {**network.defaults, **shared}
        base = _base(network, backbone, input_shape, shared, {k: v for k, v in rest.items() if k not in own})
        return network.build(base, backbone, classes, options=ArchitectureOptions(**shared), **own)
    except TypeError as error:
        fields = sorted(x.name for x in dataclasses.fields(ArchitectureOptions))
        raise ValueError(f"'{name}' does not take these options: {error}. Shared ones: {', '.join(fields)}.") from error


def _check_sizes(name: str, input_shape: object, classes: object) -> None:
    sizes = list(input_shape) if isinstance(input_shape, (tuple, list)) else []
    if len(sizes) != 3 or not all(x is None or is_count(x) for x in sizes):
        raise ValueError(f"'{name}': expected input_shape to be (height, width, channels). Received: {input_shape!r}.")
    if not (classes is None or isinstance(classes, Mapping) or is_count(classes)):
        raise ValueError(f"'{name}': expected classes to be a whole number of at least 1, or None. Received: {classes!r}.")


def _base(
    network: OnBackbone, backbone: str, input_shape: InputShape, shared: Mapping[str, Any], rest: Mapping[str, Any]
) -> keras.Model:
    """The backbone of a network, without a head; where there is none, a model that returns its input."""
    given = network.backbones[backbone]
    if given is None:
        if rest:
            raise TypeError(f"unexpected {', '.join(sorted(rest))}")
        image = inputs(ArchitectureOptions(**shared), input_shape)
        return keras.Model(image, image)
    forced, own = _split(given)
    make = _ARCHITECTURES[backbone].build
    return make(input_shape=input_shape, classes=None, options=ArchitectureOptions(**{**shared, **forced}), **{**own, **rest})


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
    key = _key(name)
    if key not in _ARCHITECTURES:
        raise ValueError(f"name={name[:40]!r} is a network with outputs of its own. Expected one of {', '.join(_ARCHITECTURES)}.")
    options = {**_ARCHITECTURES[key].classifier, **options}
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
