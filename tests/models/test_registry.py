"""An architecture is one function that registers itself: found by name, with a classifier's head and as a detector's backbone."""

from __future__ import annotations

from typing import Any

import keras
import pytest

from tlt_prune import models, prune_model
from tlt_prune.config import spec_from_dict
from tlt_prune.config.registry import architecture_names
from tlt_prune.errors import SpecError
from tlt_prune.models.blocks import ArchitectureOptions, Net, inputs
from tlt_prune.models.registry import registered_architecture, registered_network


def toy(depth: int, input_shape: Any, classes: int | None = None, *, pool: bool = True, options: Any = None) -> keras.Model:
    net = Net(options or ArchitectureOptions())
    image = x = inputs(net.options, input_shape)
    for i in range(depth):
        x = net.act(net.conv(x, 32, 3, 16 if i == 0 else 1, name=f"conv_{i}"))
    if pool:
        x = net.max_pool(x, 2, 2)
    if classes is not None:
        x = net.dense(net.global_pool(x, "pool"), classes, "head")
    return keras.Model(image, x, name=f"toy{depth}")


def test_a_new_architecture_is_built_pruned_and_put_under_heads() -> None:
    def spotter(base: keras.Model, backbone: str, classes: int, *, depth: int = 1, options: ArchitectureOptions) -> keras.Model:
        y = base.outputs[0]
        for _ in range(depth):
            y = Net(options).output_conv(y, classes, 1, f"spot_{backbone}_{options.data_format}")
        return keras.Model(base.inputs, y)

    with (
        registered_architecture("toy", (2, 3), toy, classifier={"pool": False}),
        registered_network("spotter", spotter, {"toy2": {"pool": False}}, {"data_format": "channels_first"}),
    ):
        assert {"toy2", "toy3", "spotter_toy2"} == {name for name in models.names() if "toy" in name}
        assert models.own_options("Toy-2") == {"pool"}
        model = models.build("toy3", (64, 64, 3), 5)
        assert model.output_shape == (None, 5)
        assert prune_model(model, ratio=0.5).get_layer("conv_2").filters == 16
        assert [x.name for x in models.classifier("toy2", (64, 64, 3), 5).layers[-3:]] == ["avg_pool", "flatten", "predictions"]
        assert models.own_options("spotter_toy2") == {"pool", "depth"}
        names = [x.name for x in models.build("spotter_toy2", (64, 64, 3), 2, depth=1).layers]
        assert names[-1] == "spot_toy2_channels_first"
        assert not any("pool" in x for x in names)
        assert any("pool" in x.name for x in models.build("spotter_toy2", (64, 64, 3), 2, pool=True).layers)
        with pytest.raises(ValueError, match="is a network with outputs of its own"):
            models.classifier("spotter_toy2")
        with pytest.raises(ValueError, match="does not take these options"):
            models.build("toy2", (64, 64, 3), 5, depth_multiplier=2)
    assert not [name for name in models.names() if "toy" in name]


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="'vgg16' is registered already"), registered_architecture("vgg", (16,), toy):
        pass
    assert models.build("vgg16", (32, 32, 3), width=0.125).name == "vgg16_bn"


def test_an_unknown_name_is_answered_by_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"There is no architecture name='resnet_11'\. Did you mean 'resnet1.*Expected one of "):
        models.build("resnet_11")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"all_projections", "use_pooling"}), ("vgg16", {"use_pooling", "dropout", "hidden"}),
        ("mobilenet_v2", {"all_projections", "alpha", "stride"}), ("detectnet_v2_vgg16", {"use_pooling", "dropout", "hidden"}),
    ],
)  # fmt: skip
def test_options_of_one_architecture(name: str, options: set[str]) -> None:
    assert models.own_options(name) == options


def test_specs_know_the_names_before_the_models_are_imported() -> None:
    known = architecture_names()
    assert known == models.names()[: len(known)]
    assert all("_" in x for x in models.names()[len(known) :])
    with pytest.raises(SpecError, match=r"Did you mean 'resnet1.*num_epochs"):
        spec_from_dict({"model": {"backbone": "resnet_11"}, "train": {"num_epochs": 0}})


def test_tasks_of_any_name_have_layers_of_their_own() -> None:
    tasks = {"main color": 3, "größe": 2, "main_color": 4}
    model = models.build("multitask_resnet10", (16, 16, 3), tasks, width=0.125)
    # In the order of the tasks' names.
    assert model.output_names == ["gr__e", "main_color_1", "main_color_2"]
    assert [x.shape[-1] for x in model.outputs] == [2, 3, 4]


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [((16, 16), 3, "input_shape"), ((16, 16, 0), 3, "input_shape"), ((16, 16, 3), 0, "classes"), ((16, 16, 3), 2.5, "classes")],
)
def test_sizes_that_are_none(shape: Any, classes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"'resnet10': expected {message} to be .* Received: "):
        models.build("resnet10", shape, classes)
