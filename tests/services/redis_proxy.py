"""A fault proxy that knows Redis' protocol: faults of the answers to certain commands, errors in their place, lost notices."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from tests.services.answer_faults import AnswerFault, Limit, Repeat, Replace, Swallow, Then, Truncate
from tests.services.link import Link
from tests.services.proxy import Address, FaultProxy
from tests.services.resp import Values, words

ERRORS = {
    error.partition(" ")[0]: error
    for error in (
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "CLUSTERDOWN The cluster is down",
        "EXECABORT Transaction discarded because of previous errors.",
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "MISCONF Errors writing to the AOF file: No space left on device",
        "NOREPLICAS Not enough good replicas to write.",
        "NOSCRIPT No matching script. Please use EVAL.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "READONLY You can't write against a read only replica.",
        "TRYAGAIN Multiple keys request during rehashing of slot",
    )
}
"""What a real server says, by the error's first word."""

_SUBSCRIBING = frozenset(prefix + verb for prefix in ("", "P", "S") for verb in ("SUBSCRIBE", "UNSUBSCRIBE"))
_STREAMING = frozenset({"PSYNC", "SYNC", "MONITOR"})
"""After these a connection carries something other than commands and answers."""
_NOTICES = frozenset({b"message", b"pmessage", b"smessage"})
_CONFIRMATIONS = frozenset(name.lower().encode() for name in _SUBSCRIBING)


def _names(of: str | Iterable[str] | None) -> frozenset[str] | None:
    return None if of is None else frozenset(name.upper() for name in ([of] if isinstance(of, str) else of))


class RedisProxy(FaultProxy):
    """In front of one Redis. `of` names the commands (`"EVALSHA"`) whose answers a fault is for; without it a fault takes any
    but those of setting up a connection. In a pipeline each command counts, and answers before the fault still arrive."""

    def __init__(self, target: Address, *, seed: int = 0) -> None:
        super().__init__(target, seed=seed)
        self._of_notices: list[AnswerFault] = []
        self.commands: list[str] = []
        """The name of each command that came, in upper case, in order."""
        self.starves = False
        """Whether replicas that follow the server through this proxy learn of nothing."""

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}"

    def swallow(
        self, times: int | None = 1, *, skip: int = 0, then: Then = Then.RESET, of: str | Iterable[str] | None = None
    ) -> AnswerFault:
        return self._add(Swallow(Limit(times, skip, _names(of)), then))

    def truncate(
        self,
        after: int,
        times: int | None = 1,
        *,
        skip: int = 0,
        then: Then = Then.RESET,
        of: str | Iterable[str] | None = None,
    ) -> AnswerFault:
        return self._add(Truncate(Limit(times, skip, _names(of)), then, after=after))

    def answer(
        self,
        error: str,
        times: int | None = 1,
        *,
        skip: int = 0,
        executed: bool = False,
        of: str | Iterable[str] | None = None,
    ) -> AnswerFault:
        """The next commands are answered with this error: the first word of one of `ERRORS`, or a text, such as
        `MOVED 866 127.0.0.1:7001`. As with the real error the command is not carried out, unless it is to be `executed`."""
        text = f"-{ERRORS.get(error, error)}\r\n".encode()
        return self._add(Replace(Limit(times, skip, _names(of)), answer=text, executed=executed))

    def lose_notices(self, times: int | None = 1, *, skip: int = 0) -> AnswerFault:
        """The next published messages do not reach their subscribers here."""
        return self._add_of_notices(Swallow(Limit(times, skip), Then.GO_ON))

    def double_notices(self, times: int | None = 1, *, skip: int = 0) -> AnswerFault:
        """The next published messages reach their subscribers here twice."""
        return self._add_of_notices(Repeat(Limit(times, skip), Then.GO_ON))

    def starve_replicas(self) -> None:
        """Replicas that follow the server through this proxy learn of nothing more, and neither side is told."""
        self.starves = True

    def feed_replicas(self) -> None:
        """They follow again: what they missed they ask for over new connections."""
        self.starves = False
        for link in [*self._links]:
            if isinstance(link, RedisLink) and link.streams:
                link.reset()

    def clear(self) -> None:
        super().clear()
        for fault in self._of_notices:
            fault.stop()
        self._of_notices.clear()
        if self.starves:
            self.feed_replicas()

    def _add_of_notices(self, fault: AnswerFault) -> AnswerFault:
        self._of_notices.append(fault)
        return fault

    def fault_for_notice(self) -> AnswerFault | None:
        return next((fault for fault in self._of_notices if fault.takes(None)), None)

    def _link(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> Link:
        return RedisLink(self, client, server)


class RedisLink(Link):
    """One connection: which answer belongs to which command."""

    def __init__(
        self,
        proxy: RedisProxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        super().__init__(proxy, client, server)
        self._proxy = proxy
        self._commands = Values()
        self._answers = Values()
        self._expected: deque[AnswerFault | None] = deque()
        self._subscribed = False
        self.streams = False
        """Whether it carries something other than commands and answers: replication, or MONITOR."""

    def from_client(self, data: bytes) -> None:
        if self.streams:
            self._server.write(data)
            return
        for command in self._commands.feed(data):
            first = words(command, 1)
            if not first:
                self._server.write(command)  # an empty line: Redis passes over it too
                continue
            name = first[0].decode(errors="replace").upper()
            self._proxy.seen.requests += 1
            self._proxy.commands.append(name)
            if name in _STREAMING:
                self.streams = True
                self._server.write(command)
                continue
            if name in _SUBSCRIBING:
                self._subscribed = True  # what confirms it comes as a notice does, and as often as there are channels
                self._server.write(command)
                continue
            fault = self._proxy.fault_for(name)
            self._expected.append(fault)
            if not isinstance(fault, Replace) or fault.executed:
                self._server.write(command)
        if self.streams:
            self._server.write(self._commands.rest())
        self._give_what_needs_no_server()

    def from_server(self, data: bytes) -> None:
        if self.streams:
            if self._proxy.starves:
                self._answers.rest()
                self._proxy.seen.held += 1
            else:
                self.give(self._answers.rest() + data, None)
            return
        for answer in self._answers.feed(data):
            if self._is_notice(answer):
                self.give(answer, self._proxy.fault_for_notice() if _NOTICES.intersection(words(answer, 1)) else None)
                continue
            self._proxy.seen.answers += 1
            self.give(answer, self._expected.popleft() if self._expected else None)
            self._give_what_needs_no_server()

    def _is_notice(self, answer: bytes) -> bool:
        if answer[:1] == b">":  # RESP3 says which they are
            return True
        return (
            self._subscribed and answer[:1] == b"*" and not _CONFIRMATIONS.union(_NOTICES).isdisjoint(words(answer, 1))
        )

    def _give_what_needs_no_server(self) -> None:
        while self._expected and isinstance(fault := self._expected[0], Replace) and not fault.executed:
            self._expected.popleft()
            self.give(b"", fault)
