"""The threads and connections of `persistence.sqlite`: one that writes, a few that read. The event loop never waits for the disk."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from plugins.persistence.sqlite_faults import PART, translated
from plugins.persistence.sqlite_schema import connect, prepare
from sidecar import Batcher, Unavailable

T = TypeVar("T")
_READERS = 4


@dataclass(frozen=True, slots=True)
class _Step:
    run: Callable[[sqlite3.Connection], object]
    scrub: bool
    """Afterwards the write-ahead log is emptied too, as far as no reader needs it."""


class Connections:
    """The open file. Writes that wait at the same moment are one transaction, with one fsync; each stands or falls alone.

    An async context manager, once: `StartRefused` or `Unavailable` on entering, see `prepare`. Outside of it every call
    raises `Unavailable`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open = False
        self._identity = (0, 0)
        self._connections: list[sqlite3.Connection] = []
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._writing = ThreadPoolExecutor(1, "sqlite-write")
        self._reading = ThreadPoolExecutor(_READERS, "sqlite-read")
        self._batcher: Batcher[_Step, None] = Batcher(self._send)
        self.fault: str | None = "not open"
        """Why the last call was `Unavailable`; None once one went through again."""

    async def __aenter__(self) -> Connections:
        try:
            await asyncio.get_running_loop().run_in_executor(self._writing, self._begin)
        except BaseException:
            await asyncio.to_thread(self._end)
            raise
        self._open = True
        self.fault = None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        self.fault = "closed"
        await asyncio.to_thread(self._end)

    def _begin(self) -> None:
        prepare(self._path)
        try:
            found = self._path.stat()
            self._identity = (found.st_dev, found.st_ino)
            self._connections.append(connect(self._path))
            for _ in range(_READERS):
                reader = connect(self._path, reading=True)
                self._connections.append(reader)
                self._idle.put(reader)
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(PART, f"{self._path.name} cannot be opened ({type(error).__name__})") from error

    def _end(self) -> None:
        for threads in (self._reading, self._writing):
            threads.shutdown(wait=True)  # what was begun is finished first
        while self._connections:
            self._connections.pop().close()  # the writer last: it then empties the log into the file

    async def write(self, step: Callable[[sqlite3.Connection], object], *, scrub: bool = False) -> None:
        """Does this write; when it returns, it is on the disk. `Unavailable`, `Unstorable`: nothing of it was done.

        (Where the disk failed in the very commit, it may have been done all the same: writes can be repeated.)
        """
        self._must_be_open()
        await self._batcher(_Step(step, scrub))

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """What the query returns; it sees one moment of the file. `Unavailable`."""
        self._must_be_open()
        return await asyncio.get_running_loop().run_in_executor(self._reading, self._ask, query)

    def _must_be_open(self) -> None:
        if not self._open:
            raise Unavailable(PART, f"{self._path.name} is not open")

    def _must_be_there(self) -> None:
        # A file that was deleted or moved can still be written, and all of it would be gone with the process.
        try:
            found = self._path.stat()
        except OSError as error:
            raise Unavailable(PART, f"{self._path.name} cannot be reached ({type(error).__name__})") from error
        if (found.st_dev, found.st_ino) != self._identity:
            raise Unavailable(PART, f"{self._path.name} was replaced while it was open: restart the sidecar")

    def _ask(self, query: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._idle.get()  # as many connections as threads: it never waits
        try:
            self._must_be_there()
            connection.execute("BEGIN")
            answer = query(connection)
        except Exception as error:  # noqa: BLE001 - translated
            raise self._noted(translated(error)) from None
        finally:
            _roll_back(connection)
            self._idle.put(connection)
        self.fault = None
        return answer

    async def _send(self, steps: Sequence[_Step]) -> Sequence[Exception | None]:
        return await asyncio.get_running_loop().run_in_executor(self._writing, self._transact, steps)

    def _transact(self, steps: Sequence[_Step]) -> Sequence[Exception | None]:
        writer = self._connections[0]
        answers: list[Exception | None] = []
        try:
            self._must_be_there()
            # IMMEDIATE: the lock is taken before anything is read, so no other process writes in between.
            writer.execute("BEGIN IMMEDIATE")
            answers.extend(_attempt(writer, step) for step in steps)
            writer.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - translated
            _roll_back(writer)
            fault = self._noted(translated(error))
            return [fault] * len(steps)
        self.fault = None
        if any(step.scrub for step in steps):
            try:
                writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except sqlite3.Error:
                pass  # it is committed and, in the file, zeroed at the next checkpoint; only the log keeps it so long
        return answers

    def _noted(self, fault: Exception) -> Exception:
        if isinstance(fault, Unavailable):
            self.fault = fault.reason
        return fault


def _attempt(connection: sqlite3.Connection, step: _Step) -> Exception | None:
    """Its error, if the step alone is to blame and the others can go on; raises when the transaction cannot."""
    connection.execute("SAVEPOINT step")
    try:
        step.run(connection)
    except Exception as error:
        fault = translated(error)
        if isinstance(fault, Unavailable) or not connection.in_transaction:
            raise
        connection.execute("ROLLBACK TO step")
        connection.execute("RELEASE step")
        return fault
    connection.execute("RELEASE step")
    return None


def _roll_back(connection: sqlite3.Connection) -> None:
    try:
        if connection.in_transaction:  # on some errors SQLite did it itself
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        pass  # the transaction is void either way; the next BEGIN tells whether the connection still works
