"""One connection through a fault proxy."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Protocol

from tests.services.answer_faults import AnswerFault, Then
from tests.services.conditions import Conditions, Seen, Way

_QUEUED = 64
"""Chunks that may be under way; behind them the sender meets a full buffer."""
_RST = struct.pack("ii", 1, 0)


def end_by_reset(writer: asyncio.StreamWriter) -> None:
    """Closes it so that the kernel sends RST; what stands in the writer's buffer still goes out before."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    writer.close()


class Ground(Protocol):
    """What a link asks of its proxy."""

    seen: Seen

    def conditions(self, way: Way) -> Conditions: ...
    def fault_for(self, command: str | None) -> AnswerFault | None: ...


class Link:
    """Passes on what client and server say, one chunk at a time. An answer is what comes from the server after a request:
    right for protocols that ask one thing at a time, such as HTTP/1.1."""

    def __init__(
        self,
        ground: Ground,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._ground = ground
        self._client_reader, self._client = client
        self._server_reader, self._server = server
        self._muted = False
        self._ended: set[Way] = set()
        self._waiting = False
        self._fault: AnswerFault | None = None

    async def run(self) -> None:
        """Until both sides have ended, or it was cut."""
        writers = (self._client, self._server)
        ways = [asyncio.create_task(self._carry(way)) for way in Way]
        try:
            await asyncio.gather(*ways)
        except OSError:
            self._cut(reset=True)  # as one side did it to us
        except asyncio.CancelledError:
            for writer in writers:
                writer.transport.abort()
            raise
        finally:
            for way in ways:
                way.cancel()
            for writer in writers:  # before anything is waited for: this may be cancelled there
                writer.close()
            try:
                await asyncio.gather(*ways, *(writer.wait_closed() for writer in writers), return_exceptions=True)
            finally:
                for writer in writers:  # who does not read what is left for it is not waited for
                    writer.transport.abort()

    # -- faults of the connection --------------------------------------------------------------------------------------

    def reset(self) -> None:
        """The client reads RST. What was passed on to the server before is still carried out."""
        self._cut(reset=True)

    def close(self) -> None:
        """Client and server read an orderly end."""
        self._cut(reset=False)

    def half_close(self, way: Way) -> None:
        """Whoever receives this way reads an end, and can go on sending, which still arrives."""
        writer = self._server if way is Way.TO_SERVER else self._client
        if way not in self._ended and not writer.is_closing():
            self._ground.seen.cut += 1
            self._end(way)

    def _end(self, way: Way) -> None:
        """An end of what goes this way, and of no more."""
        writer = self._server if way is Way.TO_SERVER else self._client
        if way not in self._ended and not writer.is_closing():
            self._ended.add(way)
            writer.write_eof()

    def _cut(self, *, reset: bool) -> None:
        if self._client.is_closing():
            return
        self._ground.seen.cut += 1
        if reset:
            end_by_reset(self._client)
        self._client.close()
        self._server.close()

    # -- what passes ---------------------------------------------------------------------------------------------------

    def from_client(self, data: bytes) -> None:
        """Bytes that go to the server now."""
        if not self._waiting:
            self._waiting = True
            self._ground.seen.requests += 1
            self._fault = self._ground.fault_for(None)
        self._server.write(data)

    def from_server(self, data: bytes) -> None:
        """Bytes that go to the client now."""
        if self._waiting:
            self._waiting = False
            self._ground.seen.answers += 1
        fault, self._fault = self._fault, None
        self.give(data, fault)

    def give(self, answer: bytes, fault: AnswerFault | None) -> None:
        """Gives the client an answer, or does to it what the fault says."""
        if self._muted or Way.TO_CLIENT in self._ended or self._client.is_closing():
            return
        if fault is None:
            self._client.write(answer)
            return
        fault.befell()
        self._client.write(fault.left_of(answer))
        if fault.then is not Then.GO_ON:
            self._muted = True
        if fault.then in (Then.RESET, Then.CLOSE):
            self._cut(reset=fault.then is Then.RESET)

    async def _carry(self, way: Way) -> None:
        reader = self._client_reader if way is Way.TO_SERVER else self._server_reader
        under_way = asyncio.Queue[tuple[float, bytes]](_QUEUED)
        taking = asyncio.create_task(_take(reader, under_way))
        try:
            await self._deliver(way, under_way)
            if taking.done():
                taking.result()
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

    async def _deliver(self, way: Way, under_way: asyncio.Queue[tuple[float, bytes]]) -> None:
        conditions, free = self._ground.conditions(way), 0.0
        writer, give = (self._server, self.from_client) if way is Way.TO_SERVER else (self._client, self.from_server)
        while not writer.is_closing():
            arrived, chunk = await under_way.get()
            if not chunk:
                await conditions.admit(arrived, free, 0)
                if way is Way.TO_SERVER or not self._muted:
                    self._end(way)
                return
            while chunk and not writer.is_closing():
                piece, chunk = chunk[: conditions.piece], chunk[conditions.piece :]
                free = await conditions.admit(arrived, free, len(piece))
                if conditions.cuts():
                    self.reset()
                elif not writer.is_closing() and way not in self._ended:
                    give(piece)
                    await writer.drain()


async def _take(reader: asyncio.StreamReader, under_way: asyncio.Queue[tuple[float, bytes]]) -> None:
    """Reads until the end, which is an empty chunk. A reset ends it too, and is raised behind what came before it."""
    loop = asyncio.get_running_loop()
    try:
        while chunk := await reader.read(65_536):
            await under_way.put((loop.time(), chunk))
    except OSError:
        await under_way.put((loop.time(), b""))
        raise
    await under_way.put((loop.time(), b""))
