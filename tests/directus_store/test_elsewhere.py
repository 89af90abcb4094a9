"""Changes that an admin, a flow or the API makes in Directus (F33): devices hear of them, and nothing of a person is lost."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sidecar.ids import ChatId, UserHash
from sidecar.server.reports import hear_elsewhere, hear_ended
from sidecar.server.running import Server
from sidecar.slots.authenticator import Ended
from sidecar.slots.store import Elsewhere
from tests.device import Device, Frame, doc
from tests.directus_store.conftest import ServeOn
from tests.directus_store.world import Prepared, key_of, plugin_of, somebody
from tests.integration.world import NEVER, cached, key_count, settled, until
from tests.services.directus.front import DirectusFront
from tests.services.proxy import FaultProxy


async def _listening(server: Server) -> None:
    await until(lambda: bool(plugin_of(server).state()["listening"]))


async def _say(device: Device, chat: str, *numbers: int) -> list[Frame]:
    answers = []
    for number in numbers:
        sent = {"tempChatId": chat, "clientMessageId": f"{chat}-{number}", "content": doc(f"{chat} {number}")}
        answers.append((await device.ask("message_send", sent))["payload"])
    return answers


async def with_texts(server: Server, device: Device, chat: str = "one") -> None:
    """A stored chat with a message, a draft and a title."""
    await _say(device, chat, 1)
    await device.ask("draft_update", {"chatId": chat, "content": doc("a draft"), "basedOnVersion": 0})
    await device.ask("title_update", {"chatId": chat, "title": "A title", "basedOnVersion": 0})
    await settled(server)
    await device.quiet(0.2)
    device.events.clear()


@asynccontextmanager
async def _listened(directus: Prepared, serve_on: ServeOn, **more: Any) -> AsyncIterator[tuple[str, Server, Device]]:
    """Somebody at a device of a sidecar that hears of changes; `more` as of `serve_on`."""
    person = somebody()
    async with serve_on(directus, **more) as server, Device(server.url, person) as device:
        await _listening(server)
        yield person, server, device


async def _chat_row(directus: Prepared, server: Server, person: str) -> dict[str, Any]:
    """The row of this person's only chat, once all is delivered."""
    await settled(server)
    [row] = await directus.rows("chats", person)
    return row


async def _shown(server: Server, person: str) -> list[Frame]:
    """The chats that a device is shown that comes anew, as they stand in the frames."""
    async with Device(server.url, person) as fresh:
        return [chat for frame in await fresh.sync() for chat in frame["chats"]]


async def _drafts_shown(server: Server, person: str) -> dict[str, Frame]:
    return {chat["id"]: chat for chat in await _shown(server, person) if "draft" in chat}


def _heard_of(device: Device, server: Server, monkeypatch: pytest.MonkeyPatch) -> list[Elsewhere]:
    """What is heard from now on of this person: others' rows in the same Directus are told of too."""
    heard: list[Elsewhere] = []
    changes = plugin_of(server)._changes
    of_keys = changes.of_keys

    def noted(*arguments: Any, **more: Any) -> list[Elsewhere]:
        found = of_keys(*arguments, **more)
        heard.extend(each for each in found if each.user == device.user)
        return found

    monkeypatch.setattr(changes, "of_keys", noted)
    return heard


async def _messages_shown(server: Server, person: str) -> set[str]:
    return {each["id"] for chat in await _shown(server, person) for each in chat.get("messages", ())}


async def test_f33_a_chat_deleted_in_directus_is_deleted_here_key_and_all(
    directus: Prepared, serve_on: ServeOn
) -> None:
    """F33, S44, S68: within a second its devices are told; a device that comes back with it does not bring it back."""
    async with _listened(directus, serve_on) as (person, server, device):
        await with_texts(server, device)
        keys = key_count(server)
        begun = time.monotonic()
        await directus.delete("chats", key_of(person, "one"))
        gone = await device.event("chat_deleted")
        assert time.monotonic() - begun < 5, "at once, on however busy a machine"
        assert gone["chatId"] == device.full("one")
        assert key_count(server) == keys - 1
        assert await directus.rows("messages", person) == []
        held = {"content": doc("held"), "state": "edited", "version": 9, "op": "old"}
        answer = await device.ask("chat_restore", {"chatId": "one", "draft": held, "messagesVersion": 2})
        assert answer["payload"]["reason"] == "chat_deleted"
        await settled(server)
        assert await directus.rows("chats", person) == []
        assert [event for event in await device.quiet() if event["type"] == "chat_deleted"] == [], "once"


