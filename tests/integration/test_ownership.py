"""Whose is it? Nobody reads, changes or even notices what is another person's (S59, T1, T2, T29, T45)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.changes import ChatInCache
from sidecar.drafts import update_draft
from sidecar.frames.client import DraftUpdateRequestData
from sidecar.frames.envelope import ClientFrame
from sidecar.ids import ChatId, ConnectionId, DeviceId, UserHash, hash_user
from sidecar.parts import Caller
from sidecar.records import Sealed
from sidecar.responses import chat_response
from sidecar.server.running import Server
from tests.conftest import Serve, WipeCache
from tests.device import Device, doc

pytestmark = pytest.mark.caches("memory", "redis")

AT_ONCE = {"debounce": "0s", "max_debounce": "0s"}
SECRET = "what alice wrote"


def twins() -> tuple[str, str]:
    """Two names whose hashes begin with the same eight characters, so that their full chat ids are the same."""
    seen: dict[str, str] = {}
    number = 0
    while True:
        name = f"u{number}"
        prefix = hash_user(name)[:8]
        if prefix in seen:
            return seen[prefix], name
        seen[prefix] = name
        number += 1


def asks(chat: str, message: str) -> Mapping[str, dict[str, Any]]:
    """Every frame that names a chat."""
    return {
        "messages_request": {"chatId": chat, "limit": 10},
        "messages_request before": {"chatId": chat, "before": message, "limit": 10},
        "chats_request": {"ids": [chat], "limit": 10},
        "draft_update": {"chatId": chat, "content": doc("mine now"), "basedOnVersion": 1},
        "draft_delete": {"chatId": chat, "basedOnVersion": 1, "hasMessages": True},
        "title_update": {"chatId": chat, "title": "mine now", "basedOnVersion": 0},
        "message_send": {"chatId": chat, "clientMessageId": "m1", "content": doc("mine now")},
        "chat_restore": {
            "chatId": chat,
            "draft": {"content": doc("mine now"), "state": "edited", "version": 9, "op": "o"},
            "messagesVersion": 0,
        },
        "set_active_chat": {"chatId": chat},
        "message_stop": {"chatId": chat, "messageId": message},
        "chat_delete": {"chatId": chat},
        "sync_request": {"lastOpenChatId": chat},
        "sync_request held": {"chats": [{"id": chat, "version": 1, "titleVersion": 0, "messagesVersion": 1}]},
    }


async def _alices(device: Device) -> str:
    """A chat with a message and one that is a draft alone; the message's id."""
    sent = {"tempChatId": "kept", "clientMessageId": "m1", "content": doc(SECRET)}
    message = (await device.ask("message_send", sent))["payload"]["message"]
    await device.ask("draft_update", {"chatId": "kept", "content": doc(SECRET), "basedOnVersion": 0})
    await device.ask("title_update", {"chatId": "kept", "title": SECRET, "basedOnVersion": 0})
    await device.ask("draft_update", {"tempChatId": "draft-only", "content": doc(SECRET), "basedOnVersion": 0})
    await device.event("message_update")
    return str(message["id"])


async def _state(device: Device) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in await device.sync():
        for chat in part["chats"]:
            found.setdefault(chat["id"], {}).update(chat)
            found[chat["id"]].pop("durability", None)  # the store catches up meanwhile
    return found


