"""Messages that run ahead of their chat's row: nobody sees less for it, and the row follows (S29, S43)."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from plugins.persistence.directus import Directus
from sidecar import ChatId, ChatInDB, KeyReference, MessageId, MessageInDB, Sealed, UserHash
from sidecar.ids import hash_user
from sidecar.server.running import Server
from tests.device import Device, doc
from tests.directus_store.conftest import ServeOn
from tests.directus_store.world import Prepared, key_of, plugin_of, somebody
from tests.integration.world import settled, until
from tests.services.directus.front import DirectusFront


async def _say(server: Server, device: Device, *numbers: int, **more: Any) -> list[dict[str, Any]]:
    """One message after the other, each delivered before the next."""
    updates = []
    for number in numbers:
        sent = {"tempChatId": "one", "clientMessageId": f"m{number}", "content": doc(f"{number}"), **more}
        answer = await device.ask("message_send", sent)
        assert answer["type"] == "message_accepted", answer
        updates.append(await device.event("message_update"))
    await settled(server)
    return updates


async def _row(directus: Prepared, person: str) -> dict[str, Any]:
    [row] = await directus.rows("chats", person)
    return row


def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plugins.persistence.directus_ahead._QUIET_SECONDS", 0.3)
    monkeypatch.setattr("plugins.persistence.directus_writes._FOLLOW_SECONDS", 0.1)


def _ahead(server: Server) -> Any:
    return plugin_of(server)._writes._ahead


async def test_s29_the_row_is_marked_once_and_follows_when_the_chat_is_quiet(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = somebody()
    async with serve_on(directus, front.url) as server, Device(server.url, person) as device:
        await _say(server, device, 1)
        first = await _row(directus, person)
        assert (first["ahead"], first["messages_version"]) == (None, 2)
        front.seen.clear()
        last = (await _say(server, device, 2, 3, 4, 5))[-1]["messagesVersion"]
        chats = [method for method, path in front.seen if directus.names.chats in path]
        assert chats.count("PATCH") == 1, "the mark, and the row is left alone"
        row = await _row(directus, person)
        assert (row["ahead"], row["messages_version"]) == (_ahead(server).mark, 2)
        messages = await directus.rows("messages", person, sort=["sequence"])
        assert [each["messages_version"] for each in messages] == [None, 4, 6, 8, 10]
        assert last == 10
        _quick(monkeypatch)

        async def followed() -> bool:
            return (await _row(directus, person))["ahead"] is None

        await until(followed)
        row = await _row(directus, person)
        assert row["messages_version"] == last
        assert row["updated_at"] > first["updated_at"]
        assert row["last_message_timestamp"] == messages[-1]["created_at"]


async def test_s29_the_rows_follow_when_the_sidecar_stops(directus: Prepared, serve_on: ServeOn) -> None:
    person = somebody()
    async with serve_on(directus) as server, Device(server.url, person) as device:
        last = (await _say(server, device, 1, 2, 3))[-1]["messagesVersion"]
        assert (await _row(directus, person))["ahead"] is not None
    row = await _row(directus, person)
    assert (row["ahead"], row["messages_version"]) == (None, last)


async def test_s29_a_draft_that_is_sent_brings_the_row_along(directus: Prepared, serve_on: ServeOn) -> None:
    """What is consumed is consumed in the same write, whatever ran ahead before."""
    person = somebody()
    async with serve_on(directus) as server, Device(server.url, person) as device:
        await _say(server, device, 1, 2)
        draft = {"chatId": "one", "content": doc("a draft"), "basedOnVersion": 0}
        assert (await device.ask("draft_update", draft))["payload"]["version"] == 1
        await settled(server)
        row = await _row(directus, person)
        assert (row["ahead"], row["version"], row["messages_version"]) == (None, 1, 4)
        await _say(server, device, 3)
        assert (await _row(directus, person))["ahead"] is not None
        last = (await _say(server, device, 4, draftVersion=1))[-1]["messagesVersion"]
        row = await _row(directus, person)
        assert (row["ahead"], row["version"], row["draft_state"], row["draft"]) == (None, 2, "consumed", None)
        assert row["messages_version"] == last


async def test_s43_what_a_process_that_died_left_ahead_is_read_and_counted_on(
    directus: Prepared, serve_on: ServeOn
) -> None:
    """S43: the next number is above all that devices saw, and the row follows the next message."""
    person = somebody()
    async with serve_on(directus) as server, Device(server.url, person) as device:
        last = (await _say(server, device, 1, 2, 3))[-1]
        _ahead(server).forget([key_of(person, "one")])  # as kill -9 leaves it
    before = await _row(directus, person)
    assert (before["ahead"] is not None, before["messages_version"]) == (True, 2)
    async with serve_on(directus) as server, Device(server.url, person) as device:
        frames = await device.sync()
        [shown] = [each for frame in frames for each in frame["chats"] if "messages_version" in each][:1]
        assert shown["messages_version"] == last["messagesVersion"]
        messages = {each["id"] for frame in frames for chat in frame["chats"] for each in chat.get("messages", ())}
        assert len(messages) == 3
        assert shown["last_message_timestamp"] != before["last_message_timestamp"]
        [update] = await _say(server, device, 4)
        assert update["messagesVersion"] == last["messagesVersion"] + 2
        row = await _row(directus, person)
        assert (row["ahead"], row["messages_version"]) == (None, update["messagesVersion"])


async def test_s29_a_chat_that_is_deleted_while_it_is_ahead_does_not_come_back(
    directus: Prepared, serve_on: ServeOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither when it is deleted here nor when an admin deletes it in Directus."""
    person = somebody()
    async with serve_on(directus) as server, Device(server.url, person) as device:
        await until(lambda: bool(plugin_of(server).state()["listening"]))
        await _say(server, device, 1, 2)
        await directus.delete("chats", key_of(person, "one"))
        await device.event("chat_deleted")
        _quick(monkeypatch)
        await until(lambda: len(_ahead(server)) == 0)
        assert await directus.rows("chats", person) == []
        other = {"tempChatId": "two", "content": doc("x")}
        for number in range(2):
            await device.ask("message_send", {**other, "clientMessageId": f"o{number}"})
            await settled(server)
        await device.ask("chat_delete", {"chatId": "two"})
        await settled(server)
        await asyncio.sleep(0.6)
        assert await directus.rows("chats", person) == []
        assert await directus.rows("messages", person) == []


