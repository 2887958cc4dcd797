"""Criteria and compensations register themselves: one new file is a name in Python, in specs and on the command line."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from helpers import randomize

import tlt_prune
from tlt_prune import criteria
from tlt_prune.config.registry import COMPENSATIONS, CRITERIA, Registry
from tlt_prune.config.sections import Prune
from tlt_prune.errors import PlanError
from tlt_prune.pruning.criteria.network import Network


@pytest.fixture
def model() -> keras.Model:
    x = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(8, 3, name="conv")(x)
    return randomize(keras.Model(x, keras.layers.Dense(2, name="head")(keras.layers.Flatten()(y))))


OPTIONS = {"ratio": 0.5, "granularity": 1, "min_num_filters": 1}


def last_first(network: Network) -> dict[str, Any]:
    return {x.name: np.arange(x.count) + 1.0 for x in network.layers}


def test_a_registered_criterion_is_a_name(model: keras.Model) -> None:
    with CRITERIA.scoped():

        @criteria.register("Index")
        class Index:
            def __call__(self, network: Network) -> dict[str, Any]:
                return last_first(network)

        assert criteria.Index is Index
        assert "Index" in dir(criteria)
        assert Prune(criterion="index").criterion == "Index"
        assert tlt_prune.plan_pruning(model, criterion="Index", **OPTIONS).kept["conv"].tolist() == [4, 5, 6, 7]
    with pytest.raises(PlanError, match=r"'criterion' must be 'L2', .* or 'Ablation' or callable. Received: 'Index'"):
        tlt_prune.plan_pruning(model, criterion="Index", **OPTIONS)
    with pytest.raises(AttributeError, match="no attribute 'Index'"):
        _ = criteria.Index


def test_a_registered_compensation_is_a_name(model: keras.Model) -> None:
    with COMPENSATIONS.scoped():

        @COMPENSATIONS.register("ones")
        class Ones:
            def __call__(self, channels: Any, alive: Any, pruned: Any) -> pd.DataFrame:
                pruned.get_layer("head").bias.assign(np.ones(2))
                return pd.DataFrame([("head", True, "")], columns=["layer", "done", "note"])

        assert Prune(compensation=("bias", "ONES")).compensation == ("bias", "ones")
        pruned = tlt_prune.prune_model(model, compensation=["bias", "ones"], **OPTIONS)
        assert pruned.get_layer("head").bias.numpy().tolist() == [1, 1]
    with pytest.raises(PlanError, match=r"compensation: expected \"bias\", .* Received: 'ones'"):
        tlt_prune.prune_model(model, compensation="ones", **OPTIONS)


def test_a_name_that_needs_data_says_so(model: keras.Model) -> None:
    with CRITERIA.scoped():

        @CRITERIA.register("Given", needs="inputs", by_script={"factor": 2})
        class Given:
            def __init__(self, x: Any, factor: int = 1) -> None:
                self.made_of = x, factor

        with pytest.raises(PlanError, match="criterion='Given' needs data"):
            tlt_prune.plan_pruning(model, criterion="Given", **OPTIONS)
        assert "Given" in CRITERIA.names("inputs")

        class Few:
            x, y, loss, metric = "x", "y", "loss", "metric"

        entry = CRITERIA.find("Given")
        assert entry is not None
        assert entry.make(Few()).made_of == ("x", 2)


def test_a_name_is_registered_once() -> None:
    unread = Registry("criterion", "CRITERIA", "tlt_prune.pruning.criteria")
    for registry in (CRITERIA, unread):
        with pytest.raises(ValueError, match="A criterion named 'L2' is registered already"):
            registry.register("L2")(type("Another", (), {}))
    with pytest.raises(ValueError, match="needs: expected one of nothing, inputs, loss, metric"):
        CRITERIA.register("Another", needs="luck")  # type: ignore[arg-type]


@pytest.mark.parametrize("registry", [CRITERIA, COMPENSATIONS])
def test_the_names_that_are_read_are_those_that_register(registry: Registry) -> None:
    registry.load()
    read = {(x.name, x.needs, *x.by_script.items()) for x in registry._read()}
    assert read == {(x.name, x.needs, *x.by_script.items()) for x in registry._entries.values()}
    assert len(read) > 2


CRITERION = """
import numpy as np
from tlt_prune.config.registry import CRITERIA

@CRITERIA.register("Index")
class Index:
    def __call__(self, network):
        return {x.name: np.arange(x.count) + 1.0 for x in network.layers}
"""
COMPENSATION = """
import pandas as pd
from tlt_prune.config.registry import COMPENSATIONS

@COMPENSATIONS.register("nothing_much")
class NothingMuch:
    def __call__(self, channels, alive, pruned):
        return pd.DataFrame([("all", True, "")], columns=["layer", "done", "note"])
"""
USE = """
import sys
from absl import flags
from tlt_prune.cli import prune
from tlt_prune.config.sections import Prune

assert "Index" in flags.FLAGS["criterion"].parser.enum_values
assert "nothing_much" in flags.FLAGS["compensation"].help
assert Prune(criterion="index", compensation="nothing_much").criterion == "Index"
assert "keras" not in sys.modules

import keras, tlt_prune
x = keras.Input((8, 8, 3))
y = keras.layers.Dense(2)(keras.layers.Flatten()(keras.layers.Conv2D(8, 3, name="conv")(x)))
model = keras.Model(x, y)
options = {"ratio": 0.5, "granularity": 1, "min_num_filters": 1}
plan = tlt_prune.plan_pruning(model, criterion="Index", **options)
print(plan.kept["conv"].tolist(), tlt_prune.criteria.Index.__name__)
tlt_prune.prune_model(model, criterion="Index", compensation="nothing_much", verify=True, **options)
"""


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="nothing in it depends on the backend")
def test_one_new_file_is_enough(tmp_path: pathlib.Path) -> None:
    package = pathlib.Path(tlt_prune.__file__).parent
    shutil.copytree(package, tmp_path / "tlt_prune", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tlt_prune/pruning/criteria/index.py").write_text(CRITERION)
    (tmp_path / "tlt_prune/pruning/compensation/nothing_much.py").write_text(COMPENSATION)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.stdout.strip() == "[4, 5, 6, 7] Index", done.stderr
