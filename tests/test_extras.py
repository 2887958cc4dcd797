"""The base installation prunes; what is optional is named where it is missing."""

from __future__ import annotations

import ast
import configparser
import pathlib
import re
import subprocess
import sys

import pytest

from tlt_prune.extras import EXTRAS

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Import name -> name in the package index, where they differ.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "annotated_types": "annotated-types",
    "google": "protobuf",
    "google.protobuf": "protobuf",
    "pydantic_core": "pydantic-core",
    "ruamel": "ruamel.yaml",
    "sklearn": "scikit-learn",
    "tensorflow_model_optimization": "tensorflow-model-optimization",
}

BLOCK = f"""
import importlib.machinery, sys
class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        blocked = name.partition(".")[0] in {sorted(x for names in EXTRAS.values() for x in names)!r}
        return None if blocked else super().find_spec(name, path, target)
sys.meta_path = [Finder if x is importlib.machinery.PathFinder else x for x in sys.meta_path]
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCK + code, *arguments], capture_output=True, text=True, check=False)


def test_pruning_needs_no_extra() -> None:
    done = run(
        "import keras, tlt_prune\n"
        "x = keras.Input((8, 8, 3))\n"
        "y = keras.layers.Flatten()(keras.layers.Conv2D(32, 3)(x))\n"
        "pruned = tlt_prune.prune_model(keras.Model(x, keras.layers.Dense(2)(y)), ratio=0.5, verify=True)\n"
        "print(pruned.layers[1].filters)\n"
    )
    assert done.stdout.strip() == "16", done.stderr


@pytest.mark.parametrize("script", ["train", "evaluate", "infer", "export", "convert"])
def test_a_script_names_the_extra_that_it_misses(script: str, tmp_path: pathlib.Path) -> None:
    code = f"sys.argv[0] = 'tlt-{script}'\nimport tlt_prune.cli.{script} as s\ns.entry()"
    words = {"train": ["dataset.train_dataset_path=x.npz"], "convert": ["-o", str(tmp_path / "x")]}.get(script, ["-m", "x.keras"])
    done = run(code, "-r", str(tmp_path), *words)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"tlt-{script}: error: tlt-{script} needs matplotlib, which is not installed")
    assert line.endswith("pip install 'tlt_prune[train]'.")


def requirements(section: str, key: str) -> list[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return re.findall(r"^([A-Za-z0-9._-]+)", config[section][key], flags=re.MULTILINE)


def test_the_table_is_that_of_setup_cfg() -> None:
    base = requirements("options", "install_requires")
    for extra, packages in EXTRAS.items():
        listed = requirements("options.extras_require", extra)
        assert sorted(listed) == sorted(DISTRIBUTIONS.get(x, x) for x in packages)
        assert not set(base) & set(listed)


def imported(path: pathlib.Path, *, at_run_time: bool = False) -> set[str]:
    """Top-level names of all packages that a file imports, at any level of it, `importlib.import_module("...")` included."""
    names: set[str] = set()
    tree = ast.parse(path.read_text("utf-8"))
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    for_types = {id(x) for node in blocks for x in node.body}
    for node in ast.walk(tree):
        if at_run_time and id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__"):
            names |= {x.value for x in node.args[:1] if isinstance(x, ast.Constant) and isinstance(x.value, str)}
    return {name.partition(".")[0] for name in names}


def test_every_import_is_declared() -> None:
    names = {name: path for path in sorted((ROOT / "tlt_prune").rglob("*.py")) for name in imported(path)}
    assert {"keras", "scipy", "tf_keras", "jax", "google"} <= names.keys()
    declared = {*requirements("options", "install_requires"), *(DISTRIBUTIONS.get(x, x) for xs in EXTRAS.values() for x in xs)}
    for name, path in names.items():
        if name not in sys.stdlib_module_names and name != "tlt_prune":
            assert DISTRIBUTIONS.get(name, name) in declared, f"{path} imports {name}, which setup.cfg and extras.py do not have"


def test_nothing_is_declared_that_is_not_imported() -> None:
    names = {DISTRIBUTIONS.get(name, name) for path in (ROOT / "tlt_prune").rglob("*.py") for name in imported(path)}
    # Keras is used through these, and writes TensorBoard's files through TensorFlow.
    assert {*requirements("options", "install_requires")} <= names
    assert {DISTRIBUTIONS.get(x, x) for xs in EXTRAS.values() for x in xs} - names == {"tensorboard"}


def test_only_quantization_imports_tf_keras() -> None:
    paths = [path for path in (ROOT / "tlt_prune").rglob("*.py") if imported(path, at_run_time=True) & set(EXTRAS["sparsity"])]
    assert paths
    assert {path.parent.name for path in paths} == {"quantization"}


def test_jobs_on_the_twin_name_their_extra() -> None:
    done = run(
        "import keras, tlt_prune\n"
        "model = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.Conv2D(4, 3)])\n"
        "for job in ('sparsify', 'cluster_weights', 'train_for_litert', 'to_tf_keras'):\n"
        "    try: getattr(tlt_prune.quantization, job)(*((model,) if job == 'to_tf_keras' else (model, [])))\n"
        "    except tlt_prune.errors.MissingPackageError as error: print(error)\n"
    )
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 4, done.stderr
    assert all(line.endswith("which is not installed: pip install 'tlt_prune[sparsity]'.") for line in lines)


def test_rooms_are_imported_or_name_the_extra_that_they_miss() -> None:
    done = run(
        "import tlt_prune\n"
        "for room in tlt_prune._MODULES:\n"
        "    try: getattr(tlt_prune, room)\n"
        "    except tlt_prune.errors.MissingPackageError as error: print(error)\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "tlt_prune.data needs PIL, which is not installed: pip install 'tlt_prune[train]'."


def test_the_pruning_script_needs_no_extra(tmp_path: pathlib.Path) -> None:
    make = (
        "import keras\n"
        "x = keras.Input((8, 8, 3))\n"
        "y = keras.layers.Flatten()(keras.layers.Conv2D(32, 3)(x))\n"
        f"keras.Model(x, keras.layers.Dense(2)(y)).save({str(tmp_path / 'm.keras')!r})\n"
    )
    assert run(make).returncode == 0
    entry = "sys.argv[0] = 'tlt-prune'\nimport tlt_prune.cli.prune as s\ns.entry()"
    done = run(entry, "-m", str(tmp_path / "m.keras"), "-o", str(tmp_path / "p.keras"), "--ratio", "0.5")
    assert done.returncode == 0, done.stderr
    # No picture without the package that draws it; everything else is there.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.keras", "p.keras", "p.plan.json"]
    done = run(entry, "-m", str(tmp_path / "m.keras"), "-o", str(tmp_path / "p.keras"), "--sweep")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sweep.csv").exists()
