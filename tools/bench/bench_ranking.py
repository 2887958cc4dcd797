#!/usr/bin/env python3
"""Rankings compared: the ResNet-20 of the published table cut to a budget, straight after pruning, the rest fitted.

    python tools/bench/bench_ranking.py RESULTS_DIR CIFAR10_NPZ

CIFAR10_NPZ is CIFAR-10 as Keras stores it: x_train, y_train, x_test, y_test. Runs tlt-prune and tlt-evaluate with
specs/cifar10_resnet20_full.yaml for each criterion, ranking and budget; what is done is not repeated. Writes ranking.csv to
docs/pages/benchmarks, one row each.
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import pandas as pd

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/demos"))

import demo  # noqa: E402

RESULTS = ROOT / "docs/pages/benchmarks"
TABLE = RESULTS / "ranking.csv"
SPEC, WEIGHTS = "specs/cifar10_resnet20_full.yaml", RESULTS / "resnet20_cifar10.keras"
BUDGETS, RANKINGS = (0.5, 0.25), ("local", "global", "isomorphic")
CRITERIA = ("L2", "BNScale", "Taylor", "Fisher")


def main(results: pathlib.Path, data: pathlib.Path) -> None:
    rows = [run(results, data, c, r, b) for b in BUDGETS for c in CRITERIA for r in RANKINGS]
    pd.DataFrame(rows).to_csv(TABLE, index=False, lineterminator="\n")
    print("\n".join(["", *ranking_rows(pd.read_csv(TABLE)), "", f"Wrote {TABLE}"]))


def run(results: pathlib.Path, data: pathlib.Path, criterion: str, ranking: str, macs: float) -> dict[str, Any]:
    """A row."""
    folder = results / f"{criterion}-{ranking}-{macs}"
    model, found = folder / "m.keras", folder / "e/evaluation.json"
    given = ("-e", SPEC, "--set", f"dataset.train_dataset_path={data}")
    options = {"macs": macs, "criterion": criterion, "ranking": ranking, "granularity": 4, "min_num_filters": 4}
    if not model.exists():
        demo.script(
            "prune", *given, "-m", WEIGHTS, "-o", model, *(x for key in options for x in ("--set", f"prune.{key}={options[key]}"))
        )
    if not found.exists():
        demo.script("evaluate", *given, "-m", model, "-o", folder / "e")
    scores = json.loads(found.read_text("utf-8"))
    return {
        "criterion": criterion, "ranking": ranking, "budget": macs, "accuracy": round(scores["accuracy"], 4),
        "macs": int(scores["macs"]), "params": scores["params"],
    }  # fmt: skip


def ranking_rows(table: pd.DataFrame) -> list[str]:
    """Markdown: a row for each budget and criterion, the best of it in bold."""
    rows = []
    for (budget, criterion), part in table.groupby(["budget", "criterion"], sort=False):
        accuracy = part.set_index("ranking")["accuracy"]
        best = accuracy.max()
        cells = [f"**{100 * x:.1f} %**" if x == best else f"{100 * x:.1f} %" for x in (accuracy[r] for r in RANKINGS)]
        rows.append(f"| {100 * float(budget):.0f} % | {criterion} | {' | '.join(cells)} |")  # type: ignore[arg-type]
    return rows


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*(pathlib.Path(x).resolve() for x in sys.argv[1:]))
