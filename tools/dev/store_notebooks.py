#!/usr/bin/env python3
"""Executes notebooks and stores them with their outputs, as the documentation shows them.

    python tools/dev/store_notebooks.py [NOTEBOOK ...]          default: all of notebooks/, one to three minutes each

What libraries write to stderr is printed here and not stored, nor are progress bars.
"""

from __future__ import annotations

import pathlib
import re
import sys

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

# "Least squares on 1,000 examples in 16 batches"
_HEADING = re.compile(r" on [\d,]+ .*(examples|pictures)\b")
NOTEBOOKS = pathlib.Path(__file__).resolve().parents[2] / "notebooks"


def store(path: pathlib.Path) -> None:
    """Executes one notebook in its folder and overwrites it.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails; the file stays as it is.
    """
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", record_timing=False, resources=resources).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = tidy(cell.outputs)
    # The exact Python is left out: it says nothing about the notebook and changes with every machine.
    notebook.metadata.language_info = {"name": "python"}
    nbformat.write(notebook, path)


def tidy(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs without stderr and progress bars, what was printed in a row as one."""
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.get("name") == "stderr":
            print(output.text, end="", file=sys.stderr)
        elif output.output_type == "stream" and kept and kept[-1].output_type == "stream":
            kept[-1].text += output.text
        else:
            kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            output.text = _without_noise(output.text)
    return [output for output in kept if output.get("text") != ""]


def _without_noise(text: str) -> str:
    """Text without progress bars, their headings when they come again, and what TensorFlow logs."""
    lines: list[str] = []
    for line in text.split("\n"):
        is_noise = "\r" in line or "\b" in line or line.startswith("WARNING:tensorflow")
        if not is_noise and not (_HEADING.search(line) and line in lines):
            lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    for path in [pathlib.Path(x).resolve() for x in sys.argv[1:]] or sorted(NOTEBOOKS.glob("*.ipynb")):
        print(path.name, flush=True)
        store(path)
