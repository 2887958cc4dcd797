"""Pictures segmented: masks, and pictures with the classes in colors."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tlt_prune.data import by_name, listed_pictures, open_picture, picture_files, preprocess, scores_said
from tlt_prune.io import files, places, say
from tlt_prune.onnx import load_predictor
from tlt_prune.tasks.classification.pictures import agreed_format
from tlt_prune.tasks.segmentation.data import classes_in, fitting_of, layout_of_predictor, listed, masks_of
from tlt_prune.tasks.segmentation.drawing import tinted
from tlt_prune.tasks.steps.data import refuse_classmap
from tlt_prune.tasks.task import Inputs, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RESULTS = ("masks", "images")


def infer(task: Task, path: str, folder: pathlib.Path, inputs: Inputs) -> None:
    """Writes for each picture, in its own size, a mask with the spec's label ids and a picture with its classes in colors."""
    refuse_classmap(task.spec)
    named = _pictures(task)
    results = [folder / f"{kind}/{name}.png" for kind in _RESULTS for name in named]
    places.check(inputs, [places.Output("The results (-o)", x) for x in results])
    with files.claimed([files.output_folder(folder) / "masks"], "segmenting into"), files.together():
        _segment(task, path, folder, named)
    say(f"Wrote {len(named)} masks and pictures to the folders {folder / 'masks'} and {folder / 'images'}")


def _pictures(task: Task) -> dict[str, pathlib.Path]:
    """Name -> file."""
    image_dir = task.spec.inference.image_dir
    sources = (image_dir,) if image_dir else listed(masks_of(task).val_images_path)
    found = []
    for source in sources:
        root = pathlib.Path(source)
        if root.suffix == ".txt" and root.is_file():
            found += [(pathlib.PurePath(x).name, pathlib.Path(x)) for x in listed_pictures(root)]
        else:
            found += [(x.relative_to(root).as_posix() if root.is_dir() else x.name, x) for x in picture_files(source)]
    return by_name(found, ", ".join(sources))


def _segment(task: Task, path: str, folder: pathlib.Path, named: dict[str, pathlib.Path]) -> None:
    predictor = load_predictor(path)
    spec, form, first = agreed_format(task.spec, predictor)
    classes = classes_in(task)
    count = len(classes.names)
    ids = np.array(classes.values)
    layout = layout_of_predictor(predictor, count, form, first=first)
    fitting = fitting_of(task, form, layout)

    def predict(picture: NDArray[Any]) -> NDArray[Any]:
        x = np.asarray(preprocess(picture[None], spec.dataset, first, form.depth))
        scores: NDArray[Any] = scores_said(predictor(x), layout, count)[0]
        return scores

    for name, file in named.items():
        found = fitting.classes_of(predict, open_picture(file, form.channels, depth=form.depth, oriented=form.oriented))
        shown = np.asarray(open_picture(file, 3, oriented=form.oriented))
        values = ids[found].astype(np.uint8 if ids.max() < 256 else np.int32)
        for kind, pixels in (("masks", values), ("images", tinted(shown, found))):
            with files.whole_file(folder / f"{kind}/{name}.png") as partial:
                Image.fromarray(pixels).save(partial)
