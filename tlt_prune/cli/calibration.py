"""What `tlt-prune` knows of the spec's dataset: criteria and compensations that take data, and what is best by default."""

from __future__ import annotations

import dataclasses
from typing import Any

from tlt_prune import extras
from tlt_prune.cli import common
from tlt_prune.config.options import CRITERIA_WITH_DATA, Options
from tlt_prune.config.specs import Spec
from tlt_prune.errors import MissingPackageError, SpecError

_LOSS = "categorical_crossentropy"


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """What is decided.

    Attributes:
        options: with a criterion that is ready to be used.
        compensation: as for `tlt_prune.prune_model`.
    """

    options: Options
    compensation: list[Any]


def choose(spec: Spec, predictor: Any) -> Choice:
    """Fills in "auto", and gives data to what takes it.

    With a dataset in the spec, a budget for the whole network is met by Fisher's scores, and the consumers are fitted again by
    least squares. A threshold or a ratio stays the toolkit's rule on norms.

    Raises:
        SpecError: something needs data that the spec does not have, or the dataset is not the model's.
    """
    prune = spec.prune
    wanted = prune.compensation if isinstance(prune.compensation, tuple) else (prune.compensation,)
    needed = prune.criterion in CRITERIA_WITH_DATA or {"least_squares", "batch_norm"} & set(wanted)
    found: _Examples | None = None
    if needed or "auto" in (prune.criterion, *wanted):
        found = _examples(spec, predictor, required=bool(needed))
    options = prune.options
    criterion: Any = prune.criterion
    by_norm = options.threshold is not None or options.ratio is not None
    if criterion == "auto":
        criterion = "L2" if by_norm or found is None else "Fisher"
    if criterion in CRITERIA_WITH_DATA:
        criterion = _with_data(criterion, found)
    automatic = "least_squares" if found is not None else "none"
    names = [automatic if name == "auto" else name for name in wanted]
    return Choice(
        options.model_copy(update={"criterion": criterion}), [_compensation(name, found) for name in names if name != "none"]
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Examples:
    """Some of the training split.

    Attributes:
        x: pictures as the model takes them.
        y: what its outputs are held against.
        loss: for gradients.
        metric: for ablation.
    """

    x: Any
    y: Any
    loss: Any
    metric: Any


def _with_data(name: str, examples: Any) -> Any:
    from tlt_prune import criteria

    both = (examples.x, examples.y)
    match name:
        case "Taylor":
            return criteria.Taylor(both, examples.loss)
        case "Fisher":
            return criteria.Fisher(both, examples.loss)
        case "Activation":
            return criteria.Activation(examples.x)
        case "APoZ":
            return criteria.APoZ(examples.x)
        case _:
            return criteria.Ablation(both, examples.metric, chunk=8)


def _compensation(name: str, examples: Any) -> Any:
    from tlt_prune.pruning.compensation import LeastSquares, RecalibrateBatchNorm

    match name:
        case "least_squares":
            return LeastSquares(examples.x)
        case "batch_norm":
            return RecalibrateBatchNorm(examples.x)
        case _:
            return name


def _examples(spec: Spec, predictor: Any, *, required: bool) -> _Examples | None:
    """`prune.samples` of the training split; None where there are none."""
    if spec.task == "detection":
        from tlt_prune.cli.detection import examples, read

        return _Examples(*examples(read(spec), predictor))
    if "train_dataset_path" not in spec.dataset.model_fields_set:
        if required:
            raise SpecError(
                "prune: what is asked for needs data. Expected a spec (-e) whose dataset.train_dataset_path is the model's "
                "training data."
            )
        common.say("No dataset is given (-e spec): pruned by norms, as the toolkit does, and nothing is compensated.")
        return None
    try:
        extras.require("train", "tlt-prune with a dataset")
    except MissingPackageError as error:
        if required:
            raise
        common.say(f"{error} Without: pruned by norms, as the toolkit does, and nothing is compensated.")
        return None
    import numpy as np

    from tlt_prune import data
    from tlt_prune.cli.models import agreed
    from tlt_prune.io import model_info

    spec, form, first = agreed(spec, predictor)
    split, _ = data.load_splits(spec.dataset, form)
    outputs = int(predictor.model.outputs[0].shape[-1])
    split = data.matched(split, model_info.classes_of(predictor.info, split.classes, outputs, str(predictor.path)), "The dataset")
    few = split.sample(spec.prune.samples, spec.train.random_seed)
    batches = data.evaluation_pipeline(few, spec.dataset, form, batch_size=spec.evaluate.batch_size, channels_first=first).batches
    pictures, labels = zip(*[(np.asarray(a), np.asarray(b)) for a, b in batches], strict=True)
    # As a metric, the loss tells more chunks apart than the accuracy does.
    return _Examples(np.concatenate(pictures), np.concatenate(labels), _LOSS, _LOSS)
