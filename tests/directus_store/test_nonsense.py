"""Rows in which a hand wrote nonsense, column by column, past Directus: each is read as far as it goes, and no other row suffers (S46, F33)."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest

from plugins.directus.schema import collections
from plugins.persistence.directus import Directus
from plugins.persistence.directus_rows import chat_key, device_key, message_key
from sidecar.errors import Unavailable
from sidecar.ids import hash_user
from sidecar.testing.rows import a_chat, a_device, a_message
from tests.directus_store.world import Prepared, somebody

_NONSENSE: tuple[Any, ...] = (None, "", "nonsense with blanks", "\x00", "ü" * 300, -1, 2**40, b"\xff\xfe", "[]")


def _write(directus: Prepared, collection: str, key: str, column: str, value: Any) -> None:
    value = str(value) if isinstance(value, int) and abs(value) >= 2**63 else value
    with closing(sqlite3.connect(directus.server.database, timeout=30)) as database:
        database.execute(f"UPDATE {collection} SET {column} = ? WHERE id = ?", (value, key))
        database.commit()


@pytest.mark.parametrize("kind", ["chats", "messages", "devices"])
async def test_s46_nonsense_in_any_column_spoils_no_other_row(directus: Prepared, kind: str) -> None:
    user = hash_user(somebody())
    sound, spoiled = (a_chat(name, user) for name in ("sound", "spoiled"))
    messages = [a_message(sound), a_message(spoiled, "m1", 1), a_message(spoiled, "m2", 2)]
    device, other = a_device("one", user), a_device("two", user)
    collection = next(each for each in collections(directus.names) if each.name == getattr(directus.names, kind))
    key = {
        "chats": chat_key(user, spoiled.id),
        "messages": message_key(user, spoiled.id, messages[2].id),
        "devices": device_key(user, device.id),
    }[kind]
    columns = [each.name for each in collection.fields if each.type != "alias" and not each.primary]
    bad: list[str] = []
    async with Directus(Directus.Options.model_validate(directus.section()["options"])) as plugin:
        store = await plugin.provide_persistence()
        await plugin.on_first_message(sound, messages[0])
        await plugin.on_first_message(spoiled, messages[1])
        await plugin.on_message(spoiled, messages[2])
        for each in (device, other):
            await store.put_device(each)
        with closing(sqlite3.connect(directus.server.database)) as database:
            row = dict(
                zip(
                    [*columns],
                    database.execute(
                        f"SELECT {', '.join(columns)} FROM {collection.name} WHERE id = ?", (key,)
                    ).fetchone(),
                    strict=True,
                )
            )
        for column in columns:
            for value in _NONSENSE:
                _write(directus, collection.name, key, column, value)
                try:
                    chats = {chat.id: chat for chat in (await plugin.on_sync(user, None, 10)).items}
                    assert chats[sound.id] == sound
                    assert spoiled.id in chats or column == "hashed_user_id"
                    page = await store.messages(user, spoiled.id, None, 10)
                    assert messages[1] in page.items
                    assert other in await store.devices(user)
                except (AssertionError, KeyError, Unavailable) as error:
                    bad.append(f"{column} = {value!r}: {type(error).__name__} {str(error)[:160]}")
                _write(directus, collection.name, key, column, row[column])
        assert not bad, "\n".join(bad)
        assert {chat.id for chat in (await plugin.on_sync(user, None, 10)).items} == {sound.id, spoiled.id}
        assert len((await store.messages(user, spoiled.id, None, 10)).items) == 2
