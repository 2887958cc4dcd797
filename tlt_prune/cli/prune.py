"""Removes the least important filters of a trained model.

  tlt-prune -m results/train/model.keras -o results/prune/model.keras -pth 0.5
  tlt-prune -e specs/demo_digits.yaml -m results/train/model.keras -o results/prune/model.keras --dry_run

Prints one row per layer, checks on random inputs that the pruned model equals the original with the removed
filters' consumers zeroed, then writes the model and its plan (model.plan.json).
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from tlt_prune import extras
from tlt_prune.cli import common
from tlt_prune.cli.section_flags import SectionFlags
from tlt_prune.config import BUDGETS, Options, Spec, with_budget
from tlt_prune.errors import MissingPackageError, PlanError, SpecError
from tlt_prune.io import checksums, files, import_frameworks, places, save_figure, say, workers
from tlt_prune.tasks import Task
from tlt_prune.tasks.steps.sparsity import train_on_twin
from tlt_prune.tasks.steps.training import run_training

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from tlt_prune.graph import ChannelGraph
    from tlt_prune.pruning import PruningPlan
    from tlt_prune.pruning.compensation import Compensation
    from tlt_prune.pruning.rewrite.law import LawReport

FLAGS = flags.FLAGS
# The toolkit's names of flags, and its short forms.
_OPTIONS = SectionFlags(
    "prune",
    renamed={
        "threshold": "pruning_threshold",
        "granularity": "pruning_granularity",
        "model_path": "model",
        "output_path": "output_file",
    },
    short={
        "threshold": "pth",
        "granularity": "pg",
        "normalizer": "n",
        "equalization_criterion": "eq",
        "min_num_filters": "nf",
        "excluded_layers": "el",
        "model_path": "m",
        "output_path": "o",
    },
)
_OPTIONS.define()
flags.DEFINE_bool("verify", True, "Check the pruned model against the original before writing.")
flags.DEFINE_bool("dry_run", False, "Print what would be removed and write nothing.")
flags.DEFINE_bool("plain", False, "The toolkit's plain result: norms, the same share everywhere, no data, no compensation.")
flags.DEFINE_bool("sweep", False, "Print what every threshold would leave, draw it beside the output, and prune nothing.")


# What --plain stands for.
_PLAIN = {"criterion": "L2", "compensation": ["none"], "ranking": "local"}


def main(argv: list[str]) -> None:
    given = _OPTIONS.given()
    if FLAGS.plain:
        contradicting = [name for name, value in _PLAIN.items() if given[name] not in (None, value)]
        if contradicting:
            raise SpecError(f"--plain and --{contradicting[0]} say different things. Expected one of them.")
        given |= _PLAIN
    if given["excluded_layers"] is not None:
        # The toolkit takes `-el one two`, absl `-el one -el two`; both are understood.
        names = [*given["excluded_layers"], *(x for x in argv if "=" not in x)]
        given["excluded_layers"] = [name for x in names for name in x.split(",") if name]
        argv = [x for x in argv if "=" in x]
    overrides = {f"prune.{key}": value for key, value in given.items()}
    # A budget on the command line replaces whichever the spec has.
    chosen = [name for name in BUDGETS if given[name] is not None]
    task = common.load_task(argv, overrides, without=[f"prune.{x}" for x in BUDGETS if x not in chosen] if chosen else [])
    spec = task.spec
    source = common.required(spec.prune.model_path, "prune.model_path", "-m")
    output = pathlib.Path(spec.prune.output_path or f"{spec.results_dir}/prune/model.keras")
    writes_default = not (spec.prune.output_path or FLAGS.dry_run or FLAGS.sweep or spec.prune.latency_script)
    if writes_default and spec.prune.schedule.steps == 1 and output.exists():
        raise PlanError(
            f"{output} is there already, from an earlier prune. Name the output with -o or prune.output_path; the same name "
            "replaces it."
        )
    by_channels = not spec.prune.on_twin or any(getattr(spec.prune, name) is not None for name in BUDGETS)
    if by_channels and not (FLAGS.sweep or spec.prune.latency_script):
        with_budget(spec.prune)
    inputs = {**common.inputs_of(task), "prune.model_path (-m)": source}
    inputs["prune.latency_table"] = spec.prune.latency_table
    if spec.prune.latency_script:
        _write_script(task, inputs)
        return
    in_steps = spec.prune.schedule.steps > 1 and not FLAGS.sweep
    # What a step has done stays, whatever becomes of the next.
    place = (
        contextlib.nullcontext()
        if FLAGS.dry_run
        else (places.claiming if in_steps else places.writing)(inputs, _outputs(output), "pruning to")
    )
    said: list[str] = []
    if workers.count() > 1 and spec.prune.latency_ms is not None:
        raise SpecError("prune.latency_ms: expected one process, since each of several would measure other latencies.")
    with place:
        import_frameworks()
        if in_steps:
            said = _by_steps(task, source, output)
        elif by_channels or FLAGS.sweep:
            said = _prune(task, source, output, onwards=not spec.prune.on_twin)
        if spec.prune.on_twin and not FLAGS.sweep:
            pruned = str(files.written(output)) if by_channels and not FLAGS.dry_run else source
            said += train_on_twin(task, pruned, output, dry_run=FLAGS.dry_run)
            if not FLAGS.dry_run:
                said.append(common.next_command("tlt-export", "-m", output))
    for line in said:
        say(line)


def _write_script(task: Task, inputs: dict[str, Any]) -> None:
    """The folder of `prune.latency_script`, for a device."""
    spec = task.spec
    folder = pathlib.Path(spec.prune.latency_script)
    with places.writing(inputs, [places.Output("prune.latency_script", folder, folder=True)], "writing to"):
        import_frameworks()
        from tlt_prune.io import load_keras
        from tlt_prune.tasks.steps.latency import script_for

        model = load_keras(pathlib.Path(spec.prune.model_path))
        lines = script_for(model, folder, spec.prune.options, spec.export.data_type)
    for line in lines:
        say(line)


def _outputs(output: pathlib.Path) -> list[places.Output]:
    if FLAGS.sweep:
        return [places.Output("The sweep, beside -o", output.parent / x) for x in ("sweep.csv", "sweep.png")]
    beside = [
        places.Output("The plan, beside prune.output_path (-o)", output.with_suffix(x)) for x in (".plan.json", ".plan.png")
    ]
    return [places.Output("prune.output_path (-o)", output, (".keras",)), *beside]


def _by_steps(task: Task, source: str, output: pathlib.Path) -> list[str]:
    """Prunes in steps, with training in between; run again after being killed, it goes on where it was."""
    from tlt_prune.io import load_keras
    from tlt_prune.pruning import PruningSteps, StepRecord
    from tlt_prune.pruning.select.blocks import trace_for

    extras.require("train", "tlt-prune with a schedule")
    spec, schedule = task.spec, task.spec.prune.schedule
    if spec.prune.blocks:
        raise SpecError(
            "prune.schedule: expected no prune.blocks. Take the blocks out by a prune of their own, before the steps."
        )
    original = trace_for(load_keras(pathlib.Path(source)), spec.prune.options)
    folder = output.parent / f"{output.stem}_steps"
    otherwise = SpecError(
        f"prune.schedule: {folder} holds the steps of another model or other settings. Expected another prune.output_path (-o), "
        "or that folder removed."
    )
    record = StepRecord(folder / "steps.json", _deciding(source, spec), otherwise)

    def file_of(step: int) -> pathlib.Path:
        return output if step == schedule.steps else folder / f"step_{step}/pruned.keras"

    intact = record.intact(file_of)
    if intact < record.count:
        say(f"Step {intact + 1} is made again: {file_of(intact + 1)} is not what was written there.")
    said = [f"All {schedule.steps} steps are done: {output}."]
    for step in PruningSteps(original, schedule.steps, schedule.kind).walk(source):
        say(f"\nStep {step.number} of {schedule.steps}")
        pruned, again = file_of(step.number), step.number > intact
        # What is there of a step that is made again is another training's.
        restart = again and (pruned.parent / "train/checkpoints").exists()
        workers.wait_for_all()
        if again:
            said = _prune(task, step.start, pruned, step.options, onwards=step.is_last)
            # The chief has written it.
            workers.wait_for_all()
            if FLAGS.dry_run:
                return ["The later steps depend on the training after this one."]
            record.done(step.number, pruned)
        if not step.is_last:
            retraining = task.starting_from(str(pruned), schedule.epochs)
            step.result = str(run_training(retraining, pruned.parent / "train", restart=restart).path)
    return said


def _deciding(source: str, spec: Spec) -> str:
    """Checksum of all that decides the steps of a schedule: the model, the settings of pruning and training, and the data."""
    deciding = [
        *(x.model_dump() for x in (spec.prune, spec.train, spec.dataset)),
        *([spec.experiment] if spec.experiment else []),
    ]
    return checksums.of_settings(deciding, pathlib.Path(source).read_bytes())


def _prune(
    task: Task,
    source: str,
    output: pathlib.Path,
    adjusted: Callable[[Options, ChannelGraph], Options] | None = None,
    *,
    onwards: bool = True,
) -> list[str]:
    """One prune, by the spec's options, or what `adjusted` makes of them for a model.

    Returns:
        What to say once the files are in their place; with `onwards` what to do next, too.
    """
    from tlt_prune.io import model_info
    from tlt_prune.onnx import keras_predictor
    from tlt_prune.pruning import decide
    from tlt_prune.pruning.select.blocks import trace_for
    from tlt_prune.tasks.steps.choosing import choose
    from tlt_prune.tasks.steps.latency import calibrate, outcome_of
    from tlt_prune.training import save_model

    spec, predictor = task.spec, keras_predictor(pathlib.Path(source))
    model = predictor.model
    assert model is not None, "a Keras file has a model"
    excluded = _known(spec.prune.excluded_layers, model)
    if FLAGS.sweep:
        return _sweep(model, spec.prune.options.model_copy(update={"excluded_layers": excluded}), output)
    choice = choose(task, predictor)
    options = choice.options.model_copy(update={"excluded_layers": excluded})
    if options.latency_ms is not None:
        # Before the blocks are chosen, which may depend on latencies.
        options = options.model_copy(update={"latency_table": options.latency_table or f"{spec.results_dir}/latency.json"})
    channels = trace_for(model, options)
    if adjusted is not None:
        options = adjusted(options, channels)
    if options.latency_ms is not None:
        calibrate(model, channels, options)
    decision = decide(channels, options)
    plan = decision.plan
    say(plan_table(plan))
    advice = plan.advice()
    if advice:
        say(f"WARNING: this prune removes next to nothing. {advice}")
    _say_narrow(spec, plan)
    if FLAGS.dry_run:
        return ["Dry run: nothing is written."]
    outcome = decision.carry_out(compensation=choice.compensation, verify=FLAGS.verify)
    for line in (*_verified(outcome.law), *_compensated(outcome.compensated, choice.compensation)):
        say(line)
    plan_path = output.with_suffix(".plan.json")
    with files.together():
        plan.to_json(plan_path)
        written = [plan_path.name, *_saved(plan.plot, plan_path.with_suffix(".png"))]
        save_model(outcome.model, output, info=model_info.pruned(predictor.info, plan.summary(), pathlib.Path(source)))
    said = [f"Wrote {output}, {' and '.join(written)}"]
    if plan.latency_ms_after is not None:
        said.append(outcome_of(outcome.model, plan.latency_ms_after, options))
    if onwards:
        said.append(_retraining(task, output))
    return said


def _retraining(task: Task, output: pathlib.Path) -> str:
    """What to do next with a pruned model."""
    return common.next_command("tlt-train", "--set", f"{task.pretrained_key}={output}", "-o", f"{task.spec.results_dir}/retrain")


def _say_narrow(spec: Spec, plan: PruningPlan) -> None:
    """Names the pruned layers that an export to int8 for TensorRT leaves in float."""
    export = spec.export
    if export.data_type != "int8" or export.target != "tensorrt" or export.int8_narrow_layers:
        return
    narrow = [x.layer for x in plan.layers if 0 < x.filters_after < min(16, x.filters_before)]
    if narrow:
        say(
            f"For int8 (export.data_type): {len(narrow)} layers keep fewer than 16 filters and are exported in float for "
            f"TensorRT: {', '.join(narrow[:5])}{', ...' if len(narrow) > 5 else ''}. -pg 16 -nf 16 keeps 16."
        )


def _verified(law: LawReport | None) -> Iterator[str]:
    """Lines about the check of the law; none where it was not asked for."""
    if law is None:
        return
    yield f"Verified: equal to the original with the removed filters' consumers zeroed, to {law.relative_error:.1e}."
    if law.approximate:
        reasons = "; ".join(law.approximate)
        yield f"Approximate: {reasons}. With that, outputs differ by {law.approximate_error:.1e}; retraining mends it."


def _compensated(done: pd.DataFrame, compensation: Sequence[Compensation | str]) -> Iterator[str]:
    """A line for each compensation: how many layers, and why not the others."""
    for each in compensation:
        name = type(each).__name__ if not isinstance(each, str) else each.capitalize()
        rows = done[done["compensation"] == name]
        used = getattr(each, "used", "")
        yield f"Compensated by {name}{f' on {used}' if used else ''}: {int(rows['done'].sum())} layers."
        for note, left in rows[~rows["done"].astype(bool)].groupby("note"):
            yield f"  left alone: {', '.join(left['layer'])}: {note}."


def _known(names: tuple[str | type, ...], model: keras.Model) -> tuple[str | type, ...]:
    """Without the toolkit's names for a head that this model calls otherwise: its outputs stay whole by themselves."""
    from tlt_prune.graph import all_layers

    layers = {layer.name for layer in all_layers(model)}
    heads = [x for x in names if x in ("predictions", "predictions_dense") and x not in layers]
    for name in heads:
        say(f"'{name}' is the toolkit's name for a head; this model's is '{model.layers[-1].name}', and stays whole anyway.")
    return tuple(x for x in names if x not in heads)


