"""The documentation builds without a warning, leads nowhere into the void, and names all there is."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import os
import pathlib
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from html.parser import HTMLParser

import nbformat
import pydantic
import pytest
import yaml

import tlt_prune
from tlt_prune import config

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs/pages"
QUICK_START = PAGES / "quickstart.md"
pytest.importorskip("mkdocs")


class Page(HTMLParser):
    """What a page leads to, what can be led to in it, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attributes}
        self.anchors |= {given[key] for key in ("id", "name") if key in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in ("img", "script", "source", "iframe") and "src" in given:
            self.loaded.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preconnect", "preload"):
            self.loaded.append(given["href"])


Pages = dict[pathlib.Path, Page]


def test_the_site(tmp_path: pathlib.Path) -> None:
    # One test: a build takes a quarter of a minute, and parallel workers would each make their own.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(ROOT / "docs/mkdocs.yml"), "-d", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING -" not in done.stderr
    pages = {path: Page(path.read_text("utf-8")) for path in sorted(tmp_path.rglob("*.html"))}
    every_page_of_the_navigation_is_there(tmp_path)
    no_link_or_picture_is_dead(tmp_path, pages)
    nothing_is_loaded_from_the_network(pages)
    every_public_name_is_in_the_reference(pages)
    every_key_of_a_spec_is_in_the_reference(tmp_path)
    every_script_has_its_flags(tmp_path)


def of_nav(entry: object) -> Iterator[str]:
    match entry:
        case str():
            yield entry
        case list():
            for each in entry:
                yield from of_nav(each)
        case dict():
            for each in entry.values():
                yield from of_nav(each)


def every_page_of_the_navigation_is_there(site: pathlib.Path) -> None:
    named = list(of_nav(yaml.safe_load((ROOT / "docs/mkdocs.yml").read_text("utf-8"))["nav"]))
    assert len(named) == len(set(named)) > 40
    assert [name for name in named if not (site / name).with_suffix(".html").is_file()] == []
    written = {str(path.relative_to(PAGES)) for path in PAGES.rglob("*.md")}
    assert written <= set(named)


def no_link_or_picture_is_dead(site: pathlib.Path, pages: Pages) -> None:
    dead = []
    for path, page in pages.items():
        # A server shows 404.html in any place; its links are absolute.
        for target in () if path.name == "404.html" else (*page.links, *page.loaded):
            url = urllib.parse.urlparse(target)
            if url.scheme in ("http", "https", "data", "mailto"):
                continue
            file = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
            if not file.is_file() or (url.fragment and urllib.parse.unquote(url.fragment) not in pages[file].anchors):
                dead.append(f"{path.relative_to(site)} -> {target}")
    assert dead == []


def nothing_is_loaded_from_the_network(pages: Pages) -> None:
    assert [x for page in pages.values() for x in page.loaded if x.startswith(("http:", "https:", "//"))] == []


def every_public_name_is_in_the_reference(pages: Pages) -> None:
    anchors = {anchor for path, page in pages.items() if path.parent.name == "reference" for anchor in page.anchors}
    assert [name for name in tlt_prune.__all__ if f"tlt_prune.{name}" not in anchors] == []
    for name in ("criteria", "errors", "export", "models", "quantization", "training"):
        module = getattr(tlt_prune, name)
        inner = [x for x in getattr(module, "__all__", ()) if inspect.isclass(y := getattr(module, x)) or inspect.isfunction(y)]
        assert [x for x in inner if f"tlt_prune.{name}.{x}" not in anchors] == []


def keys(kind: type[pydantic.BaseModel], path: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        if name != "ignored":
            yield f"{path}{name}"
            if isinstance(field.annotation, type) and issubclass(field.annotation, pydantic.BaseModel):
                yield from keys(field.annotation, f"{path}{name}.")


def every_key_of_a_spec_is_in_the_reference(site: pathlib.Path) -> None:
    text = (site / "reference/spec.html").read_text("utf-8")
    every = list(keys(config.Spec))
    assert len(every) > 100
    assert [key for key in every if f"<code>{key}</code>" not in text] == []
    # Its meaning is the last cell of its row.
    assert re.findall(r"<tr>\s*<td><code>([^<]+)</code></td>(?:\s*<td>.*?</td>)*?\s*<td></td>\s*</tr>", text) == []
    options = (site / "reference/pruning.html").read_text("utf-8")
    assert [key for key in config.Options.model_fields if f"<code>{key}</code>" not in options] == []


def every_script_has_its_flags(site: pathlib.Path) -> None:
    text = (site / "reference/flags.html").read_text("utf-8")
    for script in ("train", "prune", "evaluate", "infer", "export", "convert"):
        section = text.partition(f'id="tlt-{script}"')[2].partition("<h2")[0]
        assert "<code>--experiment_spec_file</code>, <code>-e</code>" in section
        assert section.count("<tr>") >= 8


def test_the_front_page_is_short_and_leads_somewhere() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 150
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text)]
    assert len(targets) >= 6
    assert [target for target in targets if not (ROOT / target).is_file()] == []


