"""Labels of a variable that a layer reads itself: unlike an activation's, they may lie on several of its axes."""

from __future__ import annotations

import dataclasses
from typing import Any

from tlt_prune.graph.labels import Labels, varying_axes


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """One axis of one variable: the layer that has it, the variable's position in `Family.weights(op)`, and the axis."""

    op: Any
    path: str
    index: int
    axis: int


@dataclasses.dataclass(frozen=True, eq=False)
class Facet:
    """The labels on one axis of a tensor that is made of variables, and the axes of the variables that they come from."""

    labels: Labels
    sources: tuple[Source, ...]

    @property
    def name(self) -> str:
        return self.sources[0].path

    @property
    def axis(self) -> int:
        """The tensor's axis, counted from its end: -1 is the last."""
        varying = varying_axes(self.labels)
        return varying[0] - self.labels.ndim if varying else -1

    @property
    def vector(self) -> Labels:
        return self.labels.reshape(-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Facets:
    """The label arrays of a tensor that is made of variables alone: one for each axis that carries labels."""

    facets: tuple[Facet, ...]

    def at(self, axis: int) -> Facet | None:
        """The facet on an axis, counted from the end."""
        return next((x for x in self.facets if x.axis == axis), None)

    @property
    def ndim(self) -> int:
        return self.facets[0].labels.ndim

    @property
    def last(self) -> Facet:
        """The facet on the last axis that has one: where Keras keeps channels."""
        return max(self.facets, key=lambda x: x.axis)


Carried = Labels | Facets
"""What a traced tensor carries."""


def plain(carried: Carried) -> Labels:
    """One label array, whatever a tensor carries."""
    return carried.last.labels if isinstance(carried, Facets) else carried
