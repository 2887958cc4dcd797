"""The base installation prunes; what is optional is named where it is missing."""

from __future__ import annotations

import configparser
import pathlib
import re
import subprocess
import sys

import pytest

from tlt_prune.extras import EXTRAS

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Import name -> name in the package index, where they differ.
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}

BLOCK = f"""
import importlib.machinery, sys
class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        blocked = name.partition(".")[0] in {sorted(x for names in EXTRAS.values() for x in names if x != "h5py")!r}
        return None if blocked else super().find_spec(name, path, target)
sys.meta_path = [x for x in sys.meta_path if x is not importlib.machinery.PathFinder] + [Finder]
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


@pytest.mark.parametrize(
    ("script", "extra"), [("train", "train"), ("evaluate", "train"), ("infer", "train"), ("export", "train")]
)
def test_a_script_names_the_extra_that_it_misses(script: str, extra: str, tmp_path: pathlib.Path) -> None:
    code = f"sys.argv[0] = 'tlt-{script}'\nimport tlt_prune.cli.{script} as s\ns.entry()"
    done = run(code, "-r", str(tmp_path), *(["-m", "x.keras"] if script != "train" else ["dataset.train_dataset_path=x.npz"]))
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"tlt-{script}: error: tlt-{script} needs matplotlib, which is not installed")
    assert line.endswith("pip install 'tlt_prune[train]'.")


def test_the_table_is_that_of_setup_cfg() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    base = config["options"]["install_requires"]
    for extra, packages in EXTRAS.items():
        listed = re.findall(r"^([A-Za-z0-9_-]+)", config["options.extras_require"][extra], flags=re.MULTILINE)
        assert sorted(listed) == sorted(DISTRIBUTIONS.get(x, x) for x in packages)
        assert not any(re.search(rf"^{name}[<>=]", base, flags=re.MULTILINE) for name in listed)


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
