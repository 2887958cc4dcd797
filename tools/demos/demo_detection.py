#!/usr/bin/env python3
"""DetectNet_v2 end to end, by the command-line scripts: what `tools/demo_detection.sh` runs.

    python tools/demos/demo_detection.py RESULTS_DIR [SEED]

Places digits on canvases, trains the network of specs/demo_boxes.yaml, prunes it to a fifth of its parameters, retrains with
the dense network as its teacher, exports, scores every step on the same held-out pictures, and writes to RESULTS_DIR:
report.json, report.html, and detections before and after as pictures. Exits with an error, naming the figure, where less is
reached than the documentation promises: a mean average precision of 0.8, five times fewer parameters, two points lost at most.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time
from typing import Any

import demo
from PIL import Image

sys.path.insert(0, str(demo.ROOT / "tools/datasets"))

import make_digit_boxes

SPEC = "specs/demo_boxes.yaml"
PRECISION, FEWER_PARAMETERS, POINTS_LOST = 0.8, 5.0, 2.0
SHOWN = 6


def main(results: pathlib.Path, seed: int, epochs: tuple[int, int] = (30, 12), pictures: int = 1200) -> None:
    """`epochs` of the dense network, and of the pruned one; a fifth of the `pictures` is held out."""
    started = time.perf_counter()
    data = results / "digits"
    make_digit_boxes.main(data, classes=3, pictures=pictures, size=128, seed=seed)
    given = flags(SPEC, data, results, seed)
    models = {"dense": results / "train/model.keras", "pruned": results / "prune/model.keras"}
    models["retrained"] = results / "retrain/model.keras"
    demo.script("train", *given, "--restart", "--set", f"training_config.num_epochs={epochs[0]}")
    demo.script("prune", *given, "-m", models["dense"], "-o", models["pruned"])
    again = (
        f"training_config.num_epochs={epochs[1]}",
        f"model_config.pretrained_model_file={models['pruned']}",
        f"train.distill.teacher={models['dense']}",
    )
    demo.script("train", *given, "-o", results / "retrain", "--restart", *(x for w in again for x in ("--set", w)))
    report = {step: demo.scores(step, model, given, results) for step, model in models.items()}
    shown = results / "shown"
    shown.mkdir(exist_ok=True)
    for name in (data / "val.txt").read_text("utf-8").split()[:SHOWN]:
        (shown / f"{name}.png").write_bytes((data / f"images/{name}.png").read_bytes())
    for step in ("dense", "retrained"):
        demo.script("infer", *given, "-m", models[step], "-d", shown, "-o", results / f"found/{step}")
    strip(results, results / "detections.png")
    (results / "report.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    table = demo.to_table(report, "mean_average_precision", decimals=1)
    pictures = "<p>The dense network, and the pruned and retrained one:</p><p><img src='detections.png' width='1100'></p>"
    demo.write_html(results / "report.html", "DetectNet_v2 on handwritten digits", table, pictures)
    print(f"\n{table.to_string()}\n\n{time.perf_counter() - started:.0f} s in all.")
    print(f"Wrote {results}/report.json, report.html and detections.png")
    failures = missed(report)
    if failures:
        sys.exit("demo_detection: " + " ".join(failures))


def flags(spec: str, data: pathlib.Path, results: pathlib.Path, seed: int) -> list[Any]:
    """Flags for a script: a spec, with the pictures, labels and split of a folder, this folder of results and this seed."""
    source = f"{{image_directory_path: {data}/images, label_directory_path: {data}/labels}}"
    changes = [f"random_seed={seed}", f"dataset_config.data_sources=[{source}]"]
    changes += [f"dataset_config.{part}_names_path={data}/{part}.txt" for part in ("train", "val")]
    return ["-e", spec, "-r", results, *(x for change in changes for x in ("--set", change))]


def missed(report: dict[str, Any]) -> list[str]:
    """What the benchmark page promises and this run did not reach."""
    dense, retrained = report["dense"], report["retrained"]
    failures = []
    if dense["mean_average_precision"] < PRECISION:
        failures.append(f"Mean average precision {dense['mean_average_precision']:.3f}. Expected at least {PRECISION}.")
    fewer = dense["params"] / retrained["params"]
    if fewer < FEWER_PARAMETERS:
        failures.append(f"{fewer:.1f} times fewer parameters. Expected at least {FEWER_PARAMETERS:.0f} times.")
    lost = 100 * (dense["mean_average_precision"] - retrained["mean_average_precision"])
    if lost > POINTS_LOST:
        failures.append(f"Mean average precision is {lost:.2f} points lower. Expected at most {POINTS_LOST}.")
    for step, x in report.items():
        if abs(x["mean_average_precision"] - x["onnx"]["mean_average_precision"]) > 1e-3:
            failures.append(f"The {step} network scores otherwise in ONNX than in Keras.")
    return failures


def strip(results: pathlib.Path, path: pathlib.Path, size: int = 256) -> None:
    """Detections of the dense network above those of the pruned and retrained one."""
    rows = []
    for step in ("dense", "retrained"):
        files = sorted((results / f"found/{step}/images").glob("*.png"))
        rows.append([Image.open(file).resize((size, size), Image.Resampling.LANCZOS) for file in files])
    step = size + 8
    sheet = Image.new("RGB", (step * len(rows[0]) - 8, step * len(rows) - 8), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, (step * x, step * y))
    # A quarter of the bytes, for a repository; an octree keeps the few pixels that have a color.
    sheet.quantize(128, method=Image.Quantize.FASTOCTREE).save(path)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) == 3 else 1)
