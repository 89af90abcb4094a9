"""Many people who edit at once on one service, and what that cost."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from bench import cores
from bench.drafts import Drafts
from bench.editing import Chat, Editing
from bench.figures import percentile, spread
from bench.hocuspocus.pair import YjsPair
from bench.pair import Pair
from bench.service import Service


@dataclass(slots=True)
class Rounds:
    """One service's figures at one number of people, a value for each round. Shares are of one core."""

    rate: list[float] = field(default_factory=list)
    """Drafts per second."""
    p50: list[float] = field(default_factory=list)
    """Seconds."""
    p99: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    """At a pace: the 99th percentile of the seconds by which the load generator was late."""
    server: list[float] = field(default_factory=list)
    """Share that the server processes used together."""
    redis: list[float] = field(default_factory=list)
    strangers: list[float] = field(default_factory=list)
    """Share of the servers' cores that went to others: the rest of the system."""
    generator: list[float] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    """Seconds of the server processes' CPU time per draft."""
    redis_cost: list[float] = field(default_factory=list)

    @property
    def per_core_second(self) -> list[float]:
        """Drafts for each second of CPU time of servers and Redis: what a core that they had to themselves would give."""
        return [1 / (server + redis) for server, redis in zip(self.cost, self.redis_cost, strict=True)]

    def told(self) -> str:
        """Who took how much of the cores."""
        cost, redis_cost = (f"{spread(each).middle * 1e6:.0f}" for each in (self.cost, self.redis_cost))
        shares = [f"{spread(each).middle:.0%}" for each in (self.server, self.redis, self.strangers, self.generator)]
        return f"{cost} + {redis_cost} µs; {shares[0]} + {shares[1]} + {shares[2]} / {shares[3]}"


Opener = Callable[[Service, str, int, Drafts], Awaitable[Editing]]


async def ours(service: Service, name: str, number: int, drafts: Drafts) -> Editing:
    """Two devices that speak the sidecar's protocol."""
    one, two = service.urls(number)
    return await Pair.open(one, name, drafts, two)


async def yjs(service: Service, name: str, number: int, drafts: Drafts) -> Editing:
    """Two devices that speak Hocuspocus'."""
    return await YjsPair.open(service.url, name, drafts)


class Crowd:
    """So many people with two devices and one chat each."""

    def __init__(self, service: Service, pairs: Sequence[Editing], chats: Sequence[Chat]) -> None:
        self._service = service
        self._pairs = pairs
        self.chats = chats

    @classmethod
    @asynccontextmanager
    async def gathered(
        cls, service: Service, people: int, drafts: Drafts, opener: Opener = ours
    ) -> AsyncIterator[Crowd]:
        """Everybody signed in, each chat begun."""
        pairs, chats = [], []
        # Other people each time: an operation that the service remembers would be answered and tell nobody.
        crowd = secrets.token_hex(4)
        async with AsyncExitStack() as stack:
            for number in range(people):
                pair = await opener(service, f"crowd-{crowd}-{number}", number, drafts)
                stack.push_async_callback(pair.close)
                chat = Chat(f"bench-{crowd}-{number}")
                await pair.begin(chat)
                pairs.append(pair)
                chats.append(chat)
            yield cls(service, pairs, chats)

    async def edit(self, seconds: float, rounds: Rounds | None) -> None:
        """Everybody edits as fast as they are answered for so long. Without `rounds` it is to warm up."""
        with self._measured(rounds):
            await asyncio.gather(*(p.edit([c], seconds) for p, c in zip(self._pairs, self.chats, strict=True)))

    async def keep_pace(self, rate: float, seconds: float, rounds: Rounds | None) -> None:
        """All together send `rate` drafts a second, evenly, whatever the answers do. Without `rounds` it is to warm up."""
        pace = len(self._pairs) / rate
        with self._measured(rounds):
            first = time.perf_counter() + 0.01
            until = first + seconds
            await asyncio.gather(
                *(
                    pair.keep_pace(chat, first + number / rate, pace, until)
                    for number, (pair, chat) in enumerate(zip(self._pairs, self.chats, strict=True))
                )
            )

    def last_text(self) -> tuple[bytes, bytes]:
        """Of a Yjs document of this crowd: its name, and the text that it must hold now."""
        pair = self._pairs[0]
        if not isinstance(pair, YjsPair):
            raise TypeError("these people edit no Yjs documents")
        return pair.last_text

    @contextmanager
    def _measured(self, rounds: Rounds | None) -> Iterator[None]:
        service = self._service
        used, kept = service.cpu(), service.redis_cpu()
        busy = sum(map(cores.busy, service.cores))
        own, began = time.process_time(), time.perf_counter()
        yield
        wall, own = time.perf_counter() - began, time.process_time() - own
        busy = sum(map(cores.busy, service.cores)) - busy
        used, kept = service.cpu() - used, service.redis_cpu() - kept
        if rounds is None:
            return
        latencies = [each for pair in self._pairs for each in pair.latencies]
        lateness = [each for pair in self._pairs for each in pair.lateness]
        rounds.rate.append(len(latencies) / wall)
        rounds.p50.append(percentile(latencies, 0.5))
        rounds.p99.append(percentile(latencies, 0.99))
        rounds.late.append(percentile(lateness, 0.99) if lateness else 0.0)
        rounds.server.append(used / wall)
        rounds.redis.append(kept / wall)
        rounds.strangers.append(max(0.0, busy - used - kept) / wall)
        rounds.generator.append(own / wall)
        rounds.cost.append(used / len(latencies))
        rounds.redis_cost.append(kept / len(latencies))
