"""Model files from elsewhere that reach for what is not theirs: refused, in one line, with nothing done."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import TensorProto, helper

from tlt_prune.errors import ExportError
from tlt_prune.onnx import load_predictor

SPEC = tf.TensorSpec((None, 4), tf.float32, name="x")


class Written(tf.Module):
    """Writes a file when it is run."""

    def __init__(self, target: pathlib.Path) -> None:
        super().__init__()
        self._target = str(target)

    @tf.function(input_signature=[SPEC])
    def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([tf.io.write_file(self._target, "was here")]):
            return {"output_0": tf.identity(x)}


class Read(Written):
    """Answers what is in a file."""

    @tf.function(input_signature=[SPEC])
    def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"output_0": x + tf.cast(tf.strings.length(tf.io.read_file(self._target)), tf.float32)}


class Printed(Written):
    """Appends to a file under another name."""

    @tf.function(input_signature=[SPEC])
    def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        tf.print(x, output_stream=f"file://{self._target}")
        return {"output_0": x * 2.0}


class InABranch(Written):
    """The same, where it is not run at first."""

    @tf.function(input_signature=[SPEC])
    def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"output_0": tf.cond(tf.reduce_sum(x) > 1e9, lambda: self._write(x), lambda: x)}

    def _write(self, x: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.io.write_file(self._target, "was here")]):
            return tf.identity(x)


class Initialized(Written):
    """Reads a file while it is loaded."""

    def __init__(self, target: pathlib.Path) -> None:
        super().__init__(target)
        target.write_text("1\n2\n")
        lines = tf.lookup.TextFileInitializer(str(target), tf.int64, 0, tf.int64, 1, delimiter=" ")
        numbers = tf.lookup.TextFileInitializer(
            str(target), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        )
        del lines
        self.table = tf.lookup.StaticHashTable(numbers, -1)

    @tf.function(input_signature=[SPEC])
    def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"output_0": x + tf.cast(self.table.lookup(tf.constant("2")), tf.float32)}


@pytest.mark.parametrize("kind", [Written, Read, Printed, InABranch, Initialized])
def test_a_saved_model_that_reaches_files_is_refused(kind: Callable[[pathlib.Path], tf.Module], tmp_path: pathlib.Path) -> None:
    target = tmp_path / "target"
    if kind is Read:
        target.write_text("secret")
    module = kind(target)
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.serve)
    before = target.read_text() if target.exists() else None
    with pytest.raises(ExportError, match="is refused: the operation") as raised:
        load_predictor(tmp_path / "model")
    assert "\n" not in str(raised.value)
    assert (target.read_text() if target.exists() else None) == before


def test_a_saved_model_that_computes_is_not(tmp_path: pathlib.Path) -> None:
    class Plain(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = tf.Variable(3.0)

        @tf.function(input_signature=[SPEC])
        def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"output_0": tf.map_fn(lambda row: row * self.factor, x)}

    module = Plain()
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.serve)
    np.testing.assert_allclose(load_predictor(tmp_path / "model")(np.ones((2, 4), np.float32)), 3.0)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"not a protocol buffer"])
def test_a_saved_model_of_noise(content: bytes, tmp_path: pathlib.Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(ExportError) as raised:
        load_predictor(tmp_path)
    assert "\n" not in str(raised.value)


def with_external_data(folder: pathlib.Path, location: str) -> pathlib.Path:
    """A file whose weights are somewhere else."""
    weights = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": "16"}.items():
        weights.external_data.add(key=key, value=value)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    path = folder / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
    return path


@pytest.mark.parametrize("way", ["parent", "absolute", "link", "missing", "folder"])
def test_an_onnx_file_reads_no_data_outside_its_folder(way: str, tmp_path: pathlib.Path) -> None:
    secret, folder = tmp_path / "secret.bin", tmp_path / "model"
    secret.write_bytes(np.full(4, 7, np.float32).tobytes())
    folder.mkdir()
    (folder / "linked.bin").symlink_to(secret)
    (folder / "inner").mkdir()
    locations = {
        "parent": "../secret.bin",
        "absolute": str(secret),
        "link": "linked.bin",
        "missing": "none.bin",
        "folder": "inner",
    }
    path = with_external_data(folder, locations[way])
    with pytest.raises(ExportError, match="Cannot load") as raised:
        load_predictor(path)
    assert "\n" not in str(raised.value)


def test_an_onnx_file_with_data_beside_it(tmp_path: pathlib.Path) -> None:
    (tmp_path / "weights.bin").write_bytes(np.full(4, 7, np.float32).tobytes())
    predictor = load_predictor(with_external_data(tmp_path, "weights.bin"))
    np.testing.assert_allclose(predictor(np.ones((1, 4), np.float32)), 7.0)
