"""Optional packages: what brings them, said in one line where one is missing."""

from __future__ import annotations

import importlib.util
import sys

from tlt_prune.errors import MissingPackageError

# As in setup.cfg: extra -> what it brings, by import name.
EXTRAS = {
    "train": ("h5py", "matplotlib", "mlxtend", "PIL", "sklearn", "tensorboard"),
    "export": ("onnx", "onnxruntime", "onnxslim", "tf2onnx"),
    "litert": ("ai_edge_litert",),
    "detection": ("pycocotools",),
}


def require(extra: str, what: str, *packages: str) -> None:
    """Raises MissingPackageError, naming `what` cannot work, where a package of `extra` (or of those named) is not installed."""
    for package in packages or EXTRAS[extra]:
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(f"{what} needs {package}, which is not installed: pip install 'tlt_prune[{extra}]'.")


def require_tensorflow(what: str) -> None:
    """Raises MissingPackageError, naming `what` cannot work, where Keras runs on another backend than TensorFlow."""
    keras = sys.modules.get("keras")
    backend = keras.backend.backend() if keras is not None else "tensorflow"
    if backend != "tensorflow":
        raise MissingPackageError(
            f"{what} needs Keras on TensorFlow, and this process runs it on {backend}. Save the model, and do this in a process "
            "with KERAS_BACKEND=tensorflow."
        )