async def test_f33_a_message_deleted_in_directus_takes_the_next_number_and_stays_away(
    directus: Prepared, serve_on: ServeOn
) -> None:
    async with _listened(directus, serve_on) as (person, server, device):
        said = await _say(device, "one", 1, 2, 3)
        chat = await _chat_row(directus, server, person)
        before = await directus.messages_version(person, "one")
        victim = said[1]["message"]["id"]
        await directus.delete("messages", f"{chat['id']}_{victim}")
        event = await device.event("message_deleted")
        assert (event["messageId"], event["messagesVersion"]) == (victim, before + 1)
        after = await _chat_row(directus, server, person)
        assert after["messages_version"] == event["messagesVersion"], "and the store knows the number too"
        assert await _messages_shown(server, person) == {said[0]["message"]["id"], said[2]["message"]["id"]}
        assert (await _say(device, "one", 4))[0]["message"]["sequence"] == 4


async def test_f33_a_title_cleared_in_directus_reaches_the_devices_as_a_revision_of_its_own(
    directus: Prepared, serve_on: ServeOn
) -> None:
    async with _listened(directus, serve_on) as (person, server, device):
        await with_texts(server, device)
        await directus.edit("chats", key_of(person, "one"), title=None)
        told = (await device.event("chat_restored"))["chat"]
        assert (told["title"], told["title_version"]) == (None, 2)
        assert (told["draft"], told["version"]) == (doc("a draft"), 1), "and nothing else has changed"
        stale = await device.ask("title_update", {"chatId": "one", "title": "B", "basedOnVersion": 1})
        assert stale["type"] == "title_conflict"
        answer = await device.ask("title_update", {"chatId": "one", "title": "B", "basedOnVersion": 2})
        assert answer["payload"]["titleVersion"] == 3
        row = await _chat_row(directus, server, person)
        assert row["title_version"] == 3


async def test_f33_a_row_that_was_put_back_to_an_older_text_goes_on_above_what_devices_have(
    directus: Prepared, serve_on: ServeOn
) -> None:
    """An admin takes a draft back to what it was two revisions before, as the row had it then."""
    async with _listened(directus, serve_on) as (person, server, device):
        await with_texts(server, device)
        [then] = await directus.rows("chats", person)
        for version in (1, 2):
            base = {"content": doc(f"worse {version}"), "basedOnVersion": version}
            await device.ask("draft_update", {"chatId": "one", **base})
            await settled(server)
        device.events.clear()
        await directus.edit(
            "chats",
            then["id"],
            **{name: then[name] for name in ("draft", "version", "draft_op", "draft_state")},
        )
        told = (await device.event("chat_restored"))["chat"]
        assert (told["draft"], told["version"]) == (doc("a draft"), 4), "no version ever falls"
        row = await _chat_row(directus, server, person)
        assert row["version"] == 4


@pytest.mark.parametrize("nonsense", ["not base64 at all!", base64.b64encode(b"\x01 no envelope").decode()])
async def test_f33_s46_a_text_edited_into_nonsense_is_flagged_and_overwritten_by_nothing(
    directus: Prepared, serve_on: ServeOn, nonsense: str
) -> None:
    """F33, S46, T29: what does not open is said to be so; the other chat of the person syncs."""
    async with _listened(directus, serve_on) as (person, server, device):
        await with_texts(server, device, "one")
        await with_texts(server, device, "two")
        await directus.edit("chats", key_of(person, "one"), draft=nonsense)
        await until(lambda: plugin_of(server).state()["changes_of_others"] != 0)
        await asyncio.sleep(0.3)
        await server.context.parts.cache.chats.drop(UserHash(device.user), [ChatId(device.full("one"))])
        chats = await _drafts_shown(server, person)
        flagged, sound = chats[device.full("one")], chats[device.full("two")]
        assert (flagged["draft"], flagged["undecryptable"]) == (None, ["draft"])
        assert (sound["draft"], sound["undecryptable"]) == (doc("a draft"), [])
        await settled(server)
        [row] = await directus.rows("chats", person, filter={"id": {"_eq": key_of(person, "one")}})
        assert row["draft"] == nonsense, "nothing is overwritten by a blank"


async def test_f33_what_is_not_stored_yet_stays_and_goes_on_above_the_row(
    directus: Prepared, serve_on: ServeOn
) -> None:
    """The row is changed under a draft that waits to be written, and takes its number."""
    async with _listened(directus, serve_on, drafts=NEVER) as (person, server, device):
        await _say(device, "one", 1)
        await settled(server)
        await device.ask("draft_update", {"chatId": "one", "content": doc("mine"), "basedOnVersion": 0})
        await directus.edit(
            "chats", key_of(person, "one"), version=3, draft_op="theirs", draft=None, draft_state="deleted"
        )
        told = (await device.event("chat_restored"))["chat"]
        assert (told["draft"], told["version"]) == (doc("mine"), 4)
        row = await _chat_row(directus, server, person)
        assert (row["version"], row["draft_state"]) == (4, "edited")
        assert row["draft"] is not None


