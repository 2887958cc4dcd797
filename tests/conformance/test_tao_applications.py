"""The toolkit's pruner on keras.applications, as recorded, against ours on today's keras.applications."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import golden
import keras
import numpy as np
import pytest

import tlt_prune

RECORDS = golden.load("apps_tf2.json.gz")["models"]


@pytest.fixture(autouse=True)
def _names_of_a_fresh_session() -> None:
    """The weights are drawn by layer name, and Keras numbers automatic names by what was built before."""
    keras.backend.clear_session()


def _old_name(name: str) -> Callable[[str], str]:
    """Names the weights were drawn by, where Keras 3 had to take a slash out of them."""
    renamed = {"conv1_conv": "conv1/conv", "conv1_bn": "conv1/bn"} if name.startswith("DenseNet") else {}
    return lambda layer: renamed.get(layer, layer)


@pytest.mark.parametrize("name", [name for name, record in RECORDS.items() if not record.get("error")])
def test_the_same_channels(name: str, record_property: Any) -> None:
    record = RECORDS[name]
    model = golden.set_deterministic_weights(getattr(keras.applications, name)(weights=None, classes=10), _old_name(name))
    plan = tlt_prune.plan_pruning(model, **record["args"])
    assert (plan.params_before, plan.params_after) == (record["params_before"], record["params_after"])
    for layer, (before, kept, indices) in record["layers"].items():
        expected = np.arange(before) if indices == "all" else np.array(indices)
        assert len(expected) == kept
        np.testing.assert_array_equal(plan.kept[layer.replace("conv1/conv", "conv1_conv")], expected, err_msg=layer)
    record_property("tao", "equal")


@pytest.mark.parametrize("name", [name for name, record in RECORDS.items() if record.get("error")])
def test_what_it_refused_is_pruned_here(name: str, record_property: Any) -> None:
    model = golden.set_deterministic_weights(getattr(keras.applications, name)(weights=None, classes=10))
    # Outputs are kept whole without being named; some layers have other names in today's Keras.
    plan = tlt_prune.plan_pruning(model, **{**RECORDS[name]["args"], "excluded_layers": []})
    assert plan.params_after < 0.7 * plan.params_before
    assert not plan.unknown
    record_property("tao", "refused there, works here")
