"""A guard: only these Tiptap nodes, marks and kinds of link get into drafts and messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, Field

from sidecar import Document, Refused, hookimpl

_FIT = re.compile(r"[A-Za-z0-9_-]{1,40}\Z")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
# What a browser takes out of a URL before it reads the scheme: C0 controls and blanks at its ends, tabs and newlines anywhere
# (WHATWG URL, basic URL parser, steps 1 to 3). We take out more: all of them, anywhere.
_IGNORED = dict.fromkeys(range(0x21))
_URL_ATTRIBUTES = frozenset({"href", "src", "xlink:href", "action", "formaction", "poster", "cite"})


class AllowedNodes:
    """Refuses what is not allowed, and names its type. `grants: [plaintext]` is needed: it reads documents."""

    api = 1

    class Options(BaseModel, extra="forbid"):
        nodes: list[str] | None = None
        """Node types that may occur, besides `doc` and `text`; null allows any."""
        marks: list[str] | None = None
        """Mark types that may occur; null allows any."""
        links: list[str] | None = Field(default=["http", "https", "mailto"])
        """URL schemes that may stand in `href`, `src` and the like, in nodes and marks; null allows any. A URL without a scheme
        passes; one that begins with `//` or `\\\\` counts as https."""

    def __init__(self, options: Options) -> None:
        self._nodes = None if options.nodes is None else frozenset({"doc", "text", *options.nodes})
        self._marks = None if options.marks is None else frozenset(options.marks)
        self._links = None if options.links is None else frozenset(each.lower().rstrip(":") for each in options.links)

    @hookimpl
    async def before_draft(self, plaintext: Document) -> None:
        self._check(plaintext)

    @hookimpl
    async def before_message(self, plaintext: Document) -> None:
        self._check(plaintext)

    def _check(self, plaintext: Document) -> None:
        # A list of what is still to be looked at, not recursion: the depth is the author's to choose.
        todo: list[Any] = [plaintext.tree()]
        while todo:
            node = todo.pop()
            if node.__class__ is not dict:
                raise Refused("a node is a JSON object")
            kind = node.get("type")
            if self._nodes is not None and not (isinstance(kind, str) and kind in self._nodes):
                raise Refused(f"node type {_fit(kind)} is not allowed")
            marks = _list(node, "marks")
            for mark in marks:
                self._check_mark(mark)
            if self._links is not None:
                for url in _urls([node.get("attrs"), *(mark.get("attrs") for mark in marks)]):
                    self._check_url(url)
            todo += _list(node, "content")

    def _check_mark(self, mark: Any) -> None:
        if mark.__class__ is not dict:
            raise Refused("a mark is a JSON object")
        kind = mark.get("type")
        if self._marks is not None and not (isinstance(kind, str) and kind in self._marks):
            raise Refused(f"mark type {_fit(kind)} is not allowed")

    def _check_url(self, url: str) -> None:
        assert self._links is not None  # noqa: S101 - asked before
        bare = url.translate(_IGNORED)
        found = _SCHEME.match(bare)
        if found:
            scheme = found[1].lower()
        elif bare.startswith(("//", "\\\\", "/\\", "\\/")):
            scheme = "https"
        else:
            return
        if scheme not in self._links:
            raise Refused(f"links to {_fit(scheme)}: are not allowed")


def _fit(word: object) -> str:
    """A type's name is no content, but an author may write anything there."""
    return word[:40] if isinstance(word, str) and _FIT.match(word[:40]) else "unknown"


def _list(node: dict[str, Any], key: str) -> list[Any]:
    value = node.get(key)
    if value is None:
        return []
    if value.__class__ is not list:
        raise Refused(f"the {key} of a node are a list")
    return value


def _urls(values: list[Any]) -> Iterator[str]:
    """Every URL in these attributes, however deep."""
    while values:
        value = values.pop()
        if value.__class__ is dict:
            for key, each in value.items():
                if isinstance(each, str):
                    if key.lower() in _URL_ATTRIBUTES:
                        yield each
                elif each.__class__ is dict or each.__class__ is list:
                    values.append(each)
        elif value.__class__ is list:
            values += value
