"""Weights in HDF5 files of other people: nothing outside of the file is read, and nothing that is no weight."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

# More groups are no network's.
_MOST_GROUPS = 50_000


class DamagedError(ValueError):
    """A file holds something else than a network's weights."""


def stored(file: h5py.File) -> dict[str, list[h5py.Dataset]]:
    """Layer name -> its weights, in order, not read yet: of a file of Keras 1, 2, tf_keras or Keras 3, weights or whole model.

    Raises:
        DamagedError: parts are missing, are of another kind, or lead out of the file.
    """
    try:
        root = _member(file, "model_weights", h5py.Group) if "model_weights" in file else file
        return dict(_legacy(root) if _has_names(root, "layer_names") else _keras3(root))
    except DamagedError:
        raise
    # The library raises whatever a broken file leads it to.
    except Exception as error:
        raise DamagedError(f"cannot be read as weights: {str(error)[:100]} ({type(error).__name__})") from error


def array_of(values: ArrayLike | h5py.Dataset, layer: str) -> NDArray[Any]:
    """A weight's values: `values` is an array, or a dataset whose shape is known to be right.

    Raises:
        DamagedError: they are no finite real numbers, or lie in another file.
    """
    if isinstance(values, h5py.Dataset):
        if values.external or values.is_virtual:
            raise DamagedError(f"the weights of '{layer}' are stored in another file: refused")
        try:
            values = values[()]
        except Exception as error:
            raise DamagedError(f"the weights of '{layer}' cannot be read: {str(error)[:100]}") from error
    array = np.asarray(values)
    with np.errstate(over="ignore"):
        real = array.dtype.kind in "fiub" and bool(np.isfinite(array.astype(np.float32)).all())
    # bfloat16 and float8 are no kinds of NumPy's.
    if not real and not (array.dtype.kind == "V" and array.dtype.names is None and array.dtype.itemsize <= 2):
        raise DamagedError(f"the weights of '{layer}' are {array.dtype} or not finite. Expected finite real numbers")
    return array


def _member(group: h5py.Group, name: str, kind: type) -> Any:
    """A part of a file, by hard links only: others lead out of it, or nowhere."""
    current: Any = group
    for part in name.split("/"):
        link = current.get(part, getlink=True) if isinstance(current, h5py.Group) and part not in ("", ".", "..") else None
        if link is None:
            raise DamagedError(f"{name[:60]!r} is missing")
        if not isinstance(link, h5py.HardLink):
            raise DamagedError(f"{name[:60]!r} is a link to another place: refused")
        current = current[part]
    if not isinstance(current, kind):
        raise DamagedError(f"{name[:60]!r} is a {type(current).__name__}. Expected a {kind.__name__}")
    return current


def _has_names(group: h5py.Group, key: str) -> bool:
    return key in group.attrs or f"{key}0" in group.attrs


def _names(group: h5py.Group, key: str) -> list[str]:
    """A list of names, which Keras splits where it is long: KEY0, KEY1..."""
    keys = [key] if key in group.attrs else []
    while f"{key}{len(keys)}" in group.attrs and key not in group.attrs:
        keys.append(f"{key}{len(keys)}")
    values = [group.attrs[x] for x in keys]
    if not values or any(isinstance(x, h5py.Empty) or np.ndim(x) != 1 for x in values):
        raise DamagedError(f"{key} is missing, or no list of names")
    return [x.decode() if isinstance(x, bytes) else str(x) for part in values for x in part]


def _legacy(root: h5py.Group) -> Iterator[tuple[str, list[h5py.Dataset]]]:
    """Keras 1, 2 and tf_keras: one group per layer, which lists its weights in order."""
    for layer in _names(root, "layer_names"):
        group = _member(root, layer, h5py.Group)
        names = _names(group, "weight_names") if len(group) else []
        weights = [_member(group, name, h5py.Dataset) for name in names]
        if weights:
            yield layer, weights


def _keras3(root: h5py.Group) -> Iterator[tuple[str, list[h5py.Dataset]]]:
    """Keras 3: one group per layer, with a `vars` group and the layer's name as an attribute."""
    pending, seen = [("", root)], set()
    while pending:
        path, group = pending.pop()
        # A group may hold itself.
        if group.id in seen:
            continue
        seen.add(group.id)
        if len(seen) > _MOST_GROUPS:
            raise DamagedError(f"it has more than {_MOST_GROUPS:,} groups")
        if path.endswith("/vars") and len(group) and "name" in group.attrs:
            if not all(key.isdecimal() for key in group):
                raise DamagedError(f"{path[:60]!r}: expected weights called 0, 1, 2...")
            yield str(group.attrs["name"]), [_member(group, key, h5py.Dataset) for key in sorted(group, key=int)]
            continue
        for key in sorted(group, reverse=True):
            link = group.get(key, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise DamagedError(f"{f'{path}/{key}'[:60]!r} is a link to another place: refused")
            if isinstance(group[key], h5py.Group):
                pending.append((f"{path}/{key}", group[key]))
