"""YAML 1.2, read within budgets: a small file takes little time, whatever is in it."""

from __future__ import annotations

import io
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.resolver import VersionedResolver

from tlt_prune.config.texts import MAX_DIGITS, TextError
from tlt_prune.errors import first_line

# Values, aliases counted as the values they stand for; levels of nesting.
MAX_VALUES, MAX_DEPTH = 50_000, 50


def parse_yaml(text: str) -> Any:
    """Values in a YAML 1.2 text: maps, lists, texts, numbers, true, false and null. Dates stay texts.

    Raises:
        TextError: it is not YAML, has a key twice, or is larger than `MAX_VALUES`, `MAX_DEPTH` and `MAX_DIGITS` allow.
    """
    loader: Any = YAML(typ="safe", pure=True)
    loader.Resolver, loader.Composer, loader.Constructor = _Resolver, _Composer, _Constructor
    try:
        return loader.load(text)
    except TextError:
        raise
    except MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise TextError(f"is not valid YAML: {where}{str(error.problem)[:150]}") from error
    # Constructors raise many types: a KeyError for `!!bool abc`, an IndexError for `!!int ""`.
    except Exception as error:
        raise TextError(f"is not valid YAML: {first_line(error, 150)} ({type(error).__name__})") from error


def dump_yaml(data: object) -> str:
    """YAML text of maps, lists, texts, numbers, true, false and null, in their order."""
    dumper: Any = YAML(typ="safe", pure=True)
    dumper.default_flow_style = False
    dumper.sort_base_mapping_type_on_output = False
    stream = io.StringIO()
    dumper.dump(data, stream)
    return stream.getvalue()


class _Resolver(VersionedResolver):
    """YAML 1.2 whatever a %YAML line says, so that one spelling has one meaning."""

    @property
    def processing_version(self) -> tuple[int, int]:
        return 1, 2


class _Composer(Composer):
    """Nodes of a text, counted while they are read; keys are scalars and come once."""

    def __init__(self, loader: YAML | None = None) -> None:
        super().__init__(loader)
        self.warn_double_anchors = False
        self._values = 0
        self._sizes: dict[str, int] = {}

    def compose_node(self, parent: Node | None, index: Node | int | None) -> Node:
        event = self.parser.peek_event()
        line = event.start_mark.line + 1
        if isinstance(event, AliasEvent):
            if event.anchor in self.anchors and event.anchor not in self._sizes:
                raise TextError(f"line {line}: *{event.anchor} is inside what it stands for")
            # Its values count again at each use: nested aliases multiply.
            self._count(self._sizes.get(str(event.anchor), 0), line)
            alias: Node = super().compose_node(parent, index)
            return alias
        before = self._values
        self._count(1, line)
        # A second anchor of this name replaces the first one.
        self._sizes.pop(event.anchor, None)
        if self.depth >= MAX_DEPTH:
            raise TextError(f"line {line}: nested deeper than {MAX_DEPTH}")
        node: Node = super().compose_node(parent, index)
        if event.anchor is not None:
            self._sizes[event.anchor] = self._values - before
        return node

    def compose_mapping_node(self, anchor: str | None) -> MappingNode:
        # Here and not while constructing: there ruamel checks no key of a map that also merges another (`<<: *name`).
        node: MappingNode = super().compose_mapping_node(anchor)
        seen: set[Any] = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                raise TextError(f"line {line}: a key that is no text")
            name = "<<" if str(key.tag).endswith(":merge") else self.loader.constructor.construct_object(key)
            if name in seen:
                raise TextError(f"line {line}: the key {str(name)[:60]!r} is given twice")
            seen.add(name)
        return node

    def _count(self, more: int, line: int) -> None:
        self._values += more
        if self._values > MAX_VALUES:
            raise TextError(f"line {line}: more than {MAX_VALUES:,} values, aliases counted as what they stand for")


class _Constructor(SafeConstructor):
    """Values of nodes: no dates, sets, binary data or objects."""

    def construct_scalar(self, node: Node) -> Any:
        if len(str(node.value)) > MAX_DIGITS and str(node.tag).endswith((":int", ":float")):
            raise TextError(f"line {node.start_mark.line + 1}: a number of {len(node.value):,} digits")
        return super().construct_scalar(node)


_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}
_Constructor.yaml_constructors = {
    **{tag: construct for tag, construct in SafeConstructor.yaml_constructors.items() if tag is None or tag in _PLAIN},
    # 2024-01-31 and = are texts: no setting is a date.
    "tag:yaml.org,2002:timestamp": SafeConstructor.construct_yaml_str,
    "tag:yaml.org,2002:value": SafeConstructor.construct_yaml_str,
}
