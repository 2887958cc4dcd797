#!/usr/bin/env python3
"""Whether every exported file computes what Keras computes: all conformance models, all architectures, and trained networks.

    python tools/bench/parity_table.py [MODEL.keras SPEC.yaml DATA.npz ...]

Every graph of tests/conformance/gallery/, every architecture of `tlt_prune.models` and every model of keras.applications, with
random weights and statistics, pruned by half; then written as SavedModel, ONNX (fp32, fp16, int8 by calibration) and LiteRT
(which takes as long as the others together; keras.applications is left out of it), and run in TensorFlow, onnxruntime and
LiteRT's interpreter. A figure is the largest difference from Keras, relative to the largest output. For trained networks (given
with their spec and data), on 500 test pictures, also the share of pictures whose largest class is that of Keras. Writes
docs/pages/benchmarks/parity.csv, a row as soon as it is measured: run again, it goes on. Two hours on two CPU cores.
"""

from __future__ import annotations

import concurrent.futures.process
import gc
import multiprocessing
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pandas as pd

import tlt_prune
from tlt_prune import data, export, models, quantization
from tlt_prune.config.specs import load_spec
from tlt_prune.errors import first_line
from tlt_prune.graph.family import family_of
from tlt_prune.graph.tracer import trace
from tlt_prune.onnx import keras_runner, relative_difference
from tlt_prune.pruning.rewrite.law import random_inputs
from tlt_prune.tasks.classification.pictures import picture_format

ROOT = pathlib.Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs/pages/benchmarks/parity.csv"
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/conformance")]

import applications  # noqa: E402
import gallery  # noqa: E402
from helpers import randomize  # noqa: E402

# Whatever the difference is, it is to be seen.
ANY = float("inf")


def untrained() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    for name, build in {**gallery.EXACT, **gallery.APPROXIMATE}.items():
        yield "gallery", name, lambda build=build: build(keras)
    for name in models.names():
        options = {"hidden": 128} if name.startswith(("vgg", "alexnet")) else {"groups": 2} if name == "shufflenet" else {}
        width = 1.0 if name == "shufflenet" else 0.25
        yield (
            "architecture",
            name,
            lambda name=name, width=width, options=options: models.build(name, (64, 64, 3), 10, width=width, **options),
        )
    for name in applications.NAMES:
        yield (
            "keras.applications",
            name,
            lambda name=name: getattr(keras.applications, name)(weights=None, input_shape=(96, 96, 3), classes=10, pooling="avg"),
        )


def row_of(kind: str, name: str, model: Any, x: Any) -> dict[str, Any]:
    """All files of one model; inputs in the model's order."""
    row: dict[str, Any] = {"kind": kind, "model": name}
    notes = []
    family_of(model).reset_states(model)
    expected = keras_runner(model)(x)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)

        def tried(column: str, write: Callable[[pathlib.Path], Any], file: str) -> bool:
            try:
                write(folder / file)
                read = export.load_predictor(folder / file)
                named = dict(zip((i.name for i in model.inputs), x, strict=True))
                # An ONNX file keeps the model's order; a signature is by name.
                got = read.run([named.get(i, v) for i, v in zip(read.input_shapes, x, strict=True)])
            # What fails is in the table too.
            except Exception as error:  # noqa: BLE001
                notes.append(f"{column}: {first_line(error, 120)}")
                return False
            row[column] = relative_difference(expected, got)
            if kind == "trained":
                row[f"{column} agrees"] = float(np.mean(got[0].argmax(-1) == expected[0].argmax(-1)))
            return True

        few = [v[:8] for v in x]
        tried("saved_model", lambda p: export.export_saved_model(model, p, few, ANY), "m")
        if tried("onnx_fp32", lambda p: export.export_onnx(model, p, few, tolerance=ANY), "m.onnx"):
            tried("onnx_fp16", lambda p: export.export_onnx(model, p, few, tolerance=ANY, precision="float16"), "h.onnx")
            tried("onnx_int8", lambda p: quantization.quantize_onnx(folder / "m.onnx", p, (tuple(x),), excluded=[]), "q.onnx")
        if kind == "keras.applications":
            return {**row, "note": "; ".join(notes)}
        tried("litert_fp32", lambda p: export.export_litert(model, p, few, tolerance=ANY), "m.tflite")
        int8: dict[str, Any] = {"precision": "int8", "calibration": x, "tolerance": ANY}
        tried("litert_int8", lambda p: export.export_litert(model, p, few, **int8), "q.tflite")
    row["note"] = "; ".join(notes)
    return row


def half_of(build: Callable[[], Any]) -> tuple[Any, Any]:
    keras.utils.set_random_seed(0)
    model = randomize(build())
    pruned = tlt_prune.prune_model(model, ratio=0.5, granularity=1, min_num_filters=1)
    return pruned, keras.tree.flatten(random_inputs(trace(pruned), 0, 16))


def trained(path: str, spec_path: str, dataset: str) -> tuple[Any, Any]:
    spec = load_spec(spec_path, [f"dataset.train_dataset_path={dataset}"])
    form = picture_format(spec)
    _, test = data.load_splits(spec.dataset, form)
    batches = data.evaluation_pipeline(test.head(500), spec.dataset, form, batch_size=500, channels_first=False).batches
    return keras.models.load_model(path, compile=False), [np.concatenate([x.numpy() for x, _ in batches])]


def measured(kind: str, name: str, *files: str) -> dict[str, Any]:
    """The row of one model, in a process of its own."""
    if kind == "trained":
        model, x = trained(*files)
    else:
        model, x = half_of(next(build for k, n, build in untrained() if (k, n) == (kind, name)))
    row = row_of(kind, name, model, x)
    keras.backend.clear_session()
    gc.collect()
    return row


def main(words: list[str]) -> None:
    rows = pd.read_csv(TABLE, keep_default_na=False, na_values=[""]).to_dict("records") if TABLE.exists() else []
    done = {(x["kind"], x["model"]) for x in rows}
    jobs: list[tuple[str, ...]] = [
        ("trained", "/".join(pathlib.Path(path).parts[-3:-1]), path, spec, npz)
        for path, spec, npz in zip(words[::3], words[1::3], words[2::3], strict=True)
    ]
    jobs += [(kind, name) for kind, name, _ in untrained()]
    context = multiprocessing.get_context("spawn")
    for kind, name, *files in jobs:
        if (kind, name) in done:
            continue
        # A converter that dies takes a process of its own with it, and the memory of each model is given back.
        with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
            try:
                rows.append(pool.submit(measured, kind, name, *files).result())
            except concurrent.futures.process.BrokenProcessPool:
                rows.append({"kind": kind, "model": name, "note": "a converter or an interpreter died"})
        print(rows[-1], flush=True)
        pd.DataFrame(rows).to_csv(TABLE, index=False, float_format="%.3g")
    table = pd.DataFrame(rows)
    figures = [x for x in table.columns if x not in ("kind", "model", "note")]
    print(table.groupby("kind")[figures].agg(["count", "max"]).T.to_string())


if __name__ == "__main__":
    main(sys.argv[1:])
