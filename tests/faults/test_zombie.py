"""F38: a process that slept past its leases wakes up, and finds that others have gone on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from plugins.cache.redis_layout import Keys
from sidecar.ids import hash_user
from tests.device import Device, doc
from tests.faults.hosts import Host, Hosts, hosts
from tests.faults.people import Watcher, alive
from tests.integration.world import say, until
from tests.plugins.witness import hold, told

__all__ = ["hosts"]


def _witness(folder: Path) -> dict[str, Any]:
    options = {"folder": str(folder)}
    return {"use": "tests.plugins.witness:Witness", "name": "witness", "timeout": "5m", "options": options}


async def _person_of(hosts: Hosts, host: Host) -> str:
    """Somebody whose entries this process delivers."""
    holders = await hosts.holders()
    keys = Keys("sidecar", 64)
    return next(
        name for name in (f"p{n}" for n in range(10_000)) if holders[keys.shard_of(hash_user(name))] == host.pid
    )


async def test_f38_a_process_that_slept_past_its_lease_changes_nothing(hosts: Hosts) -> None:
    """F38: stopped in the middle of a plugin's call (the design's 60 s, scaled to what the lease asks for)."""
    folder = hosts.folder
    async with hosts(2, plugins=[_witness(folder)]) as (zombie, heir):
        await until(lambda: hosts.even(zombie, heir), 30)
        name = await _person_of(hosts, zombie)
        looker = Watcher([zombie.url], name)
        async with Device(heir.url, name) as device, alive([looker]):
            chat = device.full("c1")
            hold(folder, "m0")
            await say(device, "c1", "m0", doc("0"))
            await until(lambda: told(folder, chat) == [(zombie.pid, "m0")])
            for number in range(1, 6):  # they wait behind it, and are taken up together
                await say(device, "c1", f"m{number}", doc(f"{number}"))
            hold(folder, "m1")
            await until(lambda: (zombie.pid, "m1") in told(folder, chat))
            await until(lambda: len(looker.messages.get(chat, ())) == 6)
            # Not in the middle of a transaction: a file that it had locked would stay locked for everybody.
            await until(lambda: len(hosts.rows("SELECT 1 FROM messages")) == 6)
            await zombie.pause()
            hold(folder, "nothing")
            await say(device, "c1", "m6", doc("6"))
            await until(lambda: told(folder, chat)[2:] == [(heir.pid, f"m{number}") for number in range(1, 7)], 30)
            assert (await hosts.shares()) == {heir.pid: 64}, "the fault happened: all that it had is another's"
            assert len(looker.messages[chat]) == 6, "its sockets hear nothing meanwhile"
            await until(lambda: _settled(hosts, name), 20)
            before = await _state(hosts, name)
            zombie.resume()
            await asyncio.sleep(3)  # its calls come back, and two looks for its leases
            assert told(folder, chat)[2:] == [(heir.pid, f"m{number}") for number in range(1, 7)], "it told no more"
            assert await _state(hosts, name) == before, "nor anybody else"
            assert zombie.events("outbox_lease_over"), "it saw that its leases had ended"
            await say(device, "c1", "m7", doc("7"))
            await until(lambda: told(folder, chat)[-1][1] == "m7")
            assert [message for _, message in told(folder, chat)[2:]] == [f"m{number}" for number in range(1, 8)]
            await until(lambda: len(looker.messages[chat]) == 8)
            assert looker.ends == [], "the socket there went on, and heard everything in its order"
            await until(lambda: hosts.even(zombie, heir), 30)  # it takes its part again
        rows = hosts.rows("SELECT client_message_id, sequence FROM messages ORDER BY sequence")
        assert [tuple(row) for row in rows] == [(f"m{number}", number + 1) for number in range(8)]
        zombie.spotless()
        heir.spotless()


async def _settled(hosts: Hosts, name: str) -> bool:
    return not any(field.startswith(b"e:") for field in (await _state(hosts, name))[2])


async def _state(hosts: Hosts, name: str) -> Any:
    """What Redis has of this person, and of the outbox of their shard, but for who looks at it."""
    shard = Keys("sidecar", 64).shard_of(hash_user(name))
    async with hosts.redis.client() as client:
        redis: Any = client
        person = await redis.hgetall(f"sidecar:{{{shard}}}:person:{hash_user(name)}")
        person.pop(b"p")
        log = await redis.lrange(f"sidecar:{{{shard}}}:log:{hash_user(name)}", 0, -1)
        outbox = await redis.hgetall(f"sidecar:{{{shard}}}:outbox")
        outbox.pop(b"fence", None)
        outbox.pop(b"n", None)
        return person, log, outbox
