"""Directus refuses, forgets, or is not the one that it was: what it lacks is parked or brought back, and the rest goes on (F29, F31, F32, F34)."""

from __future__ import annotations

import asyncio
import shutil
from functools import partial
from pathlib import Path

import pytest

from sidecar.ids import UserHash, hash_user
from tests.device import Device, doc
from tests.directus.people import human
from tests.directus_store.conftest import ServeOn, StartPrepared
from tests.directus_store.crowd import LOOK, all_stored, crowd, in_order, nothing_parked, say, tells
from tests.directus_store.world import Prepared, key_of, plugin_of, somebody
from tests.integration.world import settled, until
from tests.services.directus.sidecars import service_user


@pytest.mark.timeout(180)
async def test_f29_what_directus_forbids_is_parked_said_and_stored_when_it_is_allowed_again(
    start_prepared: StartPrepared, serve_on: ServeOn
) -> None:
    """F29: a permission is taken away while people write; the text is kept; replayed in order it becomes delivered."""
    own = await start_prepared()
    person = somebody()
    async with serve_on(own, options=LOOK) as server, crowd(server, [person]) as [device]:
        await say(device, "one", 0)
        await device.event("message_update")
        condition = {"collection": {"_eq": own.names.messages}, "action": {"_eq": "create"}}
        [right] = await own.server.ask("SEARCH", "/permissions", {"query": {"filter": condition}})
        await own.server.ask("DELETE", f"/permissions/{right['id']}")
        first, second = await say(device, "one", 1, 2)
        assert (await device.event("message_update", lambda each: each["messageId"] == first))["status"] == "error"
        outbox = server.context.parts.cache.outbox

        async def both() -> bool:
            return len(await outbox.parked("persistence")) == 2

        await until(both)
        assert await in_order(own, [person]) == 1
        frames = await device.sync()
        [messages] = [chat["messages"] for frame in frames for chat in frame["chats"] if chat.get("messages")][:1]
        assert [each["content"] for each in messages][-2:] == [doc("hello 1"), doc("hello 2")], "the text is kept"
        await own.server.ask("POST", "/permissions", {key: value for key, value in right.items() if key != "id"})
        letters = await outbox.parked("persistence")
        await outbox.parked("persistence", replay=[letter.id for letter in letters])
        for message_id in (first, second):
            told = await device.event("message_update", partial(tells, message_id, "delivered"))
            assert told["status"] == "delivered"
        assert await in_order(own, [person]) == 3


@pytest.mark.timeout(180)
async def test_f29_f51_what_is_too_large_for_directus_is_parked_alone(
    start_prepared: StartPrepared, serve_on: ServeOn
) -> None:
    """F29, F51: a small `MAX_PAYLOAD_SIZE`; everybody else's messages pass, however the batches were put together."""
    own = await start_prepared(MAX_PAYLOAD_SIZE="60kb")
    people = [somebody() for _ in range(8)]
    async with serve_on(own, options=LOOK) as server, crowd(server, people) as devices:
        large = asyncio.create_task(say(devices[0], "large", 0, text="x" * 100_000))
        await asyncio.gather(*(say(device, "one", *range(5), text="y" * 4000) for device in devices))
        [victim] = await large
        assert (await devices[0].event("message_update", lambda each: each["messageId"] == victim))["status"] == "error"
        await settled(server, 60)
        assert await in_order(own, people) == 40
        assert len(await server.context.parts.cache.outbox.parked("persistence")) == 1


@pytest.mark.timeout(180)
async def test_limits_of_directus_on_rows_and_reads_are_kept_to(
    start_prepared: StartPrepared, serve_on: ServeOn
) -> None:
    """S42: `MAX_BATCH_MUTATION` counts nested rows too, `QUERY_LIMIT_MAX` cuts what is read without a word."""
    own = await start_prepared(MAX_BATCH_MUTATION="20", QUERY_LIMIT_MAX="30", QUERY_LIMIT_DEFAULT="10")
    person = somebody()
    async with serve_on(own, options=LOOK) as server, crowd(server, [person]) as [device]:
        await asyncio.gather(*(say(device, f"c{number}", 0) for number in range(80)))
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
        await nothing_parked(server)


