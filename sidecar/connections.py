"""Open connections: one outbound queue each, bounded, so that one socket's trouble is never another's (lessons L48, L49)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from sidecar.cursors import Cursor
from sidecar.ids import ConnectionId, DeviceId, UserHash
from sidecar.parts import Caller

SLOW_READER = 4008
_DIRECT = 64 * 1024
"""Bytes that may wait in the transport before frames wait here."""
_DRAIN_SECONDS = 20.0
"""A reader that takes nothing for so long is cut off."""


class Wire(Protocol):
    """One socket, as a connection uses it."""

    def write(self, frame: bytes) -> None:
        """Hands one text frame to the transport; never waits."""

    def backlog(self) -> int:
        """Bytes that the transport has not got rid of."""

    async def write_waiting(self, frame: bytes) -> None:
        """Hands over one text frame and returns when the transport takes more. Raises `ConnectionError`."""

    def ping(self) -> None:
        """Sends a protocol ping; never waits."""

    def close(self, code: int, reason: str) -> None:
        """Begins to close the socket with this code; never waits."""


class Connection:
    """One authenticated socket of a person: a tab or an app."""

    __slots__ = (
        "_buffer",
        "_buffered",
        "_held",
        "_held_bytes",
        "_limit",
        "_queue",
        "_queued",
        "_wire",
        "_writer",
        "active_chat",
        "caller",
        "closed",
        "last_heard",
        "position",
    )

    def __init__(self, caller: Caller, wire: Wire, limit: int, position: Cursor) -> None:
        self.caller = caller
        self.position = position
        """Everything of the log up to here has left, or is not wanted."""
        self.active_chat: str | None = None
        self.closed = False
        self.last_heard = 0.0
        self._wire = wire
        self._limit = limit
        self._queue: deque[bytes] | None = None
        # The deques are made when something waits: most sockets are idle, and an empty one has 600 bytes.
        self._queued = 0
        self._writer: asyncio.Task[None] | None = None
        self._held: deque[tuple[Cursor, bytes]] | None = None
        self._held_bytes = 0
        self._buffer: list[tuple[Cursor, bytes | None]] | None = None
        self._buffered = 0

    @property
    def id(self) -> ConnectionId:
        return self.caller.connection

    @property
    def user(self) -> UserHash:
        return self.caller.user

    @property
    def device(self) -> DeviceId:
        return self.caller.device

    # -- frames out ----------------------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Sends a frame as soon as the reader takes it; a reader who lets `limit` bytes wait is cut off (it syncs by cursor)."""
        if self.closed:
            return
        if not self._queue and self._wire.backlog() < _DIRECT:
            self._wire.write(frame)
            return
        if self._queued and self._queued + len(frame) > self._limit:  # one frame may wait, however large
            self.close(SLOW_READER, "too slow; reconnect and sync by your cursor")
            return
        if self._queue is None:
            self._queue = deque()
        self._queue.append(frame)
        self._queued += len(frame)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())

    async def send_waiting(self, frame: bytes) -> None:
        """Sends a frame that may be large, once all before it has left: its sender waits with the reader."""
        while self._writer is not None and not self.closed:
            await asyncio.wait([self._writer])
        if not self.closed:
            await self._put(frame)

    async def _put(self, frame: bytes) -> None:
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                await self._wire.write_waiting(frame)
        except TimeoutError:
            self.close(SLOW_READER, "too slow; reconnect and sync by your cursor")
        except ConnectionError:
            self.lost()

    async def _write(self) -> None:
        try:
            while self._queue and not self.closed:
                frame = self._queue.popleft()
                self._queued -= len(frame)
                await self._put(frame)
        finally:
            self._writer = None
            self._queue = None
            self._queued = 0

    def ping(self) -> None:
        """Asks the peer for a sign of life, unless it is too slow to take what is sent already."""
        if not self.closed and not self._queue:
            self._wire.ping()

    def close(self, code: int, reason: str) -> None:
        """Closes the socket; nothing is sent after it."""
        if not self.closed:
            self.lost()
            self._wire.close(code, reason)

    def lost(self) -> None:
        """The socket is gone or going: nothing is sent any more, and nothing is kept for it."""
        self.closed = True
        if self._queue is not None:
            self._queue.clear()
        self._queued = 0
        self._held, self._held_bytes = None, 0
        self._buffer, self._buffered = None, 0

    # -- in the order of the log ---------------------------------------------------------------------------------------

    def pause(self, position: Cursor) -> None:
        """A sync begins at `position`: events and answers behind it wait until `resume`."""
        if self._buffer is None:
            self._buffer = []
        self.position = position

    def resume(self) -> None:
        """The sync is over: what came after its position follows now."""
        buffer, self._buffer, self._buffered = self._buffer, None, 0
        epoch = self.position.epoch
        for cursor, frame in buffer or ():
            if cursor.epoch == epoch:  # what happened in another one the sync has told, or a further one will
                self.pass_by(cursor, frame)
        self._release()

    @property
    def paused(self) -> bool:
        return self._buffer is not None

    def pass_by(self, cursor: Cursor, frame: bytes | None) -> None:
        """The next entry of the log: its event (None: nothing to tell this connection), and the answers due at it."""
        if self.closed:
            return
        if self._buffer is not None:
            self._buffered += len(frame) if frame is not None else 0
            if self._buffered > self._limit:
                self.close(SLOW_READER, "too much happened during a sync; reconnect")
                return
            self._buffer.append((cursor, frame))
            return
        if cursor.epoch == self.position.epoch and cursor.offset <= self.position.offset:
            return  # the sync has told it
        if frame is not None:
            self.send(frame)
        self.position = cursor
        if self._held:
            self._release()

    def answer(self, frame: bytes, cursor: Cursor | None) -> None:
        """An answer, behind every event before its cursor."""
        if cursor is None or (not self.paused and self._reached(cursor)):
            self.send(frame)
            return
        if self.closed:
            return
        self._held_bytes += len(frame)
        if self._held and self._held_bytes > self._limit:
            self.close(SLOW_READER, "too much is waiting for this reader; reconnect and sync by your cursor")
            return
        if self._held is None:
            self._held = deque()
        self._held.append((cursor, frame))

    def release_all(self) -> None:
        """The log went another way: no answer waits for its place any longer."""
        held, self._held, self._held_bytes = self._held, None, 0
        for _, frame in held or ():
            self.send(frame)

    def _reached(self, cursor: Cursor) -> bool:
        return cursor.epoch != self.position.epoch or cursor.offset <= self.position.offset

    def _release(self) -> None:
        while self._held and self._reached(self._held[0][0]):
            _, frame = self._held.popleft()
            self._held_bytes -= len(frame)
            self.send(frame)


class Registry:
    """The open connections of this process, by person."""

    def __init__(self) -> None:
        self._by_user: dict[UserHash, dict[ConnectionId, Connection]] = {}
        self._count = 0
        self._emptied = asyncio.Event()
        self._emptied.set()

    async def empty(self) -> None:
        """Returns when no connection is left."""
        await self._emptied.wait()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Connection]:
        for connections in list(self._by_user.values()):
            yield from list(connections.values())

    def add(self, connection: Connection) -> None:
        self._by_user.setdefault(connection.user, {})[connection.id] = connection
        self._count += 1
        self._emptied.clear()

    def remove(self, connection: Connection) -> bool:
        """Forgets the connection; True if it was this process' last of the person."""
        connections = self._by_user.get(connection.user, {})
        if connections.get(connection.id) is connection:  # by identity: a late close removes nobody else (L48)
            del connections[connection.id]
            self._count -= 1
            if not self._count:
                self._emptied.set()
        if connections:
            return False
        return self._by_user.pop(connection.user, None) is not None

    def of(self, user: UserHash) -> list[Connection]:
        return list(self._by_user.get(user, {}).values())

    def users(self) -> list[UserHash]:
        return list(self._by_user)
