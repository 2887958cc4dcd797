"""Pictures with labels and class names."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from tlt_prune.config import Dataset, shown
from tlt_prune.data.stored import Stored
from tlt_prune.errors import DataError
from tlt_prune.io import checksums

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Pictures and labels.

    Attributes:
        images: uint8 (uint16 for a depth of 16) `(n, height, width, channels)`, or pictures that are read when needed.
        labels: `(n,)` class indices.
        classes: class names, in the order of the indices.
    """

    images: NDArray[Any] | Stored
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def checksum(self) -> int:
        """Of labels and pictures; for files that are read when needed, of their names, sizes and times."""
        if isinstance(self.images, Stored):
            return checksums.of_arrays([self.labels]) ^ self.images.checksum()
        return checksums.of_arrays([self.labels, self.images])

    def sample(self, count: int, seed: int) -> Self:
        """`count` pictures of all, drawn by chance, or all where there are no more."""
        return self.part(np.sort(np.random.default_rng(seed).permutation(len(self))[:count]))

    def head(self, count: int) -> Self:
        """The first `count` pictures."""
        return self.part(slice(count))

    def part(self, chosen: Any) -> Self:
        """The pictures with the numbers `chosen`, or of a slice."""
        return dataclasses.replace(self, images=self.images[chosen], labels=self.labels[chosen])

    def targets(self, labels: tf.Tensor) -> Any:
        """A batch of labels as a model's outputs are compared with them: one-hot, `(n, classes)`."""
        import tensorflow as tf

        return tf.one_hot(labels, len(self.classes))


def held_out(labels: NDArray[np.int64], dataset: Dataset) -> NDArray[np.bool_]:
    """`(n,)`: the pictures to test with, `test_fraction` of every class, chosen by `split_seed`."""
    rng = np.random.default_rng(dataset.split_seed)
    found = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        found[members[: round(len(members) * dataset.test_fraction)]] = True
    return found


def matched(split: Split, classes: Sequence[str], source: str) -> Split:
    """The split with the numbers that its classes have among `classes`. Classes without pictures do not count.

    Raises:
        DataError: it has pictures of a class that is not among them.
    """
    if split.classes == tuple(classes):
        return split
    return dataclasses.replace(split, labels=matched_labels(split.labels, split.classes, classes, source), classes=tuple(classes))


def matched_labels(labels: NDArray[np.int64], own: Sequence[str], classes: Sequence[str], source: str) -> NDArray[np.int64]:
    """Labels `(n,)`, numbers of the classes `own`, as numbers among `classes`.

    Raises:
        DataError: as `matched`.
    """
    number = {name: i for i, name in enumerate(classes)}
    strange = [name for i, name in enumerate(own) if name not in number and (labels == i).any()]
    if strange:
        raise DataError(
            f"{source} has pictures of classes that are not among those trained on: {_some(strange)}. Expected some of the "
            f"{len(classes)} classes {_some(classes)}."
        )
    return np.array([number.get(name, -1) for name in own], np.int64)[labels]


def missing_classes(split: Split) -> list[str]:
    """Names of the classes that it has no pictures of."""
    return [name for i, name in enumerate(split.classes) if not (split.labels == i).any()]


def shared_pictures(train: Split, test: Split) -> int:
    """Number of test pictures that are training pictures too: the same pixels, or the same files."""
    return shared_images(train.images, test.images)


def shared_images(train: NDArray[Any] | Stored, test: NDArray[Any] | Stored) -> int:
    """The same for images as a `Split` has them."""

    def identities(images: NDArray[Any] | Stored) -> list[Hashable]:
        return images.identities() if isinstance(images, Stored) else [hash(x.tobytes()) for x in images]

    trained = set(identities(train))
    return sum(x in trained for x in identities(test))


def _some(names: Sequence[str]) -> str:
    return ", ".join(shown(x) for x in names[:5]) + (", ..." if len(names) > 5 else "")