def _without(answer: Any, *names: str) -> str:
    """An answer as text, without what differs from one question to the next by itself."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(each) for key, each in value.items() if key not in ("re", "cursor", *names)}
        if isinstance(value, list):
            return [clean(each) for each in value]
        return value

    return orjson.dumps(clean(answer)).decode()


@pytest.mark.parametrize("whole", [True, False], ids=["full id", "client id"])
@pytest.mark.parametrize("chat", ["kept", "draft-only"])
async def test_s59_t1_another_persons_chat_is_answered_like_one_that_nobody_knows(
    serve: Serve, whole: bool, chat: str
) -> None:
    """S59, T1: two persons, every frame, own, foreign and absent ids: the same answer, nothing read, nothing changed."""
    fast = {"frames_per_second": 10_000, "burst": 10_000}
    async with (
        serve(limits=fast, drafts=AT_ONCE) as server,
        Device(server.url, "alice") as alice,
        Device(server.url, "bob") as bob,
    ):
        message = await _alices(alice)
        before = await _state(alice)
        user = bob.user
        for name, foreign in asks(alice.full(chat) if whole else chat, message).items():
            absent = asks(f"{alice.user[:8]}_nobody" if whole else "nobody", message)[name]
            type_ = name.partition(" ")[0]
            answers = []
            for payload in (foreign, absent):
                # Each in a person's hands that is new: what bob makes under his own ids is his.
                asker = Device(server.url, "bob" if whole else f"bob-{name.replace(' ', '-').replace('_', '-')}")
                async with asker:
                    frames = (
                        await asker.sync(**payload) if type_ == "sync_request" else [await asker.ask(type_, payload)]
                    )
                    if not whole:
                        await asker.ask("chat_delete", {"chatId": payload.get("chatId", "x")})
                    answers.append(frames)
                    assert SECRET not in str(frames), name
            if whole:
                assert _without(answers[0]) == _without(answers[1]), name
                code = answers[0][-1].get("payload", answers[0][-1]).get("code")
                assert code == "not_found", name
            else:
                kinds = [
                    [(f.get("type") or f["·type"], f.get("payload", {}).get("code")) for f in each] for each in answers
                ]
                assert kinds[0] == kinds[1], name
        assert bob.user == user
        assert await _state(alice) == before
        assert not [event for event in alice.events if event["type"] != "chat_stored"]


async def test_t1_t2_two_persons_with_the_same_prefix_never_meet(serve: Serve) -> None:
    """T1: the eight characters of the prefix are equal, and so the chat ids are; the records are each person's own."""
    one, other = twins()
    async with serve(drafts=AT_ONCE) as server, Device(server.url, one) as first, Device(server.url, other) as second:
        assert first.user[:8] == second.user[:8]
        assert first.user != second.user
        message = await _alices(first)
        before = await _state(first)
        chat = first.full("kept")
        assert chat == second.full("kept")
        for name, payload in asks(chat, message).items():
            type_ = name.partition(" ")[0]
            if type_ == "message_send":
                payload = {**payload, "clientMessageId": "of-second"}
            if type_ == "sync_request":
                frames: Any = await second.sync(**payload)
            else:
                frames = await second.ask(type_, payload)
            assert SECRET not in str(frames), name
        mine = {"tempChatId": "draft-only", "content": doc("second's own"), "basedOnVersion": 0}
        assert (await second.ask("draft_update", mine))["payload"]["version"] == 1
        assert await _state(first) == before
        second_has = (await _state(second))[second.full("draft-only")]
        assert second_has["draft"] == doc("second's own")
        assert SECRET not in str(await _state(second))


async def test_t2_two_persons_race_for_one_client_id(serve: Serve) -> None:
    """T2: 1,500 rounds; each sees only its own. The ids are even equal in full."""
    one, other = twins()
    async with serve(
        encryption={"use": "passthrough"},
        cache={"use": "memory", "options": {"journal": False}},
        limits={"draft_chats_per_user": 10_000},
        drafts={"debounce": "10m", "max_debounce": "10m"},
    ) as server:
        parts = server.context.parts
        callers = [Caller(hash_user(name), DeviceId("d"), ConnectionId(f"c-{name}"), None) for name in (one, other)]

        async def begin(caller: Caller, number: int) -> Any:
            payload = DraftUpdateRequestData.model_validate(
                {"tempChatId": f"race-{number}", "content": f"{caller.user} {number}", "basedOnVersion": 0}
            )
            frame = ClientFrame("draft_update", f"op-{number}", payload, caller.user[-16:].encode())
            return await update_draft(parts, caller, frame, payload)

        for start in range(0, 1500, 50):
            rounds = range(start, start + 50)
            answers = await asyncio.gather(*(begin(caller, number) for number in rounds for caller in callers))
            assert {answer.type for answer in answers} == {"chat_initiated"}
            assert {answer.payload["version"] for answer in answers} == {1}
        for caller in callers:
            ids = [ChatId(f"{caller.user[:8]}_race-{number}") for number in range(1500)]
            found = await parts.cache.chats.read(caller.user, ids)
            assert len(found) == 1500
            for number, chat_id in enumerate(ids):
                chat = found[chat_id]
                assert isinstance(chat, ChatInCache)
                assert chat.user == caller.user
                assert chat.draft is not None
                assert f"{caller.user} {number}".encode() in bytes(chat.draft)


