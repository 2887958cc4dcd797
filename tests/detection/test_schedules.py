"""Learning rates against the toolkit's own."""

from __future__ import annotations

from typing import Any

import pytest
from golden_detection import cases, ids

from tlt_prune.detection.schedules import EarlyStoppingAnnealing
from tlt_prune.errors import SpecError
from tlt_prune.training import soft_start_annealing

FILE = "learning_rate.json"
SOFT = [*cases(FILE, "soft_start_annealing"), *cases(FILE, "soft_start_annealing_steps")]
EARLY, RULE = cases(FILE, "early_stopping_annealing"), cases(FILE, "early_stopping_rule")


def test_all_golden_cases_are_there() -> None:
    assert (len(SOFT), len(EARLY), len(RULE)) == (6, 2, 2)


@pytest.mark.parametrize("case", SOFT, ids=ids(SOFT))
def test_soft_start_annealing(case: Any) -> None:
    progress = case["progress"] if "progress" in case else [i / case["max_steps"] for i in range(case["max_steps"])]
    for at, expected in zip(progress, case["learning_rate"], strict=True):
        rates = case["min_learning_rate"], case["max_learning_rate"]
        assert soft_start_annealing(at, *rates, case["soft_start"], case["annealing"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("case", EARLY, ids=ids(EARLY))
def test_early_stopping_rates(case: Any) -> None:
    for (step, annealing), expected in zip(case["phase_step_and_annealing"], case["learning_rate"], strict=True):
        schedule = EarlyStoppingAnnealing(
            case["min_learning_rate"],
            case["max_learning_rate"],
            soft_start_steps=case["soft_start_steps"],
            annealing_steps=case["annealing_steps"],
            patience=1,
        )
        if annealing:
            schedule.validated(1.0, 0)
            schedule.validated(1.0, 0)
        assert schedule.annealing == annealing
        assert schedule.rate(step) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("case", RULE, ids=ids(RULE))
def test_when_it_falls_and_ends(case: Any) -> None:
    an_epoch = case["steps_per_epoch"]
    schedule = EarlyStoppingAnnealing(
        case["min_learning_rate"],
        case["max_learning_rate"],
        soft_start_steps=case["soft_start_epochs"] * an_epoch,
        annealing_steps=case["annealing_epochs"] * an_epoch,
        patience=case["patience_steps"],
    )
    for expected in case["trace"]:
        step = expected["step"]
        assert schedule.rate(step) == pytest.approx(expected["learning_rate"], rel=1e-5)
        if (step + 1) % an_epoch == 0:
            schedule.validated(case["validation_costs_by_epoch"][(step + 1) // an_epoch - 1], step + 1)
        assert (schedule.annealing, schedule.stopped) == (expected["annealing"], expected["stop"])
    assert schedule.stopped


def test_bad_settings() -> None:
    with pytest.raises(SpecError, match=r"patience_steps: expected at least 1\. Received: 0"):
        EarlyStoppingAnnealing(1e-6, 1e-3, soft_start_steps=1, annealing_steps=1, patience=0)
