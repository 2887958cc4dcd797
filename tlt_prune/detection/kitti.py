"""Labels in KITTI's format, and the division of pictures into training and validation.

One text file a picture; a line an object: name, truncated, occluded, alpha, x1, y1, x2, y2 (pixels), and seven numbers of the
three-dimensional box: height, width, length, x, y, z, rotation.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import re
from collections.abc import Collection, Mapping, Sequence

from tlt_prune.config import nfc
from tlt_prune.errors import DataError

_COLUMNS = 15
# The seed of the toolkit's converter.
_SEED = 42


@dataclasses.dataclass(frozen=True)
class Label:
    """One object.

    Attributes:
        name: of its class, in lower case.
        box: x1, y1, x2, y2 in pixels, as written: it may reach beyond the picture.
        truncated: share outside the picture, 0 to 1.
        occluded: 0 (visible) to 3.
        alpha: the angle it is seen from.
        rest: height, width, length, x, y, z, rotation.
        place: where it is written, for messages, if that is not its picture's label file.
    """

    name: str
    box: tuple[float, float, float, float]
    truncated: float = 0.0
    occluded: int = 0
    alpha: float = 0.0
    rest: tuple[float, ...] = (0.0,) * 7
    place: str = ""


# Digits as every program writes them: Python's own reader takes 5_0 and the digits of all scripts.
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)


def parse_labels(text: str, source: str, needed: Collection[str] | None = None) -> tuple[list[Label], list[Label]]:
    """The objects in a label file, and those left out.

    Blank lines are skipped. Left out are boxes that do not reach from one pixel into a later one, to the right and downwards.

    Args:
        text: lines that end in line feeds.
        source: its name, for errors.
        needed: names of classes, in lower case, whose numbers have to be finite; others are left out where theirs are not. None
            for all.

    Raises:
        DataError: a line has another number of columns, or what is to be a number is none; the message names `source` and
            the line.
    """
    kept: list[Label] = []
    dropped: list[Label] = []
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if not words:
            continue
        where = f"{source}, line {number}"
        if len(words) != _COLUMNS:
            raise DataError(
                f"{where}: expected {_COLUMNS} columns (name, truncated, occluded, alpha, x1, y1, x2, y2 and seven more). "
                f"Received {len(words)}: {line.strip()[:80]!r}."
            )
        name = nfc(words[0]).lower()
        if not all(map(_NUMBER.fullmatch, words[1:])):
            raise DataError(f"{where}: expected numbers after the name. Received: {line.strip()[:80]!r}.")
        values = [float(word) for word in words[1:]]
        finite = all(map(math.isfinite, values))
        if not finite and (needed is None or name in needed):
            raise DataError(f"{where}: expected finite numbers. Received: {line.strip()[:80]!r}.")
        truncated, occluded, alpha, x1, y1, x2, y2, *rest = values
        label = Label(name, (x1, y1, x2, y2), truncated, int(occluded) if finite else 0, alpha, tuple(rest))
        (kept if finite and int(x1) < int(x2) and int(y1) < int(y2) else dropped).append(label)
    return kept, dropped


def label_line(name: str, box: Sequence[float], confidence: float) -> str:
    """A detection as the toolkit's inference writes it: 16 columns, the last its confidence."""
    numbers = " ".join(f"{x:.3f}" for x in box)
    return f"{name} 0.00 0 0.00 {numbers} {' '.join(['0.00'] * 7)} {confidence:.3f}\n"


def random_folds(names: Sequence[str], val_split: float, seed: int = _SEED, *, tao: bool = False) -> list[list[str]]:
    """Validation and training pictures.

    Args:
        names: of pictures, in any order.
        val_split: per cent of them for validation, 0 <= val_split < 100.
        seed: decides which.
        tao: the toolkit's: the first names in alphabetical order are for validation, and a part that is empty is left out.

    Raises:
        DataError: `val_split` is out of range.
    """
    if not 0 <= val_split < 100:
        raise DataError(f"val_split: expected a number from 0 to below 100. Received: {val_split!r}.")
    ordered = sorted(names)
    count = int(val_split / 100 * len(ordered))
    if not tao:
        random.Random(seed).shuffle(ordered)
        return [sorted(ordered[:count]), ordered[count:]]
    folds = [fold for fold in (ordered[:count], ordered[count:]) if fold]
    # All once, then all again.
    return _shuffled([*folds, *folds])[: len(folds)]


