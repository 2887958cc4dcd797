"""Detectors at work: scored by `tlt-evaluate`, run on pictures by `tlt-infer`."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tlt_prune.cli import common
from tlt_prune.cli.detection import Detection, read
from tlt_prune.cli.models import facts
from tlt_prune.config.specs import Spec
from tlt_prune.data.pictures import by_name, open_picture, picture_files
from tlt_prune.detection import experiment
from tlt_prune.detection.clustering import boxes_of
from tlt_prune.detection.coco import coco_scores
from tlt_prune.detection.decoding import to_picture
from tlt_prune.detection.evaluation import Outputs, as_input, output_layout, outputs_of
from tlt_prune.detection.kitti import label_line
from tlt_prune.detection.reading import fitted
from tlt_prune.errors import ExportError, MissingPackageError
from tlt_prune.export import latency_ms, load_predictor
from tlt_prune.io import files

# Of the boxes of the first classes; others begin again.
COLORS = ("#76b900", "#e69f00", "#1f77b4", "#d62728", "#9467bd", "#17becf")


def opened(job: Detection, predictor: Any) -> tuple[Outputs, tuple[int, int], Any]:
    """A model file as evaluation takes it, whatever its layouts.

    Returns:
        Pictures `(n, height, width, channels)` -> (output_bbox, output_cov), channels first; (columns, rows) of these; and one
        picture as the file takes it.

    Raises:
        ExportError: it is no detector for pictures of the spec's size and classes.
    """
    (width, height), count = job.size, len(experiment.class_names(job.message))
    if predictor.picture_size(job.channels, (height, width)) != (height, width, job.channels):
        raise ExportError(
            f"{predictor.path}: expected a model for pictures of {width} x {height} with {job.channels} channels, as "
            f"augmentation_config.preprocessing has them. Its input is {predictor.input_shape}."
        )
    first = predictor.channels_first(job.channels)
    one = as_input(np.zeros((1, height, width, job.channels), np.float32), first)
    shapes = [x.shape for x in predictor.run(one)]
    layout = output_layout(shapes)
    if layout is None or shapes[1][1 if layout[2] else 3] != count:
        raise ExportError(
            f"{predictor.path}: expected a detector of {count} classes, with outputs of {4 * count} and {count} channels. Its "
            f"outputs are {shapes}."
        )
    columns, rows, outputs_first = layout
    return outputs_of(predictor.answers, first, outputs_first), (columns, rows), one


def run_evaluation(spec: Spec, path: str, folder: pathlib.Path) -> None:
    """Scores a detector on the held-out pictures, and writes its tables and curves."""
    job = read(spec)
    predictor = load_predictor(path)
    outputs, output, one = opened(job, predictor)
    _, validation = job.splits()
    common.say(f"Scoring {path} on {len(validation)} pictures with {int(validation.is_object.sum())} objects.")
    found = job.evaluated(outputs, validation, output)
    frame = found.to_frame()
    report = {
        **facts(predictor, path),
        "mean_average_precision": found.mean_average_precision,
        "mode": found.mode,
        "pictures": len(validation),
        "latency_ms": latency_ms(predictor, one),
    }
    try:
        report["coco"], by_class = coco_scores(validation, found.detections)
        frame = frame.join(by_class.add_prefix("COCO "))
    except MissingPackageError as error:
        common.say(f"{error} Without: the toolkit's average precision alone.")
    files.write_text(folder / "per_class.csv", frame.to_csv())
    files.write_json(folder / "evaluation.json", report)
    found.plot(folder / "precision_recall.png")
    common.say(frame.round(4).to_string())
    common.say(
        f"\nmean average precision ({found.mode}) {100 * found.mean_average_precision:.2f} %   parameters {predictor.params:,}   "
        f"latency at batch 1 {report['latency_ms']:.2f} ms"
    )
    if found.explained():
        common.say(found.explained())
    if "coco" in report:
        common.say("   ".join(f"COCO {name} {100 * report['coco'][name]:.2f} %" for name in ("AP", "AP50", "AP75")))


def pictures_of(spec: Spec) -> dict[str, pathlib.Path]:
    """Name -> file of the pictures to detect objects in."""
    job = read(spec)
    source = spec.inference.image_dir or str(job.message.dataset_config.data_sources[0].image_directory_path)
    root = pathlib.Path(source)
    return by_name(((x.relative_to(root).as_posix() if root.is_dir() else x.name, x) for x in picture_files(source)), source)


def run_inference(spec: Spec, path: str, folder: pathlib.Path, named: Mapping[str, pathlib.Path]) -> None:
    """Detects objects in pictures: a label file in KITTI's format with confidences and an annotated picture for each."""
    job = read(spec)
    outputs, output, _ = opened(job, load_predictor(path))
    postprocessing = job.postprocessing(*output)
    total = 0
    size, channels = job.size, job.channels
    items = list(named.items())
    for start in range(0, len(items), spec.inference.batch_size):
        some = items[start : start + spec.inference.batch_size]
        opened_ones = [open_picture(path, 3, oriented=job.oriented) for _, path in some]
        read_ones = [fitted(x.convert("RGB" if channels == 3 else "L"), size, channels, "smooth") for x in opened_ones]
        bbox, cov = outputs(np.stack([picture for picture, _ in read_ones]).astype(np.float32) / 255)
        for (name, _), picture, (_, factors), found in zip(some, opened_ones, read_ones, postprocessing(bbox, cov), strict=True):
            boxes = [
                (label, to_picture(box, postprocessing.grid, factors).tolist(), confidence)
                for label, box, confidence in boxes_of(found)
            ]
            total += len(boxes)
            files.write_text(folder / f"labels/{name}.txt", "".join(label_line(*x) for x in boxes))
            with files.whole_file(folder / f"images/{name}.png") as partial:
                drawn(np.asarray(picture), boxes, tuple(found)).save(partial)
    common.say(f"Found {total} objects in {len(named)} pictures.")


def drawn(pixels: Any, boxes: Sequence[tuple[str | None, Any, float | None]], classes: tuple[str, ...]) -> Any:
    """A picture `(h, w, c)` of 0 to 255 with boxes (class, corners, confidence); those without a class are white."""
    from PIL import Image, ImageDraw

    pixels = np.asarray(pixels).astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
    # Small pictures are enlarged: a line is a pixel wide at least.
    times = max(1, round(512 / max(picture.size)))
    picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    for name, box, confidence in boxes:
        color = "white" if name is None else COLORS[classes.index(name) % len(COLORS)]
        corners = [float(value) * times for value in box]
        draw.rectangle(corners, outline=color, width=2)
        if name is not None:
            draw.text((corners[0] + 3, corners[1] + 1), f"{name} {confidence:.2f}", fill=color)
    return picture
