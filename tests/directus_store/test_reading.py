"""What comes back from Directus: a cold cache, rows that a hand spoiled, and what devices hold after a loss."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from sidecar.ids import ChatId, DeviceId, UserHash
from sidecar.records import DeviceInDB
from sidecar.server.running import Server
from tests.device import Device, Frame, doc
from tests.directus_store.conftest import ServeOn
from tests.directus_store.world import Prepared, key_of, plugin_of, somebody, store_of
from tests.integration.world import NEVER, cached, settled, until
from tests.services.directus.front import DirectusFront

_LOOK = {"changes": "look"}
_HEAR = {"changes": "notices", "notice_secret": "what notices are signed with, 32 bytes and more"}
"""Nothing is asked by itself: every call is somebody's."""


async def _forget(server: Server, device: Device) -> None:
    """The cache has nothing of this person any more."""
    await server.context.parts.cache.chats.drop(UserHash(device.user), None)


def _chats(frames: list[Frame]) -> dict[str, dict[str, Any]]:
    """By id, as the frames together tell of them."""
    found: dict[str, dict[str, Any]] = {}
    for frame in frames:
        for chat in frame["chats"]:
            known = found.setdefault(chat["id"], {})
            closed = {*known.get("undecryptable", ()), *chat.get("undecryptable", ())}
            known.update({**chat, "undecryptable": sorted(closed)})
    return found


async def test_s42_a_cold_cache_with_500_chats_gets_them_all_by_few_calls(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront
) -> None:
    """S42: none is missing, the count is the store's, and there are fewer calls than chats by far."""
    person = somebody()
    async with serve_on(directus, front.url, _HEAR) as server, Device(server.url, person, wait=60) as device:
        for start in range(0, 500, 50):
            await asyncio.gather(
                *(
                    device.ask(
                        "message_send",
                        {"tempChatId": f"c{number}", "clientMessageId": f"m{number}", "content": doc(f"{number}")},
                    )
                    for number in range(start, start + 50)
                )
            )
        await settled(server, 60)
        await device.quiet(0.5)  # the last events are told, and look up nothing any more
        await _forget(server, device)
        front.seen.clear()
        frames = await device.sync()
        calls = len(front.seen)
        chats = _chats(frames)
        assert {chat["id"] for chat in chats.values()} == {device.full(f"c{number}") for number in range(500)}
        assert {frame["total"] for frame in frames if "total" in frame} == {500}
        assert not any(frame.get("failed") for frame in frames)
        assert calls <= 40
        with_messages = [chat for chat in chats.values() if chat.get("messages")]
        assert len(with_messages) >= 20
        await _forget(server, device)
        front.refuse(503, "SERVICE_UNAVAILABLE", 10**6)
        frames = await device.sync()
        assert frames[-1]["·type"] == "error" or frames[-1].get("failed"), "never an empty list where there are rows"


async def test_messages_come_page_by_page_however_many_there_are(directus: Prepared, serve_on: ServeOn) -> None:
    person = somebody()
    async with serve_on(directus, options=_LOOK) as server, Device(server.url, person, wait=60) as device:
        for number in range(230):
            sent = {"tempChatId": "one", "clientMessageId": f"m{number}", "content": doc(f"{number}")}
            await device.ask("message_send", sent)
        await settled(server)
        await _forget(server, device)
        store, user, chat_id = server.context.parts.store, UserHash(device.user), ChatId(device.full("one"))
        seen: list[int] = []
        before = None
        while True:
            page = await store.messages(user, chat_id, before, 60)
            assert page.total == 230
            seen += [message.sequence for message in page.items]
            if not page.more:
                break
            before = page.items[-1].id
        assert seen == list(range(230, 0, -1))


async def test_the_newest_of_small_and_large_chats_are_read_without_the_rest(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront
) -> None:
    """Small chats whole, by one call together; of a large one its end alone. Directus itself would read every message of them all."""
    person, sizes = somebody(), {"small": 1, "middle": 7, "large": 60}
    async with serve_on(directus, front.url, _HEAR) as server, Device(server.url, person) as device:
        for chat, size in sizes.items():
            for number in range(size):
                sent = {"tempChatId": chat, "clientMessageId": f"{chat}-{number}", "content": doc(f"{number}")}
                await device.ask("message_send", sent)
        await settled(server)
        await device.quiet(0.5)
        store = store_of(server)
        front.seen.clear()
        ids = {chat: ChatId(device.full(chat)) for chat in (*sizes, "nothing")}
        pages = await asyncio.gather(*(store.messages(UserHash(device.user), each, None, 5) for each in ids.values()))
        assert len(front.seen) == 3, "a count, the small ones, the end of the large one"
        for (chat, size), page in zip(sizes.items(), pages, strict=False):
            assert [each.sequence for each in page.items] == [*range(size, max(0, size - 5), -1)], chat
            assert (page.total, page.more) == (size, size > 5)
        assert (pages[-1].items, pages[-1].total, pages[-1].more) == ([], 0, False)


