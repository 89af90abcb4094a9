"""Something that answers in place of a Vault: what no real one would say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Reply = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(
    body: bytes | dict[str, Any], status: int = 200, kind: str = "application/json", length: int | None = None
) -> bytes:
    """A whole HTTP answer; with `length`, one that says that it is so long."""
    raw = json.dumps(body).encode() if isinstance(body, dict) else body
    head = f"HTTP/1.1 {status} Whatever\r\nContent-Type: {kind}\r\nContent-Length: {len(raw) if length is None else length}\r\n\r\n"
    return head.encode() + raw


@dataclass
class PretendedVault:
    """Says `replies` one after the other, the last for good; `asked` are the requests, head and body."""

    replies: list[Reply] = field(default_factory=list)
    asked: list[bytes] = field(default_factory=list)
    connections: int = 0
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (
                        int(line.split(b":")[1])
                        for line in head.lower().split(b"\r\n")
                        if line[:15] == b"content-length:"
                    ),
                    0,
                )
                self.asked.append(head + await reader.readexactly(length))
                reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
                if callable(reply):
                    await reply(writer)
                else:
                    writer.write(reply)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # cancelled at the end of the test, where nobody waits for this task
        finally:
            writer.close()


@asynccontextmanager
async def pretending(*replies: Reply) -> AsyncIterator[PretendedVault]:
    pretended = PretendedVault(list(replies))
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        await pretended.serve(reader, writer)
        tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    pretended.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield pretended
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def hang(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def drip(writer: asyncio.StreamWriter) -> None:
    """A byte now and again, each well within any wait for the next byte."""
    for byte in answer({"data": {"a": "b" * 1000}}):
        writer.write(bytes([byte]))
        await asyncio.sleep(0.05)


async def drop(writer: asyncio.StreamWriter) -> None:
    writer.close()
    raise ConnectionResetError
