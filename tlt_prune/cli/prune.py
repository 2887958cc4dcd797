"""Removes the least important filters of a trained model.

  tlt-prune -m results/train/model.keras -o results/prune/model.keras -pth 0.5
  tlt-prune -e specs/demo_digits.yaml -m results/train/model.keras -o results/prune/model.keras --dry_run

Prints a row a layer, checks on random inputs that the pruned model equals the original with the removed
filters' consumers zeroed, then writes the model and its plan (model.plan.json).
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from absl import flags

from tlt_prune.cli import common
from tlt_prune.cli.startup import import_frameworks
from tlt_prune.errors import PlanError
from tlt_prune.specs import Spec

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "Trained .keras model.", short_name="m")
flags.DEFINE_string("output_file", None, "Pruned .keras model to write.", short_name="o")
flags.DEFINE_float("pruning_threshold", None, "Keep filters whose normalised norm is strictly above it.")
flags.DEFINE_float("ratio", None, "Share of filters to remove in each group, instead of a threshold.")
flags.DEFINE_enum("normalizer", None, ["max", "L2", "off"], "How norms are made comparable.", short_name="n")
flags.DEFINE_enum(
    "equalization_criterion",
    None,
    ["union", "intersection", "arithmetic_mean", "geometric_mean"],
    "How layers that must keep the same channels agree.",
)
flags.DEFINE_string("pruning_granularity", None, "Retained counts are multiples of it: a number, or auto.")
flags.DEFINE_integer("min_num_filters", None, "Fewest filters a layer keeps.")
flags.DEFINE_multi_string("excluded_layers", None, "Layer that keeps all filters; name or shell pattern. Repeatable.")
flags.DEFINE_bool("verify", True, "Check the pruned model against the original before writing.")
flags.DEFINE_bool("dry_run", False, "Print what would be removed and write nothing.")
for _short, _name in {
    "pth": "pruning_threshold",
    "eq": "equalization_criterion",
    "pg": "pruning_granularity",
    "nf": "min_num_filters",
    "el": "excluded_layers",
}.items():
    flags.DEFINE_alias(_short, _name)


def main(argv: list[str]) -> None:
    excluded = FLAGS.excluded_layers
    if excluded is not None:
        # The toolkit takes `-el one two`, absl `-el one -el two`; both are understood.
        excluded, argv = [name for x in [*excluded, *argv] for name in x.split(",") if name], []
    granularity = FLAGS.pruning_granularity
    overrides = {
        "prune.model_path": FLAGS.model,
        "prune.output_path": FLAGS.output_file,
        "prune.normalizer": FLAGS.normalizer,
        "prune.equalization_criterion": FLAGS.equalization_criterion,
        "prune.granularity": int(granularity) if granularity and granularity.isdigit() else granularity,
        "prune.min_num_filters": FLAGS.min_num_filters,
        "prune.excluded_layers": excluded,
    }
    if FLAGS.pruning_threshold is not None or FLAGS.ratio is not None:
        # Either flag replaces whichever of the two the spec has.
        overrides |= {"prune.threshold": FLAGS.pruning_threshold, "prune.ratio": FLAGS.ratio}
    spec = common.load(argv, overrides)
    if FLAGS.pruning_threshold is not None:
        spec = _with(spec, ratio=FLAGS.ratio)
    elif FLAGS.ratio is not None:
        spec = _with(spec, threshold=None)
    source = common.required(spec.prune.model_path, "prune.model_path", "-m")
    output = pathlib.Path(spec.prune.output_path or f"{spec.results_dir}/prune/model.keras")
    if output.suffix != ".keras":
        raise PlanError(f"prune.output_path: expected a .keras file. Received: {output}.")
    if not FLAGS.dry_run:
        common.output_folder(output.parent)
    import_frameworks()
    _prune(spec, source, output)


def _with(spec: Spec, **changes: Any) -> Spec:
    return dataclasses.replace(spec, prune=dataclasses.replace(spec.prune, **changes))


def _prune(spec: Spec, source: str, output: pathlib.Path) -> None:
    from tlt_prune.cli.models import load_keras
    from tlt_prune.graph.channels import trace
    from tlt_prune.pruning.api import plan_pruning
    from tlt_prune.pruning.law import check_law
    from tlt_prune.training.loop import save_model

    p = spec.prune
    model = load_keras(source)
    plan = plan_pruning(
        model,
        threshold=p.threshold,
        ratio=p.ratio,
        criterion=p.criterion,
        normalizer=p.normalizer,
        equalization_criterion=p.equalization_criterion,
        granularity=p.granularity,
        min_num_filters=p.min_num_filters,
        excluded_layers=p.excluded_layers,
    )
    common.say(table(plan))
    if FLAGS.dry_run:
        common.say("Dry run: nothing is written.")
        return
    pruned = plan.apply(model)
    if FLAGS.verify:
        channels = trace(model)
        report = check_law(channels, plan.alive(channels), pruned)
        common.say(f"Verified: equal to the original with the removed filters' consumers zeroed, to {report.relative_error:.1e}.")
        if report.approximate:
            reasons = "; ".join(report.approximate)
            common.say(
                f"Approximate: {reasons}. With that, outputs differ by {report.approximate_error:.1e}; retraining mends it."
            )
    plan_path = output.with_suffix(".plan.json")
    with common.whole_file(plan_path) as partial:
        plan.to_json(partial)
        save_model(pruned, output)
    common.say(f"Wrote {output} and {plan_path.name}")
    common.say(f"Next: tlt-train{common.spec_flag()} --set train.pretrained_model_path={output} -o {spec.results_dir}/retrain")


def table(plan: Any) -> str:
    """A row a layer, and the totals."""
    import pandas as pd

    frame = plan.to_frame()
    rows = pd.DataFrame(
        {
            "filters": _pairs(frame, "filters"),
            "parameters": _pairs(frame, "params"),
            "MACs": _pairs(frame, "macs"),
            "note": frame["note"],
        }
    )
    return f"{rows.to_string()}\n\n{plan.summary()}"


def _pairs(frame: Any, what: str) -> list[str]:
    pairs = zip(frame[f"{what}_before"], frame[f"{what}_after"], strict=True)
    return [f"{a:,.0f} -> {b:,.0f}" if a != b else f"{a:,.0f}" for a, b in pairs]


def entry() -> None:
    common.run(main)


if __name__ == "__main__":
    entry()
