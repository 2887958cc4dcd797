#!/usr/bin/env python3
"""The main job, end to end, by the command-line scripts: what `tools/demo.sh` runs.

    python tools/demos/demo.py RESULTS_DIR [SEED]

Trains the network of specs/demo_digits.yaml, prunes, retrains, trains on with int8's rounding, exports each to ONNX, scores
every step on the same held-out pictures, and writes to RESULTS_DIR: report.json, report.html, report.png (the table) and
channels.png.

Exits with an error, naming the figure, where the outcome is not what the README promises: at least ten times fewer
parameters, at most half a point of accuracy lost by then and by int8, ONNX files that score what Keras scores.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
import time
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

ROOT = pathlib.Path(__file__).resolve().parents[2]
SPEC = "specs/demo_digits.yaml"
RETRAIN_SPEC = "specs/demo_retrain.yaml"
QAT_SPEC = "specs/demo_qat.yaml"
FEWER_PARAMETERS, POINTS_LOST = 10.0, 0.5


def main(results: pathlib.Path, seed: int, retrain_epochs: int = 24) -> None:
    """`retrain_epochs`: of the pruned network."""
    started = time.perf_counter()
    models = {
        "dense": results / "train/model.keras",
        "pruned": results / "prune/model.keras",
        "retrained": results / "retrain/model.keras",
        "int8": results / "qat/model.keras",
    }
    seeded = f"train.random_seed={seed}"
    # Every demo is a new one; without --restart, a training goes on or is refused over another's checkpoints.
    script("train", "-e", SPEC, "-r", results, "--restart", "--set", seeded)
    script("prune", "-e", SPEC, "-r", results, "-m", models["dense"], "-o", models["pruned"])
    script(
        *("train", "-e", RETRAIN_SPEC, "-r", results, "-o", results / "retrain", "--restart"),
        *("--set", seeded, "--set", f"train.pretrained_model_path={models['pruned']}"),
        *("--set", f"train.num_epochs={retrain_epochs}"),
    )
    script(
        *("train", "-e", QAT_SPEC, "-r", results, "-o", results / "qat", "--restart"),
        *("--set", seeded, "--set", f"train.pretrained_model_path={models['retrained']}"),
    )
    report = {step: scores(step, model, ["-e", SPEC, "-r", results], results) for step, model in models.items()}
    (results / "report.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    table = to_table(report)
    draw_table(results / "report.png", table)
    channels = "<p><img src='channels.png' width='900'></p>"
    write_html(results / "report.html", "ResNet-10 on 5,000 handwritten digits", table, channels)
    shutil.copy(results / "prune/model.plan.png", results / "channels.png")
    print(f"\n{table.to_string()}\n\n{headline(report)} {time.perf_counter() - started:.0f} s in all.")
    print(f"Wrote {results}/report.json, report.html, report.png and channels.png")
    failures = missed(report)
    if failures:
        sys.exit("demo: " + " ".join(failures))


def times_fewer(report: dict[str, Any], key: str) -> float:
    return float(report["dense"][key] / report["retrained"][key])


def points(report: dict[str, Any]) -> float:
    """Percentage points of accuracy gained by the retrained network over the dense one."""
    return 100 * float(report["retrained"]["accuracy"] - report["dense"]["accuracy"])


def headline(report: dict[str, Any]) -> str:
    faster = report["dense"]["onnx"]["latency_ms"] / report["retrained"]["onnx"]["latency_ms"]
    return (
        f"{times_fewer(report, 'params'):.1f} times fewer parameters, {times_fewer(report, 'macs'):.1f} times fewer MACs, "
        f"{faster:.1f} times faster in ONNX, accuracy {points(report):+.2f} points."
    )


def missed(report: dict[str, Any]) -> list[str]:
    """What the README promises and this run did not reach."""
    failures = []
    if times_fewer(report, "params") < FEWER_PARAMETERS:
        failures.append(
            f"{report['dense']['params']:,} -> {report['retrained']['params']:,} parameters are "
            f"{times_fewer(report, 'params'):.1f} times fewer. Expected at least {FEWER_PARAMETERS:.0f} times."
        )
    # A thousandth for what floating point makes of half a point.
    if points(report) < -POINTS_LOST - 1e-3:
        failures.append(f"Accuracy changed by {points(report):+.2f} points. Expected at most {POINTS_LOST} points less.")
    lost = 100 * (report["retrained"]["accuracy"] - report["int8"]["onnx"]["accuracy"])
    if lost > POINTS_LOST + 1e-3:
        failures.append(f"Accuracy in int8 is {lost:.2f} points lower. Expected at most {POINTS_LOST} points less.")
    for step, x in report.items():
        keras, onnx = x["accuracy"], x["onnx"]["accuracy"]
        if abs(keras - onnx) * x["pictures"] > 1.5:
            failures.append(f"The {step} network scores {keras:.4f} in Keras and {onnx:.4f} in ONNX. Expected the same.")
    return failures


def script(name: str, *arguments: Any) -> None:
    words = [str(x) for x in arguments]
    print(f"\n$ tlt-{name} {' '.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", f"tlt_prune.cli.{name}", *words], cwd=ROOT, check=False).returncode
    if code:
        sys.exit(f"demo: tlt-{name} failed (exit code {code}); see its message above.")


def scores(step: str, model: pathlib.Path, given: list[Any], results: pathlib.Path) -> dict[str, Any]:
    """What tlt-evaluate finds for a model, and under "onnx" for its ONNX file; `given` are flags that every script takes."""
    onnx = results / f"export/{step}.onnx"
    script("export", *given, "-m", model, "-o", onnx, "--set", "export.formats=[onnx]")
    found = []
    for name, path in ((step, model), (f"{step}_onnx", onnx)):
        script("evaluate", *given, "-m", path, "-o", results / f"evaluate/{name}")
        found.append(json.loads((results / f"evaluate/{name}/evaluation.json").read_text("utf-8")))
    return {**found[0], "onnx": found[1]}


def to_table(report: dict[str, Any], key: str = "accuracy", decimals: int = 2) -> pd.DataFrame:
    """A row per step. `key` names the score in a report; MACs have that many decimals, milliseconds one more."""
    title = "mAP" if key == "mean_average_precision" else key
    rows = {
        step: {
            "parameters": f"{x['params']:,}",
            "MACs": f"{x['macs'] / 1e6:.{decimals}f} M",
            title: f"{100 * x[key]:.1f} %",
            "ONNX file": f"{x['onnx']['file_bytes'] / 1e3:,.0f} kB",
            f"{title} in ONNX": f"{100 * x['onnx'][key]:.1f} %",
            "latency in ONNX, batch 1": f"{x['onnx']['latency_ms']:.{decimals + 1}f} ms",
        }
        for step, x in report.items()
    }
    return pd.DataFrame(rows).T


def draw_table(path: pathlib.Path, table: pd.DataFrame) -> None:
    figure, axis = plt.subplots(figsize=(10, 2.3))
    axis.axis("off")
    axis.set_title(
        "ResNet-10 on 5,000 handwritten digits: trained, pruned, retrained, in int8, exported", fontsize=11, loc="left"
    )
    drawn = axis.table(table.values.tolist(), rowLabels=list(table.index), colLabels=list(table.columns), loc="center")
    drawn.scale(1, 1.7)
    for (row, _), cell in drawn.get_celld().items():
        cell.set_edgecolor("#cccccc")
        if row == 0:
            cell.set_facecolor("#eef3e2")
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def write_html(path: pathlib.Path, title: str, table: pd.DataFrame, below: str) -> None:
    cells = "td,th{padding:.5em 1em;text-align:right;border-bottom:1px solid #ccc}"
    style = f"body{{font-family:sans-serif;margin:2em}}table{{border-collapse:collapse}}{cells}"
    body = f"<h2>{title}</h2>{table.to_html(border=0)}{below}"
    path.write_text(f"<!doctype html><meta charset='utf-8'><title>tlt_prune demo</title><style>{style}</style>{body}", "utf-8")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 1)
