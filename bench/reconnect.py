"""(h) All sockets of a killed server come back at once, with the shared cache."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import time
from collections import Counter
from collections.abc import Sequence
from math import nan
from pathlib import Path

import orjson

from bench.cores import Cores
from bench.drafts import Drafts
from bench.editing import BenchFailed
from bench.figures import percentile
from bench.link import Link, LinkClosed
from bench.missing import Missing
from bench.pair import signed_in, type_and_code
from bench.plan import Plan
from bench.redis_server import RedisServer, free_port
from bench.services import sidecar
from bench.table import Row

_AT_ONCE = 50
_SPARE_FILES = 200
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
"""Seconds; what the protocol asks of clients: full jitter, doubling."""
_STEP_PATIENCE = 60.0
_PATIENCE = 180.0
_CHECKED = 50
_SYNCED = (b'{"type":"sync_delta"', b'{"type":"initial_sync_data"', b'{"type":"resync_required"', b'{"type":"error"')


class Device:
    """One socket of a person, that comes back whenever it was cut."""

    def __init__(self, crowd: Crowd, person: str) -> None:
        self._crowd = crowd
        self.person = person
        self._cursor = b""
        self._link: Link | None = None
        self._returning: asyncio.Task[None] | None = None

    @property
    def link(self) -> Link:
        if self._link is None:
            raise BenchFailed(f"a socket of {self.person} is not back")
        return self._link

    async def come(self, op: bytes | None, drafts: Drafts) -> None:
        """Signs in for the first time, begins the person's chat if `op` is given, and takes a cursor."""
        link = await signed_in(self._crowd.url, self.person)
        if op is not None:
            link.send(drafts.update(op, b"kept", 0, 0, b"", new=True))
            answer = await link.next_frame(b'{"type":"chat_initiated"', b'{"type":"error"', b'{"type":"draft_conflict"')
            if not answer.startswith(b'{"type":"chat_initiated"'):
                raise BenchFailed(f"no chat began: {type_and_code(answer)}")
        async with asyncio.timeout(_STEP_PATIENCE):
            await self._sync(link)
        self._stay(link)

    def _stay(self, link: Link) -> None:
        self._link = link
        link.on_closed = self._cut

    def _cut(self, why: str) -> None:
        self._link = None
        if self._crowd.killed_at is None or self._crowd.is_back(self):
            self._crowd.errors[f"cut: {why}"] += 1
        self._returning = asyncio.create_task(self._come_back())

    async def leave(self) -> None:
        """Ends the socket, for good."""
        if self._link is not None:
            self._link.abort()
        if self._returning is not None:
            self._returning.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._returning

    async def _come_back(self) -> None:
        crowd, wait = self._crowd, _FIRST_WAIT
        while True:
            await asyncio.sleep(random.uniform(0.0, wait))
            wait = min(2 * wait, _LONGEST_WAIT)
            in_vain = crowd.gone_at is None  # the dying process may still have taken the connection
            try:
                async with asyncio.timeout(_STEP_PATIENCE):
                    link = await signed_in(crowd.url, self.person)
                    try:
                        await self._sync(link)
                    except BaseException:
                        link.abort()
                        raise
            except (BenchFailed, LinkClosed, OSError, TimeoutError) as error:
                if in_vain or (crowd.serving_at is None and isinstance(error, ConnectionRefusedError)):
                    crowd.refused += 1
                else:
                    crowd.errors[str(error).removeprefix(f"{self.person} ") or type(error).__name__] += 1
            else:
                self._stay(link)
                crowd.returned(self)
                return

    async def _sync(self, link: Link) -> None:
        """Asks what has changed since the cursor; the first time for everything."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def take(frame: bytes) -> None:
            if not done.done() and frame.startswith(_SYNCED):
                try:
                    if self._take(frame):
                        done.set_result(None)
                except BenchFailed as error:
                    done.set_exception(error)

        def closed(why: str) -> None:
            if not done.done():
                done.set_exception(LinkClosed(why))

        link.on_frame, link.on_closed = take, closed
        since = b'"cursor":"%b"' % self._cursor if self._cursor else b""
        link.send(b'{"type":"sync_request","id":"sync","payload":{%b}}' % since)
        await done
        link.on_frame = lambda _: None

    def _take(self, frame: bytes) -> bool:
        """A frame of the answer to a sync; True: it was the last."""
        read = orjson.loads(frame)
        payload = read["payload"]
        if read["type"] in ("error", "resync_required") or payload.get("failed") or payload["missing"]:
            raise BenchFailed(f"a sync was answered with {type_and_code(frame)}")
        if self._cursor and read["type"] == "initial_sync_data":
            self._crowd.whole_syncs += 1
        if payload["complete"]:
            self._cursor = payload["cursor"].encode()
        return bool(payload["complete"])


class Crowd:
    """All sockets, and what became of them."""

    def __init__(self, url: str, count: int) -> None:
        self.url = url
        self.devices = [Device(self, f"back-{number // 2}") for number in range(count)]
        self.errors: Counter[str] = Counter()
        self.refused = 0
        self.whole_syncs = 0
        self.killed_at: float | None = None
        self.gone_at: float | None = None
        self.serving_at: float | None = None
        self.back: dict[Device, float] = {}
        """When."""
        self._all_back = asyncio.Event()

    def is_back(self, device: Device) -> bool:
        return device in self.back

    def returned(self, device: Device) -> None:
        self.back.setdefault(device, time.perf_counter())
        if len(self.back) == len(self.devices):
            self._all_back.set()

    async def come(self, drafts: Drafts) -> None:
        """Everybody is here, in sync."""
        # A person's chat is there before the second device asks for it.
        for first in (0, 1):
            devices = self.devices[first::2]
            for start in range(0, len(devices), _AT_ONCE):
                some = devices[start : start + _AT_ONCE]
                ops = [None if first else b"begin-%b" % device.person.encode() for device in some]
                await asyncio.gather(*(device.come(op, drafts) for device, op in zip(some, ops, strict=True)))

    async def until_back(self) -> None:
        """All of them, or a long time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await self._all_back.wait()

    async def check(self, drafts: Drafts) -> None:
        """They count only if they are served: an edit on one device reaches the other, made on the draft from before."""
        for number in range(0, min(len(self.devices) - 1, 2 * _CHECKED), 2):
            one, two = self.devices[number], self.devices[number + 1]
            begun = b"begin-%b" % one.person.encode()
            seen = asyncio.create_task(two.link.next_frame(b'{"type":"draft_updated"'))
            await asyncio.sleep(0)  # it listens before the edit is sent
            one.link.send(drafts.update(b"after-%b" % one.person.encode(), b"kept", 1, 1, begun))
            answer = await one.link.next_frame(
                b'{"type":"draft_updated"', b'{"type":"error"', b'{"type":"draft_conflict"'
            )
            if not answer.startswith(b'{"type":"draft_updated"'):
                raise BenchFailed(f"after the return an edit was answered with {type_and_code(answer)}")
            if orjson.loads(await seen)["payload"]["version"] != 2:
                raise BenchFailed("after the return a device got another draft than was sent")

    async def leave(self) -> None:
        """All sockets end, and nobody comes back."""
        await asyncio.gather(*(device.leave() for device in self.devices))


