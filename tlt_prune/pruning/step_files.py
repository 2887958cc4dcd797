"""The files of a prune in steps: which steps were done, of what, and the models after them."""

from __future__ import annotations

import json
import pathlib
import warnings
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import Field

from tlt_prune.config import Options, Settings, checked, read_json
from tlt_prune.errors import DataError, PlanError, first_line
from tlt_prune.graph import Family, KerasModel
from tlt_prune.io import checksums, files


def refuse_what_cannot_be_loaded(model: KerasModel, family: Family) -> None:
    """Raises a PlanError for a model whose saved steps could not be read again, before hours of training."""
    saving = family.namespace().saving
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            saving.deserialize_keras_object(saving.serialize_keras_object(model))
    # A layer of the user's own may raise anything.
    except Exception as error:
        raise PlanError(
            f"iterative_prune: '{model.name}' could not be loaded from `folder` to go on after an interruption: "
            f"{first_line(error, 200)} Expected layers that Keras can load, custom ones decorated with "
            "@keras.saving.register_keras_serializable(). Without folder= it is pruned all the same."
        ) from error


def checksum_of_steps(model: KerasModel, options: Options, steps: int, schedule: str, overrides: Mapping[str, Any] | None) -> str:
    """Checksum of all that decides the steps in a folder."""
    settings = {k: v for k, v in options.model_dump(mode="python").items() if k != "criterion"}
    settings["criterion"] = options.criterion if isinstance(options.criterion, str) else type(options.criterion).__name__
    deciding = [settings, steps, schedule, *([dict(overrides)] if overrides else [])]
    return checksums.of_settings(deciding, *(x.tobytes() for x in model.get_weights()))


class StepRecord:
    """The steps that were done, and what they belong to, in a file.

    Args:
        path: the file.
        of: what decides the steps, as text that is equal for equal things.
        otherwise: raised where the file belongs to something else.

    Raises:
        PlanError: the file is damaged.
    """

    def __init__(self, path: pathlib.Path, of: str, otherwise: Exception) -> None:
        self._path, self._of = path, of
        record = _read_record(path) if path.exists() else _RecordFile(of=of)
        if record.of != of:
            raise otherwise
        self._digests = list(record.steps)

    @property
    def count(self) -> int:
        """Steps that were done once."""
        return len(self._digests)

    def intact(self, file_of: Callable[[int], pathlib.Path]) -> int:
        """Number of the last step up to which all files are what was written."""
        for step, digest in enumerate(self._digests, start=1):
            if not file_of(step).is_file() or checksums.of_file(file_of(step)) != digest:
                return step - 1
        return self.count

    def done(self, step: int, file: pathlib.Path) -> None:
        """Notes a step and the file that it wrote; what came after it belongs to it no longer."""
        self._digests = [*self._digests[: step - 1], checksums.of_file(file)]
        files.write_text(self._path, json.dumps({"of": self._of, "steps": self._digests}))


class _RecordFile(Settings):
    of: str
    steps: tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...] = ()
    """SHA-256 of the file of each step."""


def _read_record(path: pathlib.Path) -> _RecordFile:
    try:
        return checked(_RecordFile, read_json(path, "the record of a prune in steps"), str(path), PlanError)
    except (DataError, PlanError) as error:
        raise PlanError(f"The record of the steps is damaged: {error} Delete {path.parent} to start afresh.") from error


class SavedSteps:
    """The models after each step, in a folder."""

    def __init__(self, folder: pathlib.Path, identity: str, family: Family) -> None:
        self._folder, self._family = folder, family
        files.output_folder(folder)
        otherwise = PlanError(
            f"{folder} holds the steps of another model or with other arguments. Expected another folder, or an empty one."
        )
        self._record = StepRecord(folder / "steps.json", identity, otherwise)

    def latest(self) -> tuple[Any, int] | None:
        """(the model after the last step that is there, the number of the next)."""
        step = self._record.intact(self._file)
        if step < self._record.count:
            raise PlanError(
                f"{self._file(step + 1)} is damaged, or not what step {step + 1} wrote. Delete {self._folder} to start afresh."
            )
        return (self._family.namespace().models.load_model(self._file(step)), step + 1) if step else None

    def save(self, model: KerasModel, step: int) -> None:
        with files.whole_file(self._file(step)) as partial:
            model.save(partial)
        self._record.done(step, self._file(step))

    def _file(self, step: int) -> pathlib.Path:
        return self._folder / f"step_{step}.keras"
