"""Reads a YAML file into plain values with their lines, and refuses what a configuration has no use for (threats T43).

Scalars are read as YAML 1.2 does (core schema), so `no`, `on`, `0755`, `12:30` and dates stay text. Refused with their
line: tags, duplicate keys, keys that are not text, aliases that expand beyond a bound, more than one document.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from sidecar.config.places import KeyPath, Layer, Place, write_path
from sidecar.errors import Problem

MOST_BYTES = 1024 * 1024
MOST_VALUES = 20_000
"""Values after all aliases were expanded."""

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9]{1,18}|0o[0-7]{1,20}|0x[0-9a-fA-F]{1,15}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?")


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML's own scanner, parser and composer: nodes only, no constructor that could make an object."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)


for _name, _pattern, _first in (
    ("null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    ("int", re.compile(rf"(?:{_INT.pattern})\Z"), list("-+0123456789")),
    ("float", re.compile(rf"(?:{_FLOAT.pattern})\Z"), list("-+.0123456789")),
    ("merge", re.compile(r"<<\Z"), ["<"]),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", _pattern, _first)


class _TooMuch(Exception):
    """Aliases expanded beyond the bound: the walk ends."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


class _Walk:
    """From nodes to values. A broken part is reported and left out, so that one pass finds every problem."""

    def __init__(self, source: str, folder: Path, problems: list[Problem]) -> None:
        self._source = source
        self._folder = folder
        self._problems = problems
        self._count = 0
        self._open: set[int] = set()
        self.places: dict[KeyPath, Place] = {}

    def report(self, path: KeyPath, line: int | None, message: str, remedy: str) -> None:
        self._problems.append(Problem(write_path(path), message, remedy, line, self._source))

    def value(self, node: yaml.Node, path: KeyPath, line: int) -> Any:
        self._count += 1
        if self._count > MOST_VALUES:
            raise _TooMuch(line, f"expands to more than {MOST_VALUES} values")
        if id(node) in self._open:
            raise _TooMuch(line, "an alias holds itself")
        self.places[path] = Place(self._source, line, self._folder)
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, kind, path, line)
        if kind != ("map" if isinstance(node, yaml.MappingNode) else "seq"):
            self._refuse_tag(node, path, line)
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            return [
                self.value(child, (*path, number), child.start_mark.line + 1) for number, child in enumerate(node.value)
            ]
        finally:
            self._open.discard(id(node))

    def _scalar(self, node: yaml.ScalarNode, kind: str, path: KeyPath, line: int) -> Any:
        text: str = node.value
        if kind == "str":
            return text
        if kind == "merge":
            return text
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in {"true", "false"}:
            return text.lower() == "true"
        if kind == "int" and _INT.fullmatch(text):
            return int(text, 0) if text[:2] in {"0o", "0x"} else int(text)
        if kind in {"int", "float"} and _FLOAT.fullmatch(text):
            return float(text)
        self._refuse_tag(node, path, line)
        return None

    def _refuse_tag(self, node: yaml.Node, path: KeyPath, line: int) -> None:
        tag = node.tag.replace(_TAG, "!!", 1)[:60]
        self.report(path, line, f"the tag {tag} is not allowed", "write the plain value without a tag")

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        merged: dict[str, tuple[yaml.Node, int]] = {}
        own: dict[str, tuple[yaml.Node, int]] = {}
        for key, child in node.value:
            line = key.start_mark.line + 1
            if key.tag == f"{_TAG}merge":
                for name, found in self._merged(child, path, line, set()).items():
                    merged.setdefault(name, found)
            elif not isinstance(key, yaml.ScalarNode) or key.tag != f"{_TAG}str":
                shown = f"{key.value!r:.40}" if isinstance(key, yaml.ScalarNode) else "a list or a map"
                self.report(path, line, f"the key {shown} is not text", "put the key in quotes, or mend its name")
            elif key.value in own:
                first = own[key.value][1]
                self.report(
                    (*path, key.value), line, f"stands here twice, first in line {first}", "keep one of the two"
                )
            else:
                own[key.value] = (child, line)
        return {name: self.value(child, (*path, name), line) for name, (child, line) in {**merged, **own}.items()}

    def _merged(self, node: yaml.Node, path: KeyPath, line: int, seen: set[int]) -> dict[str, tuple[yaml.Node, int]]:
        """The keys that `<<` brings: of a map, or of a list of maps, the earlier one first (YAML merge type)."""
        self._count += 1
        if self._count > MOST_VALUES:
            raise _TooMuch(line, f"expands to more than {MOST_VALUES} values")
        if id(node) in seen or id(node) in self._open:
            raise _TooMuch(line, "an alias holds itself")
        found: dict[str, tuple[yaml.Node, int]] = {}
        if isinstance(node, yaml.SequenceNode):
            for child in node.value:
                for name, pair in self._merged(child, path, line, seen | {id(node)}).items():
                    found.setdefault(name, pair)
        elif isinstance(node, yaml.MappingNode):
            deeper: dict[str, tuple[yaml.Node, int]] = {}
            for key, child in node.value:
                if key.tag == f"{_TAG}merge":
                    deeper = {**self._merged(child, path, line, seen | {id(node)}), **deeper}
                elif isinstance(key, yaml.ScalarNode) and key.tag == f"{_TAG}str":
                    found[key.value] = (child, key.start_mark.line + 1)
            found = {**deeper, **found}
        else:
            self.report(path, line, "<< merges maps only", "name an anchor of a map: <<: *name")
        return found


