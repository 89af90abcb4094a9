"""What reaches Directus, and when: first messages, messages, drafts and titles, deletions."""

from __future__ import annotations

import asyncio
import sqlite3

from sidecar.ids import UserHash, hash_user
from tests.device import Device, doc
from tests.directus_store.conftest import ServeOn
from tests.directus_store.world import Prepared, key_of, plugin_of, sealed_of, somebody
from tests.integration.world import NEVER, settled, until
from tests.services.directus.front import DirectusFront


async def test_s9_s26_a_draft_only_chat_causes_no_call_and_the_first_message_makes_one_row_of_each(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront
) -> None:
    """S9, S26, S32: and no text stands in Directus' database."""
    person = somebody()
    async with serve_on(directus, front.url) as server, Device(server.url, person) as device:
        for version in range(3):
            base = {"content": doc(f"a zebra plan {version}"), "basedOnVersion": version}
            await device.ask("draft_update", {"tempChatId": "one", **base})
        await device.ask("title_update", {"chatId": "one", "title": "the zebra title", "basedOnVersion": 0})
        await settled(server)
        assert await directus.rows("chats", person) == []
        written = [path for method, path in front.seen if method in ("POST", "PATCH", "DELETE")]
        assert {path for path in written if directus.names.devices not in path} == set(), "not even an attempt"
        answer = await device.ask(
            "message_send",
            {"chatId": "one", "clientMessageId": "m1", "content": doc("a zebra message"), "draftVersion": 3},
        )
        assert answer["payload"]["message"]["status"] == "sent"
        update = await device.event("message_update")
        assert update["status"] == "delivered"
        [chat], [message] = await directus.rows("chats", person), await directus.rows("messages", person)
    assert chat["id"] == key_of(person, "one")
    assert (chat["version"], chat["draft_state"], chat["draft"]) == (4, "consumed", None), "in the same write"
    assert chat["messages_version"] == update["messagesVersion"], "the store is never behind what a device saw"
    assert (chat["title_version"], chat["hashed_user_id"]) == (1, hash_user(person))
    assert (message["chat_id"], message["sequence"], message["role"]) == (chat["id"], 1, "user")
    assert sealed_of(message, "content")
    assert sealed_of(chat, "title")
    with sqlite3.connect(directus.server.database) as database:
        dump = "\n".join(database.iterdump())
    database.close()
    assert key_of(person, "one") in dump
    assert "zebra" not in dump, "nothing that a person wrote"


async def test_s27_first_messages_of_two_devices_at_once_make_one_chat_with_both_in_order(
    directus: Prepared, serve_on: ServeOn
) -> None:
    person = somebody()
    async with (
        serve_on(directus) as server,
        Device(server.url, person) as one,
        Device(server.url, person) as other,
    ):
        answers = await asyncio.gather(
            *(
                device.ask(
                    "message_send", {"tempChatId": "one", "clientMessageId": f"m{number}", "content": doc(f"{number}")}
                )
                for number, device in enumerate((one, other))
            )
        )
        await settled(server)
        assert {answer["type"] for answer in answers} == {"message_accepted"}
        [chat] = await directus.rows("chats", person)
        messages = await directus.rows("messages", person, sort=["sequence"])
        assert [message["sequence"] for message in messages] == [1, 2]
        by_sequence = {
            answer["payload"]["message"]["sequence"]: answer["payload"]["message"]["id"] for answer in answers
        }
        assert [message["message_id"] for message in messages] == [by_sequence[1], by_sequence[2]]
        assert chat["id"] == key_of(person, "one")
        assert await directus.messages_version(person, "one") == 4, "two messages, each delivered"


async def test_s26_whether_a_new_chat_is_there_is_asked_once(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront
) -> None:
    """What was read for the sender is known to the writer; and if the row came in between, it is still one."""
    person = somebody()
    async with serve_on(directus, front.url, {"changes": "notices"}) as server, Device(server.url, person) as device:
        front.seen.clear()
        for chat in ("one", "two"):
            sent = {"tempChatId": chat, "clientMessageId": f"{chat}-1", "content": doc("hello")}
            await device.ask("message_send", sent)
            await settled(server)
        assert front.count("SEARCH", directus.names.chats) == 2
        assert front.count("POST", directus.names.messages) == 2
        plugin_of(server)._absent.note([key_of(person, "one")], plugin_of(server)._absent.now())
        await device.ask("message_send", {"chatId": "one", "clientMessageId": "one-2", "content": doc("again")})
        await settled(server)
        assert len(await directus.rows("chats", person)) == 2
        assert len(await directus.rows("messages", person)) == 3
        assert await directus.messages_version(person, "one") == 4


async def test_s28_s31_a_message_that_is_sent_and_delivered_again_is_one_row_and_one_event(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront
) -> None:
    """S28, S31, F28: the answer to its write was lost, and its device sends it again too."""
    person = somebody()
    async with (
        serve_on(directus, front.url) as server,
        Device(server.url, person) as device,
        Device(server.url, person) as other,
    ):
        lost = front.swallow(1, of=lambda method, path: method == "POST" and directus.names.messages in path)
        sent = {"tempChatId": "one", "clientMessageId": "m1", "content": doc("once")}
        first = await device.ask("message_send", sent, "op-1")
        again = await device.ask("message_send", sent, "op-1")
        twice = await other.ask("message_send", sent, "op-2")
        assert (
            first["payload"]["message"]["id"] == again["payload"]["message"]["id"] == twice["payload"]["message"]["id"]
        )
        await settled(server)
        assert lost.happened == 1
        assert (await device.event("message_update"))["status"] == "delivered"
        assert len(await directus.rows("messages", person)) == len(await directus.rows("chats", person)) == 1
        assert [each for each in await other.quiet() if each["type"] == "message_new"][1:] == []


