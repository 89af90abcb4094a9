"""Directus away, slow, overloaded, limited, forgetful, refusing: nothing accepted is lost, doubled or parked for want of patience."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from sidecar.ids import UserHash, hash_user
from sidecar.server.running import Server
from tests.device import Device, Frame, doc
from tests.directus_store.conftest import ServeOn, StartPrepared
from tests.directus_store.world import Prepared, key_of, plugin_of, somebody
from tests.integration.world import settled, until
from tests.services.directus.front import DirectusFront
from tests.services.directus.sidecars import service_user

_LOOK = {"changes": "look"}


async def _say(device: Device, chat: str, *numbers: int, text: str = "hello") -> list[str]:
    """Sends these messages, each accepted; their ids."""
    ids = []
    for number in numbers:
        sent = {"tempChatId": chat, "clientMessageId": f"{chat}-{number}", "content": doc(f"{text} {number}")}
        answer = await device.ask("message_send", sent)
        assert answer["type"] == "message_accepted", answer
        assert answer["payload"]["message"]["status"] == "sent"
        ids.append(answer["payload"]["message"]["id"])
    return ids


@asynccontextmanager
async def _crowd(server: Server, people: Sequence[str]) -> AsyncIterator[list[Device]]:
    devices = [Device(server.url, person, wait=60) for person in people]
    try:
        await asyncio.gather(*(device.open() for device in devices))
        yield devices
    finally:
        await asyncio.gather(*(device.close() for device in devices))


@asynccontextmanager
async def _talking(server: Server, people: Sequence[str]) -> AsyncIterator[list[Device]]:
    """As `_crowd`, and each has a chat with a message that is stored."""
    async with _crowd(server, people) as devices:
        await asyncio.gather(*(_say(device, "one", 0) for device in devices))
        await settled(server)
        yield devices


async def _in_order(directus: Prepared, people: Sequence[str]) -> int:
    """How many messages there are; each once, in the order of its chat, each chat with at least one of them."""
    condition = {"hashed_user_id": {"_in": [hash_user(person) for person in people]}}
    messages = await directus.rows("messages", filter=condition, sort=["chat_id", "sequence"])
    chats = {row["id"] for row in await directus.rows("chats", filter=condition)}
    by_chat: dict[str, list[int]] = {}
    for row in messages:
        by_chat.setdefault(row["chat_id"], []).append(row["sequence"])
        number = int(row["client_message_id"].rpartition("-")[2])
        assert number == row["sequence"] - 1, "in the order in which they were sent"
    assert set(by_chat) == chats
    for sequences in by_chat.values():
        assert sequences == list(range(1, len(sequences) + 1))
    return len(messages)


def _tells(message_id: str, status: str, event: Frame) -> bool:
    return (event["messageId"], event["status"]) == (message_id, status)


async def _nothing_parked(server: Server) -> None:
    assert await server.context.parts.cache.outbox.parked("persistence") == []


async def _all_stored(server: Server, directus: Prepared, people: Sequence[str], messages: int) -> None:
    """Waits until nothing is left to deliver: then these messages are there, in order, and none was given up."""
    await settled(server, 60)
    assert await _in_order(directus, people) == messages
    await _nothing_parked(server)


@pytest.mark.timeout(240)
async def test_f25_s29_s72_directus_killed_under_200_sends_and_back_later(
    start_prepared: StartPrepared, serve_on: ServeOn
) -> None:
    """F25, S29, S72: drafts go on, messages are queued, no try is counted and nothing parked; exactly 200 rows afterwards."""
    own = await start_prepared()
    people = [somebody() for _ in range(10)]
    async with serve_on(own, options=_LOOK) as server, _talking(server, people) as devices:
        own.server.kill()
        await asyncio.gather(*(_say(device, "one", *range(1, 20)) for device in devices))
        draft = {"tempChatId": "two", "content": doc("while it is away"), "basedOnVersion": 0}
        answer = await devices[0].ask("draft_update", draft)
        assert answer["type"] == "chat_initiated", answer
        await asyncio.sleep(10)
        outbox = server.context.parts.cache.outbox
        assert (await outbox.positions())["persistence"].pending >= 190
        await _nothing_parked(server)
        await own.server.start()
        await _all_stored(server, own, people, 200)
        counted = server.context.parts.metrics.delivered.labels("persistence", "failed")._value.get()
        assert counted == 0, "no try was counted"
        assert all(device.close_code is None for device in devices), "no socket was closed"


@pytest.mark.timeout(180)
async def test_f26_a_slow_directus_holds_up_no_draft_and_parks_nothing(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront
) -> None:
    """F26: calls end at their deadline, no more than sixteen wait, and what was carried out all the same is not done twice."""
    people = [somebody() for _ in range(8)]
    async with serve_on(directus, front.url, _LOOK) as server, _talking(server, people) as devices:
        slow = front.delay(5.0)
        await asyncio.gather(*(_say(device, "one", *range(1, 6)) for device in devices))
        for version in range(20):
            base = {"chatId": "one", "content": doc(f"{version}"), "basedOnVersion": version}
            async with asyncio.timeout(4):
                assert (await devices[0].ask("draft_update", base))["type"] == "draft_updated"
        await until(lambda: slow.happened >= 4, 60)
        front.clear()
        await settled(server, 60)
        assert front.most_at_once <= 16
        assert await _in_order(directus, people) == 48
        await _nothing_parked(server)


@pytest.mark.timeout(180)
async def test_f27_under_pressure_directus_is_left_alone(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront
) -> None:
    """F27: it says 503 without a word of when to come again; calls become few, with jitter, and all is stored afterwards."""
    people = [somebody() for _ in range(6)]
    async with serve_on(directus, front.url, _LOOK) as server, _talking(server, people) as devices:
        busy = front.refuse(503, "SERVICE_UNAVAILABLE", 10**6, reason="Under pressure")
        await asyncio.gather(*(_say(device, "one", *range(1, 11)) for device in devices))
        await asyncio.sleep(10)
        assert 3 <= busy.happened <= 40, "of 60 messages and a look every second"
        await _nothing_parked(server)
        front.clear()
        await settled(server, 60)
        assert await _in_order(directus, people) == 66


@pytest.mark.timeout(240)
async def test_f27_a_rate_limit_is_kept_to(start_prepared: StartPrepared, serve_on: ServeOn) -> None:
    """F27: the limit counts the sidecar's address, all people together; its `Retry-After` is 0, its `reset` is right."""
    own = await start_prepared()
    await own.server.restart(RATE_LIMITER_ENABLED="true", RATE_LIMITER_POINTS="15", RATE_LIMITER_DURATION="3")
    await asyncio.sleep(3)
    people = [somebody() for _ in range(4)]
    async with DirectusFront(own.server.url) as front, serve_on(own, front.url, _LOOK) as server:
        async with _crowd(server, people[:1]) as devices:
            await _say(devices[0], "one", *range(40))
            await settled(server, 120)
        limited = "REQUESTS_EXCEEDED" in str(plugin_of(server).state()) or len(front.seen) > 15
        assert limited
        await asyncio.sleep(4)
        assert await _in_order(own, people) == 40
        await _nothing_parked(server)


