"""The wheel, built and installed into an environment of its own: its files, its commands, pruning on two backends.

The packages that it depends on come from the environment that runs the tests: no registry is asked.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

from tlt_prune.version import VERSION

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = ("tlt-train", "tlt-prune", "tlt-evaluate", "tlt-infer", "tlt-export", "tlt-convert")

PRUNE = """
import sys, keras, numpy, tlt_prune
assert tlt_prune.__file__.startswith(sys.prefix), tlt_prune.__file__
assert keras.backend.backend() == sys.argv[1]
x = keras.Input((8, 8, 3))
y = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(32, 3, activation="relu", name="conv")(x))
model = keras.Model(x, keras.layers.Dense(2)(y))
pruned = tlt_prune.prune_model(model, ratio=0.5, verify=True)
pruned.save("pruned.keras")
loaded = keras.saving.load_model("pruned.keras")
data = numpy.ones((2, 8, 8, 3), "float32")
numpy.testing.assert_allclose(loaded.predict(data, verbose=0), pruned.predict(data, verbose=0), rtol=1e-6)
model.save("model.keras")
print(loaded.get_layer("conv").filters)
"""


def run(*command: object, cwd: pathlib.Path, backend: str = "tensorflow", code: int = 0) -> str:
    """Output of a command that must end with `code`, run without the sources on Python's path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(x) for x in command],
        cwd=cwd,
        env={**environment, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The wheel, built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "tlt_prune", source / "tlt_prune", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", folder, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A virtual environment with the wheel in it; everything else is that of the running one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin/python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_has_what_belongs_to_it(wheel: pathlib.Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        metadata = archive.read(f"tlt_prune-{VERSION}.dist-info/METADATA").decode()
    tracked = {x.relative_to(ROOT).as_posix() for x in (ROOT / "tlt_prune").rglob("*.py")}
    assert {x for x in files if x.endswith(".py")} == tracked
    assert {"tlt_prune/py.typed", "tlt_prune/detection/experiment_schema.json"} <= files
    assert {x.partition("/")[0] for x in files} == {"tlt_prune", f"tlt_prune-{VERSION}.dist-info"}
    assert "License-File: LICENSE" in metadata
    assert "tf-keras" not in [x.split()[1] for x in metadata.splitlines() if x.startswith("Requires-Dist") and "extra" not in x]


@pytest.mark.parametrize("script", SCRIPTS)
def test_commands_run_from_anywhere(script: str, environment: pathlib.Path, tmp_path: pathlib.Path) -> None:
    # absl ends with 1 after its help.
    assert f"{script} " in run(environment / "bin" / script, "--help", cwd=tmp_path, code=1)


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_prunes_saves_and_loads(backend: str, environment: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = run(environment / "bin/python", "-c", PRUNE, backend, cwd=tmp_path, backend=backend)
    assert out.split()[-1] == "16"
    if backend == "tensorflow":
        run(environment / "bin/tlt-prune", "-m", "model.keras", "-o", "by_script.keras", "--ratio", "0.5", cwd=tmp_path)
        assert (tmp_path / "by_script.keras").is_file()
