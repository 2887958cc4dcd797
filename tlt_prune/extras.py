"""Optional packages: which extra brings each, and the one-line error where one is missing."""

from __future__ import annotations

import importlib.util
import sys

from tlt_prune.errors import MissingPackageError

# As in setup.cfg: extra -> import names of the packages that it brings.
EXTRAS = {
    "train": ("matplotlib", "mlxtend", "PIL", "sklearn", "tensorboard"),
    "export": ("onnx", "onnxruntime", "onnxslim", "tf2onnx"),
    "litert": ("ai_edge_litert",),
    "detection": ("google.protobuf", "pycocotools", "scipy", "sklearn"),
    "sparsity": ("tensorflow_model_optimization", "tf_keras"),
    "jax": ("jax",),
    "torch": ("torch",),
}


def require(extra: str, what: str, *packages: str) -> None:
    """Checks that the packages of an extra can be imported.

    Args:
        extra: a key of `EXTRAS`.
        what: the job that needs them; the message begins with it.
        *packages: import names of the packages needed; by default all of the extra.

    Raises:
        MissingPackageError: one is not installed; the message says how to install it.
    """
    for package in packages or EXTRAS[extra]:
        if not _is_installed(package):
            raise MissingPackageError(f"{what} needs {package}, which is not installed: pip install 'tlt_prune[{extra}]'.")


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    # The parent of a dotted name is missing, or a module is set to None.
    except (ImportError, ValueError):
        return False


def require_tensorflow(what: str) -> None:
    """Checks that Keras runs on TensorFlow.

    Raises:
        MissingPackageError: it runs on another backend; `what` begins the message.
    """
    keras = sys.modules.get("keras")
    backend = keras.backend.backend() if keras is not None else "tensorflow"
    if backend != "tensorflow":
        raise MissingPackageError(
            f"{what} needs Keras on TensorFlow, and this process runs it on {backend}. Save the model, and do this in a process "
            "with KERAS_BACKEND=tensorflow."
        )