@pytest.mark.timeout(180)
async def test_f28_answers_lost_after_the_write_make_no_row_twice(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront
) -> None:
    """F28: each of the first forty writes is carried out, and its answer lost."""
    people = [somebody() for _ in range(10)]
    async with serve_on(directus, front.url, _LOOK) as server, _crowd(server, people) as devices:
        lost = front.swallow(40, of=lambda method, path: method in ("POST", "PATCH") and "chat_" not in path)
        await asyncio.gather(*(_say(device, "one", *range(10)) for device in devices))
        await until(lambda: lost.happened >= 10, 90)
        front.clear()
        await _all_stored(server, directus, people, 100)


@pytest.mark.timeout(180)
async def test_f29_what_directus_forbids_is_parked_said_and_stored_when_it_is_allowed_again(
    start_prepared: StartPrepared, serve_on: ServeOn
) -> None:
    """F29: a permission is taken away while people write; the text is kept; replayed in order it becomes delivered."""
    own = await start_prepared()
    person = somebody()
    async with serve_on(own, options=_LOOK) as server, _crowd(server, [person]) as [device]:
        await _say(device, "one", 0)
        await device.event("message_update")
        condition = {"collection": {"_eq": own.names.messages}, "action": {"_eq": "create"}}
        [right] = await own.server.ask("SEARCH", "/permissions", {"query": {"filter": condition}})
        await own.server.ask("DELETE", f"/permissions/{right['id']}")
        first, second = await _say(device, "one", 1, 2)
        assert (await device.event("message_update", lambda each: each["messageId"] == first))["status"] == "error"
        outbox = server.context.parts.cache.outbox

        async def both() -> bool:
            return len(await outbox.parked("persistence")) == 2

        await until(both)
        assert await _in_order(own, [person]) == 1
        frames = await device.sync()
        [messages] = [chat["messages"] for frame in frames for chat in frame["chats"] if chat.get("messages")][:1]
        assert [each["content"] for each in messages][-2:] == [doc("hello 1"), doc("hello 2")], "the text is kept"
        await own.server.ask("POST", "/permissions", {key: value for key, value in right.items() if key != "id"})
        letters = await outbox.parked("persistence")
        await outbox.parked("persistence", replay=[letter.id for letter in letters])
        for message_id in (first, second):
            told = await device.event("message_update", partial(_tells, message_id, "delivered"))
            assert told["status"] == "delivered"
        assert await _in_order(own, [person]) == 3