def python_blocks() -> Iterator[tuple[pathlib.Path, ast.Module]]:
    for path in [ROOT / "README.md", *PAGES.rglob("*.md")]:
        for indent, block in re.findall(r"^( *)```python\n(.*?)^ *```", path.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            yield path, ast.parse(re.sub(f"^{indent}", "", block, flags=re.MULTILINE), str(path))
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        yield path, ast.parse("\n".join(code), str(path))


def exists(dotted: str) -> bool:
    """Whether `tlt_prune.a.b` is a module or a name in one."""
    found: object = tlt_prune
    for i, part in enumerate(dotted.split(".")[1:], 2):
        try:
            found = getattr(found, part)
        except AttributeError:
            try:
                found = importlib.import_module(".".join(dotted.split(".")[:i]))
            except ModuleNotFoundError:
                return False
    return True


def names_in(tree: ast.Module) -> Iterator[str]:
    """Names of this package in a program: imported ones, and attributes of imported modules."""
    rooms = {name: f"tlt_prune.{name}" for name in ("criteria", "export", "models", "quantization")}
    modules = {"tlt_prune": "tlt_prune", **rooms}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("tlt_prune"):
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
                with contextlib.suppress(ModuleNotFoundError):
                    modules[alias.name] = importlib.import_module(f"{node.module}.{alias.name}").__name__
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root, _, rest = ast.unparse(node).partition(".")
            if root in modules and re.fullmatch(r"[\w.]+", rest):
                yield f"{modules[root]}.{rest}"


def test_every_name_on_a_page_and_in_a_notebook_exists() -> None:
    named = {(path.name, name) for path, tree in python_blocks() for name in names_in(tree)}
    for path in [ROOT / "README.md", *PAGES.rglob("*.md")]:
        named |= {(path.name, name) for name in re.findall(r"\btlt_prune(?:\.[A-Za-z]\w*)+", path.read_text("utf-8"))}
    assert len(named) > 100
    assert sorted(x for x in named if not exists(x[1])) == []


def test_every_spec_key_on_a_page_exists() -> None:
    every = set(keys(config.Spec))
    # Calls such as `model.fit(...)` and files such as `model.onnx` are no keys.
    pattern = re.compile(r"`(?:--set )?((?:dataset|model|train|evaluate|prune|inference|export)\.[a-z0-9_.]+)(?![a-z0-9_.(])")
    named = set()
    for path in [ROOT / "README.md", *PAGES.rglob("*.md")]:
        found = pattern.findall(path.read_text("utf-8"))
        named |= {(path.name, key) for key in found if not key.endswith((".json", ".keras", ".onnx"))}
    assert len(named) > 15
    assert sorted(x for x in named if x[1] not in every | {"model.fit"} and not exists(f"tlt_prune.{x[1]}")) == []


def test_the_quick_start_runs(tmp_path: pathlib.Path) -> None:
    text = QUICK_START.read_text("utf-8")
    code = "".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    scores = {name: float(value) for name, value in re.findall(r"^([\w ]+): (0\.\d+)$", done.stdout, re.MULTILINE)}
    assert scores["dense"] > 0.9
    assert scores["cut and refitted"] > scores["cut alone"] + 0.5
    assert scores["retrained"] > scores["dense"] - 0.03
    # What follows from the architecture alone stands on the page as it is printed.
    assert done.stdout.count("digits: channels 266 -> 130") == 1
    (summary,) = [line for line in done.stdout.splitlines() if line.startswith("digits: channels")]
    assert summary in text.splitlines()
    assert (tmp_path / "pruned.onnx").is_file()
