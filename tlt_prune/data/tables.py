"""Pictures with several labels each, from a table: the toolkit's CSV files of multitask classification."""

from __future__ import annotations

import csv
import dataclasses
import io
import pathlib
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from tlt_prune.config import TextError, nfc, shown
from tlt_prune.config.texts import read_text
from tlt_prune.data.folders import kept_or_stored
from tlt_prune.data.formats import PictureFormat
from tlt_prune.data.splits import Split
from tlt_prune.data.stored import PictureFiles
from tlt_prune.errors import DataError, first_line

# The index of a label that is not known.
UNKNOWN = -1


@dataclasses.dataclass(frozen=True, eq=False)
class MultitaskSplit(Split):
    """Pictures with a label for each task.

    Attributes:
        labels: `(n, tasks)` class indices, -1 where a label is not known.
        classes: "task=class" of all tasks, one after the other.
        tasks: name of a task -> its class names, in the order of the model's outputs.
        names: of the pictures, as the table has them.
    """

    tasks: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    names: tuple[str, ...] = ()

    def targets(self, labels: tf.Tensor) -> Any:
        """One-hot labels for each task, `(n, classes)`; all zeros where a label is not known. One task alone has no tuple."""
        found = tuple(tf.one_hot(labels[:, i], len(names)) for i, names in enumerate(self.tasks.values()))
        return found[0] if len(found) == 1 else found

    def part(self, chosen: Any) -> MultitaskSplit:
        names = tuple(np.array(self.names, dtype=object)[chosen])
        return dataclasses.replace(self, images=self.images[chosen], labels=self.labels[chosen], names=names)


def class_titles(tasks: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Names of all classes of all tasks: "task=class"."""
    return tuple(f"{task}={name}" for task, names in tasks.items() for name in names)


def load_table(
    path: str | pathlib.Path,
    pictures: str | pathlib.Path,
    form: PictureFormat,
    tasks: Mapping[str, Sequence[str]] | None = None,
) -> MultitaskSplit:
    """Reads a CSV file: file names in the first column, and a column for each task. An empty cell is a label that is not known.

    Args:
        path: the file.
        pictures: the folder that its file names are in.
        form: of the pictures.
        tasks: name of a task -> its classes, as a model or another table has them; None takes them from the table: tasks by
            name, and the classes of each in order, numbers as numbers.

    Raises:
        DataError: the file cannot be read; a picture is missing, named twice or broken; a column or a class is missing, or is not
            among `tasks`; a task has fewer than two classes.
    """
    frame = _read(pathlib.Path(path))
    columns = [str(x) for x in frame.columns[1:]]
    wanted = {task: tuple(names) for task, names in tasks.items()} if tasks is not None else _tasks(frame, columns, path)
    strange = sorted(set(columns) ^ set(wanted))
    if strange:
        raise DataError(
            f"{path}: expected a column for each of the tasks {', '.join(map(shown, wanted))}, and no other. Received: "
            f"{', '.join(map(shown, columns)) or 'none'}."
        )
    files = _files(frame, pathlib.Path(pictures), path)
    labels = np.full((len(frame), len(wanted)), UNKNOWN, np.int64)
    for i, (task, names) in enumerate(wanted.items()):
        number = {_key(name): k for k, name in enumerate(names)}
        for row, value in enumerate(frame.iloc[:, 1 + columns.index(task)]):
            if pd.isna(value):
                continue
            if _key(value) not in number:
                raise DataError(
                    f"{path}: the picture {shown(files[row])} has {shown(task)}={shown(str(value))}. Expected one of "
                    f"{', '.join(map(shown, names[:10]))}, the classes that the model is trained on."
                )
            labels[row, i] = number[_key(value)]
    names_of_pictures = tuple(str(x) for x in frame.iloc[:, 0])
    return MultitaskSplit(kept_or_stored(PictureFiles(files), form), labels, class_titles(wanted), wanted, names_of_pictures)


def _read(path: pathlib.Path) -> pd.DataFrame:
    try:
        # Words such as "None" and "NA" are classes; only an empty cell is none.
        text = read_text(path, 2**30)
        with warnings.catch_warnings():
            # It would leave out cells that have no column.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # As text: what a number is would depend on the other rows.
            frame = pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""], index_col=False, dtype="string")
    except OSError as error:
        raise DataError(f"Cannot read the table {path}: {error.strerror}.") from error
    except TextError as error:
        raise DataError(f"Cannot read the table {error}") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, pd.errors.ParserWarning, ValueError) as error:
        raise DataError(f"Cannot read {path} as CSV: {first_line(error, 150)}.") from error
    if len(frame.columns) < 2 or not len(frame):
        raise DataError(f"{path}: expected a column of file names, a column for each task, and a row for each picture.")
    # As they are written: pandas counts those that come twice.
    names = next(row for row in csv.reader(io.StringIO(text)) if row)
    twice = [x for x in names if names.count(x) > 1]
    if twice:
        raise DataError(f"{path}: expected a column for each task. {shown(twice[0])} comes twice.")
    frame.columns = pd.Index(names)
    return frame


def _tasks(frame: pd.DataFrame, columns: Sequence[str], path: object) -> dict[str, tuple[str, ...]]:
    found = {}
    for task in sorted(columns):
        # Of numbers that are equal, 1 and 1.0, the first way of writing it.
        values = {_key(x): str(x) for x in reversed(frame.iloc[:, 1 + list(columns).index(task)].dropna().tolist())}
        found[task] = tuple(values[key] for key in sorted(values))
        if len(found[task]) < 2:
            raise DataError(
                f"{path}: the task {shown(task)} has the classes {', '.join(map(shown, found[task])) or 'none'}. Expected two or "
                "more; leave its column out."
            )
    return found


def _key(value: object) -> tuple[bool, float, str]:
    """What a cell is known by: a number by its value, before text."""
    text = str(value)
    # Not what float() takes besides: "nan", "1_000", numbers with a leading zero, which are names.
    if re.fullmatch(r"[+-]?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", text):
        return False, float(text), ""
    return True, 0.0, text


def _files(frame: pd.DataFrame, folder: pathlib.Path, path: object) -> list[pathlib.Path]:
    column = frame.iloc[:, 0]
    if column.isna().any():
        raise DataError(f"{path}: row {int(np.argmax(column.isna())) + 2} names no picture.")
    files = [folder / nfc(str(x)) for x in column]
    twice = column[column.duplicated()]
    if len(twice):
        raise DataError(f"{path}: expected a row for each picture. {shown(str(twice.iloc[0]))} has several.")
    missing = [x for x in files if not x.is_file()]
    if missing:
        raise DataError(
            f"{path} names {len(missing)} of {len(files)} pictures that are not there, the first: {shown(missing[0])}. Expected "
            "their names below dataset_config.image_directory_path."
        )
    return files


def checked_size(split: MultitaskSplit) -> MultitaskSplit:
    """The split, where every task has a label of each of its classes.

    Raises:
        DataError: a class has no picture to learn from.
    """
    for i, (task, names) in enumerate(split.tasks.items()):
        absent = sorted(set(range(len(names))) - set(split.labels[:, i].tolist()))
        if absent:
            raise DataError(f"No training picture has {shown(task)}={shown(names[absent[0]])}. Expected one of each class.")
    return split


def label_counts(split: MultitaskSplit) -> dict[str, int]:
    """Task -> number of pictures with a label of it."""
    return {task: int((split.labels[:, i] != UNKNOWN).sum()) for i, task in enumerate(split.tasks)}
