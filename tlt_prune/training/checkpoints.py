"""Checkpoints of a training. Each file holds the settings that must be equal for a training to continue from it."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import pathlib
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import keras
import numpy as np
from pydantic import Field

from tlt_prune.config import Settings, checked, decoded, json_of
from tlt_prune.errors import ExportError, TrainingError, first_line
from tlt_prune.graph import all_layers
from tlt_prune.io import files, load_keras, workers

_RECORD = "tlt_prune/checkpoint.json"
_STATE = "tlt_prune/random_state.npz"
_METRICS = "tlt_prune/metrics.npz"
_ADVICE = " Delete it, or give --restart to start afresh."


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file.

    Attributes:
        epoch: epochs done.
        step: batches done of the next epoch.
        finished: nothing is left to train.
        fingerprint: everything that decides what the training computes, by dotted name; None in a file of another program.
        history: one row for each finished epoch.
        replicas: copies of the model that the training began with.
        damaged: a line for each newer file that is not whole.
    """

    path: pathlib.Path
    epoch: int
    finished: bool
    fingerprint: Mapping[str, Any] | None
    history: tuple[Mapping[str, Any], ...] = ()
    replicas: int = 1
    step: int = 0
    damaged: tuple[str, ...] = ()


class _Record(Settings):
    """Record inside a checkpoint, beside the model."""

    epoch: Annotated[int, Field(ge=0, lt=2**31)]
    step: Annotated[int, Field(ge=0, lt=2**31)] = 0
    finished: bool
    fingerprint: Mapping[str, Any]
    history: tuple[Mapping[str, float | None], ...]
    members: Mapping[str, Annotated[int, Field(ge=0, lt=2**32)]]
    """CRC-32 of each part of the archive."""
    replicas: Annotated[int, Field(ge=1, lt=2**20)] = 1


