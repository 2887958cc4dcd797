"""Weights by name, from every file format, with an account of every layer."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
from helpers import randomize

from tlt_prune.models import build, load_weights_by_name


def net(classes: int = 5) -> keras.Model:
    return build("resnet10", (32, 32, 3), classes, width=0.125)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
def test_every_format(tmp_path: pathlib.Path, suffix: str) -> None:
    source, target = randomize(net()), net()
    path = tmp_path / f"model{suffix}"
    if suffix == ".weights.h5":
        source.save_weights(path)
    else:
        source.save(path)
    table = load_weights_by_name(target, path)
    assert (table["status"] == "loaded").all()
    for a, b in zip(source.get_weights(), target.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_tf_keras_weights(tmp_path: pathlib.Path) -> None:
    """An .h5 as the toolkit wrote it: Keras 2's layout."""
    import tf_keras

    x = tf_keras.Input((8, 8, 3))
    y = tf_keras.layers.BatchNormalization(name="bn_conv1")(tf_keras.layers.Conv2D(8, 7, name="conv1")(x))
    old = randomize(tf_keras.Model(x, y))
    old.save_weights(tmp_path / "old.hdf5")
    model = net()
    table = load_weights_by_name(model, tmp_path / "old.hdf5")
    assert table.loc["bn_conv1", "status"] == "loaded"
    np.testing.assert_array_equal(model.get_layer("bn_conv1").get_weights()[2], old.get_layer("bn_conv1").get_weights()[2])
    # The kernel fits, but this network's convolution has a bias like the old one: loaded as well.
    assert table.loc["conv1", "status"] == "loaded"
    assert table.loc["block_1a_conv_1", "status"] == "not in the file"


def test_what_does_not_fit_is_reported(tmp_path: pathlib.Path) -> None:
    source = randomize(build("resnet18", (32, 32, 3), 7, width=0.125))
    source.save(tmp_path / "m.keras")
    target = net(5)
    head = target.get_layer("head_fc5").get_weights()[0]
    table = load_weights_by_name(target, tmp_path / "m.keras")
    assert table.loc["head_fc5", "status"] == "not in the file"
    assert table.loc["head_fc7", "status"] == "not in the model"
    assert table.loc["block_1b_conv_1", "status"] == "not in the model"
    np.testing.assert_array_equal(target.get_layer("head_fc5").get_weights()[0], head)
    wide = build("resnet10", (32, 32, 3), 5, width=0.25)
    with pytest.raises(ValueError, match="none of its"):
        load_weights_by_name(wide, tmp_path / "m.keras")


def test_shapes_that_differ_are_named(tmp_path: pathlib.Path) -> None:
    source = randomize(build("resnet10", (32, 32, 1), 5, width=0.125))
    source.save(tmp_path / "m.keras")
    table = load_weights_by_name(net(), tmp_path / "m.keras")
    assert table.loc["conv1", "status"].startswith("shapes differ: [(7, 7, 1, 8), (8,)] in the file")
    assert (table["status"] == "loaded").sum() == len(table) - 1


def test_files_that_are_none(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="There is no weights file"):
        load_weights_by_name(net(), tmp_path / "x.h5")
    (tmp_path / "x.h5").write_bytes(b"encrypted")
    with pytest.raises(ValueError, match="no HDF5 file"):
        load_weights_by_name(net(), tmp_path / "x.h5")
