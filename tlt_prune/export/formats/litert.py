"""The export format "litert": a .tflite file for LiteRT, formerly TensorFlow Lite."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from tlt_prune.config import Spec
from tlt_prune.export.formats.registry import DATA_TYPES, ExportFormat, register_format
from tlt_prune.export.material import ExportMaterial
from tlt_prune.io import Output, files

if TYPE_CHECKING:
    from numpy.typing import NDArray


@register_format("litert")
class LiteRT(ExportFormat):
    """A .tflite file in the data type of the spec; int8 is calibrated on data, or trained with `export.litert_qat_epochs`."""

    suffix = ".tflite"
    extra = "litert"

    def path(self, spec: Spec) -> pathlib.Path:
        return pathlib.Path(spec.export.litert_file) if spec.export.litert_file else super().path(spec)

    def outputs(self, spec: Spec) -> list[Output]:
        return [Output("export.litert_file", self.path(spec), (self.suffix,))]

    def write(self, material: ExportMaterial, samples: NDArray[Any]) -> list[str]:
        from tlt_prune import quantization
        from tlt_prune.export.litert import export_litert
        from tlt_prune.onnx import load_predictor

        e, path, predictor = material.spec.export, self.path(material.spec), material.predictor
        model, calibration, kind = predictor.model, None, str(e.data_type)
        if e.data_type == "int8" and e.litert_qat_epochs:
            model = quantization.train_for_litert(model, **material.training(e.litert_qat_epochs))
            kind = "int8, trained so"
        elif e.data_type == "int8":
            calibration = material.calibration()
            kind = f"int8, calibrated by min_max on {len(calibration)} pictures"
        error = export_litert(
            model,
            path,
            samples,
            precision=DATA_TYPES[e.data_type],
            calibration=calibration,
            tolerance=e.tolerance,
            info=predictor.info,
        )
        if e.data_type != "int8":
            return [f"Wrote {path}: LiteRT, {kind}, equal to Keras on {len(samples)} pictures, to {error:.1e}."]
        same = (load_predictor(files.written(path))(samples).argmax(1) == predictor(samples).argmax(1)).mean()
        return [
            f"Wrote {path}: LiteRT, {kind}; the largest class is that of Keras on {100 * same:.1f} % of {len(samples)} pictures."
        ]
