"""What users import, and what an import costs."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import tlt_prune
from tlt_prune.options import OptionArguments, Options


def test_public_names() -> None:
    expected = ["CallTrace", "Options", "PruningPlan", "TltPruneError", "plan_pruning", "prune_model", "register_rule"]
    assert tlt_prune.__all__ == expected
    for name in tlt_prune.__all__:
        assert getattr(tlt_prune, name).__doc__
        assert name in dir(tlt_prune)
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        _ = tlt_prune.prune


def test_the_options_are_written_once() -> None:
    assert list(OptionArguments.__annotations__) == list(Options.model_fields)
    for function in (tlt_prune.prune_model, tlt_prune.plan_pruning):
        parameters = inspect.signature(function).parameters
        for name, field in Options.model_fields.items():
            assert parameters[name].default == field.default
    assert set(inspect.signature(tlt_prune.prune_model).parameters) - set(Options.model_fields) == {
        "model", "layer_config_overrides", "verify",
    }  # fmt: skip
    assert all(field.description for field in Options.model_fields.values())


@pytest.mark.parametrize("module", ["tlt_prune", "tlt_prune.specs", "tlt_prune.cli.prune"])
def test_importing_loads_no_framework(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('tensorflow', 'keras', 'torch', 'jax') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_graph_and_pruning_load_no_tensorflow_of_their_own() -> None:
    # On another backend Keras does not import TensorFlow; neither do these rooms.
    code = (
        "import sys\n"
        "sys.modules['tensorflow'] = sys.modules['tf_keras'] = None\n"
        "import ast, pathlib, tlt_prune\n"
        "root = pathlib.Path(tlt_prune.__file__).parent\n"
        "names = [n for f in [*root.glob('graph/**/*.py'), *root.glob('pruning/**/*.py')]\n"
        "         for x in ast.walk(ast.parse(f.read_text()))\n"
        "         for n in ([a.name for a in x.names] if isinstance(x, ast.Import)\n"
        "                   else [x.module] if isinstance(x, ast.ImportFrom) else [])]\n"
        "print([n for n in names if n and n.split('.')[0] in ('tensorflow', 'tf_keras')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