@pytest.mark.timeout(280)
async def test_f31_a_directus_restored_from_a_backup_gets_back_what_devices_hold(
    start_prepared: StartPrepared, serve_on: ServeOn, tmp_path: Path
) -> None:
    """F31, S20, S43: rows newer than the backup are missing and not deleted; their devices bring them back."""
    own = await start_prepared()
    person = somebody()
    async with serve_on(own, options=LOOK) as server, crowd(server, [person]) as [device]:
        await say(device, "old", 0)
        await settled(server)
        await own.server.stop()
        shutil.copy(own.server.database, tmp_path / "backup.db")
        await own.server.start()
        await say(device, "new", 0)
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
    options = {**LOOK, "token": None, "token_file": str(file)}
    async with serve_on(own, options=options) as server, crowd(server, people) as devices:
        await asyncio.gather(*(say(device, "one", *range(5)) for device in devices))
        me = await own.server.ask("GET", "/users/me", token=own.token)
        condition = {"token": {"_nnull": True}, "last_name": {"_eq": own.names.chats}}
        [user] = await own.server.ask("SEARCH", "/users", {"query": {"filter": condition, "fields": ["id"]}})
        assert me["id"] == user["id"]
        await own.server.ask("PATCH", f"/users/{user['id']}", {"token": "the-new-token-of-the-service-user"})
        await asyncio.gather(*(say(device, "one", *range(5, 10)) for device in devices))
        await asyncio.sleep(2)
        await nothing_parked(server)
        file.write_text("the-new-token-of-the-service-user\n")
        await all_stored(server, own, people, 40)


@pytest.mark.timeout(180)
async def test_f34_directus_own_cache_makes_nothing_stale(start_prepared: StartPrepared, serve_on: ServeOn) -> None:
    """F34: its data cache is on and not purged: whoever asks by its API is told what was; what is read here is what is there."""
    own = await start_prepared(CACHE_ENABLED="true", CACHE_STORE="memory", CACHE_AUTO_PURGE="false", CACHE_TTL="30m")
    anna = await human(own.server)
    auth = {"use": "directus", "options": {"url": own.server.url, "token": own.token}}
    stale = f"/items/{own.names.messages}?limit=-1&fields=id"
    async with serve_on(own, options=LOOK, auth=auth) as server:
        token = await anna.session_token()
        async with Device(server.url, token=token, wait=60) as device:
            for number in range(5):
                await say(device, "one", number)
                await settled(server, 60)
                await server.context.parts.cache.chats.drop(UserHash(device.user), None)
                frames = await device.sync()
                [messages] = [chat["messages"] for frame in frames for chat in frame["chats"] if chat.get("messages")][
                    :1
                ]
                assert len(messages) == number + 1
                assert len(await own.server.ask("GET", stale)) == 1, "that it is stale is seen here"
        await anna.log_out(token)
        await asyncio.sleep(2.1)  # for so long the answer is kept, for the tabs of one browser
        device = await Device(server.url, token=token).connect()
        assert (await device.sign_in())["payload"]["code"] == "unauthenticated", "nor is it let in what is out"
        await device.close()
        token = await anna.session_token()
        await anna.change(status="suspended")
        device = await Device(server.url, token=token).connect()
        assert (await device.sign_in())["payload"]["code"] == "unauthenticated"
        await device.close()


async def test_two_service_users_may_share_a_directus(directus: Prepared, serve_on: ServeOn) -> None:
    """Another sidecar's writes are news to this one: they were made by another service user."""
    person = somebody()
    token = await service_user(directus.server, directus.names)
    async with serve_on(directus) as server, crowd(server, [person]) as [device]:
        await until(lambda: bool(plugin_of(server).state()["listening"]))
        await say(device, "one", 0)
        await settled(server)
        before = plugin_of(server).state()["changes_of_others"]
        path = f"/items/{directus.names.chats}/{key_of(person, 'one')}"
        await directus.server.ask("PATCH", path, {"title_op": "x"}, token=token)
        await until(lambda: plugin_of(server).state()["changes_of_others"] != before)
