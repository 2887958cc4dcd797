"""Arguments of decorators, read from source files: names are known before the files, and a framework, are imported."""

from __future__ import annotations

import ast
import importlib.util
import pathlib
from collections.abc import Iterator
from typing import Any


def literal_arguments(package: str, decorator: str) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """Positional and keyword arguments of each use of a decorator in the files of a package, in the order of their names.

    Args:
        package: dotted name; its files are parsed and not imported.
        decorator: as the files write it, such as "CRITERIA.register". Its arguments are literals.

    Raises:
        ValueError: an argument is no literal.
    """
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for file in sorted(pathlib.Path(folder).glob("*.py")):
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                for call in node.decorator_list if isinstance(node, (ast.ClassDef, ast.FunctionDef)) else ():
                    if isinstance(call, ast.Call) and ast.unparse(call.func) == decorator:
                        keywords = {x.arg: ast.literal_eval(x.value) for x in call.keywords if x.arg is not None}
                        yield [ast.literal_eval(x) for x in call.args], keywords
