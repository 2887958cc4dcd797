"""Model files of a training, with class names and preprocessing inside."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import keras

from tlt_prune.config import Train
from tlt_prune.io import ModelInfo, files, model_info, workers
from tlt_prune.training.regularizers import set_regularizers


def save_model(model: keras.Model, path: pathlib.Path, *, info: ModelInfo | None = None, include_optimizer: bool = True) -> None:
    """Writes a .keras file, with class names and preprocessing inside. A killed process leaves no partial file.

    Of several workers, the chief writes.
    """
    if not workers.is_chief():
        return
    with files.whole_file(path) as partial:
        with contextlib.nullcontext() if include_optimizer else _without_optimizer(model):
            model.save(partial)
        if info is not None:
            model_info.write(partial, info)


def save_result(model: keras.Model, path: pathlib.Path, config: Train, info: ModelInfo | None) -> None:
    """Writes a model for users: without an optimizer, and without group lasso, so that it loads without this package."""
    lasso = config.reg_config.type == "group_lasso"
    if lasso:
        set_regularizers(model, config.reg_config.model_copy(update={"type": "none"}))
    save_model(model, path, info=info, include_optimizer=False)
    if lasso:
        set_regularizers(model, config.reg_config)


@contextlib.contextmanager
def _without_optimizer(model: keras.Model) -> Iterator[None]:
    """Keras' own `include_optimizer` argument has no effect on .keras files."""
    optimizer, compiled = getattr(model, "optimizer", None), model.compiled
    model.optimizer, model.compiled = None, False
    try:
        yield
    finally:
        model.optimizer, model.compiled = optimizer, compiled
