"""Weights that a new model starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlt_prune.errors import SpecError
from tlt_prune.io import say

if TYPE_CHECKING:
    import keras


def with_weights(model: keras.Model, path: str, key: str) -> keras.Model:
    """The toolkit's `pretrained_model_file`: weights by layer name, with an account of what fitted; `key` names it in errors."""
    from tlt_prune import models

    try:
        table = models.load_weights_by_name(model, path)
    except ValueError as error:
        raise SpecError(f"{key}: {error}") from error
    say(f"Weights by name from {path}:\n{table['status'].value_counts().to_string(header=False)}")
    others = table[table["status"] != "loaded"]
    if len(others):
        say(others.to_string())
    return model