async def test_s46_rows_spoiled_by_hand_are_flagged_and_the_others_sync(directus: Prepared, serve_on: ServeOn) -> None:
    """S46: a null version, a title of another chat, a sender and a time that are none; each is counted and named in the log."""
    person = somebody()
    async with serve_on(directus, options=_LOOK) as server, Device(server.url, person) as device:
        for chat in ("sound", "null", "moved", "late"):
            sent = {"tempChatId": chat, "clientMessageId": "m1", "content": doc(chat)}
            await device.ask("message_send", sent)
            await device.ask("title_update", {"chatId": chat, "title": f"Title of {chat}", "basedOnVersion": 0})
        await settled(server)
        rows = {row["id"]: row for row in await directus.rows("chats", person)}
        await directus.edit("chats", key_of(person, "null"), version=None, draft_state="nonsense")
        await directus.edit("chats", key_of(person, "moved"), title=rows[key_of(person, "sound")]["title"])
        await directus.edit("chats", key_of(person, "late"), updated_at=None, created_at=None)
        await _forget(server, device)
        async with Device(server.url, person) as fresh:
            frames = await fresh.sync()
        chats = _chats(frames)
        assert len(chats) == 4
        assert chats[device.full("sound")]["undecryptable"] == []
        assert (chats[device.full("null")]["version"], chats[device.full("null")]["title"]) == (0, "Title of null")
        assert (chats[device.full("moved")]["title"], chats[device.full("moved")]["undecryptable"]) == (None, ["title"])
        assert chats[device.full("late")]["title"] == "Title of late"
        state = plugin_of(server).state()
        assert isinstance(state["damaged_rows"], int)
        assert state["damaged_rows"] >= 2
        answer = await device.ask("draft_update", {"chatId": "null", "content": doc("again"), "basedOnVersion": 0})
        assert answer["payload"]["version"] == 1
        await settled(server)
        [row] = await directus.rows("chats", person, filter={"id": {"_eq": key_of(person, "null")}})
        assert (row["version"], row["draft_state"]) == (1, "edited"), "the next write mends the row"


async def test_s22_the_draft_of_a_stored_chat_outlives_every_cache(directus: Prepared, serve_on: ServeOn) -> None:
    """S22: all devices are gone, the cache forgets; a day later the draft is there, and its version still rises."""
    person = somebody()
    async with serve_on(directus, options=_LOOK) as server:
        async with Device(server.url, person) as device:
            await device.ask("message_send", {"tempChatId": "one", "clientMessageId": "m1", "content": doc("one")})
            for version in range(3):
                base = {"content": doc(f"v{version + 1}"), "basedOnVersion": version}
                await device.ask("draft_update", {"chatId": "one", **base})
            await settled(server)
        await _forget(server, device)
        async with Device(server.url, person) as later:
            [chat] = _chats(await later.sync()).values()
            assert (chat["draft"], chat["version"], chat["durability"]) == (doc("v3"), 3, "stored")
            base = {"content": doc("v4"), "basedOnVersion": 3, "basedOnOp": chat["draft_op"]}
            assert (await later.ask("draft_update", {"chatId": "one", **base}))["payload"]["version"] == 4


async def test_s43_s67_a_device_holds_more_than_the_store_after_a_loss(directus: Prepared, serve_on: ServeOn) -> None:
    """S43, S67: it held version 5, the store 1; it is told that it is missing, brings it back, and the store has it then."""
    person = somebody()
    async with serve_on(directus, options=_LOOK, drafts=NEVER) as server, Device(server.url, person) as device:
        await device.ask("draft_update", {"tempChatId": "one", "content": doc("v1"), "basedOnVersion": 0})
        await device.ask("message_send", {"chatId": "one", "clientMessageId": "m1", "content": doc("one")})
        await device.event("message_update")
        answer: Frame = {}
        for version in range(1, 5):
            base = {"content": doc(f"v{version + 1}"), "basedOnVersion": version}
            answer = await device.ask("draft_update", {"chatId": "one", **base})
        op = answer["payload"]["op"]
        await _forget(server, device)
        full = device.full("one")
        held = [{"id": full, "version": 5, "op": op, "titleVersion": 0, "messagesVersion": 2}]
        frames = await device.sync(chats=held)
        assert [each for frame in frames for each in frame["missing"]] == [full]
        stale = {"chatId": "one", "content": doc("v6"), "basedOnVersion": 5, "basedOnOp": op}
        assert (await device.ask("draft_update", stale))["payload"]["reason"] == "missing"
        text = {"content": doc("v5"), "state": "edited", "version": 5, "op": op}
        restored = await device.ask("chat_restore", {"chatId": "one", "draft": text, "messagesVersion": 2})
        assert (restored["type"], restored["payload"]["chat"]["version"]) == ("chat_restored", 5)
        await settled(server)
        [row] = await directus.rows("chats", person)
        assert (row["version"], row["draft_op"]) == (5, op)


