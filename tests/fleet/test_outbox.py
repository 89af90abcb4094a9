"""The outbox among several sidecars: each shard is worked by one of them, and nothing takes effect twice (S27, S31; semantics §5).

What becomes of it when a process is killed or sleeps: tests/faults.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from sidecar import Unavailable
from sidecar.server.running import Server
from tests.device import doc
from tests.fleet.fleet import Fleet, shards_of
from tests.fleet.test_fan_out import alice_on
from tests.integration.test_outbox import STORE, store_of
from tests.integration.world import FAST, NEVER, record, say, settled, stop_outbox, until

SHARDS = [f"outbox:{number}" for number in range(64)]
PATIENCE = 30.0


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases of one second instead of six."""
    monkeypatch.setattr("sidecar.outbox._LEASE_SECONDS", 1.0)


def shared_out(*servers: Server) -> bool:
    """Whether every shard is worked, and by each of these as many as by the others."""
    parts = [shards_of(server) for server in servers]
    each = [shard for part in parts for shard in part]
    assert len(each) == len(set(each)), "a shard is worked by one at a time"
    return sorted(each) == sorted(SHARDS) and max(map(len, parts)) - min(map(len, parts)) <= len(servers) - 1


@pytest.mark.usefixtures("short_leases")
async def test_shares_even_out_when_a_sidecar_joins_and_when_one_leaves(fleet: Fleet) -> None:
    async with fleet.serving() as (one,):
        assert shared_out(one)
        async with fleet.serving() as (other,):
            await until(lambda: shared_out(one, other), PATIENCE)
            assert [len(shards_of(server)) for server in (one, other)] == [32, 32]
            async with fleet.serving() as (third,):
                await until(lambda: shared_out(one, other, third), PATIENCE)
            await until(lambda: shared_out(one, other), PATIENCE)
        await until(lambda: shared_out(one), PATIENCE)


async def test_s31_s27_first_messages_at_once_on_two_sidecars_are_one_first_message(
    fleet: Fleet, tmp_path: Path
) -> None:
    """S31, S27: one chat row, two message rows, one `on_first_message`, whoever works the shard; then in order."""
    async with (
        fleet.serving(2, persistence=STORE, drafts=NEVER, limits=FAST) as servers,
        alice_on(*servers) as devices,
    ):
        for number in range(30):
            chat = f"c{number}"
            ids = []
            for place, device in enumerate(devices):
                sent = {"tempChatId": chat, "clientMessageId": f"m{place}", "content": doc("m")}
                ids.append(await device.send("message_send", sent))
            answers = [await device.answer(id_) for device, id_ in zip(devices, ids, strict=True)]
            assert {answer["type"] for answer in answers} == {"message_accepted"}
            assert sorted(answer["payload"]["message"]["sequence"] for answer in answers) == [1, 2]
        for server in servers:
            await settled(server)
        calls = Counter(call[:2] for server in servers for call in store_of(server).calls)
        assert {calls["on_first_message", f"c{number}"] for number in range(30)} == {1}
        assert {calls["on_message", f"c{number}"] for number in range(30)} == {1}
        assert len(fleet.rows("SELECT 1 FROM chats")) == 30
        assert len(fleet.rows("SELECT 1 FROM messages")) == 60


@pytest.mark.usefixtures("short_leases")
async def test_s31_a_first_message_that_another_sidecar_delivers_again_takes_effect_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S31: the first one stored it, never said so and is gone without a word: the second stores it again."""
    async with fleet.serving(1, persistence=STORE, drafts=NEVER) as (one,), alice_on(one) as (device,):

        async def lost(*_: object) -> None:
            raise Unavailable("cache", "the answer was lost")

        store_of(one).hold = held = asyncio.Event()
        for chat in ("a", "b", "c"):
            await say(device, chat, "m1", doc("m"))
        await until(lambda: store_of(one).under_way == 3)
        monkeypatch.setattr(one.context.parts.cache.outbox, "settle", lost)
        held.set()
        for _ in range(3):
            assert (await device.event("message_update"))["status"] == "delivered"
        before = [tuple(row) for row in fleet.rows("SELECT * FROM messages ORDER BY 1")]
        await stop_outbox(one)
        async with fleet.serving(1, persistence=STORE, drafts=NEVER) as (other,), alice_on(other) as (there,):
            await settled(other)
            assert sorted(store_of(other).stored) == [("on_first_message", chat, "m1") for chat in ("a", "b", "c")]
            assert [tuple(row) for row in fleet.rows("SELECT * FROM messages ORDER BY 1")] == before
            assert len(fleet.rows("SELECT 1 FROM chats")) == 3
            for chat in ("a", "b", "c"):
                assert (await record(there, chat))["messages_version"] == 2
            assert [event for event in device.events if event["type"] == "message_update"] == []
