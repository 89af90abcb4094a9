"""A server without any protocol, and a client that says and reads bytes: what the proxy's own tests put at its two ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.services.proxy import FaultProxy


class Echo:
    """Answers each chunk with itself in capitals, ends when the client ends, and remembers."""

    def __init__(self) -> None:
        self.heard = b""
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(65_536):
                self.heard += chunk
                writer.write(chunk.upper())
                await writer.drain()
        except OSError:
            pass
        finally:
            self.ended.set()
            writer.close()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def say(self, data: bytes) -> None:
        self._writer.write(data)

    def end(self) -> None:
        self._writer.write_eof()

    async def read(self, size: int = 65_536) -> bytes:
        async with asyncio.timeout(10):
            return await self._reader.read(size)

    async def exactly(self, size: int) -> bytes:
        async with asyncio.timeout(10):
            return await self._reader.readexactly(size)

    async def ask(self, data: bytes) -> bytes:
        self.say(data)
        return await self.exactly(len(data))

    async def silent(self, seconds: float = 0.1) -> bool:
        """Whether nothing comes for so long, no end either."""
        try:
            async with asyncio.timeout(seconds):
                await self._reader.read(1)
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def connected(proxy: FaultProxy) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        writer.transport.abort()  # also with much that nobody reads
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
