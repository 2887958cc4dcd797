"""The record that travels with a model: class names, and the preprocessing that turns pictures into its input.

Whoever scores a model must feed it what it was trained on; a spec that says otherwise is an error, and one that says nothing
gets the model's. In a .keras file this is one more member of the archive (Keras ignores it), in an ONNX file a metadata
property, in a SavedModel a file beside the graph.
"""

from __future__ import annotations

import pathlib
from importlib import metadata
from typing import Any, Literal, TypeVar

from tlt_prune.config import Settings, Spec, TextError, checked, decoded, json_of, shown
from tlt_prune.errors import SpecError, first_line
from tlt_prune.io import checksums, files
from tlt_prune.version import VERSION

S = TypeVar("S", bound=Settings)
_MEMBER = "tlt_prune/model.json"
ONNX_KEY = "tlt_prune"
SAVED_MODEL_FILE = "tlt_prune.json"


class Head(Settings):
    """An output of a model with several tasks."""

    task: str
    """Its name."""
    classes: tuple[str, ...]
    """Class names, in the order of the probabilities."""


class ModelInfo(Settings):
    """The record of a model. Its fields have the names of the spec's keys."""

    version: str = VERSION
    """Of the package that trained it."""
    versions: tuple[str, ...] = ()
    """Of the packages that trained it, as "keras 3.15.1"."""
    pruning: tuple[str, ...] = ()
    """Summaries of the prunes it went through, one line each."""
    unpruned: str = ""
    """The file that the first of them pruned, as it was named."""
    unpruned_checksum: str = ""
    """Of that file."""
    classes: tuple[str, ...]
    """Class names, in the order of the outputs."""
    heads: tuple[Head, ...] = ()
    """Of a model with an output for each of several tasks, in their order."""
    preprocess_mode: Literal["unit", "torch", "tf", "caffe"]
    image_mean: tuple[float, ...]
    input_image_depth: Literal[8, 16]
    enable_center_crop: bool
    resize_interpolation_method: str
    ignore_exif_orientation: bool = False

    @property
    def tasks(self) -> dict[str, tuple[str, ...]]:
        """Task -> its classes, of a model with several tasks."""
        return {x.task: x.classes for x in self.heads}


# Where a spec says what a model knows: field -> (section path, key).
_KEYS = {
    "preprocess_mode": ("dataset", "preprocess_mode"),
    "image_mean": ("dataset", "image_mean"),
    "input_image_depth": ("model", "input_image_depth"),
    "enable_center_crop": ("dataset.augmentation", "enable_center_crop"),
    "ignore_exif_orientation": ("dataset", "ignore_exif_orientation"),
    "resize_interpolation_method": ("model", "resize_interpolation_method"),
}


def of_spec(spec: Spec, classes: tuple[str, ...], start: ModelInfo | None = None) -> ModelInfo:
    """The record of a model that is trained by `spec`; `start` is the record of the model that the training starts from."""
    values = {field: getattr(_section(spec, path), key) for field, (path, key) in _KEYS.items()}
    return ModelInfo(classes=tuple(str(x) for x in classes), versions=versions(), **values, **of_prunes(start))


def of_prunes(start: ModelInfo | None) -> dict[str, Any]:
    """The fields about prunes, for the record of a model whose training starts from another."""
    return {} if start is None else {x: getattr(start, x) for x in ("pruning", "unpruned", "unpruned_checksum")}


def versions() -> tuple[str, ...]:
    """Of the packages that a model is trained with."""
    return tuple(f"{name} {metadata.version(name)}" for name in ("keras", "tensorflow"))


def pruned(info: ModelInfo | None, summary: str, source: pathlib.Path) -> ModelInfo | None:
    """With one more prune, of the file `source`."""
    if info is None:
        return None
    first = {} if info.pruning else {"unpruned": str(source), "unpruned_checksum": checksums.of_file(source)}
    return info.model_copy(update={"pruning": (*info.pruning, summary), **first})


