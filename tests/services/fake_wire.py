"""A Redis behind a wire of its own, for tests of a lane without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis
import pytest
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as Broken
from redis.exceptions import NoScriptError

from plugins.cache.redis_calls import Call
from plugins.cache.redis_lane import Lane
from plugins.cache.redis_layout import Script
from plugins.cache.redis_wire import Wire
from sidecar import Unavailable

SCRIPT = Script("echo", b"return ARGV[1]", b"e" * 40)
OTHER = Script("other", b"return 'other'", b"o" * 40)


def parsed(answer: str) -> Exception:
    """The error that redis-py makes of this answer."""
    return cast("Exception", BaseParser.parse_error(answer))  # type: ignore[no-untyped-call]


class Fake:
    """A wire whose server answers each command with its last argument, unless it is told otherwise."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.lost = False
        self.answers: list[Any] = []
        self._task: asyncio.Task[None] | None = None

    def send(self, pipeline: bytes, expected: int, timeout: float, came: Callable[[Exception | None], None]) -> None:
        assert not self.lost
        reader = hiredis.Reader()
        reader.feed(pipeline)
        answers = []
        while (command := reader.gets()) is not False:
            self.server.commands.append([bytes(part) for part in command])
            answers.append(self.server.answer(command))
        self.server.pipelines += 1
        assert len(answers) == expected
        self.answers = []
        self._task = asyncio.create_task(self._answer(answers, timeout, came))

    async def _answer(self, answers: list[Any], timeout: float, came: Callable[[Exception | None], None]) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self.server.hold.wait()
        except TimeoutError as error:
            came(error)
            return
        for answer in answers:
            if isinstance(answer, Broken):
                self.lost = True
                came(answer)
                return
            self.answers.append(answer)
        came(None)

    def close(self) -> None:
        self.lost = True
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()


class Server:
    """What stands behind the fake connections. `special` says, by the last argument, what comes in place of it."""

    def __init__(self) -> None:
        self.commands: list[list[bytes]] = []
        self.pipelines = 0
        self.connections: list[Fake] = []
        self.special: dict[bytes, Any] = {}
        self.once: dict[bytes, Any] = {}
        self.refusing: Exception | None = None
        self.known = True
        self.hold = asyncio.Event()
        self.hold.set()

    def answer(self, command: Sequence[bytes]) -> Any:
        if command[0] == b"EVALSHA" and not self.known:
            return NoScriptError("No matching script.")
        last = bytes(command[-1])
        return self.once.pop(last, self.special.get(last, last))

    async def connect(self) -> Wire:
        if self.refusing is not None:
            raise self.refusing
        self.connections.append(Fake(self))
        return cast("Wire", self.connections[-1])

    def said(self) -> list[bytes]:
        """The last arguments of the commands, in the order in which they came."""
        return [command[-1] for command in self.commands]


def call(text: bytes, *, script: Script = SCRIPT, seconds: float = 1.0, asking: bool = False) -> Call:
    return Call(script, (b"key",), (text,), asyncio.get_running_loop().time() + seconds, asking)


async def ask(lane: Lane, *texts: bytes) -> list[Any]:
    """Asks all of these at the same moment; what each was answered, or why not."""
    return await asyncio.gather(*(lane(call(text)) for text in texts), return_exceptions=True)


def refused(answer: Any) -> str:
    assert isinstance(answer, Unavailable), answer
    assert answer.part == "cache"
    return answer.reason


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server.connect, 1.0)
