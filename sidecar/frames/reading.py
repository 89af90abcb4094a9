"""From the bytes of one client frame to its typed payload, or to the error that says what to mend.

This is the hot path. What is cheap and almost always enough is asked first; only a frame that it cannot clear is walked.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any

import jiter
import orjson
from pydantic import ValidationError

from sidecar.documents import surely_within
from sidecar.frames.client import CLIENT_FRAMES
from sidecar.frames.complaint import complaint
from sidecar.frames.envelope import ClientFrame
from sidecar.frames.errors import FrameError

ENVELOPE_DEPTH = 8
"""How many levels a frame may have beyond those of a document."""
DIGEST_SIZE = 16
_MOST_DIGITS = 20

_FRAME_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_PLACE = re.compile(r" at line \d+ column \d+\Z")
_ABOVE_CONTENT = 2
"""Levels around `content`: the frame and its payload."""
_AS_BROWSERS_BEGIN = b'{"type":"'


def read(raw: bytes | str, max_depth: int, key: bytes = b"") -> ClientFrame:
    """The frame in this text. A frame may have `max_depth` + 8 levels of objects and arrays, itself being the first.

    The parser ends at 200 levels whatever `max_depth` says. `key` (at most 64 bytes) makes the digest one that
    nobody can compute without it.
    Raises `FrameError` (`bad_frame`, `bad_payload`, `unknown_type`), with the frame's id in `re` where that could be
    read. Its text and its chain of causes repeat nothing of the frame.
    """
    most = max_depth + ENVELOPE_DEPTH
    data, tree, exact = _parsed(raw)
    if tree.__class__ is not dict:
        raise FrameError("bad_frame", 'a frame is one JSON object: {"type": …, "id": …, "payload": {…}}')
    found = tree.get("id")
    answered = found if found.__class__ is str and _FRAME_ID.match(found) else None
    shallow = surely_within(tree, max_depth + _ABOVE_CONTENT)
    if not shallow and _deeper(tree, most):
        raise FrameError("bad_frame", f"the frame has more than {most} levels; nest less deeply", re=answered)
    name = tree.get("type")
    if name.__class__ is not str:
        raise FrameError("bad_frame", "the frame has no `type`: write the name of a frame type, a string", re=answered)
    payload = tree.get("payload", {})
    dumped, content = _canonical(data, tree, name, answered, payload, exact)
    ask = CLIENT_FRAMES.get(name)
    if ask is None:
        raise FrameError("unknown_type", "no such frame type; docs/protocol.md lists those there are", re=answered)
    if answered is None and (ask.needs_id or found is not None):
        what = "`id` is a string of 1 to 64 of A-Z a-z 0-9 _ and -, another one for each frame"
        raise FrameError("bad_payload", what, path="id")
    if payload.__class__ is not dict:
        raise FrameError("bad_payload", "`payload` is an object", re=answered, path="payload")
    try:
        model = ask.payload.model_validate(payload)
    except ValidationError as error:
        path, message = complaint(error)
    else:
        digest = hashlib.blake2b(dumped, digest_size=DIGEST_SIZE, key=key)
        digest.update(name.encode())
        levels = max_depth if shallow else None
        return ClientFrame(name, answered, model, digest.digest(), content, levels)
    # Outside of the except block: a FrameError must not drag the other one along, whose input is the frame.
    raise FrameError("bad_payload", message, re=answered, path=path)


def _parsed(raw: bytes | str) -> tuple[bytes, Any, bool]:
    """The text as bytes, what it says, and whether that would be written just so."""
    try:
        data = raw.encode() if isinstance(raw, str) else raw
        # A text that is what would be written of its tree has no key twice and no number that is none for us, so it need
        # not be looked through for those: a quarter cheaper. JSON.stringify writes so; others begin otherwise, mostly.
        if data.startswith(_AS_BROWSERS_BEGIN):
            tree = _plainly(data)
            if tree is not None:
                return data, tree, True
        # Only keys are cached: the parser's cache outlives the frame, and values are what people wrote.
        return data, jiter.from_json(data, catch_duplicate_keys=True, allow_inf_nan=False, cache_mode="keys"), False
    except UnicodeEncodeError:
        message = "the frame is not Unicode text: it has half a surrogate pair"
    except ValueError as error:
        place = _PLACE.search(str(error))  # the only part of the parser's words that can hold nothing of the frame
        what = "a key stands twice in one object" if str(error).startswith("Detected dup") else "the frame is not JSON"
        message = f"{what}{place[0] if place else ''}; write it as RFC 8259 has it, in UTF-8, with finite numbers"
    raise FrameError("bad_frame", message)


def _plainly(data: bytes) -> Any:
    """What the text says if it is how that would be written; None for any other, which the strict parser judges."""
    try:
        tree = orjson.loads(data)
        return tree if orjson.dumps(tree) == data else None
    except (ValueError, TypeError):  # no JSON, or what cannot be written again, such as too many levels
        return None


def _canonical(
    data: bytes, tree: dict[str, Any], name: str, answered: str | None, payload: Any, exact: bool
) -> tuple[bytes, bytes | None]:
    """The payload without white space, its keys sorted but for those within `content`, and `content` as it is written.

    Refuses numbers that are none for us, anywhere in the frame.
    """
    content: bytes | None = None
    try:
        if payload.__class__ is dict and "content" in payload:
            content = orjson.dumps(payload["content"])
            rest = payload.copy()
            del rest["content"]
            dumped = b"".join((orjson.dumps(rest, option=orjson.OPT_SORT_KEYS), b",", content))
        else:
            dumped = orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        dumped = None
    if dumped is None:  # an integer over 64 bits
        _refuse_numbers(tree, answered)
        return json.dumps(payload, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode(), None
    if exact:
        return dumped, content
    # The parser lets 1e999 through as an infinity, which orjson writes as null. Every "null" of the frame is again in
    # what was dumped or in the two strings beside it, so as many as before means that no infinity added one.
    if (
        answered is None
        or len(tree) != 3  # other keys than type, id and payload, or no payload
        or "payload" not in tree
        or data.count(b"null") != dumped.count(b"null") + name.count("null") + answered.count("null")
    ):
        _refuse_numbers(tree, answered)
    return dumped, content


def _refuse_numbers(tree: Any, answered: str | None) -> None:
    todo = [tree]
    while todo:
        within = todo.pop()
        for each in within.values() if within.__class__ is dict else within:
            kind = each.__class__
            if kind is dict or kind is list:
                todo.append(each)
            elif kind is float and not math.isfinite(each):
                raise FrameError("bad_frame", "a number is too large to be one; write a finite number", re=answered)
            elif kind is int and abs(each) >= 10**_MOST_DIGITS:
                what = f"an integer has more than {_MOST_DIGITS} digits; write it as a string"
                raise FrameError("bad_frame", what, re=answered)


def _deeper(tree: Any, most: int) -> bool:
    level = [tree]
    for _ in range(most):
        level = [
            child
            for each in level
            for child in (each.values() if each.__class__ is dict else each)
            if child.__class__ is dict or child.__class__ is list
        ]
        if not level:
            return False
    return True
