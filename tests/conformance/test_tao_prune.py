"""The pruner against the toolkit's, run by run and index by index.

Deviations are listed below, each with its reason; everything else is equal.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import golden
import keras
import numpy as np
import pytest
from helpers import assert_law, randomize

import tlt_prune
from tlt_prune.config.options import Options
from tlt_prune.graph.tracer import ChannelGraph, trace
from tlt_prune.pruning.select.select import select

# model -> (layers concerned, why ours differ)
DEVIATIONS = {
    "helnet10": (
        {"block_4a_conv_2"},
        "the toolkit excludes the output layer by name (an activation) and prunes the convolution behind it, "
        "so that the model's output loses channels; a model's outputs are never pruned here",
    ),
}


@functools.cache
def model_of(name: str) -> keras.Model:
    return golden.set_deterministic_weights(golden.build_model(golden.load(f"models/{name}.json.gz")))


@functools.cache
def channels_of(name: str) -> ChannelGraph:
    return trace(model_of(name))


def kept(name: str, args: dict[str, Any]) -> dict[str, list[int]]:
    options = Options(
        threshold=args["threshold"],
        normalizer=args["normalizer"],
        equalization_criterion=args["equalization_criterion"],
        granularity=args["granularity"],
        min_num_filters=args["min_num_filters"],
        excluded_layers=tuple(args["excluded_layers"]),
    )
    channels = channels_of(name)
    selection = select(channels, options)
    return {p.name.replace(">", "/"): np.flatnonzero(selection.alive[p.labels]).tolist() for p in channels.producers}


RUNS = [(name, i) for name in golden.names("prune") for i in range(len(golden.load(f"prune/{name}.json.gz")["runs"]))]


def expected(record: tuple[int, int, Any]) -> list[int]:
    before, _, indices = record
    return list(range(before)) if indices == "all" else indices


@pytest.mark.parametrize(("name", "index"), RUNS)
def test_run(name: str, index: int, record_property: Any) -> None:
    run = golden.load(f"prune/{name}.json.gz")["runs"][index]
    if run.get("error"):
        # Where the toolkit refused, ours works, and the law holds: see below.
        assert kept(name, run["args"])
        record_property("tao", "refused there, works here")
        return
    received = kept(name, run["args"])
    differing = {layer for layer, record in run["layers"].items() if received[layer] != expected(record)}
    concerned, _ = DEVIATIONS.get(name, (set(), ""))
    # Exactly those: a deviation that went away is news as well.
    assert differing == concerned
    record_property("tao", "deviation" if differing else "equal")


def test_the_counts_that_the_readme_states() -> None:
    """With each run either equal or one of DEVIATIONS, these numbers are the comparison's outcome."""
    errors = [bool(golden.load(f"prune/{name}.json.gz")["runs"][i].get("error")) for name, i in RUNS]
    deviating = [name for (name, _), error in zip(RUNS, errors, strict=True) if name in DEVIATIONS and not error]
    applications = golden.load("apps_tf2.json.gz")["models"].values()
    refused = sum(errors) + sum(bool(record.get("error")) for record in applications)
    assert (len(RUNS), len(applications)) == (151, 13)
    assert (len(RUNS) + len(applications) - refused, len(deviating), refused) == (143, 3, 21)
    templates = ["error" in golden.load(f"templates/{name}.json.gz") for name in golden.names("templates")]
    assert (templates.count(False), templates.count(True)) == (139, 5)


def test_parameters_after_are_the_recorded_ones() -> None:
    for name in ("resnet18_id", "mobilenet_v2_proj", "vgg16", "squeezenet"):
        run = golden.load(f"prune/{name}.json.gz")["runs"][0]
        arguments = {k: v for k, v in run["args"].items() if k != "excluded_layers"}
        plan = tlt_prune.plan_pruning(model_of(name), **arguments, excluded_layers=run["args"]["excluded_layers"])
        assert (plan.params_before, plan.params_after) == (run["params_before"], run["params_after"]), name


def test_weights_are_the_recorded_ones() -> None:
    for check in golden.load("weights_check.json")["checks"]:
        role = {"depthwise": "depthwise", "kernel": "kernel", "gamma": "positive", "moving_variance": "positive"}
        kind = role.get(check["role"], "positive" if "var" in check["role"] else "small")
        roles = [("small", (1,))] * check["index"] + [(kind, tuple(check["shape"]))]
        weight = golden.deterministic_weights(check["layer"], roles)[-1]
        assert hashlib.sha1(weight.tobytes()).hexdigest() == check["sha1_of_float32_bytes"], check


REFUSED = sorted({name for name, i in RUNS if golden.load(f"prune/{name}.json.gz")["runs"][i].get("error")})


@pytest.mark.parametrize("name", REFUSED)
def test_where_the_toolkit_refuses_the_law_holds(name: str) -> None:
    run = golden.load(f"prune/{name}.json.gz")["runs"][0]
    model = randomize(golden.build_model(small(golden.load(f"models/{name}.json.gz"))))
    plan = tlt_prune.plan_pruning(model, ratio=0.5, excluded_layers=run["args"]["excluded_layers"])
    assert plan.params_after < 0.6 * plan.params_before
    assert_law(model, plan, plan.apply(model), tolerance=2e-5)


def small(record: dict[str, Any]) -> dict[str, Any]:
    """The same graph for smaller pictures, where its layers allow: the pruner does not see the difference."""
    layers = []
    for layer in record["layers"]:
        config = dict(layer["config"])
        if layer["class"] == "InputLayer" and config["batch_input_shape"][1] == 224:
            config["batch_input_shape"] = [None, 64, 64, config["batch_input_shape"][3]]
        layers.append({**layer, "config": config})
    return {**record, "layers": layers}
