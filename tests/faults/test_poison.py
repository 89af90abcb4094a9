"""F51: entries of the outbox that a plugin cannot take, on Redis and with several processes."""

from __future__ import annotations

import asyncio
from collections import Counter

from tests.device import Device, doc
from tests.faults.hosts import Hosts, hosts
from tests.integration.world import AT_ONCE, say, until

__all__ = ["hosts"]

IMPATIENT = "import random; uniform = random.uniform; random.uniform = lambda low, high: uniform(low, high) / 20"
"""Pauses between tries are a twentieth of what they are: eight tries take half a minute otherwise."""
PEOPLE, CHATS = 10, 10


async def test_f51_poison_is_tried_eight_times_parked_and_replayed_from_another_process(hosts: Hosts) -> None:
    """F51: one bad chat in a hundred holds up nobody else; the process that replays it is not the one that parked it."""
    poison = hosts.folder / "poison"
    poison.write_text("bad-.*")
    store = {"use": "tests.plugins.poisoned_store:PoisonedStore", "options": {"poison": str(poison)}}
    async with hosts(2, lambda _: {"before": IMPATIENT}, persistence=store, drafts=AT_ONCE) as (one, other):
        people = [await Device((one, other)[n % 2].url, f"p{n}").open() for n in range(PEOPLE)]
        victim = people[0]
        await asyncio.gather(*(_talk(device, bad="c3" if device is victim else None) for device in people))
        said = PEOPLE * CHATS * 2
        await until(lambda: len(hosts.rows("SELECT 1 FROM messages")) == said - 2, 40)
        told = await victim.event("message_update", lambda event: event["status"] == "error")
        assert told["chatId"] == victim.full("c3")
        await until(lambda: _parked(hosts, 2), 20)
        calls = Counter((hosts.folder / "poisoned").read_text().split())
        assert calls == {"bad-1": 8}, "eight tries, and what comes after it in its chat was not even tried"
        parked = {entry["entry"]: entry for entry in await other.command("dead-letters", "list")}
        assert parked == {entry["entry"]: entry for entry in await one.command("dead-letters", "list")}
        assert [entry["kind"] for entry in parked.values()] == ["first_message", "message"]
        assert {entry["chat"] for entry in parked.values()} == {victim.full("c3")}
        # Later ones of the chat wait behind it; another chat of the same person does not.
        await say(victim, "c3", "later", doc("later"))
        await say(victim, "c4", "elsewhere", doc("elsewhere"))
        await until(lambda: len(hosts.rows("SELECT 1 FROM messages")) == said - 1, 20)
        # Replayed in vain, by the process that does not hold the shard as well as by the other.
        for host in (one, other):
            assert (await host.command("dead-letters", "replay", "--all"))["count"] == 3
            await until(lambda: _parked(hosts, 3), 20)
        poison.unlink()
        told = await other.command("dead-letters", "replay", "--chat", victim.full("c3"))
        assert (told["count"], told["parked"]) == (3, 0), told
        await until(lambda: len(hosts.rows("SELECT 1 FROM messages")) == said + 2, 20)
        rows = hosts.rows(
            "SELECT client_message_id FROM messages WHERE chat_id = ? ORDER BY sequence", victim.full("c3")
        )
        assert [row[0] for row in rows] == ["bad-1", "bad-2", "later"]
        page = await victim.ask("messages_request", {"chatId": "c3", "limit": 10})
        await until(lambda: _parked(hosts, 0), 20)
        assert {message["client_message_id"] for message in page["payload"]["messages"]} == {"bad-1", "bad-2", "later"}
        assert await one.command("dead-letters", "list") == []
        for device in people:
            await device.close()
        for host in (one, other):
            host.spotless()


async def _talk(device: Device, bad: str | None) -> None:
    """Two messages in each of some chats; in one of them they are poison."""
    for number in (1, 2):
        for chat in range(CHATS):
            name = f"c{chat}"
            await say(device, name, f"{'bad' if name == bad else 'm'}-{number}", doc("said"))


async def _parked(hosts: Hosts, number: int) -> bool:
    return await hosts.entries("parked") == number
