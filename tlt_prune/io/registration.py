"""Layers, losses and regularizers of this package are known to Keras as soon as both are imported, in whatever order, so that
their files load. Keras imports no other package's modules by itself, and importing this one must not load a framework."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_HOMES = (
    "tlt_prune.quantization.layers",
    "tlt_prune.training.regularizers",
    "tlt_prune.training.distillation",
    "tlt_prune.training.segmentation",
    "tlt_prune.detection.training",
    "tlt_prune.models.anchors",
    "tlt_prune.models.yolo_layers",
)


def register_with_keras() -> None:
    """Now, if Keras is imported; else when it will be."""
    if "keras" not in sys.modules:
        if not any(isinstance(x, _WhenKerasComes) for x in sys.meta_path):
            sys.meta_path.insert(0, _WhenKerasComes())
        return
    for name in _HOMES:
        # What an extra brings may be missing: then nothing was saved with it here.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


class _WhenKerasComes(importlib.abc.MetaPathFinder):
    """Finds nothing itself: it notices that Keras is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("keras")
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        execute = loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            # A module of this package that imports Keras is not whole yet: `tlt_prune.__getattr__` registers after it.
            if not any(name.startswith("tlt_prune.") and _is_halfway(x) for name, x in list(sys.modules.items())):
                register_with_keras()

        loader.exec_module = execute_and_register
        return spec


def _is_halfway(module: object) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))
