"""Pruning on Keras' torch backend does what it does on this one. Where PyTorch is installed: CI does without it."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import on_torch
import pytest
from helpers import randomize

pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"),
]


def net() -> keras.Model:
    x = y = keras.Input((12, 12, 3))
    for i, width in enumerate((16, 24)):
        y = keras.layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False, name=f"c{i}")(y)
        y = keras.layers.ReLU()(keras.layers.BatchNormalization(name=f"n{i}")(y))
    inner = keras.layers.Conv2D(24, 3, padding="same", name="inner")(y)
    y = keras.layers.Add()([y, keras.layers.Conv2D(24, 1, name="outer")(keras.layers.Activation("tanh")(inner))])
    y = keras.layers.DepthwiseConv2D(3, name="dw")(y)
    return randomize(keras.Model(x, keras.layers.Dense(4, name="head")(keras.layers.GlobalAveragePooling2D()(y))))


def test_the_same_on_torch(tmp_path: pathlib.Path) -> None:
    model = net()
    model.get_layer("n1").trainable = False
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((48, 12, 12, 3)).astype("float32"), np.eye(4, dtype="float32")[rng.integers(0, 4, 48)]
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    command = [sys.executable, "-W", "error::UserWarning", on_torch.__file__, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    here = on_torch.pruned_by(model, x, y)
    there = np.load(tmp_path / "torch.npz")
    assert set(there) == {*here, "losses"}
    before, after = there["losses"]
    assert after <= before
    for name, expected in here.items():
        if expected.dtype.kind == "i":
            assert there[name].tolist() == expected.tolist(), name
        else:
            np.testing.assert_allclose(there[name], expected, atol=2e-3 * np.abs(expected).max(), err_msg=name)
