"""What the site shows of the code: spec keys from the settings classes, flags from the scripts, notebooks, the changelog.

A page asks for a generated part with a line `<!-- generated: NAME -->`; see `PARTS`.
"""

from __future__ import annotations

import inspect
import json
import pathlib
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

import nbformat
import pydantic
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from tlt_prune.config import Options, Spec
from tlt_prune.config.explained import meanings, section_of, values, written_fields

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = ("train", "prune", "evaluate", "infer", "export", "convert")
_ALIAS = "Alias for --"
_MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what lies outside of docs/pages."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook_page(path)))
    for name in ("CHANGELOG", "CONTRIBUTING"):
        files.append(File.generated(config, f"{name.lower()}.md", abs_src_path=str(ROOT / f"{name}.md")))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Puts generated parts into the places that ask for them."""
    return _MARK.sub(lambda match: PARTS[match[1]](), markdown)


# Notebooks


def notebook_page(path: pathlib.Path) -> str:
    """A stored notebook with its outputs, as Markdown."""
    notebook = nbformat.read(path, as_version=4)
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        else:
            parts += [_fenced(cell.source, "python"), *(_output(output) for output in cell.outputs)]
    return "\n\n".join(parts) + "\n"


def _output(output: Any) -> str:
    """A picture, a table or a text, whichever is the richest that the cell gave."""
    data = output.get("data", {})
    if "image/png" in data:
        encoded = "".join(data["image/png"].split())
        return f'<img alt="output of the cell above" src="data:image/png;base64,{encoded}">'
    if "text/html" in data:
        html = re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.DOTALL).replace(' class="dataframe"', "")
        # Without empty lines and indents, which Markdown would read.
        return '<div class="scroll">' + "".join(line.strip() for line in html.splitlines()) + "</div>"
    return _fenced(output.get("text") or data.get("text/plain", ""), "text")


def _fenced(text: str, language: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


# Spec keys


def spec_keys() -> str:
    """One table per section of a spec, with type, default and meaning of each key."""
    return "\n\n".join(_section(Spec, ""))


def option_keys() -> str:
    """The table of the options of a prune."""
    return "\n".join(_table(Options, ""))


def _section(kind: type[pydantic.BaseModel], path: str) -> Iterator[str]:
    """A heading, a summary and a table for a class of settings, and then for each of the sections in it."""
    title = f"`{path.removesuffix('.')}`" if path else "Top level"
    summary = inspect.cleandoc(kind.__doc__ or "").split("\n\nAttributes:")[0]
    yield f"## {title}\n\n{summary}\n\n" + "\n".join(_table(kind, path))
    for name, field in written_fields(kind).items():
        inner = section_of(field)
        if inner is not None:
            yield from _section(inner, f"{path}{name}.")


def _table(kind: type[pydantic.BaseModel], path: str) -> Iterator[str]:
    texts = meanings(kind)
    yield "| key | values | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in written_fields(kind).items():
        if section_of(field) is not None:
            heading = f"{path}{name}".replace(".", "")
            cells = [f"[section](#{heading})", "", texts[name]]
        else:
            offered = values(field.annotation, field.metadata)
            # Names in a row, kinds as alternatives.
            joined = (", " if all(x.startswith("`") for x in offered) else " or ").join(offered)
            cells = [joined, f"`{json.dumps(field.get_default(call_default_factory=True))}`", texts[name]]
        yield f"| `{path}{name}` | " + " | ".join(_cell(x) for x in cells) + " |"


def _cell(text: str) -> str:
    return _escaped(text).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Text in which <results_dir> is no tag; between backticks it is none anyway."""
    parts = text.split("`")
    return "`".join(part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(parts))


# Sections of a detection spec


def detection_keys() -> str:
    """One table per message of the toolkit's detection specs."""
    from tlt_prune.detection.explained import key_meanings
    from tlt_prune.detection.messages import message_fields

    order, waiting = [], ["Experiment"]
    while waiting:
        name = waiting.pop(0)
        if name not in order:
            order.append(name)
            waiting += [
                inner
                for field in message_fields(name)
                for inner in (field.get("message"), field.get("value"))
                if inner in key_meanings()
            ]
    return "\n\n".join(f"## {name}\n\n" + "\n".join(_message_table(message_fields(name), key_meanings()[name])) for name in order)


def _message_table(fields: list[dict[str, Any]], meanings: Mapping[str, str]) -> Iterator[str]:
    yield "| key | values | meaning |"
    yield "|---|---|---|"
    for field in fields:
        kind = field["type"]
        if "message" in field and field["message"] != kind:
            kind = f"`{field['message']}`"
        if kind == "enum":
            kind = ", ".join(f"`{x}`" for x in field["values"])
        if field["type"] == "map":
            kind = f"map of {field['key']} to `{field['value']}`"
        repeated = ", repeated" if field.get("repeated") else ""
        yield f"| `{field['name']}` | {kind}{repeated} | {_cell(meanings[field['name']])} |"


# Flags


def flags() -> str:
    """What each script says with `--help`, as tables."""
    return "\n\n".join(_script(name) for name in SCRIPTS)


def _script(name: str) -> str:
    command = [sys.executable, "-m", f"tlt_prune.cli.{name}", "--helpxml"]
    xml = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False).stdout
    tree = ElementTree.fromstring(xml)
    head, *rest = inspect.cleandoc(tree.findtext("usage") or "").split("\n\n")
    rows = [f"## tlt-{name}", _escaped(head), *map(_paragraph, rest), "| flag | values | meaning |\n|---|---|---|"]
    flags_of_script = [flag for flag in tree.iter("flag") if flag.findtext("key") == "yes"]
    aliases = {
        str(flag.findtext("meaning")).removeprefix(_ALIAS).rstrip("."): flag.findtext("name")
        for flag in flags_of_script
        if str(flag.findtext("meaning")).startswith(_ALIAS)
    }
    for flag in flags_of_script:
        if not str(flag.findtext("meaning")).startswith(_ALIAS):
            rows[-1] += "\n" + _flag(flag, aliases.get(flag.findtext("name") or ""))
    return "\n\n".join(rows)


def _paragraph(text: str) -> str:
    """A paragraph of a script's help: examples are indented there."""
    is_example = all(line.startswith("  ") for line in text.splitlines())
    return _fenced(textwrap.dedent(text), "bash") if is_example else _escaped(text)


def _flag(flag: ElementTree.Element, alias: str | None) -> str:
    long, short = flag.findtext("name"), flag.findtext("short_name") or alias
    kind = flag.findtext("type") or ""
    choices = [f"`{x.text}`" for x in flag.iter("enum_value")]
    meaning = " ".join((flag.findtext("meaning") or "").split())
    meaning = re.sub(r"^<[^>]*>: ?|; ?repeat this option to specify a list of values$", "", meaning)
    kinds = {"bool": "", "multi string": "text, repeatable", "string": "text", "int": "whole number", "float": "number"}
    taken = ", ".join(choices) or kinds.get(kind, kind)
    names = f"`--{long}`" + (f", `-{short}`" if short else "")
    return f"| {names} | {_cell(taken)} | {_cell(meaning)} |"


PARTS: dict[str, Callable[[], str]] = {
    "spec_keys": spec_keys,
    "option_keys": option_keys,
    "detection_keys": detection_keys,
    "flags": flags,
}
