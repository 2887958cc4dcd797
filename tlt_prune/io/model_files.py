"""Loading Keras model files; whatever is wrong with a file becomes a one-line error."""

from __future__ import annotations

import errno
import pathlib
import zipfile
import zlib
from typing import Any

from tlt_prune.errors import ExportError, first_line
from tlt_prune.io.registration import register_with_keras

# What other programs write, by suffix: refused before it is opened.
_FOREIGN = {
    (".tlt", ".etlt"): "one of TAO's encrypted files, which only TAO reads: export it to .keras or .h5 there",
    (".engine", ".plan", ".trt"): "a TensorRT engine, which only runs: give the .onnx file it was built from",
    (".pt", ".pth", ".ckpt"): "a file of another framework: build the model in Keras and save that",
    (".pb",): "part of a SavedModel: give its folder",
    (".yaml", ".yml", ".json", ".txt"): "a text file: give the model",
}
_MODELS = (".keras", ".h5", ".hdf5")
# Reasons that lie in the machine and not in the file.
_OF_THE_MACHINE = (
    *(errno.EACCES, errno.EPERM, errno.EIO, errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE),
)
# A .keras file stores its weights uncompressed; whatever unpacks to so much more than its size is no model.
_LARGEST_RATIO, _LARGEST_EXCESS = 100, 2**28


def refuse_foreign(path: pathlib.Path) -> None:
    """Raises an ExportError that says what to do for the suffixes of files that no model is in, or none that is read here."""
    for suffixes, what in _FOREIGN.items():
        if path.suffix.lower() in suffixes:
            raise ExportError(f"{path} is {what}.")


def load_keras(path: pathlib.Path, *, compiled: bool = False) -> Any:
    """A .keras (or .h5) model.

    Args:
        path: the file.
        compiled: with its optimizer, loss and metrics.

    Raises:
        ExportError: the file is missing, is no whole model, or would take far more memory than its size says.
        OSError: the machine refuses to read it or to unpack it.
    """
    import keras

    # The layers of models that were trained with quantization.
    register_with_keras()
    refuse_foreign(path)
    if not path.is_file():
        raise ExportError(f"There is no model file {path}. Expected a .keras file, as tlt-train writes it.")
    if path.suffix not in _MODELS:
        raise ExportError(f"{path}: expected a model whose name ends in {', '.join(_MODELS)}.")
    if path.suffix == ".keras":
        check_archive(path)
    try:
        return keras.models.load_model(path, compile=compiled)
    # Whatever is in the file, the user needs one line.
    except Exception as error:
        reason = machine_error(error)
        if reason is not None:
            raise reason from error
        raise ExportError(
            f"Cannot load {path} as a Keras model: {first_line(error, 150)}. Expected a file that Keras wrote."
        ) from error


def machine_error(error: BaseException) -> OSError | None:
    """The error of the operating system behind a library's, where the disk or the permissions are at fault and not the file."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, OSError) and current.errno in _OF_THE_MACHINE:
            return current
        current = current.__cause__ or current.__context__
    return None


def check_archive(path: pathlib.Path) -> None:
    """Holds the parts of a .keras file against their checksums, before Keras sees it.

    Raises:
        ExportError: it is cut off or damaged, or would take far more memory than its size says.
    """
    # By an open file: by name, one that cannot be read looks like one that is no archive.
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise ExportError(f"{path} is no whole .keras file: it is cut off, or of another format. Copy or train it again.")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(x.file_size for x in archive.infolist())
            _check_size(path, size)
            wrong = archive.testzip()
    # Whatever the damage leads the library to.
    except (ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ExportError(f"{path} is damaged: {first_line(error, 150)}. Copy or train it again.") from error
    if wrong is not None:
        raise ExportError(f"{path} is damaged: {wrong} is not what was written. Copy or train it again.")


def _check_size(path: pathlib.Path, size: int) -> None:
    if size > _LARGEST_RATIO * path.stat().st_size + _LARGEST_EXCESS:
        raise ExportError(f"{path} would unpack to {size:,} bytes. Expected a .keras file, which stores its weights as they are.")
