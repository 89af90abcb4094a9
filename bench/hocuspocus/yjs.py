"""As much of the Yjs update format and of Hocuspocus' messages as a client needs that sets one key of one `Y.Map`.

Written out by hand so that the same light load generator drives every server: a real provider costs more CPU time than the
server that it is to load. A real provider reads what was written so at the end of a run (`bench.hocuspocus`).
"""

from __future__ import annotations

MAP, KEY = b"drafts", b"text"
"""`document.getMap("drafts").set("text", …)`."""

SYNC, AUTH, SYNC_STATUS = 0, 2, 8
"""Types of messages."""
STEP_1, STEP_2, UPDATE = 0, 1, 2
"""What a `SYNC` message holds."""

_TOKEN, _AUTHENTICATED = 0, 2
_ANY, _STRING = 8, 119
_HAS_ORIGIN, _HAS_KEY = 0x80, 0x20


def number(value: int) -> bytes:
    """Seven bits a byte, the least first."""
    out = bytearray()
    while value > 0x7F:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    out.append(value)
    return bytes(out)


def sized(value: bytes) -> bytes:
    """Bytes or UTF-8 text with its length before it."""
    return number(len(value)) + value


def set_text(client: int, clock: int, text: bytes) -> bytes:
    """The update that the client's `clock`-th `map.set` makes, from 0; each one deletes the text before it."""
    who = number(client)
    if clock == 0:
        head = bytes((_ANY | _HAS_KEY, 1)) + sized(MAP) + sized(KEY)
        deleted = b"\0"
    else:
        before = number(clock - 1)
        head = bytes((_ANY | _HAS_KEY | _HAS_ORIGIN,)) + who + before
        deleted = b"\1" + who + b"\1" + before + b"\1"
    return b"".join((b"\1\1", who, number(clock), head, b"\1", bytes((_STRING,)), sized(text), deleted))


def sign_in(document: bytes, token: bytes) -> bytes:
    """Names the document, which is made if need be; `is_signed_in` tells the answer."""
    return sized(document) + bytes((AUTH, _TOKEN)) + sized(token)


def is_signed_in(document: bytes, message: bytes) -> bool:
    return message.startswith(sized(document) + bytes((AUTH, _AUTHENTICATED)))


def ask_for_all(document: bytes) -> bytes:
    """The first step of a sync by somebody who has nothing."""
    return sized(document) + bytes((SYNC, STEP_1)) + sized(b"\0")


def update(document: bytes, change: bytes) -> bytes:
    return sized(document) + bytes((SYNC, UPDATE)) + sized(change)
