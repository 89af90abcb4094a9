"""A client's end of a WebSocket that does as little as it can, so that the load generator is not what is measured."""

from __future__ import annotations

import asyncio
import base64
import os
import struct
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10
_FINAL = 0x80
_MASKED = 0x80
_NO_MASK = b"\0\0\0\0"
# A client must mask what it sends (RFC 6455 §5.3). Under the mask of zeros the bytes stay as they are, which costs this
# end nothing, while the server takes the mask off as it would any other.


def encoded(payload: bytes, opcode: int = _TEXT) -> bytes:
    """One whole frame from a client."""
    size = len(payload)
    if size < 126:
        head = struct.pack(">BB", _FINAL | opcode, _MASKED | size)
    elif size < 65_536:
        head = struct.pack(">BBH", _FINAL | opcode, _MASKED | 126, size)
    else:
        head = struct.pack(">BBQ", _FINAL | opcode, _MASKED | 127, size)
    return b"".join((head, _NO_MASK, payload))


class LinkClosed(Exception):
    """The server closed the socket, or never opened it."""


class Link(asyncio.Protocol):
    """One socket. Frames are handed to `on_frame` as they come; `on_closed` hears of the end if nobody asked for it."""

    def __init__(self) -> None:
        self.on_frame: Callable[[bytes], None] = lambda _: None
        self.on_closed: Callable[[str], None] = lambda _: None
        self._transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []
        self._have = 0
        self._need = 2
        self._upgraded = asyncio.get_running_loop().create_future()
        self._ended = asyncio.get_running_loop().create_future()
        self._leaving = False

    @classmethod
    async def open(cls, url: str) -> Link:
        """Connected and upgraded; `url` is `http://host:port`."""
        at = urlsplit(url)
        _, link = await asyncio.get_running_loop().create_connection(cls, str(at.hostname), int(at.port or 80))
        key = base64.b64encode(os.urandom(16)).decode()
        link._write(
            f"GET /ws HTTP/1.1\r\nHost: {at.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        try:
            await link._upgraded
        except BaseException:
            link.abort()
            raise
        return link

    def send(self, payload: bytes) -> None:
        """One text frame."""
        self._write(encoded(payload))

    def send_binary(self, payload: bytes) -> None:
        """One binary frame."""
        self._write(encoded(payload, _BINARY))

    def _write(self, data: bytes) -> None:
        if self._transport is None:
            raise LinkClosed("the socket is not open")
        self._transport.write(data)

    async def next_frame(self, *begins: bytes) -> bytes:
        """The next frame that begins with one of these; others are passed over. Not while somebody else listens."""
        found: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def look(frame: bytes) -> None:
            if not found.done() and frame.startswith(begins):
                found.set_result(frame)

        def ended(why: str) -> None:
            if not found.done():
                found.set_exception(LinkClosed(why))

        before = self.on_frame, self.on_closed
        self.on_frame, self.on_closed = look, ended
        try:
            async with asyncio.timeout(30.0):
                return await found
        finally:
            self.on_frame, self.on_closed = before

    async def close(self) -> None:
        """Closes in order."""
        self._leaving = True
        if self._transport is not None and not self._transport.is_closing():
            self._write(encoded(struct.pack(">H", 1000), _CLOSE))
            try:
                async with asyncio.timeout(5.0):
                    await self._ended
            except TimeoutError:
                self._transport.abort()

    def abort(self) -> None:
        """Ends it at once, in no order."""
        self._leaving = True
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, of the same shape

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("the connection was lost")

    def data_received(self, data: bytes) -> None:
        if not self._upgraded.done():
            self._upgrade(data)
            return
        if self._chunks:
            self._chunks.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._chunks)
        at, end = 0, len(data)
        while (size := self._size(data, at, end)) <= end - at:
            self._take(data, at, size)
            at += size
        self._chunks = [data[at:]] if at < end else []
        self._have, self._need = end - at, size

    @staticmethod
    def _size(data: bytes, at: int, end: int) -> int:
        """How many bytes the frame there has, or how many are needed to tell."""
        if end - at < 2:
            return 2
        size = data[at + 1]
        if size < 126:
            return 2 + size
        if size == 126:
            return 4 + int.from_bytes(data[at + 2 : at + 4], "big") if end - at >= 4 else 4
        return 10 + int.from_bytes(data[at + 2 : at + 10], "big") if end - at >= 10 else 10

    def _take(self, data: bytes, at: int, size: int) -> None:
        length = data[at + 1]
        payload = data[at + (2 if length < 126 else 4 if length == 126 else 10) : at + size]
        opcode = data[at] & 0x0F
        if opcode in (_TEXT, _BINARY):
            self.on_frame(payload)
        elif opcode == _PING:
            self._write(encoded(payload, _PONG))
        elif opcode == _CLOSE:
            code = int.from_bytes(payload[:2], "big") if payload else 1005
            self._end(f"the server closed with {code} {payload[2:].decode(errors='replace')}".rstrip())
            if self._transport is not None:
                self._transport.close()

    def _upgrade(self, data: bytes) -> None:
        self._chunks.append(data)
        head, found, rest = b"".join(self._chunks).partition(b"\r\n\r\n")
        if not found:
            return
        self._chunks = []
        status = head.partition(b"\r\n")[0]
        if b" 101 " not in status:
            self._upgraded.set_exception(LinkClosed(f"no upgrade: {status.decode(errors='replace')}"))
            return
        self._upgraded.set_result(None)
        if rest:
            self.data_received(rest)

    def _end(self, why: str) -> None:
        if not self._upgraded.done():
            self._upgraded.set_exception(LinkClosed(why))
        if not self._ended.done():
            self._ended.set_result(None)
            if not self._leaving:
                self.on_closed(why)