async def measure(plan: Plan, folder: Path, cores: Cores) -> list[Row]:
    """The rows of (h)."""
    rows: list[Row] = []
    for count in plan.reconnects:
        what = f"{count} sockets come back"
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        try:
            if files < count + _SPARE_FILES:
                raise Missing(f"{files} open files a process are allowed; ulimit -n")
            rows += await _measure(plan, folder / f"h-{count}", cores, count)
        except Missing as missing:
            rows.append(Row.left_out("h", what, missing))
    return rows


async def _measure(plan: Plan, folder: Path, cores: Cores, count: int) -> Sequence[Row]:
    drafts = Drafts()
    port = free_port()
    with RedisServer(folder / "redis", cores.redis) as redis:
        crowd = Crowd(f"http://127.0.0.1:{port}", count)
        with sidecar(folder, redis, cores.server, port=port) as first:
            await crowd.come(drafts)
            kept, own = redis.cpu(), time.process_time()
            crowd.killed_at = killed = time.perf_counter()
            await asyncio.to_thread(first.kill)
            crowd.gone_at = time.perf_counter()
        second = sidecar(folder, redis, cores.server, port=port)
        try:
            await asyncio.to_thread(second.__enter__)
            crowd.serving_at = serving = time.perf_counter()
            await crowd.until_back()
            wall, own = time.perf_counter() - killed, time.process_time() - own
            shares = second.cpu() / wall, (redis.cpu() - kept) / wall, own / wall
            await asyncio.sleep(plan.settle)  # whoever is cut again is counted
            if len(crowd.back) == count and not crowd.errors:
                await crowd.check(drafts)
        finally:
            await crowd.leave()
            await asyncio.to_thread(second.__exit__, None, None, None)
    return _rows(plan, crowd, serving - killed, killed, shares)


def _rows(plan: Plan, crowd: Crowd, down: float, killed: float, shares: tuple[float, float, float]) -> Sequence[Row]:
    count = len(crowd.devices)
    what = f"{count} sockets come back after a kill"
    judged = count == plan.reconnects[0]
    goal = plan.goals.back
    times = [at - killed for at in crowd.back.values()]
    lost = count - len(times)
    errors = Counter(crowd.errors)
    if lost:
        errors[f"not back within {_PATIENCE:.0f} s"] = lost
    told = "; ".join(f"{number} × {error}" for error, number in errors.most_common(5))
    return [
        Row(
            "h",
            f"{what}: the last is signed in and in sync after, s",
            f"{max(times):.1f}" if times and not lost else "never",
            goal=f"≤ {goal:.0f} s" if judged else "",
            met=bool(times) and not lost and max(times) <= goal if judged else None,
        ),
        Row(
            "h",
            f"{what}: errors",
            f"{errors.total()}" + (f" ({told})" if told else ""),
            goal="0" if judged else "",
            met=not errors if judged else None,
        ),
        Row(
            "h",
            f"{what}: the server was away, s; half were back after, s; attempts meanwhile; whole syncs",
            f"{down:.1f}; {percentile(times, 0.5) if times else nan:.1f}; {crowd.refused}; {crowd.whole_syncs}",
        ),
        Row(
            "h",
            f"{what}: share of a core, server + Redis / load generator",
            f"{shares[0]:.0%} + {shares[1]:.0%} / {shares[2]:.0%}",
        ),
    ]
