"""Registries of what is chosen by name: criteria and compensations.

A class registers itself in its own file, and that is all it takes to be a spec key, a flag and a name in Python:

    @CRITERIA.register("Taylor", needs="loss")
    class Taylor: ...

Specs and flags are checked before a framework is loaded, and these files load one. So the names are read from the decorators,
whose arguments are therefore literals; a file is imported when what it registers is asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Protocol, TypeVar, get_args

from tlt_prune.config.decorators import literal_arguments

T = TypeVar("T", bound=type)

Needs = Literal["nothing", "inputs", "loss", "metric"]
"""The data that an instance is made from: nothing, inputs, labeled inputs and a loss, labeled inputs and a metric."""


class ExampleData(Protocol):
    """Data that an instance may be made from."""

    @property
    def x(self) -> Any:
        """Inputs as the model takes them."""

    @property
    def y(self) -> Any:
        """Labels, in the structure that the loss and the metric take."""

    @property
    def loss(self) -> Any:
        """A loss as `compile` takes it."""

    @property
    def metric(self) -> Any:
        """A name, or a function `(labels, outputs) -> number`, the higher the better."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One registered name.

    Attributes:
        name: what users write.
        needs: what an instance is made from.
        by_script: further arguments of an instance that a script makes.
        cls: the class; None where only its name was read.
    """

    name: str
    needs: Needs
    by_script: Mapping[str, Any]
    cls: Any = None

    def make(self, examples: ExampleData | None = None) -> Any:
        """An instance, as a script makes it; `examples` may be None where it needs nothing."""
        if self.needs == "nothing" or examples is None:
            return self.cls(**self.by_script)
        if self.needs == "inputs":
            return self.cls(examples.x, **self.by_script)
        return self.cls((examples.x, examples.y), getattr(examples, self.needs), **self.by_script)


class Registry:
    """Classes of one kind by name.

    Args:
        kind: for errors, such as "criterion".
        variable: what the files of the package call this object.
        package: every class that is registered in one of its files belongs to the registry.
    """

    def __init__(self, kind: str, variable: str, package: str) -> None:
        self._kind, self._variable, self._package = kind, variable, package
        self._shipped: dict[str, Entry] | None = None
        self._entries: dict[str, Entry] = {}
        self._loaded = False

    def register(self, name: str, *, needs: Needs = "nothing", by_script: Mapping[str, Any] | None = None) -> Callable[[T], T]:
        """Registers a class.

        Args:
            name: what users write.
            needs: what an instance is made from: see `Needs`.
            by_script: further arguments of an instance that a script makes.

        Raises:
            ValueError: the name is registered already, or `needs` is none of those.
        """
        if needs not in get_args(Needs):
            raise ValueError(f"needs: expected one of {', '.join(get_args(Needs))}. Received: {needs!r}.")

        def decorate(cls: T) -> T:
            # One of the package's own may not be imported yet.
            if name in self._entries or (name in self.names() and not cls.__module__.startswith(self._package)):
                raise ValueError(f"A {self._kind} named {name!r} is registered already. Expected another name for {cls!r}.")
            self._entries[name] = Entry(name, needs, by_script or {}, cls)
            return cls

        return decorate

    def names(self, *needs: Needs) -> tuple[str, ...]:
        """All names, or those of what needs one of `needs`; what needs least comes first. Imports nothing."""
        if self._shipped is None:
            self._shipped = {x.name: x for x in self._read()}
        entries = {**self._shipped, **self._entries}.values()
        wanted = [x for x in get_args(Needs) if not needs or x in needs]
        return tuple(entry.name for need in wanted for entry in entries if entry.needs == need)

    def find(self, name: str) -> Entry | None:
        """The entry of a name, or None."""
        self.load()
        return self._entries.get(name)

    def load(self) -> None:
        """Imports every file of the package: they register their classes."""
        if self._loaded:
            return
        for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        self._loaded = True

    @contextlib.contextmanager
    def scoped(self) -> Iterator[None]:
        """Forgets, on leaving, what is registered inside."""
        self.load()
        before = dict(self._entries)
        try:
            yield
        finally:
            self._entries = before

    def _read(self) -> Iterator[Entry]:
        """The entries of the package's files, read from the decorators."""
        for (name,), given in literal_arguments(self._package, f"{self._variable}.register"):
            yield Entry(name, given.get("needs", "nothing"), given.get("by_script", {}))


CRITERIA = Registry("criterion", "CRITERIA", "tlt_prune.pruning.criteria")
COMPENSATIONS = Registry("compensation", "COMPENSATIONS", "tlt_prune.pruning.compensation")


# Encoders of a UNet that are no backbone of anything else, by the toolkit's names.
UNET_ENCODERS = ("vanilla_unet", "vanilla_unet_dynamic")


def architecture_names() -> list[str]:
    """Names of the classification backbones, as `tlt_prune.models` registers them. Imports nothing."""
    uses = literal_arguments("tlt_prune.models", "register_architecture")
    return [f"{stem}{variant}" for (stem, *variants), _ in uses for variant in (variants[0] if variants else ("",))]
