"""Two processes and one person: races (F47), tabs of one device (F48), long absence (F50), a log that was trimmed (F52)."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import orjson

from tests.device import Device, doc, new_id
from tests.faults.hosts import Host, Hosts, hosts
from tests.integration.world import AT_ONCE, begin, held, record, restore_of, say, until
from tests.raw_socket import RawSocket
from tests.services.redis_proxy import RedisProxy

__all__ = ["hosts"]

RACES = 1_000
"""In each chat; the design's million, scaled."""
CHATS = 3
DAY = 86_400.0


# -- F47: the same base ------------------------------------------------------------------------------------------------


async def test_f47_s13_of_two_edits_on_one_base_exactly_one_wins(hosts: Hosts) -> None:
    """F47, S13: whichever process is asked first; the loser gets the winner's revision and text, and both agree in the end."""
    async with hosts(2) as both, RawSocket(both[0].url) as one, RawSocket(both[1].url) as other:
        sockets = (one, other)
        for socket in sockets:
            await socket.sign_in("alice")
        wins = Counter[int]()
        for chat in range(CHATS):
            wins += await _races(sockets, f"c{chat}")
        assert min(wins[0], wins[1]) > CHATS * RACES * 0.02, "it was a race"
        for host in both:
            host.spotless()
        async with Device(both[0].url) as device:
            for chat in range(CHATS):
                found = await record(device, f"c{chat}")
                assert found["version"] == RACES
                assert found["draft"]["content"][0]["content"][0]["text"].startswith(f"{RACES - 1} of ")


async def _races(sockets: tuple[RawSocket, RawSocket], chat: str) -> Counter[int]:
    wins = Counter[int]()
    winner: tuple[str, Any] = "", None
    for version in range(RACES):
        ids = [new_id(), new_id()]
        texts = [doc(f"{version} of {number}") for number in range(2)]
        # The one that is written first would be read first, mostly.
        for number in (0, 1) if version % 2 else (1, 0):
            payload = {"tempChatId": chat, "content": texts[number], "basedOnVersion": version}
            if version:
                payload["basedOnOp"] = winner[0]
            frame = {"type": "draft_update", "id": ids[number], "payload": payload}
            sockets[number].send(orjson.dumps(frame))
        answers = await asyncio.gather(*(_answer(socket, id_) for socket, id_ in zip(sockets, ids, strict=True)))
        won = [number for number in range(2) if answers[number]["type"] in ("draft_updated", "chat_initiated")]
        assert len(won) == 1, answers
        [number] = won
        wins[number] += 1
        lost = answers[1 - number]
        assert lost["type"] == "draft_conflict", lost
        assert lost["payload"]["reason"] == "stale"
        assert (lost["payload"]["version"], lost["payload"]["op"]) == (version + 1, ids[number])
        assert lost["payload"]["content"] == texts[number]
        winner = ids[number], texts[number]
    return wins


async def _answer(socket: RawSocket, id_: str) -> Any:
    """Its answer; events come in between."""
    while True:
        frame = await socket.json()
        if frame.get("re") == id_:
            return frame


# -- F48: two tabs -----------------------------------------------------------------------------------------------------


async def test_f48_s53_two_tabs_of_one_device_on_two_processes(hosts: Hosts) -> None:
    """F48, S53: one device, two sockets, the same rules; whoever asked gets an answer and no event, the other tab the event."""
    async with hosts(2) as both:
        one = await Device(both[0].url).open()
        tab = Device(both[1].url)
        tab.proof = one.proof
        await tab.open()
        assert tab.ready["device"]["id"] == one.ready["device"]["id"]
        assert not tab.ready["device"]["isNew"]
        for device in (one, tab):
            await device.sync()
        await begin(one, "c1", doc("0"))
        assert (await tab.event("chat_added"))["deviceId"] == one.ready["device"]["id"]
        for version in range(1, 40):
            writer, reader = (one, tab) if version % 2 else (tab, one)
            edit = {"chatId": "c1", "content": doc(f"{version}"), "basedOnVersion": version}
            assert (await writer.ask("draft_update", edit))["type"] == "draft_updated"
            assert (await reader.event("draft_updated"))["version"] == version + 1
            if version % 10 == 0:  # the other tab is no exception: its old base loses
                stale = await reader.ask("draft_update", {**edit, "content": doc("stale")})
                assert (stale["type"], stale["payload"]["content"]) == ("draft_conflict", doc(f"{version}"))
        said = await say(one, "c1", "m1", doc("said"))
        assert (await tab.event("message_new"))["message"]["id"] == said["message"]["id"]
        again = await say(tab, "c1", "m1", doc("said"))  # a tab that sends what the other has sent already
        assert again["message"]["sequence"] == said["message"]["sequence"]
        for device in (one, tab):
            assert (await device.event("message_update"))["status"] == "delivered"
            left = [event["type"] for event in await device.quiet(0.5)]
            assert set(left) <= {"chat_stored"}, "no echo of its own"
        assert len(hosts.rows("SELECT 1 FROM messages")) == 1
        await one.close()
        edit = {"chatId": "c1", "content": doc("alone"), "basedOnVersion": 40}
        assert (await tab.ask("draft_update", edit))["type"] == "draft_updated", "closing one ends not the other"
        await tab.close()


# -- F50: longer away than anything lives --------------------------------------------------------------------------------


