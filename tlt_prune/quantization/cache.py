"""TensorRT's calibration cache, the toolkit's `cal.bin`: one line per tensor with its name and the bits of its scale.

    TRT-8601-EntropyCalibration2
    input_1: 3c010a14

The scale is a float32, written in hexadecimal with the most significant byte first.
"""

from __future__ import annotations

import pathlib
import re
import struct
from collections.abc import Mapping

from tlt_prune.errors import QuantizationError
from tlt_prune.io import files

# The names of TensorRT's calibrators. The number is the version that wrote the cache: later versions read it.
_HEADERS = {
    "min_max": "TRT-8601-MinMaxCalibration",
    "percentile": "TRT-8601-LegacyCalibration",
    "entropy": "TRT-8601-EntropyCalibration2",
}
_LINE = re.compile(r"(?P<name>.+): (?P<bits>[0-9a-f]{8})")


def write_calibration_cache(path: str | pathlib.Path, scales: Mapping[str, float], method: str = "percentile") -> None:
    """Writes a calibration cache, whole or not at all.

    Args:
        path: such as cal.bin.
        scales: ONNX tensor name -> scale of symmetric int8, that is, its largest magnitude divided by 127.
        method: "min_max", "percentile" or "entropy": names the calibrator in the first line.
    """
    lines = [_HEADERS[method], *(f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in scales.items())]
    files.write_text(pathlib.Path(path), "\n".join(lines) + "\n")


def read_calibration_cache(path: str | pathlib.Path) -> dict[str, float]:
    """Reads a calibration cache: tensor name -> scale.

    Raises:
        QuantizationError: it is no calibration cache, or a line of it is damaged.
    """
    path = pathlib.Path(path)
    try:
        header, *lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise QuantizationError(f"Cannot read the calibration cache {path}: {error}.") from error
    if not header.startswith("TRT-"):
        raise QuantizationError(f"{path} is no calibration cache. Expected a first line TRT-<version>-<calibrator>.")
    scales = {}
    for number, line in enumerate(lines, start=2):
        match = _LINE.fullmatch(line)
        if match is None:
            raise QuantizationError(f"{path}, line {number}: expected 'tensor: 8 hexadecimal digits'. Received: {line[:80]!r}.")
        (scales[match["name"]],) = struct.unpack(">f", bytes.fromhex(match["bits"]))
    return scales
