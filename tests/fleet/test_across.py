"""Rows that are shown with a single sidecar elsewhere, where the devices are on two of them: on one Redis, and on a cluster (S70, S72, S73)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.device import Device, doc
from tests.fleet.fleet import Fleet
from tests.fleet.test_fan_out import alice_on
from tests.integration.test_outbox import STORE, store_of
from tests.integration.world import AT_ONCE, FAST, begin, chats_of, held, record, say, settled, until
from tests.services.cluster import RedisCluster
from tests.services.redis_server import RedisServer


@pytest.fixture(params=["one Redis", "a cluster"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Fleet:
    """Sidecars on either."""
    cluster = request.param == "a cluster"
    server: RedisServer | RedisCluster = request.getfixturevalue("redis_cluster" if cluster else "redis_server")
    return Fleet(tmp_path, {"use": "redis", "options": {"url": server.url, "cluster": cluster, "shards": 16}})


async def test_s70_a_message_from_an_older_revision_on_another_sidecar_leaves_the_newer_draft(fleet: Fleet) -> None:
    """S70: `consumed: false`; the newer draft of the other sidecar's device stays, and the sender's next edit does not erase it."""
    async with fleet.serving(2) as servers, alice_on(*servers) as (one, two):
        await begin(one, "c1", doc("v1"))
        await two.event("chat_added")
        newer = {"chatId": "c1", "content": doc("v2 of two"), "basedOnVersion": 1}
        assert (await two.ask("draft_update", newer))["payload"]["version"] == 2
        sent = await say(one, "c1", "m1", doc("v1"), draftVersion=1)
        assert (sent["consumed"], sent["version"]) == (False, 2)
        told = await two.event("message_new")
        assert told["message"]["content"] == doc("v1")
        next_edit = {"chatId": "c1", "content": doc("next"), "basedOnVersion": 1}
        erased = await one.ask("draft_update", next_edit)
        assert (erased["type"], erased["payload"]["content"]) == ("draft_conflict", doc("v2 of two"))
        for device in (one, two):
            chat = await record(device, "c1")
            assert (chat["draft"], chat["version"]) == (doc("v2 of two"), 2)
        assert [event for event in await two.quiet(0.2) if event["type"] == "draft_updated"] == []


async def test_s73_the_later_phases_come_from_another_sidecar(fleet: Fleet) -> None:
    """S73: the connection is lost between two phases, with the sidecar; the next sync, on the other one, brings what is left."""
    async with fleet.serving(1, limits=FAST, sync={"recent": 3}) as (other,):
        async with fleet.serving(1, limits=FAST, sync={"recent": 3}) as (one,), Device(one.url) as writer:
            for number in range(12):
                await say(writer, f"c{number}", "m1", doc(f"{number}"))
            await settled(one)
            late = await Device(one.url).open()
            id_ = await late.send("sync_request", {})
            first = [(await late.answer(id_))["payload"] for _ in range(2)]
            assert [frame["phase"] for frame in first] == ["active", "recent"]
            assert not any(frame.get("complete") for frame in first)
            await late.cut()
        late.url = other.url
        await late.open()
        try:
            frames = await late.sync(chats=[held(chat) for chat in chats_of(first).values()])
            assert frames[-1]["complete"] is True
            chats = {**chats_of(first)}
            for chat_id, chat in chats_of(frames).items():
                chats.setdefault(chat_id, {}).update(chat)
            assert chats.keys() == {late.full(f"c{number}") for number in range(12)}
            assert all(chats[late.full(f"c{number}")]["messages"] for number in (11, 10, 9))
        finally:
            await late.close()


async def test_s72_a_store_that_is_away_while_sidecars_come_and_go(fleet: Fleet, tmp_path: Path) -> None:
    """S72: accepted on one sidecar that ends meanwhile, and on another; no try is counted, no dead letter; then each in its order."""
    away = tmp_path / "away"
    sections = {"persistence": {**STORE, "options": {"away": str(away)}}, "drafts": AT_ONCE, "limits": FAST}
    away.touch()
    chats = [f"c{number}" for number in range(6)]
    async with fleet.serving(1, **sections) as (stays,), Device(stays.url) as there:
        async with fleet.serving(1, **sections) as (goes,), Device(goes.url) as here:
            for chat in chats:
                for number in (0, 1):
                    await say(here, chat, f"m{number}", doc("m"))
                await say(there, chat, "m2", doc("m"))
            await until(lambda: bool(store_of(stays).calls or store_of(goes).calls))
        for chat in chats:
            await say(there, chat, "m3", doc("m"))
        await until(lambda: len(store_of(stays).calls) > 8, 30)
        assert fleet.rows("SELECT 1 FROM messages") == []
        positions = await stays.context.parts.cache.outbox.positions()
        assert (positions["persistence"].pending, positions["persistence"].parked) == (24, 0)
        away.unlink()
        await until(lambda: len(fleet.rows("SELECT 1 FROM messages")) == 24, 90)
        await settled(stays)
        for chat in chats:
            order = "SELECT client_message_id FROM messages WHERE chat_id = ? ORDER BY sequence"
            assert [row[0] for row in fleet.rows(order, there.full(chat))] == ["m0", "m1", "m2", "m3"]
        assert len(fleet.rows("SELECT 1 FROM chats")) == 6
        assert (await stays.context.parts.cache.outbox.positions())["persistence"].parked == 0