def sequence_folds(sequences: Mapping[str, Sequence[str]], count: int) -> list[list[str]]:
    """Pictures by recording, so that no recording is on both sides: `count` parts of about the same size.

    Recordings are dealt out by falling length, as the toolkit does it.

    Raises:
        DataError: there are fewer recordings than parts.
    """
    if count < 1 or len(sequences) < count:
        raise DataError(f"num_partitions: expected 1 to {len(sequences)}, the number of sequences. Received: {count}.")
    if count == 1:
        return _shuffled([sorted(itertools.chain(*sequences.values()))])
    longest = sorted(sequences, key=lambda name: (-len(sequences[name]), name))
    folds = [list(itertools.chain(*(sequences[name] for name in longest[i::count]))) for i in range(count)]
    return _shuffled(folds[::-1])


def _shuffled(folds: list[list[str]]) -> list[list[str]]:
    generator = random.Random(_SEED)
    for fold in folds:
        generator.shuffle(fold)
    return folds


def shards(names: Sequence[str], count: int) -> list[list[str]]:
    """Parts of equal size; the last takes the rest."""
    size = len(names) // count
    return [list(names[i * size : (i + 1) * size if i + 1 < count else None]) for i in range(count)]


@dataclasses.dataclass(frozen=True)
class SampleModifier:
    """Which training pictures are left out, and which come several times. The names are the toolkit's.

    Attributes:
        source_to_target_class_mapping: class in the files -> class.
        filter_samples_containing_only: a picture with objects of one of these classes alone is left out.
        dominant_target_classes: the usual ones.
        num_duplicates: how often a picture comes again that has more objects of a rare class than of a dominant one.
        minimum_target_class_imbalance: rare class -> how many times more, 1 where it is not named.
        max_training_samples: of all parts together; 0 for all.

    Raises:
        DataError: a class is named that is none of the mapping's.
    """

    source_to_target_class_mapping: Mapping[str, str] = dataclasses.field(default_factory=dict)
    filter_samples_containing_only: tuple[str, ...] = ()
    dominant_target_classes: tuple[str, ...] = ()
    num_duplicates: int = 0
    minimum_target_class_imbalance: Mapping[str, float] = dataclasses.field(default_factory=dict)
    max_training_samples: int = 0

    def __post_init__(self) -> None:
        known = set(self.source_to_target_class_mapping.values())
        for key in ("filter_samples_containing_only", "dominant_target_classes", "minimum_target_class_imbalance"):
            unknown = sorted(set(getattr(self, key)) - known)
            if unknown:
                raise DataError(
                    f"{key}: expected values of source_to_target_class_mapping ({', '.join(sorted(known)) or 'none'}). Received: "
                    f"{', '.join(unknown)}."
                )

    def __call__(self, fold: Sequence[str], labels: Mapping[str, Sequence[Label]], folds: int = 1) -> list[str]:
        """The names of a part, of `folds` for training, as they are trained on."""
        result = []
        for name in fold:
            mapped = [self.source_to_target_class_mapping.get(x.name) for x in labels[name]]
            classes = [x for x in mapped if x is not None]
            if len(set(classes)) == 1 and classes[0] in self.filter_samples_containing_only:
                continue
            result += [name] * (1 + (self.num_duplicates if self._is_rare(classes) else 0))
        return result[: self.max_training_samples // folds] if self.max_training_samples else result

    def _is_rare(self, classes: Sequence[str]) -> bool:
        return any(
            classes.count(rare) > classes.count(usual) * self.minimum_target_class_imbalance.get(rare, 1.0)
            for usual in self.dominant_target_classes
            for rare in set(classes) - set(self.dominant_target_classes)
        )
