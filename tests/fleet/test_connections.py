"""Connections of one person over several sidecars: their number, and the life of what their owner holds (T23, F15, S22)."""

from __future__ import annotations

import asyncio
import signal

from plugins.cache.redis_layout import PERSON
from plugins.cache.redis_sweep import sweep_once
from sidecar import ChatId, UserHash
from sidecar.server.running import Server
from tests.device import Device, doc
from tests.fleet.fleet import Fleet, chats_of_redis, travel
from tests.fleet.test_fan_out import SOON
from tests.integration.world import AT_ONCE, begin, fields_of_person, settled, until

MOST = {"connections_per_user": 3}


async def refused(url: str) -> bool:
    """Whether a further connection is told that there are too many."""
    device = await Device(url).connect()
    answer = await device.ask("auth", {"token": "dev:alice", "protocol": 1})
    try:
        if answer["type"] == "ready":
            return False
        assert (answer["payload"]["code"], answer["payload"]["details"]) == ("quota_exceeded", {"limit": 3})
        assert await device.closed() == 1013
        return True
    finally:
        await device.close()


async def test_t23_connections_are_capped_over_all_sidecars(fleet: Fleet) -> None:
    async with fleet.serving(2, limits=MOST) as (one, other):
        devices = [await Device(server.url).open() for server in (one, other, one)]
        assert await refused(one.url)
        assert await refused(other.url)
        async with Device(other.url, "bob"):
            pass
        await devices.pop(1).close()
        await until(lambda: _places(one, 2), SOON)
        devices.append(await Device(one.url).open())
        assert await refused(other.url)
        for device in devices:
            await device.close()


async def _places(server: Server, count: int) -> bool:
    user = next(server.context.registry.__iter__()).user
    return len(await server.context.parts.cache.leases.held(f"connections:{user}")) == count


async def test_t23_the_places_of_a_killed_sidecar_are_free_when_their_leases_end(fleet: Fleet) -> None:
    """T23: by leases, not counters: nobody has to count down what a dead process had counted up."""
    short = (
        "import sidecar.server.opening as opening, sidecar.server.housekeeping as housekeeping\n"
        "opening.LEASE_SECONDS = housekeeping.LEASE_SECONDS = 3.0"
    )
    async with fleet.serving(1, limits=MOST) as (stays,), fleet.process(before=short, limits=MOST) as doomed:
        devices = [await Device(url).open() for url in (doomed.url, stays.url, doomed.url)]
        assert await refused(stays.url)
        await asyncio.sleep(4)
        assert await refused(stays.url), "while it lives its leases are renewed"
        doomed.signal(signal.SIGKILL)
        await doomed.exit()
        await until(lambda: _places(stays, 1), SOON)
        for device in devices:
            await device.close()
        devices = [await Device(stays.url).open() for _ in range(3)]
        assert await refused(stays.url)
        for device in devices:
            await device.close()


async def test_f15_s22_drafts_live_while_their_owner_is_connected_to_any_sidecar(fleet: Fleet) -> None:
    """F15, S22: the look of the one that she is connected to keeps them, whoever does the sweeping; then they end."""
    async with fleet.serving(2, drafts=AT_ONCE, chats={"draft_ttl": "30m"}) as servers:
        one, other = servers
        sweeping = chats_of_redis(one)
        async with Device(other.url) as device:
            await begin(device, "c1", doc("unsent"))
            await settled(other)
            user, chat_id = UserHash(device.user), ChatId(device.full("c1"))

            async def polled() -> float:
                return float((await fields_of_person(sweeping, user))[PERSON.index("p_polled")]) / 1000

            for _ in range(3):
                before = await polled()
                travel(servers, 1700)

                async def looked(before: float = before) -> bool:
                    return await polled() > before + 1600

                await until(looked, SOON)
                await sweep_once(sweeping._link, sweeping._settings, sweeping)
            [key] = await _fields(one, user, "c:*")
            assert key == f"c:{chat_id}"
        await until(lambda: len(other.context.registry) == 0, SOON)
        travel(servers, 1900)
        await sweep_once(sweeping._link, sweeping._settings, sweeping)
        assert await _fields(one, user, "?:*c1") == []


async def _fields(server: Server, user: UserHash, pattern: str) -> list[str]:
    """Which fields a person has in Redis, found without reading, which would prolong a life."""
    chats = chats_of_redis(server)
    [client] = await chats._link.clients()
    async with client:
        return [field.decode() async for field, _ in client.hscan_iter(chats._keys.person(user)[0], pattern)]
