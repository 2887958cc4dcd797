"""tools/setup.sh, without a registry."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

OFFLINE = {"PIP_NO_INDEX": "1", "UV_OFFLINE": "1"}


def set_up(environment: pathlib.Path, root: pathlib.Path) -> None:
    """Ends where packages would be installed."""
    settings = OFFLINE | {"UV_CACHE_DIR": str(environment.parent / "none"), "TLT_PRUNE_VENV": str(environment)}
    command = ["bash", str(root / "tools/setup.sh")]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip could not install the packages" in done.stderr


def test_a_folder_with_other_things_keeps_them(tmp_path: pathlib.Path, root: pathlib.Path) -> None:
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment/notes.txt").write_text("mine", "utf-8")
    set_up(tmp_path / "environment", root)
    assert (tmp_path / "environment/notes.txt").read_text("utf-8") == "mine"
    assert (tmp_path / "environment/bin/python").exists()


def test_an_environment_that_is_there_is_kept(tmp_path: pathlib.Path, root: pathlib.Path) -> None:
    """Made again by another Python, it would be neither's: its packages would stay, and its configuration would not."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    before = (environment / "pyvenv.cfg").read_text("utf-8") + "kept = true\n"
    (environment / "pyvenv.cfg").write_text(before, "utf-8")
    # The packages are out of date, and cannot be had.
    set_up(environment, root)
    assert (environment / "pyvenv.cfg").read_text("utf-8") == before