@pytest.mark.timeout(180)
async def test_f29_f51_what_is_too_large_for_directus_is_parked_alone(
    start_prepared: StartPrepared, serve_on: ServeOn
) -> None:
    """F29, F51: a small `MAX_PAYLOAD_SIZE`; everybody else's messages pass, however the batches were put together."""
    own = await start_prepared(MAX_PAYLOAD_SIZE="60kb")
    people = [somebody() for _ in range(8)]
    async with serve_on(own, options=_LOOK) as server, _crowd(server, people) as devices:
        large = asyncio.create_task(_say(devices[0], "large", 0, text="x" * 100_000))
        await asyncio.gather(*(_say(device, "one", *range(5), text="y" * 4000) for device in devices))
        [victim] = await large
        assert (await devices[0].event("message_update", lambda each: each["messageId"] == victim))["status"] == "error"
        await settled(server, 60)
        assert await _in_order(own, people) == 40
        assert len(await server.context.parts.cache.outbox.parked("persistence")) == 1


@pytest.mark.timeout(180)
async def test_limits_of_directus_on_rows_and_reads_are_kept_to(
    start_prepared: StartPrepared, serve_on: ServeOn
) -> None:
    """S42: `MAX_BATCH_MUTATION` counts nested rows too, `QUERY_LIMIT_MAX` cuts what is read without a word."""
    own = await start_prepared(MAX_BATCH_MUTATION="20", QUERY_LIMIT_MAX="30", QUERY_LIMIT_DEFAULT="10")
    person = somebody()
    async with serve_on(own, options=_LOOK) as server, _crowd(server, [person]) as [device]:
        await asyncio.gather(*(_say(device, f"c{number}", 0) for number in range(80)))
        await settled(server, 60)
        await server.context.parts.cache.chats.drop(UserHash(device.user), None)
        async with Device(server.url, person, wait=60) as fresh:
            frames = await fresh.sync()
        assert len({chat["id"] for frame in frames for chat in frame["chats"]}) == 80
        assert {frame["total"] for frame in frames} == {80}
        assert len([chat async for chat in server.context.parts.store.everything()]) == 80
        await plugin_of(server).on_user_erased(UserHash(device.user))
        condition = {"hashed_user_id": {"_eq": hash_user(person)}}
        assert await own.server.ask("SEARCH", f"/items/{own.names.chats}", {"query": {"filter": condition}}) == []
        await _nothing_parked(server)


