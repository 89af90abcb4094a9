"""Tiptap documents as they came, and the limits on them (semantics §3)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from sidecar.errors import WireError


@dataclass(frozen=True, slots=True)
class Document:
    """A Tiptap (ProseMirror) document as it came: the same JSON value, keys in order."""

    raw: bytes = field(repr=False)
    """UTF-8 JSON."""

    def tree(self) -> dict[str, Any]:
        """The document, parsed afresh at each call: nobody can change another's copy."""
        tree: dict[str, Any] = json.loads(self.raw)
        return tree


@dataclass(frozen=True, slots=True)
class DocumentLimits:
    """Over one of these a document is `too_large`.

    Depth counts JSON objects and arrays, the document itself being 1. Nodes counts JSON objects, so attrs and marks too.
    """

    max_bytes: int = 128 * 1024
    max_depth: int = 64
    max_nodes: int = 20_000


def dump(value: Any) -> bytes:
    """A parsed JSON value as compact UTF-8, keys in order; integers over 64 bits too, which orjson alone refuses.

    Infinities and not-a-number, which the reader of frames refuses, would be written as null.
    Raises `ValueError`, which holds no text, for a lone surrogate.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        pass
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except UnicodeEncodeError:
        pass  # raised anew outside: this one carries the text
    raise ValueError("a lone surrogate is no Unicode text")


def same(one: bytes | None, other: bytes | None) -> bool:
    """Whether two texts are the same JSON value; the order of keys and white space do not count.

    true is not 1, and 1.0 is not 1: what a reader could tell apart is not the same.
    """
    if one is None or other is None or one == other:
        return one is other or one == other
    try:
        return _ordered(one) == _ordered(other)
    except ValueError:
        return False


def _ordered(raw: bytes) -> str:
    return json.dumps(json.loads(raw), sort_keys=True)


def _written(tree: dict[str, Any], path: str) -> bytes:
    try:
        return dump(tree)
    except RecursionError:
        deep = True
    except ValueError:
        deep = False
    if deep:
        raise _too_large("depth", 1000, path)
    problem = "a document is Unicode text: no lone surrogate"
    raise WireError("bad_payload", problem, details={"path": f"payload.{path}"})


def _levels(tree: Any) -> Iterator[int]:
    # Level by level in comprehensions, which is about four times as fast as a recursive walk.
    level = [tree]
    while level:
        yield sum([each.__class__ is dict for each in level])
        level = [
            child
            for each in level
            for child in (each.values() if each.__class__ is dict else each)
            if child.__class__ is dict or child.__class__ is list
        ]


def surely_within(tree: Any, most: int) -> bool:
    """Whether a parsed JSON value has at most `most` levels, told from how it is written with indentation.

    That is eight times as fast as walking it. False only means that it must be walked.
    """
    try:
        indented = orjson.dumps(tree, option=orjson.OPT_INDENT_2)
    except TypeError:
        return False  # an integer over 64 bits, or more levels than orjson writes
    # What stands in a container of level n is on a line of its own, n steps in. No string has a line break in it.
    # orjson itself writes no more than 254 levels, so a wider bound need not be looked for.
    return most > 0 and b"\n" + b"  " * min(most, 255) not in indented


def document(
    tree: Any, limits: DocumentLimits, path: str = "content", raw: bytes | None = None, levels: int | None = None
) -> Document:
    """The document for a parsed JSON value, within the limits.

    `raw`: how the value is written, where that is known; `levels`: more it has not, where that is known.
    Raises `WireError`: `bad_payload` when it is no JSON object, `too_large` (with `details.limit`) over a limit.
    """
    if tree.__class__ is not dict:
        raise WireError("bad_payload", "a document is a JSON object", details={"path": f"payload.{path}"})
    if raw is None:
        raw = _written(tree, path)
    if len(raw) > limits.max_bytes:
        raise _too_large("bytes", limits.max_bytes, path)
    # Brackets within strings are counted too: they only make the document look larger.
    if raw.count(b"{") <= limits.max_nodes and (
        (levels is not None and levels <= limits.max_depth) or surely_within(tree, limits.max_depth)
    ):
        return Document(raw)
    nodes = 0
    for depth, found in enumerate(_levels(tree), 1):
        nodes += found
        if depth > limits.max_depth:
            raise _too_large("depth", limits.max_depth, path)
        if nodes > limits.max_nodes:
            raise _too_large("nodes", limits.max_nodes, path)
    return Document(raw)


def _too_large(what: str, limit: int, path: str) -> WireError:
    return WireError(
        "too_large",
        f"the document has more than {limit} {what}; shorten it",
        details={"limit": limit, "unit": what, "path": f"payload.{path}"},
    )
