"""A TCP proxy that fails as networks and servers fail, on command."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Self

from tests.services.answer_faults import AnswerFault, Limit, Swallow, Then, Truncate
from tests.services.conditions import Conditions, Seen, Settings, Way
from tests.services.link import Link, end_by_reset
from tests.services.ports import HOST, ReservedPort

Address = tuple[str, int]


class FaultProxy:
    """`async with FaultProxy(("127.0.0.1", port)) as proxy`: listens on `proxy.port` and passes on until it is told otherwise.

    `target` may be changed: new connections go there. Faults can be combined, and last until `clear()`; what was said
    to have a number of `times` ends by itself. `seen` counts what happened, and a fault of answers counts for itself
    (`happened`, `await over()`), so that a test can prove its fault before it judges what came of it.

    This one knows no protocol: an answer is what the server says after the client has spoken. `RedisProxy` knows commands.
    """

    def __init__(self, target: Address, *, seed: int = 0) -> None:
        """`seed`: of what is left to chance, jitter and `cut`."""
        self.target = target
        self.seen = Seen()
        self._ways = {way: Conditions(self.seen, random.Random(f"{seed} {way}")) for way in Way}
        self._links: set[Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._faults: list[AnswerFault] = []
        self._listener: socket.socket | None = None
        self._reserved: ReservedPort

    # -- where it is ---------------------------------------------------------------------------------------------------

    @property
    def host(self) -> str:
        return HOST

    @property
    def port(self) -> int:
        return self._reserved.number

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._links)

    async def __aenter__(self) -> Self:
        self._reserved = ReservedPort()
        self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.refuse()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await asyncio.sleep(0)  # for what closes a connection in its callbacks
        self._reserved.close()

    # -- faults of the way ---------------------------------------------------------------------------------------------

    def slow(
        self, delay: float = 0, *, jitter: float = 0, rate: float | None = None, ways: Iterable[Way] = Way
    ) -> None:
        """Each chunk takes `delay` seconds and up to `jitter` more; a connection carries `rate` bytes a second each way."""
        self._change(ways, delay=delay, jitter=jitter, rate=rate)

    def black_hole(self, ways: Iterable[Way] = Way) -> None:
        """Nothing arrives and nothing ends, as behind a cable that was pulled; after `clear()` all that was held goes on.

        Connections are still taken, by the kernel; only they are silent.
        """
        self._change(ways, black_hole=True)

    def cut(self, chance: float, ways: Iterable[Way] = Way) -> None:
        """With this chance a connection is reset where a chunk was to go on."""
        self._change(ways, cut=chance)

    def _change(self, ways: Iterable[Way], **changes: Any) -> None:
        for way in ways:
            self._ways[way].change(**changes)

    def clear(self) -> None:
        """Good weather: ends every fault but that of `refuse()`; what was held goes on."""
        for conditions in self._ways.values():
            conditions.set(Settings())
        for fault in self._faults:
            fault.stop()
        self._faults.clear()

    # -- faults of connections -----------------------------------------------------------------------------------------

    def reset(self) -> None:
        """RST to all that are connected."""
        for link in [*self._links]:
            link.reset()

    def drop(self) -> None:
        """An orderly end (FIN) to all that are connected."""
        for link in [*self._links]:
            link.close()

    def half_close(self, way: Way = Way.TO_CLIENT) -> None:
        """Ends one way of all that are connected; the other goes on."""
        for link in [*self._links]:
            link.half_close(way)

    def refuse(self) -> None:
        """New connections are refused, as where no server runs; those that are there stay."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def listen(self) -> None:
        """Ends `refuse()`."""
        if self._listener is None:
            # No asyncio.start_server: one that is closed while it accepts leaves that connection to the garbage collector.
            self._listener = socket.create_server((self.host, self.port), backlog=1024)
            self._listener.setblocking(False)
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    @asynccontextmanager
    async def flapping(self, every: float) -> AsyncIterator[None]:
        """Within it the server is gone for `every` seconds, there for as long, and so on; there when it is left."""
        flaps = asyncio.create_task(self._flap(every))
        try:
            yield
        finally:
            flaps.cancel()
            await asyncio.gather(flaps, return_exceptions=True)
            self.listen()

    async def _flap(self, every: float) -> None:
        while True:
            self.refuse()
            self.reset()
            self.seen.flaps += 1
            await asyncio.sleep(every)
            self.listen()
            await asyncio.sleep(every)

    # -- faults of answers ---------------------------------------------------------------------------------------------

    def swallow(self, times: int | None = 1, *, skip: int = 0, then: Then = Then.RESET) -> AnswerFault:
        """The next requests reach the server and are carried out; their answers never come back."""
        return self._add(Swallow(Limit(times, skip), then))

    def truncate(self, after: int, times: int | None = 1, *, skip: int = 0, then: Then = Then.RESET) -> AnswerFault:
        """Of the next answers the first `after` bytes come back, never all of them."""
        return self._add(Truncate(Limit(times, skip), then, after=after))

    def _add(self, fault: AnswerFault) -> AnswerFault:
        self._faults.append(fault)
        return fault

    # -- for its links -------------------------------------------------------------------------------------------------

    def conditions(self, way: Way) -> Conditions:
        return self._ways[way]

    def fault_for(self, command: str | None) -> AnswerFault | None:
        """The fault that is to befall the answer to this request, if any."""
        return next((fault for fault in self._faults if fault.takes(command)), None)

    def _link(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> Link:
        return Link(self, client, server)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:  # it has gone again
            return
        client.setblocking(False)
        self.seen.connected_at.append(asyncio.get_running_loop().time())
        task = asyncio.create_task(self._serve(client))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        task.add_done_callback(lambda _: client.close())  # where it was cancelled before it began

    async def _serve(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client)
        try:
            server = await asyncio.open_connection(*self.target)
        except OSError:
            self.seen.unreachable += 1
            end_by_reset(writer)
            return
        except asyncio.CancelledError:
            writer.close()
            raise
        link = self._link((reader, writer), server)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)
