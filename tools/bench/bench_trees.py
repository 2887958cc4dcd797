#!/usr/bin/env python3
"""DetectNet_v2 on real boxes, tree crowns seen from the air: trained, pruned, retrained, exported, with several seeds.

    python tools/bench/bench_trees.py TREES_DIR RESULTS_DIR [SEED ...]

TREES_DIR is what `tools/datasets/get_trees.py TREES_DIR --stride 200` writes: validation is on other ground than training. Runs
the scripts with specs/trees_train.yaml, trees_prune.yaml and trees_retrain.yaml for each seed (1, 2 and 3 by default); a training
that is done is not repeated. Writes to docs/pages/benchmarks: trees.csv, one row per seed and step, and trees.png, detections of
the dense network, above, and of the pruned and retrained one, of the first seed.
"""

from __future__ import annotations

import csv
import pathlib
import shutil
import sys
import time
from typing import Any

import pandas as pd

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/demos"))

import demo  # noqa: E402
from demo_detection import flags, strip  # noqa: E402

RESULTS = ROOT / "docs/pages/benchmarks"
SPEC = "specs/trees_{}.yaml"
SURE = 0.25
STEPS = ("dense", "pruned", "retrained")
SHOWN = (
    "OSBS_029_0000_0000",
    "2019_YELL_2_541000_4977000_image_crop_0400_0400",
    "2019_YELL_2_541000_4977000_image_crop_0000_0000",
)


def main(trees: pathlib.Path, results: pathlib.Path, seeds: list[int]) -> None:
    rows = []
    for seed in seeds:
        rows += run(trees, results / f"seed{seed}", seed)
        with (RESULTS / "trees.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    draw(trees, results / f"seed{seeds[0]}", seeds[0])
    table = pd.DataFrame(rows).set_index(["step", "seed"])[["params", "macs", "mAP", "mAP in ONNX", "seconds"]]
    print(f"\n{table.sort_index().to_string()}\n\nWrote trees.csv and trees.png in {RESULTS}")


def run(trees: pathlib.Path, results: pathlib.Path, seed: int) -> list[dict[str, Any]]:
    """Rows of one seed."""
    models = {"dense": results / "train/model.keras", "pruned": results / "prune/model.keras"}
    models["retrained"] = results / "retrain/model.keras"
    took = {}
    for step, spec, more in (
        ("dense", "train", ()),
        ("pruned", "prune", ("-m", models["dense"], "-o", models["pruned"])),
        (
            *("retrained", "retrain"),
            ("-o", results / "retrain", "--set", f"model_config.pretrained_model_file={models['pruned']}"),
        ),
    ):
        started = time.perf_counter()
        if not models[step].exists():
            demo.script("prune" if step == "pruned" else "train", *flags(SPEC.format(spec), trees, results, seed), *more)
        took[step] = time.perf_counter() - started
    rows = []
    for step in STEPS:
        found = demo.scores(step, models[step], flags(SPEC.format("train"), trees, results, seed), results)
        rows.append(
            {
                "seed": seed,
                "step": step,
                "params": found["params"],
                "macs": int(found["macs"]),
                "mAP": round(found["mean_average_precision"], 4),
                "mAP in ONNX": round(found["onnx"]["mean_average_precision"], 4),
                "COCO AP": round(found["coco"]["AP"], 4),
                "COCO AP50": round(found["coco"]["AP50"], 4),
                "ONNX kB": round(found["onnx"]["file_bytes"] / 1000),
                "ms in ONNX": round(found["onnx"]["latency_ms"], 2),
                "seconds": round(took[step]),
            }
        )
    return rows


def draw(trees: pathlib.Path, results: pathlib.Path, seed: int) -> None:
    shown = results / "shown"
    shutil.rmtree(shown, ignore_errors=True)
    shown.mkdir(parents=True)
    for name in SHOWN:
        shutil.copy(trees / f"images/{name}.png", shown)
    # For people, boxes that the network is sure of; for average precision all count.
    sure = f"postprocessing_config.target_class_config.tree.clustering_config.nms_confidence_threshold={SURE}"
    for step, model in (("dense", "train"), ("retrained", "retrain")):
        given = [*flags(SPEC.format("train"), trees, results, seed), "--set", sure]
        demo.script("infer", *given, "-m", results / f"{model}/model.keras", "-d", shown, "-o", results / f"found/{step}")
    strip(results, RESULTS / "trees.png", size=320)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*(pathlib.Path(x).resolve() for x in sys.argv[1:3]), [int(x) for x in sys.argv[3:]] or [1, 2, 3])
