"""A detector with decoding inside says what the decoder makes of its outputs, in Keras and in ONNX."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import pytest
from helpers import randomize

from tlt_prune import export, models
from tlt_prune.detection.decoded import with_decoding
from tlt_prune.detection.decoding import decode
from tlt_prune.detection.geometry import Grid


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_with_decoding(data_format: str, tmp_path: pathlib.Path) -> None:
    first = data_format == "channels_first"
    model = randomize(models.build("detectnet_v2_resnet10", (48, 80, 3), 2, width=0.25, data_format=data_format))
    grid = Grid(80, 48, 5, 3, 12.0, 3.0)
    decoded = with_decoding(model, grid, first)
    x = np.random.default_rng(0).standard_normal((3, *model.input_shape[1:])).astype("float32")
    export.export_onnx(decoded, tmp_path / "m.onnx", x)
    assert [y.name for y in onnx.load(tmp_path / "m.onnx").graph.output] == ["boxes", "scores"]
    found = export.load_predictor(tmp_path / "m.onnx").run(x)
    bbox, cov = export.load_predictor(_onnx(model, tmp_path / "raw.onnx", x)).run(x)
    if not first:
        bbox, cov = (np.transpose(y, (0, 3, 1, 2)) for y in (bbox, cov))
    np.testing.assert_allclose(found[0], decode(bbox, grid).reshape(3, 2, 15, 4), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found[1], cov.reshape(3, 2, 15), rtol=1e-4, atol=1e-5)
    # Some are clipped, some are not.
    assert 0 < np.mean(found[0] == np.clip(found[0], 1e-3, 47)) < 1


def _onnx(model: object, path: pathlib.Path, x: np.ndarray) -> pathlib.Path:
    export.export_onnx(model, path, x)  # type: ignore[arg-type]
    return path
