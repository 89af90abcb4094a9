"""What a Vault gives at most: entries made over keep-alive connections by a loop that does nothing else."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import time
from collections.abc import Sequence
from typing import cast
from urllib.parse import urlsplit

from bench.editing import BenchFailed


class _Connection(asyncio.Protocol):
    """One request after the other; an answer is read as far as its status."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found or self._answer is None:
            return
        length = next(
            int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        if len(body) >= length:
            self._buffer = b""
            self._answer.set_result(head)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(BenchFailed("Vault closed a connection"))

    async def ask(self, request: bytes) -> bytes:
        """The head of the answer."""
        if self._transport is None:
            raise BenchFailed("not connected")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class RawVault:
    """So many connections, each of which makes one entry after the other, as `encryption.vault` makes them."""

    def __init__(self, url: str, token: str, mount: str, connections: Sequence[_Connection]) -> None:
        at = urlsplit(url)
        self._head = f"Host: {at.netloc}\r\nX-Vault-Token: {token}\r\nContent-Type: application/json\r\n"
        self._mount = mount
        self._connections = connections

    @classmethod
    async def open(cls, url: str, token: str, mount: str, connections: int) -> RawVault:
        at = urlsplit(url)
        loop = asyncio.get_running_loop()
        made = []
        for _ in range(connections):
            _, connection = await loop.create_connection(_Connection, str(at.hostname), int(at.port or 80))
            made.append(connection)
        return cls(url, token, mount, made)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    async def make(self, seconds: float) -> float:
        """Entries made per second, for so long."""
        began = time.perf_counter()
        counts = await asyncio.gather(*(self._make(each, began + seconds) for each in self._connections))
        return sum(counts) / (time.perf_counter() - began)

    async def _make(self, connection: _Connection, until: float) -> int:
        count = 0
        while time.perf_counter() < until:
            answer = await connection.ask(self._request())
            if not answer.startswith(b"HTTP/1.1 200 "):
                raise BenchFailed(f"Vault answered {answer.partition(bytes((13,)))[0].decode(errors='replace')}")
            count += 1
        return count

    def _request(self) -> bytes:
        data = {
            "user": secrets.token_hex(32),
            "chat": f"{secrets.token_hex(4)}_{secrets.token_hex(16)}",
            "keys": {"1": base64.b64encode(os.urandom(32)).decode()},
        }
        body = json.dumps({"data": data, "options": {"cas": 0}})
        name = secrets.token_hex(32)
        path = f"/v1/{self._mount}/data/bench/{name[:2]}/{name}"
        return f"POST {path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
