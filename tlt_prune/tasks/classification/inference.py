"""Pictures classified: a table, and a contact sheet."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tlt_prune import data
from tlt_prune.config import Spec
from tlt_prune.data import preprocess
from tlt_prune.errors import DataError
from tlt_prune.io import files, new_grid, places, save_figure, say
from tlt_prune.onnx import Predictor, load_predictor
from tlt_prune.tasks.classification.class_names import read_classmap
from tlt_prune.tasks.classification.pictures import agreed_format
from tlt_prune.tasks.task import Inputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Pictures on a contact sheet.
SHEET = 48


def infer(spec: Spec, path: str, folder: pathlib.Path, inputs: Inputs, *, draw: bool) -> None:
    """Writes predictions.csv: file, class and probability; with `draw`, contact_sheet.png too."""
    targets = [folder / "predictions.csv", *([folder / "contact_sheet.png"] if draw else [])]
    with places.writing(inputs, [places.Output("The results (-o)", x) for x in targets], "classifying into"):
        _classify(spec, path, folder, draw=draw)
    say("\n".join(f"Wrote {x}" for x in targets))


def _classify(spec: Spec, path: str, folder: pathlib.Path, *, draw: bool) -> None:
    predictor = load_predictor(path)
    spec, form, first = agreed_format(spec, predictor)
    names, dataset_classes, batches = _pictures(spec, form)
    sheet: list[Any] = []
    outputs = []
    for pictures in batches:
        outputs.append(predictor(np.asarray(preprocess(pictures, spec.dataset, first, form.depth))))
        if draw and len(sheet) < SHEET:
            sheet += [*pictures[: SHEET - len(sheet)]]
    probabilities = np.concatenate(outputs)
    classes = _classes(spec, dataset_classes, predictor, probabilities.shape[1])
    best = probabilities.argmax(axis=1)
    frame = pd.DataFrame({"file": names, "class": [classes[i] for i in best], "probability": probabilities.max(axis=1)})
    files.write_text(folder / "predictions.csv", frame.to_csv(index=False))
    say(frame.head(20).to_string(index=False, float_format="{:.4f}".format))
    if len(frame) > 20:
        say(f"... {len(frame) - 20} more")
    if draw:
        titles = [f"{row['class']}  {100 * row['probability']:.0f} %" for _, row in frame.head(SHEET).iterrows()]
        contact_sheet(folder / "contact_sheet.png", sheet, titles)


def _pictures(spec: Spec, form: data.PictureFormat) -> tuple[list[str], tuple[str, ...], Iterator[Any]]:
    """Names of the pictures, the classes of the dataset that they are from, and batches, made when asked for."""
    size = spec.inference.batch_size
    if spec.inference.image_dir:
        paths = data.picture_files(spec.inference.image_dir)
        return [str(x) for x in paths], (), data.picture_batches(paths, form, size)
    split = data.load_test_split(spec.dataset, form)
    return [f"test/{i}" for i in range(len(split))], split.classes, data.pictures_of(split, form, size)


def _classes(spec: Spec, dataset_classes: tuple[str, ...], predictor: Predictor, outputs: int) -> tuple[str, ...]:
    """The names of the outputs: of the spec, the model, a file beside it, the dataset, or numbers."""
    beside = predictor.path.parent / "classmap.json"
    if spec.inference.classmap:
        classes = read_classmap(spec.inference.classmap)
    elif predictor.info is not None:
        classes = predictor.info.classes
    elif beside.is_file():
        classes = read_classmap(str(beside))
    elif len(dataset_classes) == outputs:
        classes = dataset_classes
    else:
        classes = tuple(str(i) for i in range(outputs))
    if len(classes) != outputs:
        raise DataError(f"The class map has {len(classes)} classes. Expected {outputs}, one for each output of {predictor.path}.")
    return tuple(classes)


def contact_sheet(path: pathlib.Path, pictures: Sequence[NDArray[Any]], titles: Sequence[str]) -> None:
    """Draws a grid of pictures `(height, width, channels)`, each with a title."""
    count = len(pictures)
    columns = min(8, count)
    rows = -(-count // columns)
    figure, axes = new_grid("A contact sheet", (1.5 * columns, 1.8 * rows), rows, columns)
    for axis, picture, title in zip(axes, pictures, titles, strict=False):
        axis.imshow(picture.squeeze(), cmap="gray" if picture.shape[-1] == 1 else None)
        axis.set_title(title, fontsize=8, parse_math=False)
    figure.tight_layout()
    save_figure(figure, path)
