"""One outbound queue for each socket: bounded, in the order of the log (T18, S37, S53, S54)."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from sidecar.connections import SLOW_READER, Connection, Registry
from sidecar.cursors import Cursor
from sidecar.ids import ConnectionId, DeviceId, UserHash
from sidecar.parts import Caller

LIMIT = 10_000


class Line:
    """A wire whose reader takes what the test lets it take."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.waiting = 0
        self.takes = asyncio.Event()
        self.takes.set()
        self.closed: list[int] = []
        self.pings = 0
        self.gone = False

    def write(self, frame: bytes) -> None:
        self.sent.append(frame)

    def backlog(self) -> int:
        return self.waiting

    async def write_waiting(self, frame: bytes) -> None:
        if self.gone:
            raise ConnectionResetError
        self.sent.append(frame)
        await self.takes.wait()

    def ping(self) -> None:
        self.pings += 1

    def close(self, code: int, reason: str) -> None:
        self.closed.append(code)

    def stall(self) -> None:
        self.waiting = 1 << 20
        self.takes.clear()

    def go_on(self) -> None:
        self.waiting = 0
        self.takes.set()


def at(offset: int, epoch: str = "e1") -> Cursor:
    return Cursor(epoch, offset, "tag")


def a_connection(line: Line, name: str = "c1", user: str = "u") -> Connection:
    caller = Caller(UserHash(user), DeviceId("d"), ConnectionId(name), None)
    return Connection(caller, line, LIMIT, at(0))


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_frames_leave_at_once_while_the_reader_takes_them() -> None:
    line = Line()
    connection = a_connection(line)
    connection.send(b"one")
    connection.send(b"two")
    assert line.sent == [b"one", b"two"]


async def test_t18_s37_what_a_stalled_reader_lets_wait_is_bounded() -> None:
    line = Line()
    connection = a_connection(line)
    line.stall()
    for _ in range(LIMIT // 100 + 3):
        connection.send(bytes(100))
        await asyncio.sleep(0)
    assert line.closed == [SLOW_READER]
    assert connection.closed
    assert len(line.sent) == 1  # the one that was being written
    line.go_on()
    await _settle()
    connection.send(b"after")
    await _settle()
    assert len(line.sent) == 1, "nothing leaves after the close"


async def test_s37_a_reader_that_goes_on_misses_nothing() -> None:
    line = Line()
    connection = a_connection(line)
    line.stall()
    frames = [str(number).encode() for number in range(50)]
    for frame in frames:
        connection.send(frame)
    await _settle()
    assert len(line.sent) < 50
    line.go_on()
    await _settle()
    for _ in range(60):
        await asyncio.sleep(0)
    assert line.sent == frames
    assert not line.closed


async def test_t18_one_frame_may_wait_however_large() -> None:
    line = Line()
    connection = a_connection(line)
    line.waiting = 1 << 20
    connection.send(bytes(LIMIT * 3))
    await _settle()
    assert not line.closed
    assert len(line.sent) == 1


@pytest.mark.parametrize("paused", [True, False])
async def test_t18_answers_that_wait_for_their_place_are_bounded(paused: bool) -> None:
    line = Line()
    connection = a_connection(line)
    if paused:
        connection.pause(at(5))
    for number in range(LIMIT // 100 + 3):
        connection.answer(bytes(100), at(100 + number))
    assert line.closed == [SLOW_READER]
    assert not line.sent


async def test_t18_events_during_a_sync_are_bounded() -> None:
    line = Line()
    connection = a_connection(line)
    connection.pause(at(0))
    for number in range(LIMIT // 100 + 3):
        connection.pass_by(at(number + 1), bytes(100))
    assert line.closed == [SLOW_READER]
    connection.resume()
    assert not line.sent


async def test_a_reader_that_takes_nothing_is_cut_off_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.connections._DRAIN_SECONDS", 0.05)
    line = Line()
    connection = a_connection(line)
    line.stall()
    await connection.send_waiting(b"a sync frame")
    assert line.closed == [SLOW_READER]


async def test_a_socket_that_is_gone_is_not_written_to() -> None:
    line = Line()
    connection = a_connection(line)
    line.gone = True
    await connection.send_waiting(b"x")
    assert connection.closed
    connection.send(b"y")
    connection.ping()
    assert not line.sent
    assert not line.pings


async def test_answers_leave_behind_the_events_before_them() -> None:
    line = Line()
    connection = a_connection(line)
    connection.answer(b"mine at 2", at(2))
    assert not line.sent
    connection.pass_by(at(1), b"theirs at 1")
    connection.pass_by(at(2), None)
    assert line.sent == [b"theirs at 1", b"mine at 2"]
    connection.pass_by(at(2), b"again")
    assert len(line.sent) == 2, "an entry is told once"


async def test_events_wait_for_the_end_of_a_sync_and_those_before_it_are_not_told_again() -> None:
    line = Line()
    connection = a_connection(line)
    connection.pause(at(3))
    for offset in range(1, 6):
        connection.pass_by(at(offset), str(offset).encode())
    connection.answer(b"mine at 4", at(4))
    assert not line.sent
    connection.resume()
    assert line.sent == [b"4", b"mine at 4", b"5"]


async def test_an_idle_connection_keeps_no_queues() -> None:
    connection = a_connection(Line())
    connection.send(b"x")
    kept: list[Any] = [getattr(connection, name) for name in Connection.__slots__]
    own = [each for each in kept if isinstance(each, (list, dict, set)) or type(each).__name__ == "deque"]
    assert own == []
    assert sys.getsizeof(connection) < 200


async def test_s53_s54_a_late_close_removes_nobody_else() -> None:
    registry = Registry()
    old, new, tab = (a_connection(Line(), name) for name in ("c1", "c1", "c2"))
    registry.add(old)
    assert registry.remove(old)
    registry.add(new)
    registry.add(tab)
    assert not registry.remove(old), "the old socket's late close"
    assert set(registry.of(UserHash("u"))) == {new, tab}
    assert len(registry) == 2
    assert not registry.remove(tab)
    assert registry.remove(new)
    assert not registry.remove(new)
    assert len(registry) == 0
    await asyncio.wait_for(registry.empty(), 1)
