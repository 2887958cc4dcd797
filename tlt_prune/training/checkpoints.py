"""Checkpoints that know whose they are: what must be equal for a training to go on is inside each file."""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tlt_prune import files
from tlt_prune.errors import TrainingError
from tlt_prune.graph.family import all_layers

_RECORD = "tlt_prune/checkpoint.json"
_STATE = "tlt_prune/random_state.npz"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file.

    Attributes:
        epoch: epochs done.
        finished: nothing is left to train.
        fingerprint: everything that decides what the training computes, by dotted name; None in a file of another program.
    """

    path: pathlib.Path
    epoch: int
    finished: bool
    fingerprint: Mapping[str, Any] | None


class Checkpoints:
    """The numbered .keras files of one training, with the optimizer and the state of random numbers in them.

    Only files named `epoch_*.keras` (and what a killed process left of one) are ever removed.
    """

    def __init__(self, folder: pathlib.Path, fingerprint: Mapping[str, Any]) -> None:
        self._folder = folder
        # Through JSON: what is compared is what can be read back.
        self._fingerprint: dict[str, Any] = json.loads(json.dumps(_flat(fingerprint), sort_keys=True))

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint, whoever's."""
        numbered = self._files()
        return _read(*max(numbered)) if numbered else None

    def to_resume(self, *, restart: bool) -> Checkpoint | None:
        """The newest checkpoint, if it is this training's; None where there is nothing to go on with.

        Raises:
            TrainingError: it is another training's, and `restart` is not given.
        """
        found = self.latest()
        if found is None or restart:
            return None
        if found.fingerprint != self._fingerprint:
            raise TrainingError(
                f"{self._folder} holds the checkpoints of another training: {self._difference(found)}. Choose another folder "
                "(-o), restore the settings to go on with it, or give --restart to delete its checkpoints and start afresh."
            )
        return found

    def clear(self) -> int:
        """Removes all checkpoints; returns how many there were."""
        found = self._files()
        for _, path in found:
            path.unlink()
        return len(found)

    def clean(self) -> None:
        """Removes what a killed process left half written."""
        for path in self._folder.glob(".epoch_*.partial.keras"):
            path.unlink()

    def save(self, model: keras.Model, epochs_done: int, *, finished: bool) -> None:
        newest = self._folder / f"epoch_{epochs_done:03d}.keras"
        record = {"finished": finished, "fingerprint": self._fingerprint}
        state = io.BytesIO()
        np.savez(state, *[keras.ops.convert_to_numpy(v) for v in _random_states(model)])
        with files.whole_file(newest) as partial:
            model.save(partial)
            files.add_to_zip(partial, _RECORD, json.dumps(record).encode())
            files.add_to_zip(partial, _STATE, state.getvalue())
        for _, old in self._files():
            if old != newest:
                old.unlink()

    @staticmethod
    def load(checkpoint: Checkpoint) -> keras.Model:
        """The model, compiled, as it was: weights, optimizer and random numbers."""
        model = keras.models.load_model(checkpoint.path)
        stored = files.read_from_zip(checkpoint.path, _STATE)
        if stored is not None:
            with np.load(io.BytesIO(stored)) as values:
                for variable, name in zip(_random_states(model), values.files, strict=True):
                    variable.assign(values[name])
        return model

    def _files(self) -> list[tuple[int, pathlib.Path]]:
        """(epochs done, file) of every checkpoint."""
        return [(int(m[1]), p) for p in self._folder.glob("epoch_*.keras") if (m := re.fullmatch(r"epoch_(\d+)", p.stem))]

    def _difference(self, found: Checkpoint) -> str:
        if found.fingerprint is None:
            return f"{found.path.name} is not of this version's making"
        keys = sorted(
            key for key in {*found.fingerprint, *self._fingerprint} if found.fingerprint.get(key) != self._fingerprint.get(key)
        )
        texts = [f"{key} was {found.fingerprint.get(key)!r} and is {self._fingerprint.get(key)!r}" for key in keys[:3]]
        return "; ".join(texts) + (f"; and {len(keys) - 3} more" if len(keys) > 3 else "")


def _read(epoch: int, path: pathlib.Path) -> Checkpoint:
    try:
        record = json.loads(files.read_from_zip(path, _RECORD) or b"")
        return Checkpoint(path, epoch, bool(record["finished"]), record["fingerprint"])
    except (ValueError, KeyError, TypeError):
        return Checkpoint(path, epoch, False, None)


def _random_states(model: keras.Model) -> list[Any]:
    """The seeds of dropout and its kin: variables that are no weights."""
    weights = {id(v) for v in model.weights}
    return [v for layer in all_layers(model) if not all_layers(layer) for v in layer.variables if id(v) not in weights]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {f"{prefix}{key}": item}
    return flat
