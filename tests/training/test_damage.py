"""Checkpoints that something happened to: one line with the true reason, or the same end as without it."""

from __future__ import annotations

import io
import json
import pathlib
import shutil
import zipfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from small_training import run

from tlt_prune.errors import TrainingError


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A training that was stopped after the second of three epochs."""
    folder = tmp_path_factory.mktemp("halfway")

    class Killed(BaseException):
        pass

    def stop(line: str) -> None:
        if line.startswith("epoch 3"):
            raise Killed

    with pytest.raises(Killed):
        run(folder, epochs=3, say=stop)
    assert sorted(x.name for x in (folder / "checkpoints").iterdir()) == ["epoch_001.keras", "epoch_002.keras"]
    return folder


def rewritten(path: pathlib.Path, change: Callable[[str, bytes], bytes | None], *, honest: bool = False) -> None:
    """The archive with members changed or left out; an `honest` record's checksums follow."""
    with zipfile.ZipFile(path) as archive:
        members = {x: archive.read(x) for x in archive.namelist()}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in members.items():
            new = change(name, data)
            if new is not None:
                archive.writestr(name, new)
    path.write_bytes(content.getvalue())


def record(**changes: Any) -> Callable[[pathlib.Path], None]:
    def change(name: str, data: bytes) -> bytes | None:
        return json.dumps({**json.loads(data), **changes}).encode() if name.endswith("checkpoint.json") else data

    return lambda path: rewritten(path, change)


def without(part: str) -> Callable[[pathlib.Path], None]:
    return lambda path: rewritten(path, lambda name, data: None if part in name else data)


def replaced(part: str, by: bytes) -> Callable[[pathlib.Path], None]:
    return lambda path: rewritten(path, lambda name, data: by if part in name else data)


def flipped(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("model.weights.h5").header_offset + 3000
    data[start : start + 8] = bytes(255 - x for x in data[start : start + 8])
    path.write_bytes(bytes(data))


DAMAGES: dict[str, Callable[[pathlib.Path], object]] = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"no zip file"),
    "flipped bytes": flipped,
    "no weights": without("model.weights"),
    "no random state": without("random_state"),
    "other random state": replaced("random_state", b"garbage"),
    "other weights": replaced("model.weights", b"garbage"),
    "other configuration": replaced("config.json", b"[]"),
    "record is a list": replaced("checkpoint.json", b"[]"),
    "record is not UTF-8": replaced("checkpoint.json", b"\xff\xfe"),
    "record is deep": replaced("checkpoint.json", b"[" * 100_000),
    "finished is a text": record(finished="false"),
    "fingerprint is a number": record(fingerprint=3),
    "epoch of another": record(epoch=1),
    "epoch is a half": record(epoch=1.5),
    "history is words": record(history=["x"]),
    "renamed to a later epoch": lambda path: path.rename(path.with_name("epoch_007.keras")),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_told(name: str, halfway: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(halfway, folder)
    (folder / "checkpoints/epoch_001.keras").unlink()
    DAMAGES[name](folder / "checkpoints/epoch_002.keras")
    with pytest.raises(TrainingError) as error:
        run(folder, epochs=3)
    message = str(error.value)
    assert "is damaged: " in message, message
    assert "Delete it, or give --restart" in message
    assert message.isprintable()
    assert len(message) < 700
    assert run(folder, epochs=1, restart=True).epochs == 1


@pytest.mark.parametrize("name", ["cut off", "renamed to a later epoch"])
def test_the_checkpoint_before_a_damaged_one_is_taken(name: str, halfway: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder, said = tmp_path / "run", list[str]()
    shutil.copytree(halfway, folder)
    DAMAGES[name](folder / "checkpoints/epoch_002.keras")
    result = run(folder, epochs=3, say=said.append)
    assert "is damaged: " in said[0]
    assert said[0].endswith(". The checkpoint before it is taken.")
    assert said[1] == "Going on after epoch 1, from the last checkpoint."
    undisturbed = run(tmp_path / "undisturbed", epochs=3)
    for a, b in zip(result.model.get_weights(), undisturbed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert sorted(x.name for x in (folder / "checkpoints").iterdir()) == ["epoch_002.keras", "epoch_003.keras"]


def test_what_the_machine_refuses_is_not_called_damage(
    halfway: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(halfway, folder)

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.models, "load_model", full)
    with pytest.raises(OSError, match="No space left on device"):
        run(folder, epochs=3)


HISTORIES: dict[str, Callable[[pathlib.Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "binary": lambda path: path.write_bytes(b"\x00\xff" * 50),
    "a row short": lambda path: path.write_text("\n".join(path.read_text().splitlines()[:2])),
    "other columns": lambda path: path.write_text("a,b\n1,2\n"),
    "words": lambda path: path.write_text(path.read_text().replace("0.", "x")),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_a_damaged_history_changes_nothing(name: str, halfway: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder, whole = tmp_path / "run", tmp_path / "whole"
    shutil.copytree(halfway, folder)
    shutil.copytree(halfway, whole)
    HISTORIES[name](folder / "history.csv")
    a, b = run(folder, epochs=3), run(whole, epochs=3)
    for x, y in zip(a.model.get_weights(), b.model.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)
    both = [pd.read_csv(x / "history.csv").drop(columns="seconds") for x in (folder, whole)]
    pd.testing.assert_frame_equal(*both)
    assert both[0]["epoch"].tolist() == [1, 2, 3]


def test_the_best_epoch_is_named_only_where_it_was_kept(tmp_path: pathlib.Path) -> None:
    said: list[str] = []
    assert run(tmp_path, epochs=2, keep_best=False).best is None
    again = run(tmp_path, epochs=2, keep_best=True, say=said.append)
    assert again.best is None
    assert any("was not kept" in line for line in said)
