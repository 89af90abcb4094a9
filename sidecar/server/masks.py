"""Whether a client masks its frames, as RFC 6455 §5.1 demands of it; aiohttp takes unmasked ones too (threats T25). Pure."""

from __future__ import annotations


class Masks:
    """Follows the frames of one client through its bytes, header by header; payloads are skipped."""

    __slots__ = ("_begun", "_skip")

    def __init__(self) -> None:
        self._skip = 0
        """Bytes until the next header."""
        self._begun = b""
        """A header of which not enough has come."""

    def follow(self, data: bytes) -> bool:
        """The next bytes of the client; False once a frame without a mask is among them, from where nothing is followed."""
        if self._begun:
            data, self._begun = self._begun + data, b""
        at, end = self._skip, len(data)
        while at < end:
            if end - at < 2:
                break
            second = data[at + 1]
            if not second & 0x80:
                return False
            length = second & 0x7F
            if length < 126:
                at += 6 + length
                continue
            size = 2 if length == 126 else 8
            if end - at < 2 + size:
                break
            at += 2 + size + 4 + int.from_bytes(data[at + 2 : at + 2 + size])
        if at < end:
            self._begun, self._skip = data[at:], 0
        else:
            self._skip = at - end
        return True
