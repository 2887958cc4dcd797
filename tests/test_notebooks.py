"""Every notebook runs from top to bottom, and is stored with what it shows."""

from __future__ import annotations

import pathlib
import re

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((pathlib.Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
# Paths of a machine, terminal codes, logs of libraries.
NOISE = re.compile(r"(?<![\w.])/(home|root|tmp|usr|Users|work)/|\x1b\[|\x08|WARNING|Traceback")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook(path: pathlib.Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    # Stored is what all epochs lead to; that every cell runs, a few show. The last cell of the first asks what a network that was
    # trained with weight decay, for all its epochs, leads to.
    fewer = re.compile(r"^(?!decayed)(.*\bepochs=)(\d+)", re.MULTILINE)
    share = 3 if path.stem == "01_train_prune_retrain" else 6
    for cell in notebook.cells:
        cell.source = fewer.sub(lambda found: f"{found[1]}{max(1, int(found[2]) // share)}", cell.source)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    errors = [o for c in notebook.cells for o in c.get("outputs", []) if o.get("output_type") == "error"]
    assert not errors


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_are_stored(path: pathlib.Path) -> None:
    """`tools/dev/store_notebooks.py` stores them; the documentation shows them."""
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    counts = [cell.execution_count for cell in code]
    assert counts == list(range(1, len(code) + 1)), "run from top to bottom in one go"
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1
    assert len(outputs) >= len(code) / 2
    shown = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    assert [text for text in shown if NOISE.search(text)] == []
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
