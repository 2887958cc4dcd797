#!/usr/bin/env python3
"""Measures the latency of layers on this machine, in TensorRT or onnxruntime, one by one.

    python3 measure_latency.py                          by trtexec, which comes with TensorRT
    python3 measure_latency.py --engine onnxruntime     where there is no TensorRT

Reads layers.json, which lies beside it, and writes latency.json: copy that back, and name it in `latency_table` of tlt_prune.
Ended early and started again, it goes on where it was. It needs Python 3.8 and trtexec, or Python 3.8, numpy and onnxruntime.
"""

# It runs alone, on machines that have nothing of this package: the standard library only, and no syntax newer than Python 3.8.
from __future__ import annotations

import argparse
import array
import json
import os
import pathlib
import platform
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

_FLOAT, _INT8 = 1, 3
_SHORTEST_RUNS, _SHORTEST_SECONDS, _REPEATS = 5, 0.003, 5
# Where JetPack and the Debian packages put it.
_TRTEXEC = ("trtexec", "/usr/src/tensorrt/bin/trtexec")
_NODE = "measured_layer"


# ONNX files of one layer, written without the onnx package: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _tensor(name: str, data_type: int, dims: Sequence[int], raw: bytes) -> bytes:
    return b"".join(_field(1, n) for n in dims) + _field(2, data_type) + _field(8, name) + _field(9, raw)


def _value(name: str, dims: Sequence[int]) -> bytes:
    shape = b"".join(_field(1, _field(1, n)) for n in dims)
    return _field(1, name) + _field(2, _field(1, _field(1, _FLOAT) + _field(2, shape)))


def _node(kind: str, inputs: Sequence[str], output: str, name: str, **attributes: Any) -> bytes:
    parts = [_field(1, x) for x in inputs] + [_field(2, output), _field(3, name), _field(4, kind)]
    for key, value in attributes.items():
        several = isinstance(value, list)
        values = b"".join(_field(8, n) for n in value) if several else _field(3, value)
        parts.append(_field(5, _field(1, key) + values + _field(20, 7 if several else 2)))
    return b"".join(parts)


def _model(nodes: Sequence[bytes], constants: Sequence[bytes], dims: Sequence[int], computed: Sequence[int]) -> bytes:
    graph = b"".join(_field(1, x) for x in nodes) + _field(2, "layer") + b"".join(_field(5, x) for x in constants)
    graph += _field(11, _value("x", dims)) + _field(12, _value("y", computed))
    return _field(1, 9) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 17))


