"""Every store that ships passes the contract of its slot (S65)."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from plugins.persistence.sqlite import Sqlite
from sidecar.ids import UserHash, chat_id_of
from sidecar.plugin_entry import Surroundings
from sidecar.records import ChatInDB, Deleted
from sidecar.slots.store import Store
from sidecar.testing.rows import ALICE, NOON, a_chat, a_message
from sidecar.testing.store import Opened, StoreContract, StorePlugin


class TestSqlite(StoreContract):
    """S65: the store of one file."""

    @pytest.fixture(autouse=True)
    def _where(self, tmp_path: Path) -> None:
        self.path = tmp_path / "store.sqlite"

    @pytest.fixture
    async def store(self, tmp_path: Path, _where: None) -> AsyncIterator[Opened]:
        async with Sqlite(Sqlite.Options(), Surroundings(tmp_path, "127.0.0.1")) as plugin:
            yield plugin, await plugin.provide_persistence()

    async def break_backend(self, plugin: StorePlugin, store: Store) -> None:
        self.path.rename(self.path.with_suffix(".away"))

    async def spoil(self, plugin: StorePlugin, store: Store, chat: ChatInDB) -> None:
        connection = sqlite3.connect(self.path)
        try:
            with connection:
                assert connection.execute("UPDATE chats SET version = NULL WHERE id = ?", (chat.id,)).rowcount == 1
        finally:
            connection.close()

    async def test_s68_a_write_that_comes_after_the_deletion_brings_nothing_back(self, store: Opened) -> None:
        """S68: a late outbox entry and a replayed dead letter."""
        plugin, reads = store
        chat, never_stored = a_chat(), a_chat("two")
        await plugin.on_first_message(chat, a_message(chat))
        for each in (chat, never_stored):
            await plugin.on_chat_deleted(Deleted(ALICE, each.id, NOON))
        for each in (chat, never_stored):
            late = each.model_copy(update={"version": 99, "title_version": 99, "messages_version": 99})
            await plugin.on_draft(late)
            await plugin.on_title(late)
            await plugin.on_message(late, a_message(each, "m2", 2))
            await plugin.on_first_message(late, a_message(each))
            await reads.reseal(late, [a_message(each)])
            assert await reads.known(ALICE, [each.id]) == {}
            assert list((await reads.messages(ALICE, each.id, None, 10)).items) == []
        twin = UserHash(ALICE[:8] + "0" * 56)
        theirs = a_chat("one", twin)
        assert theirs.id == chat_id_of(ALICE, "one")
        await plugin.on_draft(theirs)
        assert await reads.known(twin, [theirs.id]) == {theirs.id: theirs}, "one person's deletion is not another's"

    async def test_an_erased_person_who_comes_back_begins_anew(self, store: Opened) -> None:
        plugin, reads = store
        chat = a_chat()
        await plugin.on_chat_deleted(Deleted(ALICE, chat.id, NOON))
        await plugin.on_user_erased(ALICE)
        await plugin.on_first_message(chat, a_message(chat))
        assert await reads.known(ALICE, [chat.id]) == {chat.id: chat}
