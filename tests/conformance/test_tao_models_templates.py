"""Multitask, UNet, SSD, DSSD, RetinaNet and the YOLOs against the toolkit's templates, layer by layer."""

from __future__ import annotations

from typing import Any

import pytest
import tao_models
from templates import assert_equal

BUILT = [name for name in tao_models.names("templates") if "error" not in tao_models.load(f"templates/{name}.json.gz")]


@pytest.mark.parametrize("name", BUILT)
def test_tao_models_template(name: str, record_property: Any) -> None:
    record = tao_models.load(f"templates/{name}.json.gz")
    assert_equal(tao_models.build(record), record)
    record_property("tao", "equal")
