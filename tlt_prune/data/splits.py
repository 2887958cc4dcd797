"""Pictures with labels and class names."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from tlt_prune.config import shown
from tlt_prune.errors import DataError
from tlt_prune.io import checksums

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Pictures and labels.

    Attributes:
        images: uint8 (uint16 for a depth of 16) `(n, height, width, channels)`, or `(n,)` paths that are read when needed.
        labels: `(n,)` class indices.
        classes: class names, in the order of the indices.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def checksum(self) -> int:
        """Of labels and pictures; of the names, sizes and times of files that are read when needed."""
        if self.images.ndim > 1:
            return checksums.of_arrays([self.labels, self.images])
        return checksums.of_arrays([self.labels]) ^ checksums.of_files_on_disk(self.images.tolist())

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


def matched(split: Split, classes: Sequence[str], source: str) -> Split:
    """The split with the numbers that its classes have among `classes`. Classes without pictures do not count.

    Raises:
        DataError: it has pictures of a class that is not among them.
    """
    if split.classes == tuple(classes):
        return split
    number = {name: i for i, name in enumerate(classes)}
    strange = [name for i, name in enumerate(split.classes) if name not in number and (split.labels == i).any()]
    if strange:
        raise DataError(
            f"{source} has pictures of classes that are not among those trained on: {_some(strange)}. Expected some of the "
            f"{len(classes)} classes {_some(classes)}."
        )
    numbers = np.array([number.get(name, -1) for name in split.classes], np.int64)
    return dataclasses.replace(split, labels=numbers[split.labels], classes=tuple(classes))


def missing_classes(split: Split) -> list[str]:
    """Names of the classes that it has no pictures of."""
    return [name for i, name in enumerate(split.classes) if not (split.labels == i).any()]


def shared_pictures(train: Split, test: Split) -> int:
    """Number of test pictures that are training pictures too: the same pixels, or the same files."""
    return shared_images(train.images, test.images)


def shared_images(train: NDArray[Any], test: NDArray[Any]) -> int:
    """The same for images as a `Split` has them."""

    def identities(images: NDArray[Any]) -> list[Any]:
        if images.ndim > 1:
            return [hash(x.tobytes()) for x in images]
        return [(x.st_dev, x.st_ino) for x in map(os.stat, images.tolist())]

    trained = set(identities(train))
    return sum(x in trained for x in identities(test))


def _some(names: Sequence[str]) -> str:
    return ", ".join(shown(x) for x in names[:5]) + (", ..." if len(names) > 5 else "")
