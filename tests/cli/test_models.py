"""From a spec to a new model: what TAO's keys ask for is in it."""

from __future__ import annotations

from typing import Any

import keras
import pytest

from tlt_prune.config.specs import spec_from_dict
from tlt_prune.errors import SpecError
from tlt_prune.tasks.classification.models import starting_model
from tlt_prune.tasks.classification.pictures import picture_format


def built(**model: Any) -> keras.Model:
    small = {"backbone": "resnet_10", "width": 0.125, "input_width": 32, "input_height": 24, "input_channels": 1}
    return starting_model(spec_from_dict({"model": {**small, **model}}), 5)


def test_the_head_is_the_toolkits_or_the_templates() -> None:
    assert [x.name for x in built().layers[-3:]] == ["avg_pool", "flatten", "predictions"]
    own = built(retain_head=True)
    assert own.layers[-1].name == "head_fc5"
    assert built().input_shape == own.input_shape == (None, 24, 32, 1)


def test_dropout_is_in_front_of_the_last_layer() -> None:
    model = built(dropout=0.3)
    assert [type(x).__name__ for x in model.layers[-2:]] == ["Dropout", "Dense"]
    assert model.layers[-2].rate == 0.3
    with pytest.raises(SpecError, match="belongs to the toolkit's head"):
        built(dropout=0.3, retain_head=True)


def test_the_activation_is_the_one_asked_for() -> None:
    kinds = {type(x).__name__ for x in built(activation_type="leaky_relu").layers}
    assert "LeakyReLU" in kinds
    with pytest.raises(SpecError, match="leaky_relu"):
        built(activation_type="rely")


def test_pictures_follow_the_spec() -> None:
    spec = spec_from_dict(
        {
            "model": {"input_height": 24, "input_width": 32, "input_channels": 1, "input_image_depth": 16},
            "dataset": {"augmentation": {"enable_center_crop": False}},
            "augment": {"enable_random_crop": False},
        }
    )
    form = picture_format(spec)
    assert (form.size, form.depth, form.center_crop, form.resample) == ((24, 32, 1), 16, False, "bilinear")
    assert picture_format(spec_from_dict({})).center_crop
