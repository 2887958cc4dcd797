"""tools/setup.sh, without a registry."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys


def test_an_environment_that_is_there_is_kept(tmp_path: pathlib.Path, root: pathlib.Path) -> None:
    """Made again by another Python, it would be neither's: its packages would stay, and its configuration would not."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    before = (environment / "pyvenv.cfg").read_text("utf-8") + "kept = true\n"
    (environment / "pyvenv.cfg").write_text(before, "utf-8")
    # The packages are out of date, and cannot be had.
    offline = {"PIP_NO_INDEX": "1", "UV_OFFLINE": "1", "UV_CACHE_DIR": str(tmp_path / "none")}
    done = subprocess.run(
        ["bash", root / "tools/setup.sh"],
        env=os.environ | offline | {"TLT_PRUNE_VENV": str(environment)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip could not install the packages" in done.stderr
    assert (environment / "pyvenv.cfg").read_text("utf-8") == before
