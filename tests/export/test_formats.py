"""A format of one's own is one class: the spec takes its name, and tlt-export writes it."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import randomize

from tlt_prune import models
from tlt_prune.config import load_spec
from tlt_prune.errors import SpecError
from tlt_prune.export import ExportFormat, export_outputs, register_format, scoped_formats

# All that a new file in tlt_prune/export/formats/ would hold.
TOY = """
import numpy as np

from tlt_prune.export import ExportFormat, register_format
from tlt_prune.io import files


@register_format("toy")
class Toy(ExportFormat):
    suffix = ".npz"

    def write(self, material, samples):
        path = self.path(material.spec)
        with files.whole_file(path) as partial, open(partial, "wb") as file:
            np.savez(file, *material.predictor.model.get_weights())
        return [f"Wrote {path}: all weights; compared on {len(samples)} pictures."]

    def finish(self, spec):
        return [f"{self.path(spec).name} is in its place: {self.path(spec).is_file()}."]
"""


def test_a_spec_reads_the_names_without_loading_a_framework() -> None:
    code = (
        "import sys\n"
        "from tlt_prune.config import load_spec\n"
        "print(load_spec(None, ['export.formats=[ONNX, litert]']).export.formats)\n"
        "print([m for m in ('tensorflow', 'keras', 'onnx', 'onnxruntime') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["('onnx', 'litert')", "[]"]


def test_a_name_is_valid_while_it_is_registered() -> None:
    wrong = r"'export.formats.0' must be 'saved_model', 'onnx' or 'litert'\. Received: 'toy' \(str\)\.$"
    with pytest.raises(SpecError, match=wrong):
        load_spec(None, ["export.formats=[toy]"])
    with scoped_formats():
        exec(TOY, {})
        spec = load_spec(None, ["export.formats=[toy, onnx]", "results_dir=here"])
        assert [str(x.path) for x in export_outputs(spec)][:2] == ["here/export/model.npz", "here/export/model.onnx"]
        with pytest.raises(SpecError, match="must be 'saved_model', 'onnx', 'litert' or 'toy'"):
            load_spec(None, ["export.formats=[tflite]"])
        with pytest.raises(ValueError, match="'toy' is already registered"):
            register_format("toy")(ExportFormat)
    with pytest.raises(SpecError, match=wrong):
        load_spec(None, ["export.formats=[toy]"])


def test_no_format_is_a_mistake() -> None:
    with pytest.raises(SpecError, match=r"export\.formats: expected at least one of saved_model, onnx, litert"):
        export_outputs(load_spec(None, ["export.formats=[]"]))


def test_the_script_writes_it(tmp_path: pathlib.Path) -> None:
    keras.utils.set_random_seed(0)
    model = randomize(models.classifier("resnet10", (8, 8, 3), 2, width=0.125))
    model.save(tmp_path / "model.keras")
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (12, 8, 8, 3), np.uint8), np.arange(12) % 2
    np.savez(tmp_path / "data.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    settings = {
        "dataset.train_dataset_path": tmp_path / "data.npz",
        "model.input_width": 8,
        "model.input_height": 8,
        "dataset.preprocess_mode": "unit",
    }
    given = [x for key, value in settings.items() for x in ("--set", f"{key}={value}")]
    code = TOY + "\nimport sys\nsys.argv[0] = 'tlt-export'\nimport tlt_prune.cli.export as script\nscript.entry()\n"
    command = ["-m", "model.keras", "-r", "my results", "--set", "export.formats=[toy]", *given]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = pathlib.Path("my results/export/model.npz")
    assert f"Wrote {written}: all weights; compared on 12 pictures.\nmodel.npz is in its place: True.\n" in done.stdout
    assert f"Next: tlt-evaluate -m '{written}'" in done.stdout, "ready to be pasted into a shell"
    with np.load(tmp_path / written) as stored:
        for array, weight in zip(stored.values(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(array, weight)
