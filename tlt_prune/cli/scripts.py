"""The entry points of the installed scripts: a signal is heeded from the first moment, before anything is imported that takes
time."""

from __future__ import annotations

import importlib

from tlt_prune.io import interrupt


def _run(name: str) -> None:
    interrupt.install(f"tlt-{name}: error: interrupted.")
    importlib.import_module(f"tlt_prune.cli.{name}").entry()


def train() -> None:
    _run("train")


def prune() -> None:
    _run("prune")


def convert() -> None:
    _run("convert")


def evaluate() -> None:
    _run("evaluate")


def infer() -> None:
    _run("infer")


def export() -> None:
    _run("export")
