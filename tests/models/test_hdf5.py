"""Weights in files of other people: nothing outside of the file is read, and nothing that is no weight."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from tlt_prune.models import load_weights_by_name


def model() -> keras.Model:
    x = keras.Input((4,))
    return keras.Model(x, keras.layers.Dense(3, name="d")(x))


def legacy(file: h5py.File, kernel: Callable[[Any], Any] | None = None, **attributes: Any) -> None:
    file.attrs["layer_names"] = attributes.get("layer_names", np.array([b"d"]))
    group = file.create_group("d")
    group.attrs["weight_names"] = attributes.get("weight_names", np.array([b"k", b"b"]))
    if kernel is None:
        group["k"] = np.ones((4, 3), np.float32)
    else:
        kernel(group)
    group["b"] = np.zeros(3, np.float32)


@pytest.fixture
def secret(tmp_path: pathlib.Path) -> pathlib.Path:
    np.full(12, 107.0, np.float32).tofile(tmp_path / "secret.bin")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["k"] = np.full((4, 3), 107.0, np.float32)
        legacy(file.create_group("model_weights"))
    return tmp_path


def virtual(group: Any) -> None:
    layout = h5py.VirtualLayout((4, 3), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "k", (4, 3))
    group.create_virtual_dataset("k", layout)


def external(group: Any) -> None:
    folder = pathlib.Path(group.file.filename).parent
    group.create_dataset("k", (4, 3), "f4", external=[(str(folder / "secret.bin"), 0, h5py.h5f.UNLIMITED)])


def linked(link: Any) -> Callable[[Any], None]:
    def make(group: Any) -> None:
        group["k"] = link

    return make


def of(value: Any, **options: Any) -> Callable[[Any], None]:
    def make(group: Any) -> None:
        group.create_dataset("k", data=value, **options)

    return make


def huge(group: Any) -> None:
    group.create_dataset("k", (10**6, 10**6), "f4", chunks=(1000, 1000))


KERNELS: dict[str, Callable[[Any], None]] = {
    "external storage": external,
    "external link": linked(h5py.ExternalLink("other.h5", "k")),
    "soft link": linked(h5py.SoftLink("/d/b")),
    "link in a loop": linked(h5py.SoftLink("/d/k")),
    "virtual": virtual,
    "complex": of(np.ones((4, 3), np.complex64)),
    "NaN": of(np.full((4, 3), np.nan, np.float32)),
    "beyond float32": of(np.full((4, 3), 1e300)),
    "strings": of(np.full((4, 3), b"x")),
    "compound": of(np.zeros((4, 3), [("a", "f4"), ("b", "f4")])),
    "a group": lambda group: group.create_group("k"),
    "missing": lambda group: None,
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_that_is_none_is_refused_and_the_model_stays(name: str, secret: pathlib.Path) -> None:
    with h5py.File(secret / "w.h5", "w") as file:
        legacy(file, KERNELS[name])
    refused(secret / "w.h5")


def refused(path: pathlib.Path) -> None:
    network = model()
    before = [np.array(v) for v in network.weights]
    with pytest.raises(ValueError, match="w") as error:
        load_weights_by_name(network, path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    for a, v in zip(before, network.weights, strict=True):
        np.testing.assert_array_equal(a, v)


def test_a_size_that_no_memory_holds_is_not_read(tmp_path: pathlib.Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        legacy(file, huge)
    refused(tmp_path / "w.h5")


FILES: dict[str, Callable[[h5py.File], object]] = {
    "names are numbers": lambda file: legacy(file, layer_names=3),
    "names are empty": lambda file: legacy(file, layer_names=h5py.Empty("S1")),
    "names are not UTF-8": lambda file: legacy(file, layer_names=np.array([b"\xff"])),
    "weights are not named": lambda file: legacy(file, weight_names=3),
    "a layer is missing": lambda file: legacy(file, layer_names=np.array([b"e"])),
    "a layer leads out": lambda file: legacy(file, layer_names=np.array([b"../d"])),
    "weights of another file": lambda file: file.__setitem__("model_weights", h5py.ExternalLink("other.h5", "/model_weights")),
    "nothing": lambda file: None,
    "a group in itself": lambda file: file.create_group("a").__setitem__("b", file["a"]),
    "variables called x": lambda file: _keras3(file, "x"),
}


def _keras3(file: h5py.File, name: str) -> None:
    group = file.create_group("layers/d/vars")
    group.attrs["name"] = "d"
    group[name] = np.ones((4, 3), np.float32)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_none_is_refused(name: str, secret: pathlib.Path) -> None:
    with h5py.File(secret / "w.h5", "w") as file:
        FILES[name](file)
    refused(secret / "w.h5")


def test_lists_of_names_that_keras_splits_are_read(tmp_path: pathlib.Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        legacy(file)
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = np.array([b"other"]), np.array([b"d"])
        file.create_group("other").attrs["weight_names"] = np.array([], "S1")
    network = model()
    assert load_weights_by_name(network, tmp_path / "w.h5").loc["d", "status"] == "loaded"
    np.testing.assert_array_equal(network.get_layer("d").kernel, np.ones((4, 3)))


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".keras"])
def test_whole_files_are_read(suffix: str, tmp_path: pathlib.Path) -> None:
    source, target = model(), model()
    path = tmp_path / f"w{suffix}"
    source.save_weights(path) if suffix == ".weights.h5" else source.save(path)
    assert (load_weights_by_name(target, path)["status"] == "loaded").all()
    for a, b in zip(source.weights, target.weights, strict=True):
        np.testing.assert_array_equal(a, b)
