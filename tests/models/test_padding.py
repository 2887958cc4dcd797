"""Padding as in NVIDIA's Keras: equal to its own, and the same names, weights and shapes in every architecture."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from golden_detection import cases
from helpers import randomize

import tlt_prune
from tlt_prune import models
from tlt_prune.models.blocks import ArchitectureOptions, Net

CASES = cases("same_padding.json")


@pytest.mark.parametrize("case", CASES, ids=[x["id"] for x in CASES])
def test_golden(case: Any) -> None:
    picture = np.array(case["input"], np.float32)[None, ..., None]
    image = keras.Input(picture.shape[1:])
    net = Net(ArchitectureOptions(padding="tao"), use_bias=False)
    if case["kind"] == "conv2d_same":
        model = keras.Model(image, net.conv(image, 1, case["kernel_size"], case["strides"]))
        model.set_weights([np.array(case["kernel"], np.float32)[..., None, None]])
    elif case["mode"] == "max":
        model = keras.Model(image, net.max_pool(image, case["pool_size"], case["strides"]))
    else:
        model = keras.Model(image, net.average_pool(image, case["pool_size"], case["strides"]))
    np.testing.assert_allclose(model(picture)[0, ..., 0], case["expected"], rtol=1e-5, atol=1e-5)


def test_all_golden_cases_are_there() -> None:
    assert len(CASES) == 7


SHAPES = [
    "resnet18",
    "vgg16",
    "googlenet",
    "mobilenet_v1",
    "squeezenet",
    "darknet19",
    "efficientnet_b0",
    "shufflenet",
    "helnet10",
]


@pytest.mark.parametrize("name", SHAPES)
def test_weights_and_shapes_are_the_same(name: str) -> None:
    options: dict[str, Any] = {"groups": 2, "width": 1.0} if name == "shufflenet" else {"width": 0.25}
    plain, padded = (models.build(name, (64, 64, 3), **options, padding=padding) for padding in ("keras", "tao"))
    assert plain.output_shape == padded.output_shape
    assert [w.path for w in plain.weights] == [w.path for w in padded.weights]
    added = {x.name for x in padded.layers} - {x.name for x in plain.layers}
    assert all(isinstance(padded.get_layer(x), keras.layers.ZeroPadding2D) for x in added)
    randomize(plain)
    padded.set_weights(plain.get_weights())
    x = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype("float32")
    same = np.allclose(plain(x, training=False), padded(x, training=False), rtol=1e-3, atol=1e-4)
    # EfficientNet pads by hand already.
    assert same == (not added)


def test_such_a_model_is_pruned_exactly() -> None:
    model = randomize(
        models.build("detectnet_v2_resnet18", (64, 64, 3), 2, width=0.25, padding="tao", data_format="channels_last")
    )
    pruned = tlt_prune.prune_model(model, ratio=0.5, verify=True)
    assert pruned.count_params() < 0.5 * model.count_params()


def test_where_cells_look() -> None:
    """Through four strides of 2, cell i is centered on pixel 16 i with it, and on 16 i + 15 without."""
    for padding, center in (("tao", 16), ("keras", 31)):
        net = Net(ArchitectureOptions(padding=padding), use_bias=False)
        image = keras.Input((160, 160, 1))
        x = image
        for _ in range(4):
            x = net.conv(x, 1, 3, 2)
        model = keras.Model(image, x)
        model.set_weights([np.ones((3, 3, 1, 1), np.float32)] * 4)
        reached = [
            i
            for i in range(160)
            if model(np.eye(160, dtype="float32")[i][None, None, :, None] * np.ones((1, 160, 1, 1), "float32"))[0, 5, 1, 0] > 0
        ]
        assert (reached[0] + reached[-1]) / 2 == center


def test_unknown_padding() -> None:
    with pytest.raises(ValueError, match="padding: expected 'keras' or 'tao'"):
        models.build("resnet10", (64, 64, 3), padding="valid")
