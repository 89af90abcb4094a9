"""The contract of the slot `persistence`: what every store promises, whatever it keeps its rows in.

class TestMyStore(StoreContract):
    @pytest_asyncio.fixture
    async def store(self, tmp_path):
        async with MyStore(MyStore.Options(...), surroundings) as plugin:
            yield plugin, await plugin.provide_persistence()

    async def break_backend(self, plugin, store):
        ...
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Protocol

import pytest

from sidecar.errors import Unavailable, Unstorable
from sidecar.ids import ChatId, DeviceId, MessageId, UserHash, chat_id_of, message_id_of
from sidecar.records import ChatInDB, Deleted, MessageInDB, Page, Sealed
from sidecar.slots.store import Store
from sidecar.testing.rows import ALICE, BOB, NOON, a_chat, a_device, a_message


class StorePlugin(Protocol):
    """The hooks that a plugin in the persistence slot must have."""

    async def on_draft(self, chat: ChatInDB) -> None: ...
    async def on_title(self, chat: ChatInDB) -> None: ...
    async def on_first_message(self, chat: ChatInDB, message: MessageInDB) -> None: ...
    async def on_message(self, chat: ChatInDB, message: MessageInDB) -> None: ...
    async def on_chat_deleted(self, chat: Deleted) -> None: ...
    async def on_user_erased(self, user: UserHash) -> None: ...
    async def on_sync(self, user: UserHash, before: tuple[datetime, ChatId] | None, limit: int) -> Page[ChatInDB]: ...


Opened = tuple[StorePlugin, Store]


def _newer(chat: ChatInDB, **changes: Any) -> ChatInDB:
    return chat.model_copy(update=changes)


async def _only(store: Store, chat: ChatInDB) -> ChatInDB:
    return (await store.known(chat.hashed_user_id, [chat.id]))[chat.id]


async def _all_messages(store: Store, chat: ChatInDB) -> list[MessageInDB]:
    return list((await store.messages(chat.hashed_user_id, chat.id, None, 200)).items)


async def _walk(plugin: StorePlugin, user: UserHash, limit: int) -> tuple[list[ChatInDB], int]:
    """Every chat of the person by pages, and the total that each page named."""
    chats: list[ChatInDB] = []
    before: tuple[datetime, ChatId] | None = None
    totals: set[int] = set()
    for _ in range(1000):
        page = await plugin.on_sync(user, before, limit)
        chats.extend(page.items)
        totals.add(page.total)
        if not page.more:
            (total,) = totals
            return chats, total
        assert len(page.items) == limit, "a page that is not the last is full"
        before = (page.items[-1].updated_at, page.items[-1].id)
    raise AssertionError("the pages do not end")


class StoreContract:
    """Subclass it as `Test…` with a fixture `store` and `break_backend`. The backend is empty at the start of each test."""

    pytestmark = pytest.mark.asyncio

    async def break_backend(self, plugin: StorePlugin, store: Store) -> None:
        """From here on the backend cannot be reached: cut the connection, move the file away, stop the server."""
        raise NotImplementedError("a contract class says how its backend is made to fail")

    async def spoil(self, plugin: StorePlugin, store: Store, chat: ChatInDB) -> None:
        """Makes the column `version` of this chat's row null, past the plugin. Left as it is, S46 is skipped."""
        pytest.skip("this backend has no way to hold a row with a null version")

    # -- writes -------------------------------------------------------------------------------------------------------

    async def test_s26_a_chat_without_a_message_leaves_no_row(self, store: Opened) -> None:
        plugin, reads = store
        chat = a_chat(messages_version=0, last_message_timestamp=None)
        await plugin.on_draft(chat)
        await plugin.on_title(chat)
        assert await reads.known(ALICE, [chat.id]) == {}
        assert (await plugin.on_sync(ALICE, None, 10)).total == 0
        assert [each async for each in reads.everything()] == []

    @pytest.mark.parametrize("empty", [False, True], ids=["every field", "null fields"])
    async def test_s26_a_first_message_makes_one_chat_and_one_message_as_they_were_given(
        self, store: Opened, empty: bool
    ) -> None:
        plugin, reads = store
        nulls: dict[str, Any] = {
            "title": None,
            "title_op": None,
            "draft": None,
            "draft_op": None,
            "last_message_timestamp": None,
        }
        chat, message = a_chat(), a_message(a_chat())
        if empty:
            chat = _newer(chat, **nulls, draft_state="consumed")
            message = _message_with(message, client_message_id=None, sender_name=None)
        await plugin.on_first_message(chat, message)
        assert await _only(reads, chat) == chat
        assert await _all_messages(reads, chat) == [message]
        page = await plugin.on_sync(ALICE, None, 10)
        assert (list(page.items), page.more, page.total) == ([chat], False, 1)

    async def test_s27_first_messages_at_once_make_one_chat_with_both_in_order(self, store: Opened) -> None:
        plugin, reads = store
        chat = a_chat()
        messages = [a_message(chat, f"m{n}", n) for n in range(1, 9)]
        await asyncio.gather(
            *(
                plugin.on_first_message(_newer(chat, messages_version=message.sequence), message)
                for message in reversed(messages)
            )
        )
        assert [each.id async for each in reads.everything()] == [chat.id]
        assert await _all_messages(reads, chat) == messages[::-1]
        assert (await _only(reads, chat)).messages_version == 8

    async def test_s28_the_same_message_again_is_one_row_and_a_success(self, store: Opened) -> None:
        plugin, reads = store
        chat = a_chat()
        message = a_message(chat)
        await plugin.on_first_message(chat, message)
        again = _message_with(message, content=Sealed(b"another envelope of the same"), sequence=9)
        await asyncio.gather(*(plugin.on_message(chat, again) for _ in range(5)))
        await plugin.on_first_message(chat, message)
        assert await _all_messages(reads, chat) == [message], "what was stored first stays, its sequence too"

    async def test_a_message_id_of_another_chat_or_person_is_unstorable_and_leaves_no_trace(
        self, store: Opened
    ) -> None:
        plugin, reads = store
        chat, second, foreign = a_chat(), a_chat("two"), a_chat("one", BOB)
        message = a_message(chat)
        await plugin.on_first_message(chat, message)
        for other in (second, foreign):
            stolen = _message_with(message, chat_id=other.id, hashed_user_id=other.hashed_user_id)
            with pytest.raises(Unstorable):
                await plugin.on_first_message(other, stolen)
            assert await reads.known(other.hashed_user_id, [other.id]) == {}, "chat and message are one step"
        with pytest.raises(Unstorable):
            await plugin.on_message(second, _message_with(message, id=message_id_of(second.id, "x")))
        assert await _all_messages(reads, chat) == [message]

    @pytest.mark.parametrize("hook", ["on_draft", "on_title", "on_message"])
    async def test_no_write_lowers_a_version(self, store: Opened, hook: str) -> None:
        plugin, reads = store
        chat = a_chat()
        message = a_message(chat)
        await plugin.on_first_message(chat, message)

        async def write(given: ChatInDB) -> ChatInDB:
            if hook == "on_message":
                await plugin.on_message(given, message)
            else:
                await getattr(plugin, hook)(given)
            return await _only(reads, chat)

        late = _newer(
            chat,
            version=4,
            draft=None,
            draft_op="old",
            draft_state="deleted",
            title_version=1,
            title=Sealed(b"old"),
            title_op="old",
            messages_version=1,
            updated_at=NOON - timedelta(hours=1),
            last_message_timestamp=None,
        )
        assert await write(late) == chat
        twin = _newer(chat, draft=Sealed(b"?"), draft_op="?", draft_state="deleted", title=None, title_op="?")
        assert await write(twin) == chat, "an equal version is left as it is"
        draft = {"version": 6, "draft": None, "draft_op": "op-6", "draft_state": "consumed"}
        assert await write(_newer(late, **draft)) == _newer(chat, **draft), (
            "draft and title rise each by its own version"
        )
        title = {"title_version": 3, "title": Sealed(b"new"), "title_op": "op-3", "messages_version": 4}
        times = {"updated_at": NOON + timedelta(hours=1), "last_message_timestamp": NOON + timedelta(minutes=2)}
        assert await write(_newer(late, **title, **times)) == _newer(chat, **draft, **title, **times)

    @pytest.mark.parametrize("hook", ["on_draft", "on_title"])
    async def test_a_row_that_was_lost_is_made_again_for_a_chat_with_messages(self, store: Opened, hook: str) -> None:
        plugin, reads = store
        chat = a_chat()
        await getattr(plugin, hook)(chat)
        assert await _only(reads, chat) == chat

    async def test_a_deleted_chat_is_gone_with_its_messages_and_nothing_else(self, store: Opened) -> None:
        plugin, reads = store
        chat, other = a_chat(), a_chat("two")
        for each in (chat, other):
            await plugin.on_first_message(each, a_message(each))
        for _ in range(2):
            await plugin.on_chat_deleted(Deleted(BOB, chat.id, NOON))  # not Bob's to delete
        assert await _only(reads, chat) == chat
        for _ in range(2):
            await plugin.on_chat_deleted(Deleted(ALICE, chat.id, NOON))
        await plugin.on_chat_deleted(Deleted(ALICE, chat_id_of(ALICE, "never-seen"), NOON))
        assert set(await reads.known(ALICE, [chat.id, other.id])) == {other.id}
        assert await _all_messages(reads, chat) == []
        assert await reads.find(ALICE, chat.id, [a_message(chat).id]) == {}
        assert await _all_messages(reads, other) == [a_message(other)]
        assert (await plugin.on_sync(ALICE, None, 10)).total == 1

    async def test_an_erased_person_is_gone_and_nobody_else(self, store: Opened) -> None:
        plugin, reads = store
        mine, bobs = a_chat(), a_chat("one", BOB)
        for chat in (mine, a_chat("two"), bobs):
            await plugin.on_first_message(chat, a_message(chat))
        await plugin.on_chat_deleted(Deleted(ALICE, chat_id_of(ALICE, "three"), NOON))
        for device in (a_device(), a_device("phone", BOB)):
            await reads.put_device(device)
        for _ in range(2):
            await plugin.on_user_erased(ALICE)
        assert [chat.id async for chat in reads.everything()] == [bobs.id]
        assert (await plugin.on_sync(ALICE, None, 10)).total == 0
        assert await _all_messages(reads, mine) == []
        assert list(await reads.devices(ALICE)) == []
        assert await _all_messages(reads, bobs) == [a_message(bobs)]
        assert list(await reads.devices(BOB)) == [a_device("phone", BOB)]

    # -- reads --------------------------------------------------------------------------------------------------------

    async def test_s42_a_person_with_500_chats_gets_them_all_newest_first(self, store: Opened) -> None:
        plugin, _ = store
        chats = [a_chat(f"c{n}", updated_at=NOON + timedelta(seconds=n)) for n in range(500)]
        await _put_all(plugin.on_draft, chats)
        found, total = await _walk(plugin, ALICE, 100)
        assert found == chats[::-1]
        assert total == 500
        first = await plugin.on_sync(ALICE, None, 20)
        assert (len(first.items), first.more, first.total) == (20, True, 500), "the total counts the list, not the page"

    async def test_chats_of_the_same_moment_are_paged_without_gap_or_repeat(self, store: Opened) -> None:
        plugin, _ = store
        chats = [a_chat(f"c{n:02}") for n in range(25)]
        await _put_all(plugin.on_draft, chats)
        found, total = await _walk(plugin, ALICE, 4)
        assert [chat.id for chat in found] == sorted((chat.id for chat in chats), reverse=True)
        assert total == 25
        assert (await plugin.on_sync(ALICE, (NOON - timedelta(days=9), chats[0].id), 4)).items == []

    async def test_messages_come_in_pages_newest_first(self, store: Opened) -> None:
        plugin, reads = store
        chat = a_chat()
        messages = [a_message(chat, f"m{n}", n) for n in range(1, 24)]
        await asyncio.gather(*(plugin.on_message(chat, message) for message in messages))
        found: list[MessageInDB] = []
        before: MessageId | None = None
        more = True
        while more:
            page = await reads.messages(ALICE, chat.id, before, 10)
            assert page.total == 23
            found.extend(page.items)
            before, more = page.items[-1].id, page.more
            assert len(found) <= 23
        assert found == messages[::-1]
        for unknown in (message_id_of(chat.id, "unknown"), message_id_of(a_chat("two").id, "m1")):
            page = await reads.messages(ALICE, chat.id, unknown, 10)
            assert (list(page.items), page.more) == ([], False)

    async def test_find_gives_the_messages_that_are_there(self, store: Opened) -> None:
        plugin, reads = store
        chat, other = a_chat(), a_chat("two")
        messages = [a_message(chat, f"m{n}", n) for n in range(1, 6)]
        for message in messages:
            await plugin.on_message(chat, message)
        await plugin.on_message(other, a_message(other))
        wanted = [messages[0].id, messages[3].id, a_message(other).id, message_id_of(chat.id, "unknown")]
        assert await reads.find(ALICE, chat.id, wanted) == {each.id: each for each in (messages[0], messages[3])}
        assert await reads.find(ALICE, chat.id, []) == {}

    async def test_s43_what_the_store_does_not_know_is_absent_and_no_error(self, store: Opened) -> None:
        plugin, reads = store
        chats = [a_chat(f"c{n}") for n in range(60)]
        await _put_all(plugin.on_draft, chats)
        asked = [chat_id_of(ALICE, f"c{n}") for n in range(1000)]
        assert await reads.known(ALICE, asked) == {chat.id: chat for chat in chats}
        assert await reads.known(ALICE, [chats[0].id] * 3) == {chats[0].id: chats[0]}
        assert await reads.known(ALICE, []) == {}

    async def test_t1_rows_of_other_persons_are_never_returned(self, store: Opened) -> None:
        """T1: the id's prefix proves nothing; the row's full owner is compared."""
        plugin, reads = store
        chat = a_chat()
        twin = UserHash(ALICE[:8] + BOB[8:])  # the same prefix, another person, so the very same chat id
        message = a_message(chat)
        await plugin.on_first_message(chat, message)
        for other in (BOB, twin):
            assert await reads.known(other, [chat.id]) == {}
            assert list((await reads.messages(other, chat.id, None, 10)).items) == []
            assert await reads.find(other, chat.id, [message.id]) == {}
            assert (await plugin.on_sync(other, None, 10)).total == 0
        theirs = _newer(a_chat(user=twin), version=9)
        assert theirs.id == chat.id
        await plugin.on_draft(theirs)
        assert (await _only(reads, chat), await _only(reads, theirs)) == (chat, theirs)

    async def test_everything_gives_every_chat_of_everybody_once(self, store: Opened) -> None:
        plugin, reads = store
        chats = [a_chat(f"c{n}", user) for user in (ALICE, BOB) for n in range(230)]
        await _put_all(plugin.on_draft, chats)
        found = [chat async for chat in reads.everything()]
        assert len(found) == 460
        assert {chat.id: chat for chat in found} == {chat.id: chat for chat in chats}

    async def test_reseal_replaces_bytes_of_the_same_versions_and_nothing_else(self, store: Opened) -> None:
        plugin, reads = store
        chat = a_chat()
        message = a_message(chat)
        await plugin.on_first_message(chat, message)
        new = {"title": Sealed(b"title'"), "draft": Sealed(b"draft'")}
        fresh = _message_with(message, content=Sealed(b"content'"))
        for other in ({"version": 4}, {"version": 6}, {"title_version": 3}):
            await reads.reseal(_newer(chat, **new, **other), [])
            assert await _only(reads, chat) == chat
        await reads.reseal(_newer(chat, title=None, draft=None), [])
        assert await _only(reads, chat) == chat, "a blank never replaces a text"
        await reads.reseal(_newer(chat, **new), [fresh])
        assert await _only(reads, chat) == _newer(chat, **new)
        assert await _all_messages(reads, chat) == [fresh]
        gone = a_chat("two")
        await reads.reseal(gone, [a_message(gone)])
        assert await reads.known(ALICE, [gone.id]) == {}, "no row is made"

    async def test_devices_are_made_replaced_and_dropped(self, store: Opened) -> None:
        _, reads = store
        laptop, phone, bobs = a_device(), a_device("phone", verified_at=None), a_device("phone", BOB)
        for device in (laptop, phone, bobs):
            await reads.put_device(device)
        renamed = laptop.model_copy(update={"name": "Büro", "last_seen": NOON + timedelta(hours=1)})
        await reads.put_device(renamed)
        assert {each.id: each for each in await reads.devices(ALICE)} == {renamed.id: renamed, phone.id: phone}
        await reads.drop_device(ALICE, phone.id)
        await reads.drop_device(ALICE, DeviceId("unknown"))
        assert list(await reads.devices(ALICE)) == [renamed]
        assert list(await reads.devices(BOB)) == [bobs]

    # -- trouble ------------------------------------------------------------------------------------------------------

    async def test_s46_a_row_with_a_null_version_is_returned_and_harms_no_other(self, store: Opened) -> None:
        plugin, reads = store
        chats = [a_chat(name) for name in ("one", "two", "three")]
        for chat in chats:
            await plugin.on_first_message(chat, a_message(chat))
        await self.spoil(plugin, reads, chats[1])
        expected = {chat.id: chat for chat in chats} | {chats[1].id: _newer(chats[1], version=0)}
        assert await reads.known(ALICE, [chat.id for chat in chats]) == expected
        found, total = await _walk(plugin, ALICE, 2)
        assert {chat.id: chat for chat in found} == expected
        assert total == 3
        assert {chat.id: chat async for chat in reads.everything()} == expected

    async def test_without_its_backend_every_method_and_every_hook_is_unavailable(self, store: Opened) -> None:
        plugin, reads = store
        chat = a_chat()
        message = a_message(chat)
        await plugin.on_first_message(chat, message)
        await self.break_backend(plugin, reads)

        async def everything() -> None:
            async for _ in reads.everything():
                pass

        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "on_draft": lambda: plugin.on_draft(chat),
            "on_title": lambda: plugin.on_title(chat),
            "on_first_message": lambda: plugin.on_first_message(chat, message),
            "on_message": lambda: plugin.on_message(chat, message),
            "on_chat_deleted": lambda: plugin.on_chat_deleted(Deleted(ALICE, chat.id, NOON)),
            "on_user_erased": lambda: plugin.on_user_erased(ALICE),
            "on_sync": lambda: plugin.on_sync(ALICE, None, 10),
            "known": lambda: reads.known(ALICE, [chat.id]),
            "messages": lambda: reads.messages(ALICE, chat.id, None, 10),
            "find": lambda: reads.find(ALICE, chat.id, [message.id]),
            "everything": everything,
            "reseal": lambda: reads.reseal(chat, [message]),
            "devices": lambda: reads.devices(ALICE),
            "put_device": lambda: reads.put_device(a_device()),
            "drop_device": lambda: reads.drop_device(ALICE, a_device().id),
        }
        for name, call in calls.items():
            (answer,) = await asyncio.gather(call(), return_exceptions=True)
            assert isinstance(answer, Unavailable), f"{name} answered {type(answer).__name__} without its backend"
            assert answer.part == "persistence", name


def _message_with(message: MessageInDB, **changes: Any) -> MessageInDB:
    return message.model_copy(update=changes)


async def _put_all(hook: Callable[[ChatInDB], Awaitable[None]], chats: Iterable[ChatInDB]) -> None:
    await asyncio.gather(*(hook(chat) for chat in chats))