@pytest.mark.timeout(280)
async def test_f31_a_directus_restored_from_a_backup_gets_back_what_devices_hold(
    start_prepared: StartPrepared, serve_on: ServeOn, tmp_path: Path
) -> None:
    """F31, S20, S43: rows newer than the backup are missing and not deleted; their devices bring them back."""
    own = await start_prepared()
    person = somebody()
    async with serve_on(own, options=_LOOK) as server, _crowd(server, [person]) as [device]:
        await _say(device, "old", 0)
        await settled(server)
        await own.server.stop()
        shutil.copy(own.server.database, tmp_path / "backup.db")
        await own.server.start()
        await _say(device, "new", 0)
        await device.ask("draft_update", {"chatId": "new", "content": doc("a draft"), "basedOnVersion": 0})
        await settled(server, 60)
        assert len(await own.rows("chats", person)) == 2
        await own.server.stop()
        shutil.copy(tmp_path / "backup.db", own.server.database)
        await own.server.start()
        await server.context.parts.cache.chats.drop(UserHash(device.user), None)
        held = [
            {"id": device.full("old"), "version": 0, "titleVersion": 0, "messagesVersion": 2},
            {"id": device.full("new"), "version": 1, "titleVersion": 0, "messagesVersion": 2},
        ]

        async def synced() -> bool:
            frames = await device.sync(chats=held)
            if frames[-1]["·type"] == "error" or any(frame.get("failed") for frame in frames):
                return False
            assert [each for frame in frames for each in frame["deleted"]] == [], "missing is not deleted"
            assert [each for frame in frames for each in frame["missing"]] == [device.full("new")]
            return True

        await until(synced, 40)
        text = {"content": doc("a draft"), "state": "edited", "version": 1, "op": None}
        answer = await device.ask("chat_restore", {"chatId": "new", "draft": text, "messagesVersion": 2})
        assert answer["type"] == "chat_restored", answer
        await settled(server, 60)
        rows = {row["id"]: row for row in await own.rows("chats", person)}
        assert rows[key_of(person, "new")]["version"] == 1


@pytest.mark.timeout(180)
async def test_f32_a_token_that_is_rotated_is_read_again_from_its_file(
    start_prepared: StartPrepared, serve_on: ServeOn, tmp_path: Path
) -> None:
    """F32: under load, without a restart; with the old one nothing is parked meanwhile."""
    own = await start_prepared()
    file = tmp_path / "token"
    file.write_text(f"{own.token}\n")
    file.chmod(0o600)
    people = [somebody() for _ in range(4)]
    options = {**_LOOK, "token": None, "token_file": str(file)}
    async with serve_on(own, options=options) as server, _crowd(server, people) as devices:
        await asyncio.gather(*(_say(device, "one", *range(5)) for device in devices))
        me = await own.server.ask("GET", "/users/me", token=own.token)
        condition = {"token": {"_nnull": True}, "last_name": {"_eq": own.names.chats}}
        [user] = await own.server.ask("SEARCH", "/users", {"query": {"filter": condition, "fields": ["id"]}})
        assert me["id"] == user["id"]
        await own.server.ask("PATCH", f"/users/{user['id']}", {"token": "the-new-token-of-the-service-user"})
        await asyncio.gather(*(_say(device, "one", *range(5, 10)) for device in devices))
        await asyncio.sleep(2)
        await _nothing_parked(server)
        file.write_text("the-new-token-of-the-service-user\n")
        await _all_stored(server, own, people, 40)


@pytest.mark.timeout(180)
async def test_f34_directus_own_cache_makes_nothing_stale(start_prepared: StartPrepared, serve_on: ServeOn) -> None:
    """F34: its data cache is on and is not purged; what is read here is what is there."""
    own = await start_prepared(CACHE_ENABLED="true", CACHE_STORE="memory", CACHE_AUTO_PURGE="false", CACHE_TTL="30m")
    person = somebody()
    async with serve_on(own, options=_LOOK) as server, _crowd(server, [person]) as [device]:
        for number in range(5):
            await _say(device, "one", number)
            await settled(server, 60)
            await server.context.parts.cache.chats.drop(UserHash(device.user), None)
            frames = await device.sync()
            [messages] = [chat["messages"] for frame in frames for chat in frame["chats"] if chat.get("messages")][:1]
            assert len(messages) == number + 1


async def test_two_service_users_may_share_a_directus(directus: Prepared, serve_on: ServeOn) -> None:
    """Another sidecar's writes are news to this one: they were made by another service user."""
    person = somebody()
    token = await service_user(directus.server, directus.names)
    async with serve_on(directus) as server, _crowd(server, [person]) as [device]:
        await until(lambda: bool(plugin_of(server).state()["listening"]))
        await _say(device, "one", 0)
        await settled(server)
        before = plugin_of(server).state()["changes_of_others"]
        path = f"/items/{directus.names.chats}/{key_of(person, 'one')}"
        await directus.server.ask("PATCH", path, {"title_op": "x"}, token=token)
        await until(lambda: plugin_of(server).state()["changes_of_others"] != before)
