#!/usr/bin/env python3
"""The main job, end to end, by the command-line scripts: what `tools/demo.sh` runs.

    python tools/demo.py RESULTS_DIR [SEED]

Trains the network of specs/demo_digits.yaml, prunes, retrains, exports, scores every step on the same held-out
pictures, and writes to RESULTS_DIR: report.json, report.html, report.png (the table) and channels.png.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

ROOT = pathlib.Path(__file__).resolve().parent.parent
SPEC = "specs/demo_digits.yaml"
RETRAIN_SPEC = "specs/demo_retrain.yaml"
STEPS = ("dense", "pruned", "retrained", "onnx")


def main(results: pathlib.Path, seed: int) -> None:
    started = time.perf_counter()
    models = {
        "dense": results / "train/model.keras",
        "pruned": results / "prune/model.keras",
        "retrained": results / "retrain/model.keras",
        "onnx": results / "export/model.onnx",
    }
    seeded = f"train.random_seed={seed}"
    script("train", "-e", SPEC, "-r", results, "--set", seeded)
    evaluate(results, "dense", models)
    script("prune", "-e", SPEC, "-r", results, "-m", models["dense"], "-o", models["pruned"])
    evaluate(results, "pruned", models)
    script(
        *("train", "-e", RETRAIN_SPEC, "-r", results, "-o", results / "retrain"),
        *("--set", seeded, "--set", f"train.pretrained_model_path={models['pruned']}"),
    )
    evaluate(results, "retrained", models)
    script("export", "-e", SPEC, "-r", results, "-m", models["retrained"], "-o", models["onnx"])
    evaluate(results, "onnx", models)
    report = collect(results)
    (results / "report.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    table = to_table(report)
    draw_table(results / "report.png", table)
    write_html(results / "report.html", table)
    draw_channels(results / "channels.png", json.loads((results / "prune/model.plan.json").read_text("utf-8")))
    print(f"\n{table.to_string()}\n")
    shrink = report["dense"]["params"] / report["retrained"]["params"]
    change = 100 * (report["retrained"]["accuracy"] - report["dense"]["accuracy"])
    print(f"{shrink:.1f} times fewer parameters, accuracy {change:+.2f} points; {time.perf_counter() - started:.0f} s in all.")
    print(f"Wrote {results}/report.json, report.html, report.png and channels.png")


def script(name: str, *arguments: Any) -> None:
    words = [str(x) for x in arguments]
    print(f"\n$ tlt-{name} {' '.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", f"tlt_prune.cli.{name}", *words], cwd=ROOT, check=False).returncode
    if code:
        sys.exit(f"demo: tlt-{name} failed (exit code {code}); see its message above.")


def evaluate(results: pathlib.Path, step: str, models: dict[str, pathlib.Path]) -> None:
    script("evaluate", "-e", SPEC, "-m", models[step], "-o", results / "evaluate" / step)


def collect(results: pathlib.Path) -> dict[str, Any]:
    report = {step: json.loads((results / "evaluate" / step / "evaluation.json").read_text("utf-8")) for step in STEPS}
    # The ONNX file is the retrained network with batch normalisation folded in: the same convolutions.
    report["onnx"]["macs"] = report["retrained"]["macs"]
    return report


def to_table(report: dict[str, Any]) -> pd.DataFrame:
    rows = {
        step: {
            "parameters": f"{x['params']:,}",
            "MACs": f"{x['macs'] / 1e6:.2f} M",
            "file": f"{x['file_bytes'] / 1e3:,.0f} kB",
            "accuracy": f"{100 * x['accuracy']:.1f} %",
            "latency, batch 1": f"{x['latency_ms']:.2f} ms",
        }
        for step, x in report.items()
    }
    return pd.DataFrame(rows).T


def draw_table(path: pathlib.Path, table: pd.DataFrame) -> None:
    figure, axis = plt.subplots(figsize=(9, 2.4))
    axis.axis("off")
    axis.set_title("ResNet-10 on 5,000 handwritten digits: trained, pruned, retrained, exported", fontsize=11, loc="left")
    drawn = axis.table(table.values.tolist(), rowLabels=list(table.index), colLabels=list(table.columns), loc="center")
    drawn.scale(1, 1.7)
    for (row, _), cell in drawn.get_celld().items():
        cell.set_edgecolor("#cccccc")
        if row == 0:
            cell.set_facecolor("#eef3e2")
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def write_html(path: pathlib.Path, table: pd.DataFrame) -> None:
    cells = "td,th{padding:.5em 1em;text-align:right;border-bottom:1px solid #ccc}"
    style = f"body{{font-family:sans-serif;margin:2em}}table{{border-collapse:collapse}}{cells}"
    body = f"<h2>ResNet-10 on 5,000 handwritten digits</h2>{table.to_html(border=0)}<p><img src='channels.png' width='900'></p>"
    path.write_text(f"<!doctype html><meta charset='utf-8'><title>tlt_prune demo</title><style>{style}</style>{body}", "utf-8")


def draw_channels(path: pathlib.Path, plan: dict[str, Any]) -> None:
    """Channels a layer, before and after."""
    layers = plan["layers"]
    names = [x["layer"] for x in layers]
    figure, axis = plt.subplots(figsize=(9, 0.32 * len(names) + 1.2))
    axis.barh(names, [x["filters_before"] for x in layers], color="#d9d9d9", label="before")
    axis.barh(names, [x["filters_after"] for x in layers], color="#76b900", label="after", height=0.5)
    for i, x in enumerate(layers):
        axis.text(x["filters_before"], i, f" {x['filters_before']} → {x['filters_after']}", va="center", fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("channels")
    axis.set_title(f"Channels a layer: {plan['params_before']:,} → {plan['params_after']:,} parameters", loc="left", fontsize=11)
    axis.margins(x=0.12)
    axis.legend(loc="lower right", frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 1)
