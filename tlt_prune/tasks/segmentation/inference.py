"""Pictures segmented: masks, and pictures with the classes in colors."""

from __future__ import annotations

import pathlib

import numpy as np
from PIL import Image

from tlt_prune.data import by_name, classes_said, open_picture, picture_batches, picture_files, preprocess
from tlt_prune.io import files, places, say
from tlt_prune.onnx import load_predictor
from tlt_prune.tasks.classification.pictures import agreed_format
from tlt_prune.tasks.segmentation.data import classes_in, layout_of_predictor, masks_of
from tlt_prune.tasks.segmentation.drawing import tinted
from tlt_prune.tasks.task import Inputs, Task

_RESULTS = ("masks", "images")


def infer(task: Task, path: str, folder: pathlib.Path, inputs: Inputs) -> None:
    """Writes for each picture, in its own size, a mask with the spec's label ids and a picture with its classes in colors."""
    named = _pictures(task)
    results = [folder / f"{kind}/{name}.png" for kind in _RESULTS for name in named]
    places.check(inputs, [places.Output("The results (-o)", x) for x in results])
    with files.claimed([files.output_folder(folder) / "masks"], "segmenting into"), files.together():
        _segment(task, path, folder, named)
    say(f"Wrote {len(named)} masks and pictures to the folders {folder / 'masks'} and {folder / 'images'}")


def _pictures(task: Task) -> dict[str, pathlib.Path]:
    """Name -> file."""
    source = task.spec.inference.image_dir or masks_of(task).val_images_path
    root = pathlib.Path(source)
    return by_name(((x.relative_to(root).as_posix() if root.is_dir() else x.name, x) for x in picture_files(source)), source)


def _segment(task: Task, path: str, folder: pathlib.Path, named: dict[str, pathlib.Path]) -> None:
    predictor = load_predictor(path)
    spec, form, first = agreed_format(task.spec, predictor)
    classes = classes_in(masks_of(task))
    ids = np.array([min(value for value, index in classes.ids.items() if index == i) for i in range(len(classes.names))])
    layout = None
    for name, file in named.items():
        x = np.asarray(preprocess(next(picture_batches([file], form, 1)), spec.dataset, first, form.depth))
        layout = layout or layout_of_predictor(predictor, len(classes.names), form, x)
        said = classes_said(predictor(x), layout)[0].astype(np.int32)
        picture = open_picture(file, 3, oriented=form.oriented)
        whole = np.asarray(Image.fromarray(said).resize(picture.size, Image.Resampling.NEAREST))
        values = ids[whole].astype(np.uint8 if ids.max() < 256 else np.int32)
        for kind, pixels in (
            ("masks", values.astype(np.uint8 if ids.max() < 256 else np.int32)),
            ("images", tinted(np.asarray(picture), whole)),
        ):
            with files.whole_file(folder / f"{kind}/{name}.png") as partial:
                Image.fromarray(pixels).save(partial)
