#!/usr/bin/env python3
"""UNet on real pictures, tree crowns seen from the air: trained, pruned to a fifth, retrained, in int8, with several seeds.

    python tools/datasets/get_trees.py TREES_DIR
    python tools/datasets/make_crown_masks.py TREES_DIR CROWNS_DIR
    python tools/bench/bench_crowns.py CROWNS_DIR RESULTS_DIR [SEED ...]

Runs the scripts with specs/crowns.yaml for each seed (1, 2 and 3 by default); what is done is not repeated. Writes to
docs/pages/benchmarks: crowns.csv, one row per seed and step, and crowns.png: held-out pictures with their masks, above, and what
the dense network and the pruned and retrained one, in int8, make of them.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import sys
import time
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/demos"))

import demo  # noqa: E402

from tlt_prune.tasks.segmentation.drawing import tinted  # noqa: E402

RESULTS = ROOT / "docs/pages/benchmarks"
TABLE = RESULTS / "crowns.csv"
SPEC = "specs/crowns.yaml"
EPOCHS = 10
SHOWN = 3


def main(crowns: pathlib.Path, results: pathlib.Path, seeds: list[int]) -> None:
    rows = []
    for seed in seeds:
        rows += run(crowns, results / f"seed{seed}", seed)
        pd.DataFrame(rows).to_csv(TABLE, index=False, lineterminator="\n")
    draw(crowns, results / f"seed{seeds[0]}", seeds[0])
    print("\n".join(["", *crown_rows(pd.read_csv(TABLE)), "", f"Wrote crowns.csv and crowns.png in {RESULTS}"]))


def flags(crowns: pathlib.Path, results: pathlib.Path, seed: int) -> list[Any]:
    """What every script is given."""
    paths = [
        f"dataset_config.{part}_{kind}_path={crowns}/{part}/{kind}" for part in ("train", "val") for kind in ("images", "masks")
    ]
    return ["-e", SPEC, "-r", results, *(x for word in (*paths, f"train.random_seed={seed}") for x in ("--set", word))]


def run(crowns: pathlib.Path, results: pathlib.Path, seed: int) -> list[dict[str, Any]]:
    """Rows of one seed."""
    given = flags(crowns, results, seed)
    models = {"dense": results / "train/best.keras", "pruned": results / "prune/model.keras"}
    models["retrained"] = results / "retrain/best.keras"
    again = (f"train.pretrained_model_path={models['pruned']}", f"train.num_epochs={EPOCHS}", "train.lr_config=")
    steps = {
        "dense": ("train",),
        "pruned": ("prune", "-m", models["dense"], "-o", models["pruned"]),
        "retrained": ("train", "-o", results / "retrain", *(x for word in again for x in ("--set", word))),
    }
    rows = []
    for step, (script, *more) in steps.items():
        started = time.perf_counter()
        if not models[step].exists():
            demo.script(script, *given, *more)
        rows.append(row(seed, step, demo.scores(step, models[step], given, results), time.perf_counter() - started))
    onnx = results / "export/int8.onnx"
    demo.script("export", *given, "-m", models["retrained"], "-o", onnx, "--data_type", "int8")
    demo.script("evaluate", *given, "-m", onnx, "-o", results / "evaluate/int8")
    found = json.loads((results / "evaluate/int8/evaluation.json").read_text("utf-8"))
    # A Keras file of int8 there is none: its scores are those of the ONNX file.
    rows.append(row(seed, "int8", {**found, "macs": rows[-1]["macs"], "onnx": found}, 0.0) | {"params": rows[-1]["params"]})
    return rows


def row(seed: int, step: str, found: dict[str, Any], seconds: float) -> dict[str, Any]:
    """A row of the table."""
    return {
        "seed": seed,
        "step": step,
        "params": found["params"],
        "macs": int(found["macs"]),
        "mIoU": round(found["mean_iou"], 4),
        "mIoU in ONNX": round(found["onnx"]["mean_iou"], 4),
        "pixel accuracy": round(found["pixel_accuracy"], 4),
        "ONNX kB": round(found["onnx"]["file_bytes"] / 1000),
        "ms in ONNX": round(found["onnx"]["latency_ms"], 2),
        "seconds": round(seconds),
    }


def crown_rows(table: pd.DataFrame) -> list[str]:
    """Markdown: means over the seeds, with the lowest and the highest mIoU."""
    rows = []
    for step, part in table.groupby("step", sort=False):
        iou, onnx = 100 * part["mIoU"], 100 * part["mIoU in ONNX"]
        rows.append(
            f"| {step} | {part['params'].mean():,.0f} | {part['macs'].mean() / 1e6:,.0f} M | "
            f"{iou.mean():.1f} % ({iou.min():.1f} to {iou.max():.1f}) | {onnx.mean():.1f} % | "
            f"{part['ONNX kB'].mean():,.0f} kB | {part['ms in ONNX'].mean():.1f} ms |"
        )
    return rows


def draw(crowns: pathlib.Path, results: pathlib.Path, seed: int) -> None:
    """Rows of pictures: true masks, the dense network's, those of the retrained one in int8."""
    shown = results / "shown"
    shutil.rmtree(shown, ignore_errors=True)
    shown.mkdir(parents=True)
    # Those with the most crowns.
    masks = {path: np.asarray(Image.open(path)) for path in sorted((crowns / "val/masks").glob("*.png"))}
    chosen = sorted(masks, key=lambda path: -masks[path].mean())[:SHOWN]
    for path in chosen:
        shutil.copy(crowns / f"val/images/{path.name}", shown)
    given = flags(crowns, results, seed)
    for step, model in (("dense", results / "train/best.keras"), ("int8", results / "export/int8.onnx")):
        demo.script("infer", *given, "-m", model, "-d", shown, "-o", results / f"found/{step}")
    sheets = [[tinted(np.asarray(Image.open(crowns / f"val/images/{x.name}").convert("RGB")), masks[x]) for x in chosen]]
    for step in ("dense", "int8"):
        sheets.append([np.asarray(Image.open(results / f"found/{step}/images/{x.name}")) for x in chosen])
    size, space = 300, 8
    sheet = Image.new("RGB", ((size + space) * SHOWN - space, (size + space) * len(sheets) - space), "white")
    for y, pictures in enumerate(sheets):
        for x, picture in enumerate(pictures):
            small = Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS)
            sheet.paste(small, (x * (size + space), y * (size + space)))
    sheet.quantize(160, method=Image.Quantize.FASTOCTREE).save(RESULTS / "crowns.png")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*(pathlib.Path(x).resolve() for x in sys.argv[1:3]), [int(x) for x in sys.argv[3:]] or [1, 2, 3])
