"""The export format of `export.decoding`: a second ONNX file of a detector, with boxes and scores as outputs."""

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
        from tlt_prune.export.onnx_file import export_onnx

        e, path = material.spec.export, self.path(material.spec)
        info = material.predictor.info
        export_onnx(material.decoded(), path, samples, opset=e.opset, layout=e.onnx_layout, info=info)
        return [f"Wrote {path}: boxes (pictures, classes, cells, 4) in pixels, and scores (pictures, classes, cells)."]
