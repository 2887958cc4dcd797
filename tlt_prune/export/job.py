"""The steps of `tlt-export`: which files it writes, writing them, and what follows."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from tlt_prune import extras
from tlt_prune.config import Spec
from tlt_prune.errors import SpecError
from tlt_prune.export.formats import format_names, formats_of
from tlt_prune.export.material import ExportMaterial
from tlt_prune.io import Output

if TYPE_CHECKING:
    from tlt_prune.onnx import Predictor


def export_outputs(spec: Spec) -> list[Output]:
    """All files and folders that an export writes, for the check that none replaces an input.

    Raises:
        SpecError: the spec asks for no format.
    """
    formats = formats_of(spec)
    if not formats:
        raise SpecError(f"export.formats: expected at least one of {', '.join(format_names())}. Received none.")
    # The decoding file is named after the ONNX file, so both formats list that.
    return list(dict.fromkeys(output for each in formats for output in each.outputs(spec)))


def source_of(spec: Spec) -> Predictor:
    """Loads the model of `export.model_path`, after a check that the packages of every format are installed.

    Raises:
        MissingPackageError: a format needs a package that is not installed.
        ExportError: the file is missing or no model.
        SpecError: it is no Keras file.
    """
    for each in formats_of(spec):
        if each.extra:
            extras.require(each.extra, each.asked_by)
    from tlt_prune.onnx import load_predictor

    predictor = load_predictor(spec.export.model_path)
    if predictor.model is None:
        raise SpecError(f"export.model_path: expected a .keras file. Received: {spec.export.model_path}.")
    return predictor


def export_formats(material: ExportMaterial) -> list[str]:
    """Writes every format that the spec asks for.

    Returns:
        Lines that describe what was written, for the user.

    Raises:
        ExportError: a format cannot be written, or computes something else than the model.
    """
    samples = material.samples()
    return [line for each in formats_of(material.spec) for line in each.write(material, samples)]


def finish_formats(spec: Spec) -> list[str]:
    """Runs the steps that need all files in their places, such as building an engine; returns lines for the user."""
    return [line for each in formats_of(spec) for line in each.finish(spec)]


def main_output(spec: Spec) -> pathlib.Path | None:
    """The output to evaluate next: a file rather than a folder; None if `export.formats` is empty."""
    selected = [each for each in formats_of(spec) if each.selectable]
    first = next((each for each in selected if each.suffix), selected[0] if selected else None)
    return first.path(spec) if first is not None else None