def _saved(draw: Callable[[], Any], path: pathlib.Path) -> list[str]:
    """Writes a picture, where the package for pictures is installed: the names of what was written."""
    try:
        figure = draw()
    except MissingPackageError:
        return []
    save_figure(figure, path)
    return [path.name]


def _sweep(model: keras.Model, options: Options, output: pathlib.Path) -> list[str]:
    import tlt_prune
    from tlt_prune.pruning import plots

    frame = tlt_prune.sweep(model, **options.model_dump(exclude={*BUDGETS, "ranking"}))
    shares = {f"{name}, %": (100 * frame[name] / whole).round(1) for name, whole in frame.attrs["whole"].items()}
    # Rounded up: rounded down, the smallest threshold that removes anything would remove nothing.
    shown = frame.assign(**shares).set_axis(np.ceil(frame.index * 1e4) / 1e4)
    say(shown.to_string())
    if FLAGS.dry_run:
        return []
    target = output.parent / "sweep.csv"
    files.write_text(target, frame.to_csv())
    written = [target.name, *_saved(lambda: plots.draw_sweep(frame), target.with_suffix(".png"))]
    return [f"Wrote {' and '.join(written)} to {target.parent}. Choose a threshold: tlt-prune{common.spec_flag()} -pth ..."]


def plan_table(plan: PruningPlan) -> str:
    """One row per layer, and the totals."""
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


def _pairs(frame: pd.DataFrame, what: str) -> list[str]:
    pairs = zip(frame[f"{what}_before"], frame[f"{what}_after"], strict=True)
    return [f"{a:,.0f} -> {b:,.0f}" if a != b else f"{a:,.0f}" for a, b in pairs]


def entry() -> None:
    common.run(main, shared=True)


if __name__ == "__main__":
    entry()
