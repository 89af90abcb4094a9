"""Directus is away: nothing accepted is lost, doubled or parked for want of patience (F25, S29, S72)."""

from __future__ import annotations

import asyncio

import pytest

from tests.device import doc
from tests.directus_store.conftest import ServeOn, StartPrepared
from tests.directus_store.crowd import FULL, LOOK, all_stored, crowd, in_order, nothing_parked, say, talking
from tests.directus_store.world import key_of, somebody
from tests.integration.world import settled, until

_SECONDS = 60 if FULL else 10
"""For which it is away."""


@pytest.mark.timeout(240)
async def test_f25_s29_directus_killed_under_200_sends_and_back_later(
    start_prepared: StartPrepared, serve_on: ServeOn
) -> None:
    """F25, S29: drafts go on, messages are queued, no try is counted and nothing parked; exactly 200 rows afterwards."""
    own = await start_prepared()
    people = [somebody() for _ in range(10)]
    async with serve_on(own, options=LOOK) as server, talking(server, people) as devices:
        count = server.context.parts.metrics.delivered.labels
        sending = [asyncio.create_task(say(device, "one", *range(1, 20))) for device in devices]
        await until(lambda: count("persistence", "delivered")._value.get() > 20)
        own.server.kill()
        await asyncio.gather(*sending)
        async with asyncio.timeout(_SECONDS + 60):
            for version in range(_SECONDS):
                name = "tempChatId" if version == 0 else "chatId"
                draft = {name: "two", "content": doc(f"while it is away {version}"), "basedOnVersion": version}
                answer = await devices[0].ask("draft_update", draft)
                assert answer["payload"]["version"] == version + 1, answer
                await asyncio.sleep(1)
        outbox = server.context.parts.cache.outbox
        assert (await outbox.positions())["persistence"].pending > 0
        await nothing_parked(server)
        await own.server.start()
        await all_stored(server, own, people, 200)
        assert count("persistence", "unavailable")._value.get() > 0
        assert count("persistence", "failed")._value.get() == 0, "no try was counted"
        assert all(device.close_code is None for device in devices), "no socket was closed"


@pytest.mark.timeout(180)
async def test_s72_as_many_calls_fail_as_in_an_hour_and_all_is_stored_in_order(
    start_prepared: StartPrepared, serve_on: ServeOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S72: sixty pauses of a minute are gone through in seconds; no try, no dead letter; then everything, deletions too, in order."""
    own = await start_prepared()
    people = [somebody() for _ in range(3)]
    async with serve_on(own, options=LOOK) as server, talking(server, people) as devices:
        for device in devices:
            await say(device, "gone", 0)
        await settled(server)
        own.server.kill()
        monkeypatch.setattr("random.uniform", lambda _low, high: high / 1000)
        for device in devices:
            await say(device, "one", *range(1, 5))
            await say(device, "new", *range(3))
            await device.ask("draft_update", {"chatId": "one", "content": doc("a draft"), "basedOnVersion": 0})
            assert (await device.ask("chat_delete", {"chatId": "gone"}))["type"] == "chat_deleted"
        pending = (await server.context.parts.cache.outbox.positions())["persistence"].pending
        count = server.context.parts.metrics.delivered.labels
        before = count("persistence", "unavailable")._value.get()
        chats = 3 * len(devices)

        def an_hour() -> bool:
            server.context.worker.wake()
            return bool(count("persistence", "unavailable")._value.get() - before >= 60 * chats)

        await until(an_hour, 120)
        assert (await server.context.parts.cache.outbox.positions())["persistence"].pending >= pending
        assert count("persistence", "failed")._value.get() == 0, "no try was counted"
        await nothing_parked(server)
        await own.server.start()
        await all_stored(server, own, people, (5 + 3) * len(people))
        for person in people:
            rows = {row["id"]: row for row in await own.rows("chats", person)}
            assert set(rows) == {key_of(person, "one"), key_of(person, "new")}
            assert rows[key_of(person, "one")]["version"] == 1


@pytest.mark.caches("memory", "redis")
@pytest.mark.timeout(180)
async def test_s29_first_messages_while_directus_is_down_outlive_a_restart_of_the_sidecar(
    start_prepared: StartPrepared, serve_on: ServeOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S29: accepted as what is in the cache and no further, shown to the other device as that; stored once Directus is back."""
    monkeypatch.setattr("random.uniform", lambda _low, high: high / 50)  # pauses, which are up to a minute else
    own = await start_prepared()
    person = somebody()
    async with serve_on(own, options=LOOK) as server, crowd(server, [person, person]) as [one, two]:
        own.server.kill()
        for number in range(3):
            sent = {"tempChatId": "one", "clientMessageId": f"one-{number}", "content": doc(f"hello {number}")}
            answer = (await one.ask("message_send", sent))["payload"]
            assert (answer["message"]["status"], answer["durability"]) == ("sent", "cached")
            assert (await two.event("message_new"))["message"]["status"] == "sent"
        await asyncio.sleep(1)
        assert [event for event in two.events if event["type"] == "message_update"] == []
    async with serve_on(own, options=LOOK) as server:
        await own.server.start()
        await all_stored(server, own, [person], 3)
        async with crowd(server, [person]) as [device]:
            frames = await device.sync()
            [messages] = [chat["messages"] for frame in frames for chat in frame["chats"] if chat.get("messages")][:1]
            assert [each["status"] for each in messages] == ["delivered"] * 3
    assert await in_order(own, [person]) == 3