async def test_f33_a_report_that_meets_a_write_of_our_own_takes_nothing_back(
    directus: Prepared, serve_on: ServeOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the row is read for the report, an edit is accepted and stored: what was read is older than what is here."""
    person = somebody()
    async with serve_on(directus, options={"changes": "notices"}) as server, Device(server.url, person) as device:
        await with_texts(server, device)
        store = server.context.parts.store
        known = store.known

        async def late(*arguments: Any) -> Any:
            row = await known(*arguments)
            monkeypatch.undo()
            base = {"content": doc("newer"), "basedOnVersion": 1}
            await device.ask("draft_update", {"chatId": "one", **base})
            await settled(server)
            return row

        monkeypatch.setattr(store, "known", late)
        await hear_elsewhere(server.context, Elsewhere(UserHash(device.user), ChatId(device.full("one"))))
        row = await _chat_row(directus, server, person)
        assert row["version"] == 2
        chats = await _drafts_shown(server, person)
        assert (chats[device.full("one")]["draft"], chats[device.full("one")]["version"]) == (doc("newer"), 2)


async def test_f33_many_messages_deleted_in_one_go_are_all_told(directus: Prepared, serve_on: ServeOn) -> None:
    person = somebody()
    async with serve_on(directus) as server, Device(server.url, person, wait=30) as device:
        await _listening(server)
        said = await _say(device, "one", *range(40))
        await settled(server)
        victims = [each["message"]["id"] for each in said[5:35]]
        await directus.delete("messages", *(f"{key_of(person, 'one')}_{victim}" for victim in victims))
        told = [await device.event("message_deleted") for _ in victims]
        assert {each["messageId"] for each in told} == set(victims)
        versions = [each["messagesVersion"] for each in told]
        assert versions == list(range(versions[0], versions[0] + 30))
        assert await _messages_shown(server, person) == {each["message"]["id"] for each in said} - set(victims)


async def test_own_writes_are_no_news(directus: Prepared, serve_on: ServeOn, monkeypatch: pytest.MonkeyPatch) -> None:
    """The echo of what the sidecar itself wrote, changed and deleted is ignored; what somebody else changes then is not."""
    async with _listened(directus, serve_on) as (person, server, device):
        heard = _heard_of(device, server, monkeypatch)
        await with_texts(server, device, "two")
        await with_texts(server, device)
        await _say(device, "one", 2, 3)
        await settled(server)
        await device.ask("chat_delete", {"chatId": "one"})
        await settled(server)
        await asyncio.sleep(1.0)
        assert heard == []
        assert [event["type"] for event in device.events if event["type"] == "chat_restored"] == []
        await directus.edit("chats", key_of(person, "two"), title=None)
        assert (await device.event("chat_restored"))["chat"]["title"] is None
        assert {each.chat_id for each in heard} == {device.full("two")}


async def test_f33_edits_made_while_nobody_listened_are_read_afterwards(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront
) -> None:
    """The connection drops, an admin edits, the connection is back: a delta read closes the gap."""
    async with _listened(directus, serve_on, url=front.url) as (person, server, device):
        await with_texts(server, device)
        assert await front.drop_sockets() == 1
        await directus.edit("chats", key_of(person, "one"), title=None)
        told = (await device.event("chat_restored"))["chat"]
        assert (told["title"], told["title_version"]) == (None, 2)
        await _listening(server)


async def test_f33_a_connection_that_died_in_silence_is_noticed_and_the_gap_closed(
    directus: Prepared, serve_on: ServeOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing arrives any more, and nothing ends: Directus' own pings and the answers to ours are missed."""
    monkeypatch.setattr("plugins.directus.subscriptions._SILENCE", 1.5)
    monkeypatch.setattr("plugins.directus.subscriptions._PING_SECONDS", 0.4)
    person = somebody()
    async with (
        FaultProxy(directus.server.address) as proxy,
        serve_on(directus, f"http://127.0.0.1:{proxy.port}") as server,
        Device(server.url, person, wait=30) as device,
    ):
        await _listening(server)
        await with_texts(server, device)
        await asyncio.sleep(2.5)
        assert plugin_of(server).state()["listening"], "with its pings it lives on"
        proxy.black_hole()
        await directus.edit("chats", key_of(person, "one"), title=None)
        await until(lambda: not plugin_of(server).state()["listening"])
        proxy.reset()
        proxy.clear()
        assert (await device.event("chat_restored"))["chat"]["title"] is None
        await _listening(server)


async def test_f33_creations_are_not_listened_to(directus: Prepared, serve_on: ServeOn, front: DirectusFront) -> None:
    """Over Directus' first WebSocket each row that is created would cost it two more; so that one stays closed."""
    async with _listened(directus, serve_on, url=front.url):
        assert front.opened == ["/graphql"]


async def test_f33_where_graphql_is_not_served_the_other_websocket_reports(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront
) -> None:
    """As behind a proxy that passes on /websocket alone."""
    front.answer(404, "no", 10**6, of=lambda _, path: path == "/graphql")
    async with _listened(directus, serve_on, url=front.url) as (person, server, device):
        assert front.opened == ["/websocket"]
        await with_texts(server, device)
        second = (await _say(device, "one", 2))[0]["message"]["id"]
        await settled(server)
        await directus.edit("chats", key_of(person, "one"), title=None)
        assert (await device.event("chat_restored"))["chat"]["title"] is None
        await directus.delete("messages", f"{key_of(person, 'one')}_{second}")
        assert (await device.event("message_deleted"))["messageId"] == second
        await directus.delete("chats", key_of(person, "one"))
        await device.event("chat_deleted")


async def test_f33_an_edit_that_is_written_over_before_it_was_heard_of_is_told(
    directus: Prepared, serve_on: ServeOn
) -> None:
    """Whoever writes the row sees whose it was; afterwards Directus itself names the sidecar. Here nobody else would tell."""
    person = somebody()
    async with (
        serve_on(directus, options={"changes": "notices"}) as server,
        Device(server.url, person) as device,
    ):
        await with_texts(server, device)
        await directus.edit("chats", key_of(person, "one"), title=None)
        await _say(device, "one", 2)
        told = (await device.event("chat_restored"))["chat"]
        assert (told["title"], told["title_version"]) == (None, 2)


async def test_f33_an_edit_that_a_read_took_in_before_it_was_heard_of_is_told(
    directus: Prepared, serve_on: ServeOn
) -> None:
    """The chat was out of the cache, and came back with what the row says by now: its devices know the other text."""
    async with _listened(directus, serve_on) as (person, server, device):
        await with_texts(server, device)
        await server.context.parts.cache.chats.drop(UserHash(device.user), [ChatId(device.full("one"))])
        assert await cached(server, device.full("one")) is None
        await directus.edit("chats", key_of(person, "one"), title=None)
        assert (await device.ask("messages_request", {"chatId": "one", "limit": 5}))["payload"]["messages"]
        read = await cached(server, device.full("one"))
        assert read is not None
        assert read.title is None
        assert (await device.event("chat_restored"))["chat"]["title"] is None


async def test_an_edit_is_told_once_however_often_is_looked(
    directus: Prepared, serve_on: ServeOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look reads some of the time before once more."""
    async with _listened(directus, serve_on) as (person, server, device):
        await with_texts(server, device)
        heard = _heard_of(device, server, monkeypatch)
        await directus.edit("chats", key_of(person, "one"), title=None)
        await device.event("chat_restored")
        await asyncio.sleep(1.6)
        assert len(heard) == 1


async def test_changes_are_found_without_a_websocket(directus: Prepared, serve_on: ServeOn) -> None:
    """`changes: look`: edits are looked for every second."""
    person = somebody()
    async with (
        serve_on(directus, options={"changes": "look"}) as server,
        Device(server.url, person) as device,
    ):
        await with_texts(server, device)
        await directus.edit("chats", key_of(person, "one"), title=None)
        assert (await device.event("chat_restored"))["chat"]["title"] is None
        assert not plugin_of(server).state()["listening"]


async def test_t47_an_erased_person_leaves_no_row(directus: Prepared, serve_on: ServeOn) -> None:
    """T47: chats, messages, devices; and the reports of it make no key again."""
    person, other = somebody(), somebody()
    async with serve_on(directus) as server, Device(server.url, other) as bystander:
        await _listening(server)
        await with_texts(server, bystander)
        async with Device(server.url, person) as device:
            for chat in ("one", "two"):
                await with_texts(server, device, chat)
            keys = key_count(server)
            hear_ended(server.context, Ended(person, erased=True))
            assert await device.closed() == 4401
        for kind in ("chats", "messages", "devices"):

            async def gone(kind: str = kind) -> bool:
                return await directus.rows(kind, person) == []

            await until(gone)
            assert await directus.rows(kind, other)
        await until(lambda: key_count(server) == keys - 2)
        await asyncio.sleep(1.5)
        assert key_count(server) == keys - 2
