"""The protocols of graph.types state nothing that a class of either Keras lacks."""

from __future__ import annotations

from types import ModuleType

import keras
import pytest
from typing_extensions import get_protocol_members

from tlt_prune.graph import types
from tlt_prune.graph.family import _FunctionalModel


@pytest.fixture(params=["keras", "tf_keras"])
def family(request: pytest.FixtureRequest) -> ModuleType:
    return pytest.importorskip(request.param)


def small_model(family: ModuleType) -> keras.Model:
    x = inputs = family.Input((8, 8, 3))
    kinds = family.layers
    for layer in (kinds.Conv2D(4, 3), kinds.BatchNormalization(), kinds.Flatten(), kinds.Dense(2)):
        x = layer(x)
    return family.Model(inputs, x)


def missing(protocol: type, thing: object) -> set[str]:
    members = get_protocol_members(protocol)
    assert members
    return {name for name in members if not hasattr(thing, name)}


def test_layers_and_models_have_what_their_protocols_state(family: ModuleType) -> None:
    model = small_model(family)
    _, convolution, norm, _, dense = model.layers
    for protocol, thing in (
        (types.KerasModel, model),
        (types.Convolution, convolution),
        (types.BatchNormalization, norm),
        (types.Projection, dense),
        (types.Layer, norm),
        (types.Operation, dense),
        (types.Variable, dense.kernel),
        (types.TensorLike, dense.kernel),
        (types.SymbolicTensor, model.outputs[0]),
    ):
        assert not missing(protocol, thing), (protocol, thing)


def test_a_functional_model_has_what_the_reader_asks_of_it(family: ModuleType) -> None:
    assert not missing(_FunctionalModel, small_model(family))


def test_raw_operations_are_operations() -> None:
    x = keras.Input((4,))
    assert not missing(types.Operation, (x + 1)._keras_history.operation)
