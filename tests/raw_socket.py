"""A WebSocket client that keeps to no rule: it sends any bytes, and reads what comes back frame by frame."""

from __future__ import annotations

import asyncio
import base64
import os
from typing import Any, Self
from urllib.parse import urlsplit

import orjson

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
CUT = -1
"""`closed()`: the connection was cut without a close frame."""


def frame(
    payload: bytes,
    opcode: int = TEXT,
    *,
    fin: bool = True,
    masked: bool = True,
    rsv: int = 0,
    length: int | None = None,
) -> bytes:
    """One frame (RFC 6455 §5.2); `length` lies about the payload's."""
    size = len(payload) if length is None else length
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    bit = 0x80 if masked else 0
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 65536:
        head = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    return head + (bytes(4) if masked else b"") + payload  # the mask of zeros changes nothing, and is a mask


class RawSocket:
    """One TCP connection to the server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "", parts.port or 80
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def dial(self) -> Self:
        """TCP alone."""
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        return self

    async def __aenter__(self) -> Self:
        return await self.dial()

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass

    def head(self, path: str = "/ws", **headers: str | None) -> bytes:
        """The head of a good handshake, with these headers changed (None: left out)."""
        all_headers: dict[str, str | None] = {
            "Host": f"{self.host}:{self.port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        lines = [f"{name}: {value}" for name, value in all_headers.items() if value is not None]
        return "\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode()

    async def request(self, data: bytes) -> tuple[int, dict[str, str]]:
        """Sends a whole request; the status and the headers (lower case) of the answer."""
        self.writer.write(data)
        return await self.response()

    async def response(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
        return int(head[0].split()[1]), headers

    async def upgrade(self, **headers: str | None) -> Self:
        """The socket up to `hello`."""
        status, _ = await self.request(self.head("/ws", **headers))
        assert status == 101, status
        assert (await self.json())["type"] == "hello"
        return self

    async def sign_in(self, name: str = "mallory") -> Self:
        """The socket up to `ready`."""
        await self.upgrade()
        self.send(orjson.dumps({"type": "auth", "id": "a", "payload": {"token": f"dev:{name}", "protocol": 1}}))
        assert (await self.json())["type"] == "ready"
        return self

    def send(self, payload: bytes, opcode: int = TEXT) -> None:
        self.writer.write(frame(payload, opcode))

    async def next(self) -> tuple[int, bytes]:
        """The next frame's opcode and payload. Raises `IncompleteReadError` and `ConnectionError` when there is none."""
        async with asyncio.timeout(10):
            first, second = await self.reader.readexactly(2)
            assert not second & 0x80, "a server masks nothing"
            size = second & 0x7F
            if size > 125:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
            return first & 0xF, await self.reader.readexactly(size)

    async def json(self) -> Any:
        opcode, payload = await self.next()
        assert opcode == TEXT, (opcode, payload)
        return orjson.loads(payload)

    async def closed(self) -> int:
        """Reads to the end: the close code, `CUT` where there was none."""
        code = CUT
        try:
            while True:
                opcode, payload = await self.next()
                if opcode == CLOSE:
                    code = int.from_bytes(payload[:2], "big")
                    self.writer.write(frame(payload[:2], CLOSE))
        except (asyncio.IncompleteReadError, ConnectionError):
            return code