def _numbers(count: int) -> bytes:
    generator = random.Random(0)
    block = array.array("f", (generator.uniform(-1, 1) for _ in range(min(count, 4099))))
    return (block.tobytes() * (count // len(block) + 1))[: 4 * count]


def _integers(count: int) -> bytes:
    generator = random.Random(0)
    block = bytes(generator.randint(-127, 127) & 255 for _ in range(4099))
    return (block * (count // len(block) + 1))[:count]


def _padding(layer: dict[str, Any]) -> list[int]:
    """ONNX's pads: in front along each axis, then behind."""
    spans = zip(layer["size"], layer["kernel"], layer["strides"], layer["dilation"])  # noqa: B905
    if layer["padding"] == "valid":
        return [0] * 2 * len(layer["size"])
    totals = [max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0) for n, k, s, d in spans]
    front = totals if layer["padding"] == "causal" else [n // 2 for n in totals]
    return front + [n - f for n, f in zip(totals, front)]  # noqa: B905


def _size_of_output(layer: dict[str, Any]) -> list[int]:
    pads, axes = _padding(layer), range(len(layer["size"]))
    spans = [(layer["kernel"][i] - 1) * layer["dilation"][i] + 1 for i in axes]
    return [(layer["size"][i] + pads[i] + pads[i + len(axes)] - spans[i]) // layer["strides"][i] + 1 for i in axes]


def layer_model(layer: dict[str, Any], int8: bool = False) -> tuple[bytes, list[int]]:
    """An ONNX file of one layer, and the shape of its input.

    Args:
        layer: its kind ("conv", "depthwise" or "dense"), size and channels, and of a convolution the kernel, strides, dilation
            and padding.
        int8: whether its input and its kernel are quantized.
    """
    columns = layer["channels"][-1]
    attributes: dict[str, Any] = {}
    if layer["kind"] == "dense":
        kind, axis = "Gemm", 1
        dims = [layer["size"][0], layer["channels"][0]]
        kernel = list(layer["channels"])
        computed = [layer["size"][0], columns]
    else:
        kind, axis = "Conv", 0
        depthwise = layer["kind"] == "depthwise"
        dims = [1, layer["channels"][0], *layer["size"]]
        kernel = [columns, 1 if depthwise else layer["channels"][0], *layer["kernel"]]
        attributes = {
            "strides": layer["strides"],
            "dilations": layer["dilation"],
            "group": columns if depthwise else 1,
            "pads": _padding(layer),
        }
        computed = [1, columns, *_size_of_output(layer)]
    count = 1
    for n in kernel:
        count *= n
    constants = [_tensor("b", _FLOAT, [columns], bytes(4 * columns))]
    if not int8:
        constants.insert(0, _tensor("w", _FLOAT, kernel, _numbers(count)))
        return _model([_node(kind, ["x", "w", "b"], "y", _NODE, **attributes)], constants, dims, computed), dims
    scale = struct.pack("<f", 1 / 127)
    constants += [
        _tensor("w_int8", _INT8, kernel, _integers(count)),
        _tensor("w_scale", _FLOAT, [columns], scale * columns),
        _tensor("w_zero", _INT8, [columns], bytes(columns)),
        _tensor("x_scale", _FLOAT, [], scale),
        _tensor("x_zero", _INT8, [], bytes(1)),
    ]
    nodes = [
        _node("QuantizeLinear", ["x", "x_scale", "x_zero"], "x_int8", "x_quantized"),
        _node("DequantizeLinear", ["x_int8", "x_scale", "x_zero"], "x_float", "x_dequantized"),
        _node("DequantizeLinear", ["w_int8", "w_scale", "w_zero"], "w", "w_dequantized", axis=axis),
        _node(kind, ["x_float", "w", "b"], "y", _NODE, **attributes),
    ]
    return _model(nodes, constants, dims, computed), dims


def empty_model() -> bytes:
    """An ONNX file that copies one number: what a call costs whatever it computes."""
    return _model([_node("Identity", ["x"], "y", _NODE)], [], [1, 1], [1, 1])


def milliseconds(run: Callable[[], object]) -> float:
    """Of one call: the least of several repetitions, which what else runs on the machine disturbed least."""

    def seconds(runs: int) -> float:
        start = time.perf_counter()
        for _ in range(runs):
            run()
        return (time.perf_counter() - start) / runs

    once = min(seconds(1) for _ in range(3))
    runs = max(_SHORTEST_RUNS, int(_SHORTEST_SECONDS / max(once, 1e-7)))
    return 1000 * min(seconds(runs) for _ in range(_REPEATS))


def onnxruntime_milliseconds(model: bytes, threads: int) -> float:
    """Of one call of an ONNX file in onnxruntime, on the CPU; 0 threads is its own choice."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    fed = {
        x.name: generator.standard_normal([n if isinstance(n, int) else 1 for n in x.shape]).astype(np.float32)
        for x in session.get_inputs()
    }
    return milliseconds(lambda: session.run(None, fed))


class Onnxruntime:
    """Measures in onnxruntime, on the CPU."""

    name = "onnxruntime"

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self.flags = [f"--threads={threads}"] if threads else []
        self._call = onnxruntime_milliseconds(empty_model(), threads)

    def layer(self, model: bytes) -> float:
        """Milliseconds of a layer, without those of a call."""
        return max(onnxruntime_milliseconds(model, self._threads) - self._call, 0.0)

    def whole(self, path: pathlib.Path) -> float:
        """Milliseconds of a network."""
        return onnxruntime_milliseconds(path.read_bytes(), self._threads)


class TensorRT:
    """Measures by trtexec: of a layer the time in its profile, of a network the median time that the GPU computes."""

    name = "TensorRT"

    def __init__(self, program: str, flags: Sequence[str]) -> None:
        self._program, self.flags = program, list(flags)

    def layer(self, model: bytes) -> float:
        """Milliseconds of a layer, without those of what brings its input into the form that it wants."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "layer.onnx"
            path.write_bytes(model)
            profile = self._run(path, f"--exportProfile={path.with_suffix('.json')}")
        rows = [x for x in profile if "name" in x]
        chosen = [x for x in rows if _NODE in x["name"]]
        # Some versions name what they fuse anew.
        chosen = chosen or [x for x in rows if "reformat" not in x["name"].lower()]
        if not chosen:
            sys.exit(f"trtexec wrote a profile without a layer: {profile}. Expected rows with a name.")
        return float(sum(x["medianMs"] if "medianMs" in x else x["averageMs"] for x in chosen))

    def whole(self, path: pathlib.Path) -> float:
        """Milliseconds of a network."""
        with tempfile.TemporaryDirectory() as folder:
            times = self._run(path, f"--exportTimes={pathlib.Path(folder) / 'times.json'}")
        return float(statistics.median(x["computeMs"] for x in times))

    def _run(self, model: pathlib.Path, report: str) -> list[dict[str, Any]]:
        command = [self._program, f"--onnx={model}", "--iterations=50", "--duration=1", report, *self.flags]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        path = pathlib.Path(report.partition("=")[2])
        if done.returncode or not path.exists():
            last = done.stdout.decode(errors="replace").strip().splitlines()[-5:]
            sys.exit("\n  ".join([f"{' '.join(command)} failed with {done.returncode}:", *last]))
        rows: list[dict[str, Any]] = json.loads(path.read_text())
        return rows


def _described(layer: dict[str, Any]) -> str:
    size, channels = ("x".join(map(str, layer[key])) for key in ("size", "channels"))
    return f"{layer['kind']}, {channels} channels at {size}"


def _stored(path: pathlib.Path, of: dict[str, Any]) -> dict[str, float]:
    """What an earlier run measured."""
    if not path.exists():
        return {}
    table = json.loads(path.read_text())
    if table["of"] != of:
        sys.exit(f"{path} was measured as {table['of']}. Expected {of}: move it away to begin anew.")
    layers: dict[str, float] = table["layers"]
    return layers


def _store(path: pathlib.Path, table: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(table, indent=0))
    os.replace(str(partial), str(path))


def _engine(arguments: argparse.Namespace, data_type: str) -> Onnxruntime | TensorRT:
    if arguments.engine == "onnxruntime":
        return Onnxruntime(arguments.threads)
    program = arguments.trtexec or next((x for x in map(shutil.which, _TRTEXEC) if x), None)
    if program is None:
        sys.exit(f"There is no trtexec in PATH or {_TRTEXEC[1]}. Give --trtexec, or --engine onnxruntime.")
    usual = ["--fp16", "--int8"] if data_type == "int8" else ["--fp16"]
    return TensorRT(program, arguments.flags.split() if arguments.flags is not None else usual)


def main() -> None:
    """The script."""
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["tensorrt", "onnxruntime"], default="tensorrt")
    parser.add_argument("--name", default=platform.node(), help="of the device, for messages; default: %(default)s")
    parser.add_argument("--trtexec", help="where it is; default: in PATH, or " + _TRTEXEC[1])
    parser.add_argument("--flags", help="of trtexec, in place of --fp16, or --fp16 --int8 for int8; an empty text is none")
    parser.add_argument("--threads", type=int, default=1, help="of onnxruntime; 0 is its own choice")
    parser.add_argument("--output", type=pathlib.Path, default=here / "latency.json", help="default: %(default)s")
    arguments = parser.parse_args()
    job = json.loads((here / "layers.json").read_text())
    engine = _engine(arguments, job["data_type"])
    of = {"machine": arguments.name, "engine": engine.name, "data_type": job["data_type"], "flags": " ".join(engine.flags)}
    unfinished = arguments.output.with_name(arguments.output.name + ".unfinished")
    measured = {key: x for key, x in _stored(unfinished, of).items() if key in job["layers"]}
    missing = [x for x in job["layers"] if x not in measured]
    started = time.time()
    for i, key in enumerate(missing):
        layer = json.loads(key)
        content, _ = layer_model(layer, job["layers"][key] == "int8")
        measured[key] = engine.layer(content)
        _store(unfinished, {"of": of, "layers": measured})
        left = (time.time() - started) / (i + 1) * (len(missing) - i - 1) / 60
        progress = f"{i + 1} of {len(missing)}, {left:.0f} minutes left"
        print(f"{progress}: {_described(layer)}: {measured[key]:.4g} ms", flush=True)
    model = job["model"]
    whole, total = engine.whole(here / model["file"]), sum(measured[x] for x in model["layers"])
    models = {model["key"]: {"milliseconds": whole, "layers": model["layers"]}}
    _store(arguments.output, {"of": of, "layers": measured, "models": models})
    unfinished.unlink()
    print(f"The network takes {whole:.4g} ms, its layers measured one by one {total:.4g} ms.")
    print(f"Wrote {arguments.output}: {len(measured)} layers. Copy it back, and name it in latency_table.")


if __name__ == "__main__":
    main()
