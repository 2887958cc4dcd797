"""Building a TensorRT engine from an ONNX file: by a trtexec command, or by a script that uses the tensorrt package."""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib
import shlex
import subprocess
import sys

from tlt_prune.errors import ExportError, first_line
from tlt_prune.io import files


@dataclasses.dataclass(frozen=True)
class EngineOptions:
    """Options for building a TensorRT engine.

    Attributes:
        size: (height, width) of pictures, where the file leaves them open.
        minimum, optimum, maximum: batch sizes; a file with a fixed batch size keeps that.
        engine: the file to write; None for a name beside the ONNX file.
        calibration_cache: with it, TensorRT quantizes a float file by itself.

    Raises:
        ExportError: the batch sizes are not 1 <= minimum <= optimum <= maximum.
    """

    size: tuple[int, int]
    minimum: int = 1
    optimum: int = 1
    maximum: int = 16
    engine: pathlib.Path | None = None
    calibration_cache: pathlib.Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise ExportError(
                "EngineOptions: expected batch sizes of 1 <= minimum <= optimum <= maximum. Received: "
                f"{self.minimum}, {self.optimum}, {self.maximum}."
            )


def trtexec_command(path: str | pathlib.Path, options: EngineOptions) -> str:
    """The trtexec command that builds a float16 engine, with int8 if the file is quantized or there is a calibration cache."""
    path = pathlib.Path(path)
    shapes, quantized = _facts(path, options)
    words = ["trtexec", f"--onnx={path}", f"--saveEngine={_engine(path, options)}", "--fp16"]
    if quantized or options.calibration_cache is not None:
        words.append("--int8")
    if options.calibration_cache is not None:
        words.append(f"--calib={options.calibration_cache}")
    if any(low != high for low, _, high in shapes.values()):
        for i, kind in enumerate(("min", "opt", "max")):
            each = ",".join(f"{name}:{'x'.join(map(str, triple[i]))}" for name, triple in shapes.items())
            words.append(f"--{kind}Shapes={each}")
    return shlex.join(words)


def write_build_script(path: str | pathlib.Path, options: EngineOptions) -> pathlib.Path:
    """Writes beside an ONNX file a Python script that builds its engine with the tensorrt package; returns its path."""
    path = pathlib.Path(path)
    shapes, quantized = _facts(path, options)
    script = build_script(path)
    values = {
        "onnx": path.name,
        "engine": str(_engine(path, options).resolve()),
        "int8": quantized or options.calibration_cache is not None,
        "cache": str(options.calibration_cache.resolve()) if options.calibration_cache is not None else "",
        "shapes": {name: triple for name, triple in shapes.items() if triple[0] != triple[2]},
    }
    text = _SCRIPT
    for name, value in values.items():
        text = text.replace(f"@{name}@", repr(value))
    files.write_text(script, text)
    return script


def build_script(path: pathlib.Path) -> pathlib.Path:
    """Path of the build script that belongs to an ONNX file."""
    return path.with_name(f"{path.stem}_build_engine.py")


def build_engine(script: pathlib.Path) -> bool:
    """Runs a build script if the tensorrt package is installed; returns whether it did.

    Raises:
        ExportError: TensorRT rejects the file.
    """
    if importlib.util.find_spec("tensorrt") is None:
        return False
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ExportError(f"TensorRT cannot build the engine ({script}): {first_line(RuntimeError(done.stderr))}")
    return True


def _engine(path: pathlib.Path, options: EngineOptions) -> pathlib.Path:
    return options.engine or path.with_suffix(".engine")


Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]


def _facts(path: pathlib.Path, options: EngineOptions) -> tuple[Shapes, bool]:
    """Input name -> its smallest, usual and largest shape; and whether the file is quantized."""
    import onnx

    from tlt_prune.onnx import is_quantized

    model = onnx.load(files.written(path))
    shapes = {}
    for value in model.graph.input:
        batch, *sizes = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if 0 in sizes:
            if len(sizes) != 3 or sizes.count(0) != 2:
                raise ExportError(
                    f"{path}: input '{value.name}' has open sizes ({', '.join(str(n or '?') for n in sizes)}) that are not a "
                    "picture's height and width. Expected fixed ones, which an engine needs."
                )
            spatial = iter(options.size)
            sizes = [n or next(spatial) for n in sizes]
        low, usual, high = ((batch or n, *sizes) for n in (options.minimum, options.optimum, options.maximum))
        shapes[value.name] = (low, usual, high)
    return shapes, is_quantized(model)


_SCRIPT = '''"""Builds a TensorRT engine from @onnx@: python this_file.py (needs the tensorrt package, and the GPU it is for)."""

import pathlib
import sys

import tensorrt as trt

ONNX = pathlib.Path(__file__).with_name(@onnx@)
ENGINE = pathlib.Path(@engine@)
INT8 = @int8@
# Scales by which TensorRT quantizes a float file; empty where the file is quantized, or stays float.
CACHE = @cache@
# Input -> smallest, usual and largest shape.
SHAPES = @shapes@

logger = trt.Logger(trt.Logger.WARNING)
builder = trt.Builder(logger)
# TensorRT 8 needs the flag for an explicit batch; later versions have no other mode.
explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
network = builder.create_network(0 if explicit is None else 1 << int(explicit))
parser = trt.OnnxParser(network, logger)
if not parser.parse(ONNX.read_bytes()):
    sys.exit("; ".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
config = builder.create_builder_config()
config.set_flag(trt.BuilderFlag.FP16)
if INT8:
    config.set_flag(trt.BuilderFlag.INT8)
if CACHE:

    class Calibrator(trt.IInt8EntropyCalibrator2):
        def get_batch_size(self):
            return 1

        def get_batch(self, names):
            return None

        def read_calibration_cache(self):
            return pathlib.Path(CACHE).read_bytes()

        def write_calibration_cache(self, cache):
            pass

    # Kept by name: TensorRT does not own it.
    calibrator = Calibrator()
    config.int8_calibrator = calibrator
if SHAPES:
    profile = builder.create_optimization_profile()
    for name, (smallest, usual, largest) in SHAPES.items():
        profile.set_shape(name, smallest, usual, largest)
    config.add_optimization_profile(profile)
engine = builder.build_serialized_network(network, config)
if engine is None:
    sys.exit("TensorRT built no engine; see its messages above.")
ENGINE.write_bytes(bytes(engine))
print(f"Wrote {ENGINE}")
'''
