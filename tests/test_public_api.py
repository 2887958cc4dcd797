"""What users import, and what an import costs."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import pytest

import tlt_prune
from tlt_prune.config.options import OptionArguments, Options


def test_public_names() -> None:
    assert tlt_prune.__all__ == [
        "Bias", "BlockSensitivity", "CallTrace", "LeastSquares", "Options", "PruningPlan", "RecalibrateBatchNorm",
        "SearchResult", "Sensitivity", "TltPruneError", "block_sensitivity", "config", "criteria", "data", "detection",
        "errors", "export", "iterative_prune", "models", "plan_pruning", "prune_model", "quantization",
        "recalibrate_batch_norm", "register_rule", "remove_blocks", "retrain", "search", "sensitivity", "sweep", "training",
        "write_latency_script",
    ]  # fmt: skip
    for name in tlt_prune.__all__:
        assert getattr(tlt_prune, name).__doc__
    assert dir(tlt_prune) == sorted([*tlt_prune.__all__, "__version__"])
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        _ = tlt_prune.prune


def test_the_options_are_written_once() -> None:
    assert list(OptionArguments.__annotations__) == list(Options.model_fields)
    for function in (tlt_prune.prune_model, tlt_prune.plan_pruning):
        parameters = inspect.signature(function).parameters
        for name, field in Options.model_fields.items():
            assert parameters[name].default == field.default
    assert set(inspect.signature(tlt_prune.prune_model).parameters) - set(Options.model_fields) == {
        "model", "layer_config_overrides", "compensation", "verify",
    }  # fmt: skip
    assert all(field.description for field in Options.model_fields.values())


@pytest.mark.parametrize("module", ["tlt_prune", "tlt_prune.config.specs", "tlt_prune.cli.prune"])
def test_importing_loads_no_framework(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('tensorflow', 'keras', 'torch', 'jax') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_pruning_works_on_jax_where_tensorflow_is_not_installed() -> None:
    pytest.importorskip("jax")
    code = (
        "import sys\n"
        "sys.modules['tensorflow'] = sys.modules['tf_keras'] = None\n"
        "import keras, tlt_prune\n"
        "x = keras.Input((8, 8, 3))\n"
        "y = keras.layers.Flatten()(keras.layers.Conv2D(32, 3)(x))\n"
        "pruned = tlt_prune.prune_model(keras.Model(x, keras.layers.Dense(2)(y)), ratio=0.5, verify=True)\n"
        "print(keras.backend.backend(), pruned.layers[1].filters)\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.strip() == "jax 16", done.stderr
