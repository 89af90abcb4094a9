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
        while at + 1 < end:
            second = data[at + 1]
            if second < 0x80:
                return False
            if second < 0x80 + 126:
                at += second - 0x80 + 6
            elif second == 0x80 + 126:
                if at + 4 > end:
                    break
                at += (data[at + 2] << 8) + data[at + 3] + 8
            else:
                if at + 10 > end:
                    break
                at += int.from_bytes(data[at + 2 : at + 10]) + 14
        if at < end:
            self._begun, self._skip = data[at:], 0
        else:
            self._skip = at - end
        return True
