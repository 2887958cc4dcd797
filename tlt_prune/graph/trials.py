"""What it takes to build a layer again, of another size."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from keras import tree

from tlt_prune.graph.execute import filled
from tlt_prune.graph.family import Family
from tlt_prune.graph.labels import Alive, Bundles, Labels
from tlt_prune.graph.reader import Call, Tensor

Path = tuple[Any, ...]
"""Of an entry of a configuration."""


def called(call: Call, op: Any, shapes: Mapping[int, Any], family: Family) -> Call:
    """A call of another layer with the arguments of `call`, on inputs of other shapes; the layer is built for them."""
    given = {x.key: dataclasses.replace(x, shape=shapes.get(x.key, x.shape)) for x in call.inputs}
    new_args, new_kwargs = tree.map_structure(lambda x: given[x.key] if isinstance(x, Tensor) else x, (call.args, call.kwargs))
    called = dataclasses.replace(call, op=op, args=new_args, kwargs=new_kwargs, inner=None)
    if not op.built:
        symbols = {key: family.symbol(x.shape, x.dtype) for key, x in given.items()}
        args, kwargs = filled((call.args, call.kwargs), symbols)
        family.build(op, args, kwargs)
        if len(op.weights) != len(call.op.weights):
            op(*args, **kwargs)
    return called


def half(bundles: Bundles, made: Labels, roots: Sequence[Labels]) -> Alive:
    """`(n_labels,)`: about every second of the bundles that may go is gone, but none of the vectors is empty.

    Args:
        bundles: of the labels.
        made: roots of the bundles that some layer makes: no others ever go.
        roots: vectors of bundle roots.
    """
    free = np.zeros(len(bundles.root), dtype=bool)
    free[made] = True
    free[list(bundles.frozen)] = False
    kept = ~free | (np.random.default_rng(0).random(len(free)) < 0.5)
    changed = True
    while changed:
        changed = False
        for vector in roots:
            if len(vector) and not kept[vector].any():
                kept[vector[0]] = changed = True
    return kept[bundles.root]


def integers(config: Any, path: Path = ()) -> Iterator[Path]:
    """Paths of the integers of at least 2 in a configuration."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key not in ("build_config", "dtype", "name", "registered_name", "module", "class_name"):
                yield from integers(value, (*path, key))
    elif isinstance(config, (list, tuple)):
        for i, value in enumerate(config):
            yield from integers(value, (*path, i))
    elif isinstance(config, (int, np.integer)) and not isinstance(config, bool) and config > 1:
        yield path
