"""Every store that ships passes the contract of its slot (S65)."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from plugins.directus.schema import Names
from plugins.persistence.directus import Directus
from plugins.persistence.sqlite import Sqlite
from sidecar.ids import UserHash, chat_id_of
from sidecar.plugin_entry import Surroundings
from sidecar.records import ChatInDB, Deleted
from sidecar.slots.store import Store
from sidecar.testing.rows import ALICE, NOON, a_chat, a_message
from sidecar.testing.store import Opened, StoreContract, StorePlugin
from tests.services.directus.server import DirectusServer
from tests.services.directus.sidecars import names_of, prepare
from tests.services.postgres_server import PostgresServer
from tests.services.programs import Missing, find_postgres
from tests.services.proxy import FaultProxy


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


class OfDirectus(StoreContract):
    """S66: on collections of a real Directus, every field of which is named by what reads and writes it."""

    server: DirectusServer
    names: Names
    token: str

    @pytest.fixture
    async def store(self, prepared: tuple[DirectusServer, Names, str]) -> AsyncIterator[Opened]:
        self.server, self.names, self.token = prepared
        await empty(self.server, self.names)
        async with FaultProxy(self.server.address) as self.proxy:
            options = Directus.Options(
                url=f"http://127.0.0.1:{self.proxy.port}", token=SecretStr(self.token), collections=self.names
            )
            async with Directus(options) as plugin:
                yield plugin, await plugin.provide_persistence()

    async def break_backend(self, plugin: StorePlugin, store: Store) -> None:
        self.proxy.refuse()
        self.proxy.reset()

    async def spoil(self, plugin: StorePlugin, store: Store, chat: ChatInDB) -> None:
        key = f"{chat.hashed_user_id}_{chat.id[9:]}"
        await self.server.ask("PATCH", f"/items/{self.names.chats}/{key}", {"version": None})


async def empty(server: DirectusServer, names: Names) -> None:
    everything = {"query": {"filter": {"id": {"_nnull": True}}, "limit": -1}}
    for name in (names.messages, names.chats, names.devices):
        await server.ask("DELETE", f"/items/{name}", everything)


Prepared = tuple[DirectusServer, Names, str]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def on_sqlite(directus_server: DirectusServer) -> Prepared:
    """Collections of their own in the shared Directus, and a token for them."""
    names = names_of("contract")
    return directus_server, names, await prepare(directus_server, names)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def on_postgres(_directus_installed: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prepared]:
    """A Directus of its own on PostgreSQL; skips by name where there is none."""
    try:
        find_postgres()
    except Missing as missing:
        pytest.skip(str(missing))
    async with PostgresServer(tmp_path_factory.mktemp("postgres")) as postgres:
        folder = tmp_path_factory.mktemp("directus-on-postgres")
        async with DirectusServer(folder, **postgres.for_directus()) as server:
            yield server, Names(), await prepare(server)


class TestDirectus(OfDirectus):
    """S65, S66: the store of three collections of a Directus on SQLite."""

    @pytest.fixture
    def prepared(self, on_sqlite: Prepared) -> Prepared:
        return on_sqlite


class TestDirectusOnPostgres(OfDirectus):
    """S65, S66: the same on PostgreSQL."""

    @pytest.fixture
    def prepared(self, on_postgres: Prepared) -> Prepared:
        return on_postgres
