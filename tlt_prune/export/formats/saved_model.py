"""The export format "saved_model": a TensorFlow SavedModel folder."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from tlt_prune.config import Spec
from tlt_prune.export.formats.registry import ExportFormat, register_format
from tlt_prune.export.material import ExportMaterial
from tlt_prune.io import Output

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TOLERANCE = 1e-4


@register_format("saved_model")
class SavedModel(ExportFormat):
    """A SavedModel folder; with `export.preprocessing` it has a second signature that takes pictures."""

    suffix = ""

    def path(self, spec: Spec) -> pathlib.Path:
        return pathlib.Path(spec.export.saved_model_dir or f"{spec.results_dir}/export/saved_model")

    def outputs(self, spec: Spec) -> list[Output]:
        return [Output("export.saved_model_dir", self.path(spec), folder=True)]

    def write(self, material: ExportMaterial, samples: NDArray[Any]) -> list[str]:
        from tlt_prune.export.saved_model import export_saved_model

        e, path, predictor = material.spec.export, self.path(material.spec), material.predictor
        pictures = material.pictures() if e.preprocessing else None
        error = export_saved_model(predictor.model, path, samples, e.tolerance or _TOLERANCE, predictor.info, pictures)
        return [f"Wrote the folder {path}: equal to Keras on {len(samples)} pictures, to {error:.1e}."]