async def test_edits_of_a_chat_that_is_stored_are_written_behind_and_never_lowered(
    directus: Prepared, serve_on: ServeOn
) -> None:
    person = somebody()
    async with serve_on(directus) as server, Device(server.url, person) as device:
        await device.ask("message_send", {"tempChatId": "one", "clientMessageId": "m1", "content": doc("one")})
        await settled(server)
        for version in range(5):
            base = {"content": doc(f"draft {version}"), "basedOnVersion": version}
            answer = await device.ask("draft_update", {"chatId": "one", **base})
            assert answer["payload"]["durability"] == "cached"
        await device.ask("title_update", {"chatId": "one", "title": "Hello", "basedOnVersion": 0})
        await device.event("chat_stored", lambda stored: stored["version"] == 5 and stored["titleVersion"] == 1)
        [chat] = await directus.rows("chats", person)
        assert (chat["version"], chat["title_version"], chat["draft_state"]) == (5, 1, "edited")


async def test_a_deleted_chat_is_gone_with_its_messages_and_its_echo_does_nothing(
    directus: Prepared, serve_on: ServeOn
) -> None:
    """S44, S68: an old device that comes back with it is told that it is deleted, and no row returns."""
    person = somebody()
    async with serve_on(directus) as server, Device(server.url, person) as device:
        for chat in ("one", "two"):
            for number in range(3):
                sent = {"tempChatId": chat, "clientMessageId": f"{chat}-{number}", "content": doc("text")}
                await device.ask("message_send", sent)
        await settled(server)
        assert (await device.ask("chat_delete", {"chatId": "one"}))["type"] == "chat_deleted"
        await settled(server)
        assert [row["id"] for row in await directus.rows("chats", person)] == [key_of(person, "two")]
        assert len(await directus.rows("messages", person)) == 3
        await server.context.parts.cache.chats.drop(UserHash(device.user), None)
        late = {"chatId": "one", "content": doc("late"), "basedOnVersion": 0}
        assert (await device.ask("draft_update", late))["payload"]["reason"] == "chat_deleted"
        held = {"content": doc("held"), "state": "edited", "version": 7, "op": "old"}
        restored = await device.ask("chat_restore", {"chatId": "one", "draft": held, "messagesVersion": 6})
        assert restored["payload"]["reason"] == "chat_deleted"
        again = {"chatId": "one", "clientMessageId": "late", "content": doc("late")}
        assert (await device.ask("message_send", again))["type"] != "message_accepted"
        await settled(server)
        assert [row["id"] for row in await directus.rows("chats", person)] == [key_of(person, "two")]


async def test_messages_of_many_people_leave_in_few_calls(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront
) -> None:
    """S26: 150 first messages at once; at most sixteen calls are under way at a time."""
    people = [somebody() for _ in range(30)]
    async with serve_on(directus, front.url, options={"changes": "look"}) as server:
        devices = [Device(server.url, person) for person in people]
        try:
            await asyncio.gather(*(device.open() for device in devices))
            front.seen.clear()
            await asyncio.gather(
                *(
                    device.ask(
                        "message_send", {"tempChatId": f"c{n}", "clientMessageId": f"m{n}", "content": doc("hello")}
                    )
                    for device in devices
                    for n in range(5)
                )
            )
            await until(lambda: front.count("POST", directus.names.messages) > 0)
            await settled(server)
        finally:
            await asyncio.gather(*(device.close() for device in devices))
    condition = {"hashed_user_id": {"_in": [hash_user(person) for person in people]}}
    rows = await directus.rows("messages", filter=condition)
    assert len(rows) == len({row["id"] for row in rows}) == 150
    assert front.count("POST", directus.names.messages) <= 75, "in batches"
    assert front.most_at_once <= 16


async def test_t48_nothing_of_a_chat_is_kept_in_revisions_or_activity(directus: Prepared, serve_on: ServeOn) -> None:
    person = somebody()
    async with serve_on(directus) as server, Device(server.url, person) as device:
        await device.ask("message_send", {"tempChatId": "one", "clientMessageId": "m1", "content": doc("one")})
        for version in range(50):
            base = {"content": doc(f"{version}"), "basedOnVersion": version}
            await device.ask("draft_update", {"chatId": "one", **base})
            await settled(server)
    for kept in ("revisions", "activity"):
        condition = {"collection": {"_in": [directus.names.chats, directus.names.messages]}}
        found = await directus.server.ask("SEARCH", f"/{kept}", {"query": {"filter": condition, "limit": 1}})
        assert found == []


async def test_only_messages_go_while_drafts_rest(directus: Prepared, serve_on: ServeOn) -> None:
    """S69: what was sent from a draft does not come back as a draft after the cache is emptied."""
    person = somebody()
    async with serve_on(directus, drafts=NEVER) as server, Device(server.url, person) as device:
        await device.ask("message_send", {"tempChatId": "one", "clientMessageId": "m0", "content": doc("first")})
        await settled(server)
        await device.ask("draft_update", {"chatId": "one", "content": doc("to be sent"), "basedOnVersion": 0})
        sent = {"chatId": "one", "clientMessageId": "m1", "content": doc("to be sent"), "draftVersion": 1}
        assert (await device.ask("message_send", sent))["payload"]["consumed"]
        await device.event("message_update", lambda update: update["status"] == "delivered")
        await settled(server)
        await server.context.parts.cache.chats.drop(UserHash(device.user), None)
        frames = await device.sync()
        [chat] = [chat for frame in frames for chat in frame["chats"] if "draft" in chat][:1]
        assert (chat["draft"], chat["draft_state"], chat["version"]) == (None, "consumed", 2)
