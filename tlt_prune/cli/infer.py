"""Classifies pictures, or detects objects in them: a file or a folder.

  tlt-infer -e specs/demo_digits.yaml -m results/retrain/model.keras -d pictures/ --contact_sheet

Prints and writes (predictions.csv) file, class and probability; --contact_sheet draws the pictures with their
classes. Without -d it shows pictures of the spec's test split. A detector's results are label files in KITTI's format and
annotated pictures.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags

from tlt_prune import extras
from tlt_prune.cli import common
from tlt_prune.config.specs import Spec
from tlt_prune.errors import DataError
from tlt_prune.io import files, places
from tlt_prune.io.frameworks import import_frameworks

# Of each picture that objects are detected in: folder -> suffix.
_DETECTED = {"labels": ".txt", "images": ".png"}
# Pictures on a contact sheet.
_SHEET = 48

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "Model: .keras, SavedModel folder or .onnx.", short_name="m")
flags.DEFINE_string("image_dir", None, "Folder of pictures.", short_name="d")
flags.DEFINE_string("image", None, "One picture.", short_name="i")
flags.DEFINE_string("classmap", None, "JSON file {class name: index}, as tlt-train writes it.")
flags.DEFINE_integer("batch_size", None, common.with_default("Pictures a batch.", "inference.batch_size"), short_name="b")
flags.DEFINE_bool("contact_sheet", False, "Draw contact_sheet.png: up to 48 pictures with their classes.")
flags.DEFINE_string("output_dir", None, "Folder for the results; default <results_dir>/infer.", short_name="o")
flags.DEFINE_alias("cm", "classmap")


def main(argv: list[str]) -> None:
    overrides = {
        "inference.model_path": FLAGS.model,
        "inference.image_dir": FLAGS.image or FLAGS.image_dir,
        "inference.classmap": FLAGS.classmap,
        "inference.batch_size": FLAGS.batch_size,
    }
    spec = common.load(argv, overrides)
    path = common.required(spec.inference.model_path, "inference.model_path", "-m")
    folder = pathlib.Path(FLAGS.output_dir or f"{spec.results_dir}/infer")
    extras.require("train", "tlt-infer")
    import_frameworks()
    inputs = {**common.spec_input(), **common.data_inputs(spec), "inference.model_path (-m)": path}
    inputs |= {"inference.image_dir (-d)": spec.inference.image_dir, "inference.classmap (-cm)": spec.inference.classmap}
    if spec.task == "detection":
        from tlt_prune.cli.detecting import pictures_of, run_inference

        named = pictures_of(spec)
        results = [folder / f"{kind}/{name}{suffix}" for kind, suffix in _DETECTED.items() for name in named]
        places.check(inputs, [places.Output("The results (-o)", x) for x in results])
        with files.claimed([files.output_folder(folder) / "labels"], "detecting objects into"), files.together():
            run_inference(spec, path, folder, named)
        common.say(f"Wrote the folders {folder / 'labels'} and {folder / 'images'}")
        return
    written = [folder / "predictions.csv", *([folder / "contact_sheet.png"] if FLAGS.contact_sheet else [])]
    with places.writing(inputs, [places.Output("The results (-o)", x) for x in written], "classifying into"):
        _classify(spec, path, folder)
    common.say("\n".join(f"Wrote {x}" for x in written))


def _classify(spec: Spec, path: str, folder: pathlib.Path) -> None:
    import pandas as pd

    from tlt_prune.cli.models import agreed
    from tlt_prune.data.pipeline import preprocess
    from tlt_prune.export import load_predictor

    predictor = load_predictor(path)
    spec, form, first = agreed(spec, predictor)
    names, known, batches = _pictures(spec, form)
    shown: list[Any] = []
    outputs = []
    for pictures in batches:
        outputs.append(predictor(np.asarray(preprocess(pictures, spec.dataset, first, form.depth))))
        if FLAGS.contact_sheet and len(shown) < _SHEET:
            shown += [*pictures[: _SHEET - len(shown)]]
    probabilities = np.concatenate(outputs)
    classes = _classes(spec, known, predictor, probabilities.shape[1])
    best = probabilities.argmax(axis=1)
    frame = pd.DataFrame({"file": names, "class": [classes[i] for i in best], "probability": probabilities.max(axis=1)})
    target = folder / "predictions.csv"
    files.write_text(target, frame.to_csv(index=False))
    common.say(frame.head(20).to_string(index=False, float_format="{:.4f}".format))
    if len(frame) > 20:
        common.say(f"... {len(frame) - 20} more")
    if FLAGS.contact_sheet:
        sheet = folder / "contact_sheet.png"
        contact_sheet(sheet, shown, frame)


def _pictures(spec: Any, form: Any) -> tuple[list[str], tuple[str, ...], Iterator[Any]]:
    """Names of the pictures, the classes of the dataset that they are from, and batches, made when asked for."""
    from tlt_prune import data

    size = spec.inference.batch_size
    if spec.inference.image_dir:
        found = data.picture_files(spec.inference.image_dir)
        return [str(x) for x in found], (), data.picture_batches(found, form, size)
    split = data.load_test_split(spec.dataset, form)
    return [f"test/{i}" for i in range(len(split))], split.classes, data.pictures_of(split, form, size)


def _classes(spec: Any, known: tuple[str, ...], predictor: Any, outputs: int) -> tuple[str, ...]:
    from tlt_prune.cli.models import read_classmap

    beside = predictor.path.parent / "classmap.json"
    if spec.inference.classmap:
        classes = read_classmap(spec.inference.classmap)
    elif predictor.info is not None:
        classes = predictor.info.classes
    elif beside.is_file():
        classes = read_classmap(str(beside))
    elif len(known) == outputs:
        classes = known
    else:
        classes = tuple(str(i) for i in range(outputs))
    if len(classes) != outputs:
        raise DataError(f"The class map has {len(classes)} classes. Expected {outputs}, one for each output of {predictor.path}.")
    return tuple(classes)


def contact_sheet(path: pathlib.Path, pictures: Sequence[Any], frame: Any) -> None:
    """A grid of pictures `(height, width, channels)`, each with its class and probability above it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    count = len(pictures)
    columns = min(8, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.5 * columns, 1.8 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture, (_, row) in zip(axes.flat, pictures, frame.head(count).iterrows(), strict=False):
        axis.imshow(picture.squeeze(), cmap="gray" if picture.shape[-1] == 1 else None)
        axis.set_title(f"{row['class']}  {100 * row['probability']:.0f} %", fontsize=8, parse_math=False)
    figure.tight_layout()
    with files.whole_file(path) as partial:
        figure.savefig(partial, dpi=120)
    plt.close(figure)


def entry() -> None:
    common.run(main)


if __name__ == "__main__":
    entry()
