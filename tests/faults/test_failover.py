"""The primary is gone, and its place is taken by a replica that lags: F10 (semantics §2, §6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sidecar.ids import hash_user
from tests.device import Device, doc
from tests.faults.world import crowded, sidecar, sound
from tests.integration.world import begin, chats_of, until
from tests.services.fixtures import StartReplicated
from tests.services.replicated_redis import ReplicatedRedis


async def test_f10_a_replica_that_lags_is_promoted(start_replicated: StartReplicated, tmp_path: Path) -> None:
    """F10: what the replica did not have is found missing by what everybody saw last, and brought back by the devices.

    Scaled: twice, with six devices of two people on two sidecars that lag by 0.4 s of their doings.
    """
    pair = await start_replicated()
    async with crowded(tmp_path, pair.url) as (one, crowd):
        for _ in range(2):
            await crowd.live(0.6)
            await crowd.settle(one)
            await pair.caught_up()
            living = asyncio.create_task(crowd.live(1.2, messages=False))
            await asyncio.sleep(0.2)
            pair.pause_replication()
            await asyncio.sleep(0.4)
            assert await pair.lag() > 0, "the fault happened"
            crowd.losses += 1
            pair.primary.kill()
            await pair.promote()
            await crowd.lost()
            await living
            await crowd.live(0.4)
            await crowd.settle(one)
            await sound(pair.primary)
            await pair.replica.start()
            await pair.rejoin()


@asynccontextmanager
async def _two_edits_were_lost(pair: ReplicatedRedis, folder: Path) -> AsyncIterator[tuple[Device, Device]]:
    """Two devices on two sidecars know versions 2 and 3 of a draft, and the primary does not any more."""
    async with (
        sidecar(folder, pair.url) as one,
        sidecar(folder, pair.url, name="other") as other,
        Device(one.url) as a,
        Device(other.url) as b,
    ):
        for device in (a, b):
            await device.sync()
        await begin(a, "c1", doc("1"))
        await b.event("chat_added")
        await pair.caught_up()
        pair.pause_replication()
        for version in (1, 2):
            edit = {"chatId": "c1", "content": doc(f"lost {version + 1}"), "basedOnVersion": version}
            assert (await a.ask("draft_update", edit))["payload"]["version"] == version + 1
        await b.event("draft_updated", lambda event: event["version"] == 3)
        pair.primary.kill()
        await pair.promote()
        yield a, b


async def _edited(device: Device, text: str, base: int) -> bool:
    edit = {"chatId": "c1", "content": doc(text), "basedOnVersion": base}
    answer = await device.ask("draft_update", edit, f"operation-{text}")
    return bool(answer["type"] == "draft_updated")


async def test_f10_the_log_of_another_past_is_no_continuation(
    start_replicated: StartReplicated, tmp_path: Path
) -> None:
    """F10: after the failover another process writes until the log is as long as it was. Whoever knows the longer past is told."""
    pair = await start_replicated()
    async with _two_edits_were_lost(pair, tmp_path) as (a, b):
        # The log is one entry long again: two entries of b's make it as long as it was.
        await until(lambda: _edited(b, "new-2", 1), 10)
        await until(lambda: _edited(b, "new-3", 2), 10)
        await until(lambda: _edited(b, "new-4", 3), 10)
        for device in (a, b):
            assert (await device.event("resync_required"))["reason"] == "epoch_changed"
        for device in (a, b):
            chat = chats_of(await device.sync())[device.full("c1")]
            assert (chat["version"], chat["draft"]) == (4, doc("new-4"))
        await sound(pair.primary)


async def test_f10_a_former_primary_that_goes_on_takes_no_writes(
    start_replicated: StartReplicated, tmp_path: Path
) -> None:
    """F10, F11: the address still leads to it for a while, as a replica now: READONLY is an outage, and ends with it."""
    pair = await start_replicated()
    async with sidecar(tmp_path, pair.primary.url) as server, Device(server.url) as a:
        await a.sync()
        await begin(a, "c1", doc("1"))
        await pair.caught_up()
        await pair.promote()
        await pair.rejoin()
        assert (await pair.replica.info("replication"))["role"] == "slave", "the fault happened"
        edit = {"chatId": "c1", "content": doc("2"), "basedOnVersion": 1}
        answer = await a.ask("draft_update", edit, "operation-2")
        assert (answer["type"], answer["payload"]["code"]) == ("error", "unavailable")
        assert "READONLY" not in str(answer)
        await pair.replica.cli("REPLICAOF", "NO", "ONE")

        async def accepted() -> bool:
            return bool((await a.ask("draft_update", edit, "operation-2"))["type"] == "draft_updated")

        await until(accepted, 10)
        assert hash_user("alice") == a.user
        await sound(pair.replica)


async def test_f10_a_change_on_top_of_another_past_is_told_as_one(
    start_replicated: StartReplicated, tmp_path: Path
) -> None:
    """F10: as long as it was, and then this process itself makes the next entry: it follows on what this process never told."""
    pair = await start_replicated()
    async with _two_edits_were_lost(pair, tmp_path) as (a, b):

        async def titled() -> bool:
            asked = {"chatId": "c1", "title": "T", "basedOnVersion": 0}
            return bool((await a.ask("title_update", asked, "operation-T"))["type"] == "title_updated")

        await until(lambda: _edited(b, "new-2", 1), 10)
        await until(lambda: _edited(b, "new-3", 2), 10)
        await until(titled, 10)
        assert (await a.event("resync_required"))["reason"] == "epoch_changed"
        chat = chats_of(await a.sync())[a.full("c1")]
        assert (chat["version"], chat["draft"], chat["title"]) == (3, doc("new-3"), "T")
