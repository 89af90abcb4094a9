"""Directus is killed in mid-write, or its disk is full: chat and message are there together or not at all (F30)."""

from __future__ import annotations

import asyncio
import os
import random
import sys

import pytest

from tests.device import Device, doc
from tests.directus_store.conftest import ServeOn, StartPrepared
from tests.directus_store.crowd import FULL
from tests.directus_store.world import Prepared, plugin_of, somebody
from tests.integration.world import until
from tests.services.directus.front import DirectusFront
from tests.services.postgres_server import PostgresServer

KILLS = int(os.environ.get("DIRECTUS_KILLS", "250" if FULL else "3"))
"""Of each database; the row's number is 500 of both."""
_TIMEOUT = 120 + 30 * KILLS


@pytest.fixture
def _short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails again and again is left alone for longer and longer: most kills would meet nothing."""
    monkeypatch.setattr("random.uniform", lambda _low, high: high / 50)


async def _no_empty_chat(own: Prepared) -> None:
    """No chat without a message: asked as one query, for the sidecar may be writing meanwhile. The database itself keeps the rest."""
    assert await own.rows("chats", filter={"messages": {"_none": {"id": {"_nnull": True}}}}) == []


async def _whole(directus: Prepared) -> int:
    """No chat without a message, no message without a chat; how many messages there are."""
    chats = await directus.rows("chats")
    messages = await directus.rows("messages")
    assert {row["id"] for row in chats} == {row["chat_id"] for row in messages}
    assert len({row["message_id"] for row in messages}) == len(messages)
    return len(messages)


async def _killed_at_random(own: Prepared, serve_on: ServeOn, seed: int) -> None:
    chance = random.Random(seed)
    person, sent, hit = somebody(), 0, 0
    writes = own.names.messages
    async with (
        DirectusFront(own.server.url) as front,
        serve_on(own, front.url, options={"changes": "look"}) as server,
        Device(server.url, person, wait=90) as device,
    ):
        kills = 0
        while kills < KILLS or (not hit and kills < 4 * KILLS):
            kills += 1
            for _ in range(25):
                first = {"tempChatId": f"c{sent}", "clientMessageId": "m", "content": doc(f"{sent}")}
                assert (await device.ask("message_send", first))["type"] == "message_accepted"
                sent += 1
            before = front.count("POST", writes)

            await until(lambda before=before: front.count("POST", writes) > before, 60)
            await asyncio.sleep(chance.uniform(0, 0.03))
            front.broken.clear()
            own.server.kill()
            await asyncio.sleep(0.1)
            hit += ("POST", f"/items/{writes}") in front.broken
            await own.server.start()
            await _no_empty_chat(own)
        assert hit, "none of the kills met a write"
        print(f"{hit} of {kills} kills met a write that was under way; {sent} first messages")
        outbox = server.context.parts.cache.outbox

        async def empty() -> bool:
            server.context.worker.wake()
            return not any(position.pending for position in (await outbox.positions()).values())

        await until(empty, 90)
        assert await _whole(own) == sent
        assert await outbox.parked("persistence") == []


@pytest.mark.usefixtures("_short_rests")
@pytest.mark.timeout(_TIMEOUT)
async def test_f30_killed_at_random_on_sqlite(start_prepared: StartPrepared, serve_on: ServeOn) -> None:
    """F30, S30."""
    await _killed_at_random(await start_prepared(), serve_on, 1)


@pytest.mark.usefixtures("_short_rests")
@pytest.mark.timeout(_TIMEOUT + 60)
async def test_f30_killed_at_random_on_postgres(
    start_prepared: StartPrepared, serve_on: ServeOn, postgres: PostgresServer
) -> None:
    """F30, S30."""
    await _killed_at_random(await start_prepared(**postgres.for_directus()), serve_on, 2)


_DEAF_TO_XFSZ = ("sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh")
"""A write beyond the limit then fails with an error, as on a full disk, instead of ending the process."""


@pytest.mark.skipif(sys.platform != "linux", reason="not promised: only Linux limits another process' files")
@pytest.mark.timeout(180)
async def test_a_full_disk_of_directus_parks_nothing(start_prepared: StartPrepared, serve_on: ServeOn) -> None:
    """Directus answers 500 to every write: nobody's row is to blame. With room again all of it is stored."""
    import resource

    own = await start_prepared(under=_DEAF_TO_XFSZ)
    person = somebody()
    async with (
        serve_on(own, options={"changes": "look"}) as server,
        Device(server.url, person, wait=60) as device,
    ):
        unlimited = resource.RLIM_INFINITY
        size = own.server.database.stat().st_size  # each message wants more than there is room for
        resource.prlimit(own.server.pid, resource.RLIMIT_FSIZE, (size, unlimited))
        for number in range(20):
            first = {"tempChatId": f"c{number}", "clientMessageId": "m", "content": doc("x" * 100_000)}
            assert (await device.ask("message_send", first))["type"] == "message_accepted"
        await until(lambda: "fails at writing" in str(plugin_of(server).state().get("reason")), 30)
        await asyncio.sleep(3)
        outbox = server.context.parts.cache.outbox
        assert await outbox.parked("persistence") == []
        assert (await outbox.positions())["persistence"].pending == 20
        resource.prlimit(own.server.pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))

        async def empty() -> bool:
            server.context.worker.wake()
            return not any(position.pending for position in (await outbox.positions()).values())

        await until(empty, 60)
        assert await _whole(own) == 20
