"""Measures of the code: sizes of files and functions, arguments, types, names that mean two things, imports between rooms.

    python tools/dev/measures.py [--check]

With --check it fails where one of the limits is exceeded, or where a public name means two things.
"""

from __future__ import annotations

import ast
import collections
import pathlib
import statistics
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "tlt_prune"
FILE_LINES, FUNCTION_LINES, ARGUMENTS, ANY_SHARE = 400, 60, 7, 0.10
# What `prune_model` takes, and what a prune in steps is about.
EXEMPT = {"pruning/schedule.py:iterative_prune"}
# One thing in several modules: what every script has, and the same step of different tasks. Rules are called as their operations.
SHARED = {"main", "entry", "train", "evaluate", "infer", "examples", "training_job"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def trees() -> dict[pathlib.Path, ast.Module]:
    """Every module of the package, parsed."""
    return {path: ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def functions(tree: ast.Module) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node


def parameters(function: Function) -> list[ast.arg]:
    """Without self, cls and the starred ones."""
    a = function.args
    named = [x for x in (*a.posonlyargs, *a.args) if x.arg not in ("self", "cls")]
    return [*named, *a.kwonlyargs]


def is_any(argument: ast.arg) -> bool:
    """Whether an annotation is `Any`, or a container of nothing else."""
    text = ast.unparse(argument.annotation) if argument.annotation is not None else "Any"
    return text in ("Any", "list[Any]", "tuple[Any, ...]", "Sequence[Any]", "Mapping[str, Any]", "dict[str, Any]")


def module_level_names(tree: ast.Module) -> Iterator[str]:
    """Public functions and classes that a module defines."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name


def duplicates(modules: dict[pathlib.Path, ast.Module]) -> dict[str, list[str]]:
    """Public names of functions and classes that several modules define, and that are not one thing."""
    homes = collections.defaultdict(list)
    for path, tree in modules.items():
        relative = path.relative_to(PACKAGE)
        for name in module_level_names(tree) if relative.parts[:2] != ("graph", "rules") else ():
            if not name.startswith("_") and name not in SHARED:
                homes[name].append(str(relative))
    return {name: paths for name, paths in sorted(homes.items()) if len(paths) > 1}


def cross_room_imports(modules: dict[pathlib.Path, ast.Module]) -> tuple[int, int]:
    """(imports from another room through its face, all imports from other rooms)."""
    through, total = 0, 0
    for path, tree in modules.items():
        own = path.relative_to(PACKAGE).parts[0]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tlt_prune."):
                target = node.module.split(".")[1:]
                if target[0] != own and (PACKAGE / target[0]).is_dir():
                    total += 1
                    through += (PACKAGE.joinpath(*target)).is_dir()
    return through, total


def main() -> None:
    modules = trees()
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in modules}
    found = [(path, f) for path, tree in modules.items() for f in functions(tree)]
    sizes = sorted((f.end_lineno or f.lineno) - f.lineno + 1 for _, f in found)
    long_files = {str(p.relative_to(ROOT)): n for p, n in lines.items() if n > FILE_LINES}
    long_functions = {
        f"{p.relative_to(PACKAGE)}:{f.name}": f.end_lineno - f.lineno + 1
        for p, f in found
        if f.end_lineno and f.end_lineno - f.lineno + 1 > FUNCTION_LINES
    }
    many = {f"{p.relative_to(PACKAGE)}:{f.name}": len(parameters(f)) for p, f in found if len(parameters(f)) > ARGUMENTS}
    many = {name: count for name, count in many.items() if name not in EXEMPT}
    everything = [x for _, f in found for x in parameters(f)]
    untyped = sum(map(is_any, everything))
    through, total = cross_room_imports(modules)
    print(f"files: {len(modules)}, lines: {sum(lines.values()):,}, longest {max(lines.values())}")
    print(f"files over {FILE_LINES} lines: {len(long_files)} {long_files or ''}")
    quantile = statistics.quantiles(sizes, n=10)[8]
    print(f"functions: {len(sizes)}, lines: median {statistics.median(sizes):.0f}, p90 {quantile:.0f}, longest {sizes[-1]}")
    print(f"functions over {FUNCTION_LINES} lines: {len(long_functions)} {long_functions or ''}")
    print(f"functions of more than {ARGUMENTS} arguments: {len(many)} {many or ''}")
    print(f"parameters annotated with Any: {untyped} of {len(everything)} ({100 * untyped / len(everything):.1f} %)")
    print(f"imports from other rooms through their faces: {through} of {total}")
    twice = duplicates(modules)
    print(f"public names with two meanings: {len(twice)}")
    for name, paths in twice.items():
        print(f"  {name}: {', '.join(paths)}")
    if "--check" in sys.argv and (long_files or long_functions or many or twice or untyped > ANY_SHARE * len(everything)):
        raise SystemExit("A limit is exceeded: see above.")


if __name__ == "__main__":
    main()