def unpruned_file(info: ModelInfo | None) -> pathlib.Path | None:
    """The file that was pruned; None where it is not known, not there any more, or another one now."""
    if info is None or not info.unpruned:
        return None
    path = pathlib.Path(info.unpruned)
    return path if path.is_file() and checksums.of_file(path) == info.unpruned_checksum else None


def agreed(spec: Spec, info: ModelInfo | None, source: str) -> Spec:
    """`spec` with what the model knows in the place of defaults.

    Raises:
        SpecError: the spec says otherwise than the model.
    """
    if info is None:
        return spec
    for field, (path, key) in _KEYS.items():
        known = getattr(info, field)
        said = getattr(_section(spec, path), key)
        # Means are subtracted in one mode only.
        matters = field != "image_mean" or info.preprocess_mode == "caffe"
        if key in _section(spec, path).model_fields_set and said != known and matters:
            raise disagreement(f"{path}.{key}", said, f"{source} was trained with {known!r}")
        spec = _with(spec, path.split("."), key, known)
    count = spec.dataset.num_classes
    if count and count != len(info.classes):
        raise SpecError(f"dataset.num_classes: the spec says {count}, but {source} has {len(info.classes)} classes.")
    return spec


def disagreement(key: str, said: object, instead: str) -> SpecError:
    """The error where a spec says otherwise than the model."""
    return SpecError(
        f"{key}: the spec says {said!r}, but {instead}. Expected them to agree: leave the key out, and the model's own is used."
    )


def classes_of(info: ModelInfo | None, classes: tuple[str, ...], outputs: int, source: str) -> tuple[str, ...]:
    """The classes of a model's outputs, in their order: its own, or those of a dataset where it knows none.

    Raises:
        SpecError: it knows none, and the dataset has another number.
    """
    if info is not None:
        return info.classes
    if len(classes) != outputs:
        raise SpecError(
            f"The dataset has {len(classes)} classes ({_shown(classes)}), but {source} has {outputs} outputs. "
            "Expected the classes of its training."
        )
    return classes


def write(path: pathlib.Path, info: ModelInfo) -> None:
    """Adds it to a .keras file."""
    files.add_to_zip(path, _MEMBER, info.model_dump_json(indent=1).encode())


def read_info(path: pathlib.Path) -> ModelInfo | None:
    """The record in a .keras file; None for a file of another program.

    Raises:
        SpecError: it is damaged.
    """
    try:
        return parse(files.read_from_zip(path, _MEMBER), str(path))
    except ValueError as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"{path} is damaged: {first_line(error, 150)}. Train or export the model again.") from error


def parse(text: bytes | str | None, source: str) -> ModelInfo | None:
    """From JSON; None where there is none. What a later version added is left aside.

    Raises:
        SpecError: it is damaged: guessing how pictures are preprocessed would be worse.
    """
    if text is None:
        return None
    try:
        data = json_of(text if isinstance(text, str) else decoded(text, source))
        known = {key: value for key, value in data.items() if key in ModelInfo.model_fields}
        info = checked(ModelInfo, known, "it", SpecError)
        if not info.classes or len(set(info.classes)) < len(info.classes):
            raise SpecError("classes: expected different names, one at least")
        return info
    except (TextError, SpecError) as error:
        raise SpecError(
            f"{source} holds a record of its classes and preprocessing that cannot be read: {first_line(error, 150)}. "
            "Expected one that tlt-train wrote; train or export the model again."
        ) from error


def _section(spec: Spec, path: str) -> Any:
    section: Any = spec
    for name in path.split("."):
        section = getattr(section, name)
    return section


def _with(section: S, path: list[str], key: str, value: object) -> S:
    if not path:
        return section.model_copy(update={key: value})
    return section.model_copy(update={path[0]: _with(getattr(section, path[0]), path[1:], key, value)})


def _shown(names: tuple[str, ...] | None) -> str:
    return ", ".join(shown(x) for x in (names or ())[:5]) + (", ..." if len(names or ()) > 5 else "")
