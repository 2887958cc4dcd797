"""Optional packages: what brings them, said in one line where one is missing."""

from __future__ import annotations

import importlib

from tlt_prune.errors import MissingPackageError

# As in setup.cfg: extra -> what it brings, by import name.
EXTRAS = {
    "train": ("h5py", "matplotlib", "mlxtend", "PIL", "sklearn", "tensorboard"),
    "export": ("onnx", "onnxruntime", "onnxslim", "tf2onnx"),
}


def require(extra: str, what: str) -> None:
    """Raises MissingPackageError, naming `what` cannot work, where a package of `extra` cannot be imported."""
    for package in EXTRAS[extra]:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise MissingPackageError(f"{what} needs {package}: pip install 'tlt_prune[{extra}]'") from error
