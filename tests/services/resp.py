"""Where the values in a stream of Redis' protocol begin and end, RESP2 and RESP3, requests and answers alike."""

from __future__ import annotations

_SIMPLE = frozenset(b"+-:_#,(")
_SIZED = frozenset(b"$=!")
_ELEMENTS_EACH = {ord("*"): 1, ord("~"): 1, ord(">"): 1, ord("%"): 2, ord("|"): 2}


def _end(buffer: bytearray, at: int) -> int | None:
    """Where the value that begins at `at` ends; None: not all of it is there."""
    missing = 1
    while missing:
        line = buffer.find(b"\r\n", at)
        if line < 0:
            return None
        kind, end = buffer[at], line + 2
        if kind in _SIZED:
            size = int(buffer[at + 1 : line])
            end += size + 2 if size >= 0 else 0
        elif kind in _ELEMENTS_EACH:
            missing += max(0, int(buffer[at + 1 : line])) * _ELEMENTS_EACH[kind]
            missing += kind == ord("|")  # attributes stand before the value that they belong to
        elif kind not in _SIMPLE and at != 0:
            raise ValueError(f"no Redis protocol: {bytes(buffer[at : at + 20])!r}")
        if end > len(buffer):
            return None
        at = end
        missing -= 1
    return at


class Values:
    """Cuts what is fed into whole values, each with the bytes that it came with."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The values that are now whole. A line that begins with no type's sign is one: a command as telnet sends it."""
        self._buffer += data
        whole = []
        while self._buffer and (end := _end(self._buffer, 0)) is not None:
            whole.append(bytes(self._buffer[:end]))
            del self._buffer[:end]
        return whole

    def rest(self) -> bytes:
        """What is left of a value that is not whole; it is forgotten here."""
        left = bytes(self._buffer)
        self._buffer.clear()
        return left


def words(value: bytes, count: int) -> list[bytes]:
    """The first `count` elements of an array of texts, or words of a line."""
    if value[:1] not in b"*>":
        return value.split()[:count]
    found: list[bytes] = []
    at = value.index(b"\r\n") + 2
    while len(found) < count and at < len(value):
        line = value.index(b"\r\n", at)
        if value[at] != ord("$"):
            break
        size = int(value[at + 1 : line])
        found.append(value[line + 2 : line + 2 + size])
        at = line + size + 4
    return found
