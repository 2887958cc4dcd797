"""The export format of `export.decoding`: a second ONNX file, with boxes of a detector or classes of pixels as outputs."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from tlt_prune.config import Spec
from tlt_prune.export.formats.onnx import onnx_output, onnx_path
from tlt_prune.export.formats.registry import ExportFormat, register_format
from tlt_prune.export.material import ExportMaterial
from tlt_prune.io import Output

if TYPE_CHECKING:
    from numpy.typing import NDArray


@register_format("decoding")
class Decoding(ExportFormat):
    """NAME_decoded.onnx beside the ONNX file, with `export.decoding`."""

    suffix = ".onnx"
    extra = "export"
    selectable = False

    def path(self, spec: Spec) -> pathlib.Path:
        onnx = onnx_path(spec)
        return onnx.with_name(f"{onnx.stem}_decoded.onnx")

    def outputs(self, spec: Spec) -> list[Output]:
        return [onnx_output(spec), Output("The decoding file, beside -o", self.path(spec))]

    def write(self, material: ExportMaterial, samples: NDArray[Any]) -> list[str]:
        path = self.path(material.spec)
        return [f"Wrote {path}: {material.write_decoded(onnx_path(material.spec), path, samples)}"]