async def test_s29_a_refused_mark_and_a_lost_answer_lose_and_double_nothing(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront
) -> None:
    person = somebody()
    async with serve_on(directus, front.url) as server, Device(server.url, person, wait=30) as device:
        await _say(server, device, 1)
        refused = front.refuse(403, "FORBIDDEN", of=lambda method, _: method == "PATCH")
        await _say(server, device, 2)
        assert refused.happened == 1
        assert (await _row(directus, person))["messages_version"] == 4, "with its row, then"
        await _say(server, device, 3)
        assert (await _row(directus, person))["ahead"] is not None
        lost = front.swallow(1, of=lambda method, path: method == "POST" and directus.names.messages in path)
        last = (await _say(server, device, 4))[-1]["messagesVersion"]
        assert lost.happened == 1
        messages = await directus.rows("messages", person, sort=["sequence"])
        assert [each["sequence"] for each in messages] == [1, 2, 3, 4]
        row = await _row(directus, person)
        assert max(row["messages_version"], *(each["messages_version"] or 0 for each in messages)) == last


def _chat(user: UserHash, number: int) -> ChatInDB:
    at = datetime.now(UTC) + timedelta(seconds=number)
    return ChatInDB(
        id=ChatId(f"{user[:8]}_one"),
        hashed_user_id=user,
        vault_key_reference=KeyReference("key"),
        title=None,
        title_version=0,
        title_op=None,
        draft=None,
        version=0,
        draft_op=None,
        draft_state="none",
        messages_version=2 * number,
        created_at=at,
        updated_at=at,
        last_message_timestamp=at,
    )


def _message(chat: ChatInDB, number: int) -> MessageInDB:
    return MessageInDB(
        id=MessageId(f"{chat.hashed_user_id[:20]}-{number}"),
        chat_id=chat.id,
        hashed_user_id=chat.hashed_user_id,
        client_message_id=None,
        role="user",
        sender_name=None,
        content=Sealed(b"sealed"),
        sequence=number,
        created_at=chat.updated_at,
    )


async def test_s29_who_took_a_chat_over_keeps_its_mark_and_its_numbers(directus: Prepared) -> None:
    """The process before it writes what it left behind later, and takes nothing of the other's back."""
    person = somebody()
    user = UserHash(hash_user(person))
    section = directus.section()["options"]

    async with AsyncExitStack() as stack:
        one, other = [
            await stack.enter_async_context(
                Directus(Directus.Options.model_validate({**section, "changes": "notices"}))
            )
            for _ in range(2)
        ]

        async def say(plugin: Directus, *numbers: int) -> None:
            for number in numbers:
                await plugin.on_message(_chat(user, number), _message(_chat(user, number), number))

        await one.on_first_message(_chat(user, 1), _message(_chat(user, 1), 1))
        await say(one, 2, 3)
        assert (await _row(directus, person))["ahead"] == one._writes._ahead.mark
        await say(other, 4, 5, 6)
        row = await _row(directus, person)
        assert (row["ahead"], row["messages_version"]) == (other._writes._ahead.mark, 8)
        await one._writes._catch_up(everything=True)
        row = await _row(directus, person)
        assert (row["ahead"], row["messages_version"]) == (other._writes._ahead.mark, 8)
        known = await (await one.provide_persistence()).known(user, [_chat(user, 1).id])
        assert [chat.messages_version for chat in known.values()] == [12], "as its newest message says"
        await other._writes._catch_up(everything=True)
        row = await _row(directus, person)
        assert (row["ahead"], row["messages_version"]) == (None, 12)
