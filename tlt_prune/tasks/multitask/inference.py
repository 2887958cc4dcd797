"""Pictures classified for every task: a table, and a contact sheet."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tlt_prune import data
from tlt_prune.data import preprocess
from tlt_prune.io import files, places, say
from tlt_prune.onnx import load_predictor
from tlt_prune.tasks.classification.inference import SHEET, contact_sheet
from tlt_prune.tasks.classification.pictures import agreed_format
from tlt_prune.tasks.multitask.data import tables_of, tasks_of
from tlt_prune.tasks.task import Inputs, Task


def infer(task: Task, path: str, folder: pathlib.Path, inputs: Inputs, *, draw: bool) -> None:
    """Writes predictions.csv: file, and for each task its class and the probability of it; with `draw`, contact_sheet.png too."""
    targets = [folder / "predictions.csv", *([folder / "contact_sheet.png"] if draw else [])]
    with places.writing(inputs, [places.Output("The results (-o)", x) for x in targets], "classifying into"):
        _classify(task, path, folder, draw=draw)
    say("\n".join(f"Wrote {x}" for x in targets))


def _classify(task: Task, path: str, folder: pathlib.Path, *, draw: bool) -> None:
    predictor = load_predictor(path)
    spec, form, first = agreed_format(task.spec, predictor)
    tasks = tasks_of(predictor)
    names, batches = _pictures(task, form, tasks)
    sheet: list[Any] = []
    answers: list[list[Any]] = [[] for _ in tasks]
    for pictures in batches:
        batch = np.asarray(preprocess(pictures, spec.dataset, first, form.depth))
        for kept, answer in zip(answers, predictor.answers(batch), strict=True):
            kept.append(answer)
        if draw and len(sheet) < SHEET:
            sheet += [*pictures[: SHEET - len(sheet)]]
    columns: dict[str, Any] = {"file": names}
    for (name, classes), kept in zip(tasks.items(), answers, strict=True):
        probabilities = np.concatenate(kept)
        columns[name] = [classes[i] for i in probabilities.argmax(axis=1)]
        columns[f"{name} probability"] = probabilities.max(axis=1)
    frame = pd.DataFrame(columns)
    files.write_text(folder / "predictions.csv", frame.to_csv(index=False))
    say(frame.head(20).to_string(index=False, float_format="{:.4f}".format))
    if len(frame) > 20:
        say(f"... {len(frame) - 20} more")
    if draw:
        titles = [", ".join(str(row[name]) for name in tasks) for _, row in frame.head(SHEET).iterrows()]
        contact_sheet(folder / "contact_sheet.png", sheet, titles)


def _pictures(task: Task, form: data.PictureFormat, tasks: Mapping[str, Sequence[str]]) -> tuple[list[str], Iterator[Any]]:
    """Names of the pictures and batches of them, made when asked for."""
    given, size = task.spec.inference.image_dir, task.spec.inference.batch_size
    if given:
        paths = data.picture_files(given)
        return [str(x) for x in paths], data.picture_batches(paths, form, size)
    tables = tables_of(task)
    split = data.load_table(tables.val_csv_path, tables.image_directory_path, form, tasks)
    return list(split.names), data.pictures_of(split, form, size)
