"""What a newcomer meets: names, help, tables, pictures, messages."""

from __future__ import annotations

import inspect
import os
import pathlib
import pydoc
import subprocess
import sys
import typing
from typing import Any

import keras
import numpy as np
import pytest
from helpers import randomize

import tlt_prune
from tlt_prune.config.options import BUDGETS, Options
from tlt_prune.errors import PlanError


def net(*widths: int) -> keras.Model:
    x = y = keras.Input((8, 8, 3))
    for width in widths:
        y = keras.layers.Conv2D(width, 3, padding="same", activation="relu")(y)
    return randomize(keras.Model(x, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(y))))


def test_modules_are_there_by_attribute_alone() -> None:
    names = ["models", "export", "quantization", "training", "data", "detection", "config", "errors"]
    code = (
        "import sys\n"
        f"for name in {names}:\n"
        # As in a new process, but for the frameworks, which take seconds.
        "    for x in [x for x in sys.modules if x.partition('.')[0] == 'tlt_prune']: del sys.modules[x]\n"
        "    import tlt_prune as t\n"
        "    print(getattr(t, name).__name__, sorted(dir(t)) == sorted([*t.__all__, '__version__']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"tlt_prune.{name} True" for name in names]


FUNCTIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "prune_model": (tlt_prune.prune_model, ()),
    "plan_pruning": (tlt_prune.plan_pruning, ()),
    "iterative_prune": (tlt_prune.iterative_prune, ()),
    "sensitivity": (tlt_prune.sensitivity, BUDGETS),
    "sweep": (tlt_prune.sweep, (*BUDGETS, "ranking")),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_shows_every_option(name: str) -> None:
    function, without = FUNCTIONS[name]
    text = " ".join(pydoc.render_doc(function, renderer=pydoc.plaintext).split())
    assert "Annotated" not in text
    for option, field in Options.model_fields.items():
        if option not in without:
            assert f"{option} (default {field.default!r}): {' '.join(str(field.description).split())}" in text
            assert inspect.signature(function).parameters[option].default == field.default
        else:
            assert option not in inspect.signature(function).parameters
    assert typing.get_type_hints(tlt_prune.prune_model)["return"] is keras.Model


def test_a_share_is_a_share() -> None:
    assert Options(ratio="50%").ratio == Options(ratio=0.5).ratio == 0.5
    assert Options(macs=0.5, max_ratio="80%", layer_options={"a": {"ratio": "25%"}}).layer_options["a"].ratio == 0.25
    for value in ("150%", "-1%", "half", 50, 1.0, "100%", True):
        with pytest.raises(PlanError, match="'ratio'") as error:
            tlt_prune.plan_pruning(net(8), ratio=value)
        assert "\n" not in str(error.value)
    with pytest.raises(PlanError, match=r"For 50 per cent say 0\.5 or \"50%\""):
        tlt_prune.plan_pruning(net(8), ratio=50)


def test_what_python_shows_of_a_value_is_short() -> None:
    model = net(16, 16, 16)
    x, y = np.zeros((4, 8, 8, 3)), np.eye(2)[[0, 1, 0, 1]]
    plan = tlt_prune.plan_pruning(model, ratio=0.5, min_num_filters=1)
    found = tlt_prune.sensitivity(model, (x, y), [0.5], min_num_filters=1)
    from tlt_prune.graph.tracer import trace

    for value in (plan, found, trace(model), trace(model).graph):
        assert len(repr(value)) < 300
        assert type(value).__name__ in repr(value)


NOTES: dict[str, tuple[dict[str, Any], tuple[int, ...], str]] = {
    "fewest": ({"ratio": 0.5}, (16, 32), "16 of 16 stay: min_num_filters=16"),
    "granularity": ({"ratio": 0.5, "min_num_filters": 1}, (20, 32), "16 of 20 stay: granularity=8"),
    "largest share": ({"ratio": 0.9, "max_ratio": 0.25, "min_num_filters": 1}, (32, 32), "24 of 32 stay: max_ratio=0.25"),
    "threshold": ({"threshold": 1.0}, (16, 32), "16 of 16 stay: min_num_filters=16"),
    "budget": ({"macs": 0.8}, (16, 64), "16 of 16 stay: min_num_filters=16"),
    "of a layer": (
        {"ratio": 0.5, "layer_options": {"conv2d*": {"min_num_filters": 24}}},
        (32, 64),
        "24 of 32 stay: min_num_filters=24",
    ),
    "reached": ({"ratio": 0.5, "min_num_filters": 1}, (16, 32), ""),
}


@pytest.mark.parametrize("name", NOTES)
def test_a_row_says_why_it_stays(name: str) -> None:
    options, widths, note = NOTES[name]
    keras.backend.clear_session()
    assert tlt_prune.plan_pruning(net(*widths), **options).layers[0].note == note


def test_a_picture_is_shown_once(tmp_path: pathlib.Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    cells = [
        "import keras, tlt_prune\nx = keras.Input((8, 8, 3))\n"
        "m = keras.Model(x, keras.layers.Flatten()(keras.layers.Conv2D(32, 3)(keras.layers.Conv2D(32, 3)(x))))\n"
        "p = tlt_prune.plan_pruning(m, ratio=0.5)",
        "p.plot()",
        "f = p.plot()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(x) for x in cells])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    pictures = [[o for o in cell.outputs if "image/png" in o.get("data", {})] for cell in notebook.cells]
    assert [len(x) for x in pictures] == [0, 1, 0]


def test_models_of_ours_load_after_the_import_alone(tmp_path: pathlib.Path) -> None:
    from tlt_prune import models, quantization
    from tlt_prune.training.regularizers import GroupLasso

    plain = net(8)
    plain.layers[1].kernel_regularizer = GroupLasso(0.1)
    saved = {
        "regularizer": plain,
        "quantized": quantization.quantization_aware(net(8), np.zeros((4, 8, 8, 3), "float32")),
        "anchors": models.build("ssd_squeezenet", (64, 64, 3), 3, width=0.125, data_format="channels_last"),
        "boxes": models.build("yolov4_cspdarknet_tiny", (64, 64, 3), 3, width=0.125, data_format="channels_last"),
    }
    for name, model in saved.items():
        model.save(tmp_path / f"{name}.keras")
    for imports in (
        "import tlt_prune, keras",
        "import keras, tlt_prune",
        "import tlt_prune; tlt_prune.prune_model; import keras",
    ):
        load = (
            f"{imports}\nfor name in {list(saved)}:\n"
            f"    print(name, keras.models.load_model({str(tmp_path)!r} + '/' + name + '.keras').count_params() > 0)"
        )
        done = subprocess.run([sys.executable, "-c", load], check=False, capture_output=True, text=True)
        assert done.stdout.splitlines() == [f"{name} True" for name in saved], done.stderr


def test_exports_on_jax_say_what_they_need(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("jax")
    code = (
        "import keras, numpy as np, tlt_prune\n"
        "x = keras.Input((8, 8, 3))\n"
        "m = keras.Model(x, keras.layers.Dense(2)(keras.layers.Flatten()(x)))\n"
        f"m.save({str(tmp_path / 'm.keras')!r})\n"
        "one = np.zeros((1, 8, 8, 3), 'float32')\n"
        "for name in ('export_onnx', 'export_saved_model', 'export_litert'):\n"
        "    try:\n"
        f"        getattr(tlt_prune.export, name)(m, {str(tmp_path / 'out')!r}, one)\n"
        "    except tlt_prune.TltPruneError as error:\n"
        "        print(error)\n"
        "try:\n"
        f"    tlt_prune.export.load_predictor({str(tmp_path / 'm.keras')!r})\n"
        "except tlt_prune.TltPruneError as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 4, done.stdout + done.stderr
    names = ("export_onnx", "export_saved_model", "export_litert", "Running a model file")
    for line, name in zip(lines, names, strict=True):
        assert line.startswith(f"{name} needs Keras on TensorFlow, and this process runs it on jax.")
        assert "KERAS_BACKEND=tensorflow" in line


@pytest.mark.parametrize("suffix", [".tlt", ".etlt", ".engine", ".plan", ".pt", ".pb", ".yaml", ".bin"])
def test_files_of_other_programs_are_named(suffix: str, tmp_path: pathlib.Path) -> None:
    from tlt_prune.errors import ExportError
    from tlt_prune.export import load_predictor

    (tmp_path / f"m{suffix}").write_bytes(b"what it may be")
    with pytest.raises(ExportError) as error:
        load_predictor(tmp_path / f"m{suffix}")
    assert str(error.value).endswith(".")
    assert len(str(error.value)) < 300 + len(str(tmp_path))


def test_early_stopping_without_a_fall_stays_at_the_highest_rate() -> None:
    from tlt_prune.detection.schedules import EarlyStoppingAnnealing

    for rising in (0, 10):
        schedule = EarlyStoppingAnnealing(1e-6, 1e-3, soft_start_steps=rising, annealing_steps=0, patience=1)
        schedule.validated(1.0, 20)
        schedule.validated(2.0, 25)
        for step in (25, 26, 124):
            assert schedule.rate(step) == pytest.approx(1e-3)
    falling = EarlyStoppingAnnealing(1e-6, 1e-3, soft_start_steps=0, annealing_steps=20, patience=1)
    falling.validated(1.0, 5)
    falling.validated(2.0, 6)
    assert [falling.rate(step) for step in (6, 26, 99)] == pytest.approx([1e-3, 1e-6, 1e-6])
