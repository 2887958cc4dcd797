"""The registry of export formats, by the name that `export.formats` of a spec gives."""

from __future__ import annotations

import abc
import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from tlt_prune.config import EXPORT_FORMATS, Export, Spec, provide
from tlt_prune.export.material import ExportMaterial
from tlt_prune.io import Output

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ExportFormat(abc.ABC):
    """One kind of file that `tlt-export` writes: a file in this folder defines it and registers it by `register_format`.

    This folder is imported when a spec is read, before TensorFlow: import heavy packages inside the methods.

    Attributes:
        name: what `export.formats` calls it.
        suffix: of its file, such as ".onnx"; empty for a folder.
        extra: the extra of this package that brings what it needs; empty for none.
        selectable: whether `export.formats` asks for it by its name; otherwise the key `export.<name>` does.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    extra: ClassVar[str] = ""
    selectable: ClassVar[bool] = True

    @property
    def asked_by(self) -> str:
        """The spec entry that asks for this format, for messages."""
        return f"export.formats: {self.name}" if self.selectable else f"export.{self.name}"

    def path(self, spec: Spec) -> pathlib.Path:
        """Its file or folder. Default: `<results_dir>/export/model<suffix>`."""
        return pathlib.Path(f"{spec.results_dir}/export/model{self.suffix}")

    def applies(self, spec: Spec) -> bool:
        """Whether the spec asks for it."""
        return self.name in spec.export.formats if self.selectable else bool(getattr(spec.export, self.name))

    def outputs(self, spec: Spec) -> list[Output]:
        """All files and folders that it writes, for the check that none replaces an input."""
        return [Output(self.asked_by, self.path(spec), (self.suffix,))]

    @abc.abstractmethod
    def write(self, material: ExportMaterial, samples: NDArray[Any]) -> list[str]:
        """Writes its files.

        Args:
            material: what there is to export.
            samples: inputs of the model, `(n, ...)`, to compare what is written with Keras on.

        Returns:
            Lines that describe what was written, for the user.

        Raises:
            ExportError: the model cannot be written so, or what was written computes something else.
        """

    def finish(self, spec: Spec) -> list[str]:
        """Runs once all files are in their places; returns lines for the user. Default: nothing."""
        return []


DATA_TYPES = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
"""`export.data_type` -> the precision as Keras calls it."""

_EXPORT_FORMATS: dict[str, ExportFormat] = {}

FormatClass = TypeVar("FormatClass", bound=type[ExportFormat])


def register_format(name: str) -> Callable[[FormatClass], FormatClass]:
    """Registers a subclass of `ExportFormat` by a name.

    ```python
    @register_format("weights")
    class Weights(ExportFormat):
        suffix = ".npz"

        def write(self, material, samples):
            path = self.path(material.spec)
            with files.whole_file(path) as partial:
                np.savez(partial, *material.predictor.model.get_weights())
            return [f"Wrote {path}: all weights."]
    ```

    Raises:
        ValueError: the name is taken.
    """

    def register(cls: FormatClass) -> FormatClass:
        if name in _EXPORT_FORMATS:
            raise ValueError(f"An export format {name!r} is already registered: {_EXPORT_FORMATS[name]!r}.")
        cls.name = name
        _EXPORT_FORMATS[name] = cls()
        return cls

    return register


@contextlib.contextmanager
def scoped_formats() -> Iterator[None]:
    """Removes, on leaving, the formats that were registered inside; for tests."""
    before = dict(_EXPORT_FORMATS)
    try:
        yield
    finally:
        _EXPORT_FORMATS.clear()
        _EXPORT_FORMATS.update(before)


def format_names() -> tuple[str, ...]:
    """The names that `export.formats` accepts: those of its default first, the others in alphabetical order."""
    usual: tuple[str, ...] = Export.model_fields["formats"].default
    others = {name for name, each in _EXPORT_FORMATS.items() if each.selectable} - set(usual)
    return (*usual, *sorted(others))


provide(EXPORT_FORMATS, lambda: dict.fromkeys(format_names(), ()))


def formats_of(spec: Spec) -> list[ExportFormat]:
    """The formats that a spec asks for: those of `export.formats` in its order, then those with a separate key."""
    listed = [_EXPORT_FORMATS[name] for name in dict.fromkeys(spec.export.formats)]
    others = [each for each in _EXPORT_FORMATS.values() if not each.selectable]
    return [each for each in (*listed, *others) if each.applies(spec)]
