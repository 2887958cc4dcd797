#!/usr/bin/env python3
"""The toolkit's models beyond classification: what its pruner takes of each, and what this one takes of the same graph.

    python tools/bench/bench_tao_models.py

Every recorded model of tests/data/tao_models, with the recorded weights but for transposed convolutions, at a threshold of 0.5
with the defaults of its scripts: granularity 8, at least 16 filters, a UNet 8. The toolkit: its rule with its exclusions, which
tests hold to the recorded runs index for index. Writes docs/pages/benchmarks/tao_models.csv. A quarter of an hour on two cores.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pandas as pd
from by_scripts import PAGES, ROOT

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/conformance")]

import golden  # noqa: E402
import tao_models  # noqa: E402

import tlt_prune  # noqa: E402

TABLE = PAGES / "tao_models.csv"
THRESHOLD = 0.5
FAMILIES = {
    "multitask_classification": "multitask classification",
    "unet": "UNet",
    "ssd": "SSD",
    "dssd": "DSSD",
    "retinanet": "RetinaNet",
    "yolo_v3": "YOLOv3",
    "yolo_v4": "YOLOv4",
    "yolo_v4_tiny": "YOLOv4-tiny",
}


def measured(name: str) -> dict[str, Any]:
    """A row of the table."""
    record, runs = tao_models.load(f"templates/{name}.json.gz"), tao_models.load(f"prune/{name}.json.gz")
    model = golden.set_deterministic_weights(tao_models.build(record))
    transposed = [x.name for x in model.layers if isinstance(x, keras.layers.Conv2DTranspose)]
    for layer in map(model.get_layer, transposed):
        # Recorded are filters of one norm, since the toolkit does not look at it: as those of a convolution, they differ.
        height, width, out, into = layer.kernel.shape
        (kernel,) = golden.deterministic_weights(layer.name, [("kernel", (height, width, into, out))])
        layer.kernel.assign(kernel.swapaxes(2, 3))
    names = {x.name for x in model.layers}
    theirs = sorted({*runs["excluded_layers"], *transposed} & names)
    options = {"threshold": THRESHOLD, "min_num_filters": 8 if record["family"] == "unet" else 16}
    refused = any(run.get("error") for run in runs["runs"])
    row: dict[str, Any] = {"model": name, "family": record["family"], "params": model.count_params()}
    for who, excluded in (("toolkit", theirs), ("ours", [])):
        plan = tlt_prune.plan_pruning(model, **options, excluded_layers=excluded)
        row[f"{who}_layers"] = sum(x.filters_after < x.filters_before for x in plan.layers)
        row[f"{who}_left"] = plan.params_after / plan.params_before
    if refused:
        row |= {"toolkit_layers": None, "toolkit_left": None}
    return row


def tao_rows(table: pd.DataFrame) -> list[str]:
    """Rows of the documentation, one per model."""
    rows = []
    for row in table.itertuples():
        backbone = str(row.model).partition("_")[2].replace("_", " ")
        theirs = (
            "refused" if pd.isna(row.toolkit_left) else f"{row.toolkit_layers:.0f} layers, {100 * row.toolkit_left:.1f} % left"
        )
        ours = f"{row.ours_layers} layers, {100 * float(row.ours_left):.1f} % left"
        rows.append(f"| {FAMILIES[str(row.family)]}, {backbone} | {float(row.params) / 1e6:.2f} M | {theirs} | {ours} |")
    return rows


def main() -> None:
    rows = []
    for name in sorted(
        tao_models.names("prune"), key=lambda x: list(FAMILIES).index(tao_models.load(f"prune/{x}.json.gz")["family"])
    ):
        rows.append(measured(name))
        gc.collect()
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(TABLE, index=False, float_format="%.6g")
    print("\n".join(tao_rows(table)))


if __name__ == "__main__":
    if len(sys.argv) != 1:
        sys.exit(__doc__)
    main()