async def test_f50_what_was_deleted_stays_deleted_for_a_device_that_was_away_for_long(hosts: Hosts) -> None:
    """F50: away for longer than the log (8 days), than nearly every life (89 days), than the tombstone (100 days)."""
    clock = hosts.folder / "clock"
    cache = {"use": "tests.plugins.travelling_redis:TravellingRedis"}
    options = {"url": hosts.redis.url, "clock": str(clock)}
    async with hosts(2, cache={**cache, "options": options}, drafts=AT_ONCE) as (here, there):
        away = await Device(there.url).open()
        await away.sync()
        async with Device(here.url) as device:
            await device.sync()
            await begin(device, "draft", doc("a draft alone"))
            await begin(device, "chat", doc("of a stored chat"))
            await say(device, "chat", "m1", doc("said"))
            await away.event("message_update")
            known = {name: await record(away, name) for name in ("draft", "chat")}
            cursor = (await away.sync())[-1]["cursor"]
            await away.close()
            for name in known:
                assert (await device.ask("chat_delete", {"chatId": name}))["type"] == "chat_deleted"
            await until(lambda: not hosts.rows("SELECT 1 FROM chats"))
        for days in (8, 89, 100):
            clock.write_text(str(days * DAY))
            for host in (here, there):
                await until(lambda: _travelled(hosts, host, days), 30)  # noqa: B023
            for host in (there, here):
                away.url = host.url
                await away.open()
                frames = await away.sync(cursor=cursor, chats=[held(chat) for chat in known.values()])
                assert frames[0]["·type"] == "initial_sync_data", "the log does not reach back so far"
                gone = {entry["id"] for frame in frames for entry in frame["deleted"]}
                assert gone == {chat["id"] for chat in known.values()}
                assert not any(frame["missing"] or frame["chats"] for frame in frames)
                for name, chat in known.items():
                    edit = {"chatId": name, "content": doc("late"), "basedOnVersion": chat["version"]}
                    for answer in (
                        await away.ask("draft_update", edit),
                        await away.ask("chat_restore", restore_of(chat)),
                        await away.ask("draft_update", {"tempChatId": name, "content": doc("l"), "basedOnVersion": 0}),
                    ):
                        assert answer["payload"].get("reason") == "chat_deleted", answer
                    late = {"tempChatId": name, "clientMessageId": new_id(), "content": doc("late")}
                    answer = await away.ask("message_send", late)
                    assert (answer["type"], answer["payload"]["chatId"]) == ("chat_deleted", chat["id"]), answer
                await away.close()
        await asyncio.sleep(0.5)
        assert hosts.rows("SELECT 1 FROM chats") == hosts.rows("SELECT 1 FROM messages") == []
        for host in (here, there):
            host.spotless()


async def _travelled(hosts: Hosts, host: Host, days: float) -> bool:
    """Whether this process has it that the log was older than it lives: another epoch has begun then."""
    async with Device(host.url) as device:
        began = int(device.ready["epoch"][:12], 16) / 1000
    now = float((await hosts.redis.cli("TIME"))[0])
    return began - now > days * DAY - 3600


# -- F52: the log was trimmed ------------------------------------------------------------------------------------------


async def test_f52_s41_a_cursor_that_the_log_does_not_reach_gets_a_full_sync(hosts: Hosts) -> None:
    """F52, S41: who was away and who lagged behind: told plainly, never with a gap. (The least that can be kept is 100.)"""
    kept = 100
    async with (
        RedisProxy(hosts.redis.address) as proxy,
        hosts(2, lambda n: {} if n else {"cache": {"options": {"url": proxy.url}}}, sync={"events_kept": kept}) as (
            lagging,
            fine,
        ),
        Device(fine.url) as writer,
        Device(lagging.url) as slow,
    ):
        away = await Device(lagging.url).open()
        await writer.sync()
        await begin(writer, "c1", doc("0"))
        await begin(writer, "c2", doc("other"))
        cursor = (await away.sync())[-1]["cursor"]
        await slow.sync()
        await away.close()
        # Within what is kept: what was missed, and nothing else.
        await _edit(writer, 1, kept // 2)
        await slow.event("draft_updated", lambda event: event["version"] == kept // 2)
        await away.open()
        [delta] = await away.sync(cursor=cursor)
        assert (delta["·type"], [chat["version"] for chat in delta["chats"]]) == ("sync_delta", [kept // 2])
        await away.close()
        # Behind it: everything, and why. The other one hears nothing meanwhile, and its process neither.
        lost = proxy.lose_notices(times=None)
        await lagging.pause()
        await _edit(writer, kept // 2, 3 * kept)
        lagging.resume()
        told = await slow.event("resync_required")
        assert told["reason"] == "cursor_expired"
        assert lost.happened > kept, "the fault happened"
        proxy.clear()
        for device in (slow, await away.open()):
            frames = await device.sync(cursor=cursor)
            assert frames[0]["·type"] == "initial_sync_data"
            assert frames[0]["reason"] == "cursor_expired"
            found = {chat["id"]: chat["version"] for frame in frames for chat in frame["chats"]}
            assert found == {device.full("c1"): 3 * kept, device.full("c2"): 1}
        assert await fine.metric("sidecar_resyncs_total") == 0
        assert await lagging.metric("sidecar_resyncs_total") > 0
        # And goes on from there.
        await _edit(writer, 3 * kept, 3 * kept + 2)
        for device in (slow, away):
            await device.event("draft_updated", lambda event: event["version"] == 3 * kept + 2)
        await away.close()


async def _edit(writer: Device, first: int, last: int) -> None:
    """Edits of `c1` from one version to another."""
    for version in range(first, last):
        edit = {"chatId": "c1", "content": doc(f"{version}"), "basedOnVersion": version}
        assert (await writer.ask("draft_update", edit))["type"] == "draft_updated"