class Checkpoints:
    """The numbered .keras files of one training, with the optimizer and the state of random numbers in them.

    Two are kept, so that a damaged one costs no more than the epochs in between. Only files named `epoch_*.keras` are ever
    removed.
    """

    def __init__(self, folder: pathlib.Path, fingerprint: Mapping[str, object]) -> None:
        self._folder = folder
        # Through JSON: what is compared is what can be read back.
        self._fingerprint: dict[str, Any] = json.loads(json.dumps(_flat(fingerprint), sort_keys=True))

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, whoever's; None where there are no files.

        Raises:
            TrainingError: none of them is whole.
        """
        damages: list[TrainingError] = []
        for numbered in sorted(self._files(), reverse=True):
            try:
                checkpoint = _read(*numbered)
            except TrainingError as error:
                damages.append(error)
            else:
                return dataclasses.replace(checkpoint, damaged=tuple(str(x).removesuffix(_ADVICE) for x in damages))
        if damages:
            raise damages[0]
        return None

    def to_resume(self, *, restart: bool) -> Checkpoint | None:
        """The newest checkpoint, if it is this training's; None where there is nothing to go on with.

        Raises:
            TrainingError: it is another training's, and `restart` is not given.
        """
        newest = None if restart else self.latest()
        if newest is None:
            return None
        if newest.fingerprint != self._fingerprint:
            raise TrainingError(
                f"{self._folder} holds the checkpoints of another training: {self._difference(newest)}. Choose another folder "
                "(-o), restore the settings to go on with it, or give --restart to delete its checkpoints and start afresh."
            )
        return newest

    def clear(self) -> int:
        """Removes all checkpoints; returns how many there were. Of several workers, the chief does."""
        checkpoints = self._files() if workers.is_chief() else []
        for _, path in checkpoints:
            path.unlink()
        return len(checkpoints)

    def save(
        self,
        model: keras.Model,
        epochs_done: int,
        *,
        finished: bool,
        history: Sequence[Mapping[Any, Any]] = (),
        step: int = 0,
    ) -> None:
        """Writes a checkpoint, after `step` batches of the next epoch, and removes all others but the one before it; of several
        workers, the chief does, and all must call it."""
        # Each of several replicas has its part of them; what is read is their sum.
        metrics = _arrays(model.metrics_variables) if step else None
        if not workers.is_chief():
            return
        newest = self._folder / f"epoch_{epochs_done:03d}.keras"
        rows = [{str(key): x if math.isfinite(x) else None for key, x in row.items()} for row in history]
        with files.whole_file(newest) as partial:
            model.save(partial)
            files.add_to_zip(partial, _STATE, _arrays(_random_states(model)))
            if metrics is not None:
                files.add_to_zip(partial, _METRICS, metrics)
            with zipfile.ZipFile(partial) as archive:
                members = {x.filename: x.CRC for x in archive.infolist()}
            record = {
                "epoch": epochs_done,
                "step": step,
                "finished": finished,
                "fingerprint": self._fingerprint,
                "history": rows,
                "members": members,
                "replicas": workers.batch_size(1),
            }
            files.add_to_zip(partial, _RECORD, json.dumps(record).encode())
        others = [x for x in self._files() if x[1] != newest]
        kept = max((x for x in others if x[0] < epochs_done), default=None)
        for other in others:
            if other != kept:
                other[1].unlink()

    @staticmethod
    def load(checkpoint: Checkpoint) -> keras.Model:
        """The model, compiled, as it was: weights, optimizer and random numbers.

        Raises:
            TrainingError: the file is damaged.
        """
        try:
            model = load_keras(checkpoint.path, compiled=True)
            _assign(_random_states(model), files.read_from_zip(checkpoint.path, _STATE) or b"")
        # Whatever the damage leads a library to.
        except (ExportError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise _damaged(checkpoint.path, first_line(error, 200)) from error
        return model

    @staticmethod
    def load_metrics(checkpoint: Checkpoint, model: keras.Model) -> None:
        """Puts metrics in the middle of an epoch back, where the checkpoint has them.

        Raises:
            TrainingError: the file is damaged.
        """
        stored = files.read_from_zip(checkpoint.path, _METRICS)
        if stored is not None:
            try:
                _assign(model.metrics_variables, stored)
            except (ValueError, zipfile.BadZipFile) as error:
                raise _damaged(checkpoint.path, first_line(error, 200)) from error

    def _files(self) -> list[tuple[int, pathlib.Path]]:
        """(epochs done, file) of every checkpoint."""
        named = [(re.fullmatch(r"epoch_([0-9]{3,9})", x.stem), x) for x in self._folder.glob("epoch_*.keras") if x.is_file()]
        return [(int(m[1]), x) for m, x in named if m is not None]

    def _difference(self, checkpoint: Checkpoint) -> str:
        if checkpoint.fingerprint is None:
            return f"{checkpoint.path.name} is another program's or another version's"
        theirs, ours = checkpoint.fingerprint, self._fingerprint
        keys = sorted(key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key))
        asked = [key for key in keys if key.split(".")[-1] == "num_epochs"]
        if asked and len(asked) == len(keys):
            before, now = theirs.get(asked[0]), ours.get(asked[0])
            model = self._folder.parent / "model.keras"
            return (
                f"it was asked for {before} epochs and is now asked for {now}, and its learning rate followed from {before}. To "
                f"train on, start a training of the further epochs from {model} in another folder"
            )
        texts = [f"{key} was {theirs.get(key)!r} and is {ours.get(key)!r}" for key in keys[:3]]
        return "; ".join(texts) + (f"; and {len(keys) - 3} more" if len(keys) > 3 else "")


def _read(epoch: int, path: pathlib.Path) -> Checkpoint:
    """Raises TrainingError where a file is damaged."""
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise _damaged(path, "it is cut off, or of another format")
    try:
        content = files.read_from_zip(path, _RECORD)
        if content is None:
            return Checkpoint(path, epoch, False, None)
        data = json_of(decoded(content, "its record"))
        # Of versions before: it is not known whether such a file is whole.
        if "members" not in data and "epoch" not in data:
            return Checkpoint(path, epoch, False, None)
        record = checked(_Record, data, "its record", TrainingError)
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
            members = {x.filename: x.CRC for x in archive.infolist() if x.filename != _RECORD}
    # Whatever the damage leads the library to.
    except (TrainingError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise _damaged(path, first_line(error, 200)) from error
    if wrong is not None or members != dict(record.members):
        changed = wrong or sorted({*members.items()} ^ {*record.members.items()})[0][0]
        raise _damaged(path, f"{changed} is not what was written")
    if record.epoch != epoch:
        raise _damaged(path, f"it is the checkpoint of epoch {record.epoch}, renamed")
    return Checkpoint(path, epoch, record.finished, record.fingerprint, record.history, record.replicas, record.step)


def _damaged(path: pathlib.Path, reason: str) -> TrainingError:
    return TrainingError(f"{path} is damaged: {reason.rstrip('.')}.{_ADVICE}")


def _random_states(model: keras.Model) -> list[Any]:
    """The seeds of dropout and its kin: variables that are no weights."""
    weights = {id(v) for v in model.weights}
    return [v for layer in all_layers(model) if not all_layers(layer) for v in layer.variables if id(v) not in weights]


def _arrays(variables: Sequence[Any]) -> bytes:
    content = io.BytesIO()
    np.savez(content, *[keras.ops.convert_to_numpy(v) for v in variables])
    return content.getvalue()


def _assign(variables: Sequence[Any], content: bytes) -> None:
    with np.load(io.BytesIO(content)) as values:
        for variable, name in zip(variables, values.files, strict=True):
            variable.assign(values[name])


def _flat(value: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {f"{prefix}{key}": item}
    return flat