def read_yaml(raw: bytes, source: str, folder: Path, problems: list[Problem]) -> Layer:
    """The values of a file and their places; whatever is wrong is added to `problems` and left out. `x-…` keys at the top are dropped."""
    walk = _Walk(source, folder, problems)
    empty = Layer({}, {(): Place(source, 1, folder)})
    if len(raw) > MOST_BYTES:
        walk.report((), None, "is larger than 1 MiB", "name a configuration file")
        return empty
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        walk.report((), raw.count(b"\n", 0, error.start) + 1, "is not UTF-8 text", "save the file as UTF-8")
        return empty
    try:
        root = _compose(text)
        tree = walk.value(root, (), 1) if root is not None else None
    except yaml.MarkedYAMLError as error:
        ended = "end of stream" in (error.problem or "")  # what was never closed began elsewhere
        mark = (error.context_mark if ended else None) or error.problem_mark or error.context_mark
        walk.report((), mark.line + 1 if mark else None, *_explain(error, text))
        return empty
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        walk.report(
            (), line, "holds a character that YAML does not allow", "remove it, or write it escaped in double quotes"
        )
        return empty
    except RecursionError:
        walk.report((), None, "is nested too deeply", "write a flatter file")
        return empty
    except _TooMuch as error:
        walk.report((), error.line, error.message, "write the values out, or use fewer aliases")
        return empty
    if tree is None:
        return empty
    if not isinstance(tree, dict):
        walk.report((), 1, "the file is not a map of sections", "begin with a section such as server:")
        return empty
    kept = {key: value for key, value in tree.items() if not key.startswith("x-")}
    return Layer(kept, {path: place for path, place in walk.places.items() if not path or path[0] in kept})


def _compose(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
        return node
    finally:
        # The parser's states are bound methods: this breaks the circle that would keep the text alive.
        loader.state = None


def _explain(error: yaml.MarkedYAMLError, text: str) -> tuple[str, str]:
    problem = error.problem or "cannot be read"
    if "single document" in (error.context or ""):
        return "holds more than one document", "keep one, without --- between parts"
    if "\\t" in problem or "tab" in problem:
        return "a tab stands where YAML wants spaces", "indent with spaces"
    if "undefined alias" in problem:
        return problem, "define the anchor above its use, as &name"
    mark = error.problem_mark
    lines = text.splitlines()
    line = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
    if "${" in line:
        return f"is not valid YAML: {problem}", 'put ${…} in quotes: "${NAME}"'
    remedy = "mend the YAML here: indent evenly with spaces, put text with ': ' or special characters in quotes"
    return f"is not valid YAML: {problem}", remedy