async def test_t45_absent_and_foreign_ids_take_the_same_way(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """T45: the same calls of the same slots in the same order, so that no time can tell one from the other."""
    async with Device(server.url, "alice") as alice, Device(server.url, "bob") as bob:
        message = await _alices(alice)
        await bob.sync()
        await asyncio.sleep(0.1)
        calls: list[str] = []

        def noted(owner: Any, name: str) -> None:
            original = getattr(owner, name)

            def note(*arguments: Any, **named: Any) -> Any:
                task = asyncio.current_task()
                # Not what the feed and the outbox do meanwhile, each in a task of its own.
                if task is not None and getattr(task.get_coro(), "__qualname__", "").startswith(
                    ("Socket.", "RequestHandler.")
                ):
                    calls.append(name)
                return original(*arguments, **named)

            monkeypatch.setattr(owner, name, note)

        parts = server.context.parts
        for name in ("read", "prepare", "fill"):
            noted(parts.cache.chats, name)
        for name in ("known", "messages", "find"):
            noted(parts.store, name)
        noted(parts.cipher, "begin")
        for name in asks("x", message):
            type_ = name.partition(" ")[0]
            if type_ == "sync_request":
                continue
            ways = []
            for chat in ("kept", "nobody-has-it"):
                calls.clear()
                # Bob's own id of that name: alice has a chat under hers, nobody has the other.
                await bob.ask(type_, asks(chat, message)[name])
                ways.append(list(calls))
            assert ways[0] == ways[1], (name, ways)
            for chat in ("kept", "nobody-has-it"):
                calls.clear()
                answer = await bob.ask(type_, asks(f"{alice.user[:8]}_{chat}", message)[name])
                assert answer["payload"]["code"] == "not_found"
                assert calls == [], f"{name}: a foreign prefix asks nobody"


# -- T29: bits that flip -----------------------------------------------------------------------------------------------


def _flip(sealed: Sealed | None, bit: int) -> Sealed:
    assert sealed is not None
    raw = bytearray(sealed)
    raw[bit // 8] ^= 1 << bit % 8
    return Sealed(bytes(raw))


@pytest.mark.parametrize(("name", "step"), [("kept", 7), ("draft-only", 1)])
async def test_t29_every_flipped_bit_of_a_sealed_value_is_the_stores_truth_or_undecryptable(
    serve: Serve, name: str, step: int
) -> None:
    """T29: bit by bit: the store's text or a field that does not open, never another text."""
    async with (
        serve(limits={"frames_per_second": 10_000, "burst": 10_000}, drafts=AT_ONCE) as server,
        Device(server.url, "alice") as alice,
    ):
        await _alices(alice)
        await alice.ask("title_update", {"chatId": "draft-only", "title": SECRET, "basedOnVersion": 0})
        parts = server.context.parts
        user, chat_id = UserHash(alice.user), ChatId(alice.full(name))
        for _ in range(600):
            stored = (await parts.store.known(user, [chat_id])).get(chat_id)
            if name != "kept" or (stored is not None and stored.version == 1 and stored.title_version == 1):
                break
            await asyncio.sleep(0.05)
        chat = (await parts.cache.chats.read(user, [chat_id]))[chat_id]
        assert isinstance(chat, ChatInCache)
        assert chat.draft is not None
        assert chat.title is not None
        right = orjson.dumps(await chat_response(parts, chat, messages=chat.messages))
        for bit in range(0, len(chat.draft) * 8, step):
            told = await chat_response(parts, replace(chat, draft=_flip(chat.draft, bit)), messages=chat.messages)
            if name == "kept":  # the store has the same revision: its truth is told
                assert orjson.dumps(told) == right, f"bit {bit}"
            else:
                assert told["draft"] is None, f"bit {bit}"
                assert told["undecryptable"] == ["draft"]
        for bit in range(0, len(chat.title) * 8, step):
            told = await chat_response(parts, replace(chat, title=_flip(chat.title, bit)), messages=chat.messages)
            if name == "kept":
                assert orjson.dumps(told) == right, f"bit {bit}"
            else:
                assert told["title"] is None, f"bit {bit}"
                assert told["undecryptable"] == ["title"]


async def test_t29_a_poisoned_row_is_told_as_undecryptable_and_left_as_it_is(
    serve: Serve, tmp_path: Path, wipe_cache: WipeCache
) -> None:
    async with serve(drafts=AT_ONCE) as server, Device(server.url, "alice") as alice:
        await _alices(alice)
        await asyncio.sleep(0.5)
    file = tmp_path / "data" / "store.sqlite"
    with closing(sqlite3.connect(file)) as database:
        [(draft,)] = database.execute("SELECT draft FROM chats").fetchall()
        poisoned = bytes(_flip(draft, 400))
        database.execute("UPDATE chats SET draft = ?", (poisoned,))
        database.commit()
    await wipe_cache()
    async with serve(drafts=AT_ONCE) as server, Device(server.url, "alice") as alice:
        [chat, *_] = [chat for part in await alice.sync() for chat in part["chats"] if "draft" in chat]
        assert chat["undecryptable"] == ["draft"]
        assert chat["draft"] is None
        assert chat["title"] == SECRET
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT draft FROM chats").fetchall() == [(poisoned,)]