async def test_s45_what_is_read_from_directus_late_replaces_nothing_newer(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront
) -> None:
    """S45, S74: a slow read of a chat while an edit of it is accepted."""
    person = somebody()
    async with serve_on(directus, front.url, _HEAR, drafts=NEVER) as server, Device(server.url, person) as device:
        await device.ask("message_send", {"tempChatId": "one", "clientMessageId": "m1", "content": doc("one")})
        await settled(server)
        await server.context.parts.cache.chats.drop(UserHash(device.user), [ChatId(device.full("one"))])
        assert await cached(server, device.full("one")) is None
        slow = front.hold(1, of=lambda method, path: method == "SEARCH" and directus.names.chats in path)
        assert slow.held is not None
        reading = asyncio.create_task(device.sync())
        await until(lambda: slow.happened == 1)
        base = {"content": doc("newer"), "basedOnVersion": 0}
        answer = await device.ask("draft_update", {"chatId": "one", **base})
        assert answer["payload"]["version"] == 1
        slow.held.set()
        await reading
        found = await cached(server, device.full("one"))
        assert found is not None
        assert found.version == 1


async def test_s48_the_least_recent_chat_alone_leaves_the_cache_and_comes_back_whole(
    directus: Prepared, serve_on: ServeOn
) -> None:
    """S48: four stored chats are used; a chat that is a draft alone is never evicted."""
    person = somebody()
    async with serve_on(directus, options=_LOOK) as server, Device(server.url, person) as device:
        await device.ask("draft_update", {"tempChatId": "draft", "content": doc("only here"), "basedOnVersion": 0})
        for chat in ("a", "b", "c", "d"):
            await device.ask("message_send", {"tempChatId": chat, "clientMessageId": "m1", "content": doc(chat)})
            await settled(server)
        here = [chat for chat in ("draft", "a", "b", "c", "d") if await cached(server, device.full(chat)) is not None]
        assert here == ["draft", "b", "c", "d"]
        base = {"chatId": "a", "content": doc("back"), "basedOnVersion": 0}
        answer = await device.ask("draft_update", base)
        assert (answer["type"], answer["payload"]["version"]) == ("draft_updated", 1)
        found = await cached(server, device.full("a"))
        assert found is not None
        assert len(found.messages) == 1


async def test_devices_of_everybody_who_comes_back_at_once_are_read_by_few_calls(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront
) -> None:
    """As after a restart: each person gets their own devices, oldest first, and nobody else's."""
    async with serve_on(directus, front.url, _HEAR) as server:
        store = server.context.parts.store
        people = [UserHash(f"{number:064x}") for number in range(0x100, 0x100 + 60)]
        made = [_device(user, f"d{place}", minute=place) for user in people for place in (1, 2)]
        await asyncio.gather(*(store.put_device(each) for each in reversed(made)))
        front.seen.clear()
        nobody = UserHash("f" * 64)
        found = await asyncio.gather(*(store.devices(user) for user in [*people, nobody, people[0]]))
        assert front.count("SEARCH", directus.names.devices) <= 2
        assert [[(each.hashed_user_id, each.id) for each in devices] for devices in found] == [
            *([(user, "d1"), (user, "d2")] for user in people),
            [],
            [(people[0], "d1"), (people[0], "d2")],
        ]


def _device(user: UserHash, device: str, *, minute: int) -> DeviceInDB:
    seen = datetime(2026, 1, 1, 12, minute, tzinfo=UTC)
    return DeviceInDB(
        id=DeviceId(device),
        hashed_user_id=user,
        secret_hash="0" * 64,
        name="a device",
        fingerprint="{}",
        first_seen=seen,
        last_seen=seen,
        verified_at=None,
    )
