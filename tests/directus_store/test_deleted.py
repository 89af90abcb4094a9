"""What was deleted, and what was never to be read: no row comes back, no key is made again, no text stands anywhere (S32, S68, T47)."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sidecar import UserHash
from sidecar.server.reports import hear_ended
from sidecar.server.running import Server
from sidecar.slots.authenticator import Ended
from tests.device import Device, doc
from tests.directus_store.conftest import ServeOn
from tests.directus_store.crowd import LOOK, say, tells
from tests.directus_store.world import Prepared, key_of, sealed_of, somebody
from tests.faults.test_vault_canary import CANARY, canary_forms, found_in
from tests.integration.world import AT_ONCE, key_count, settled, until
from tests.services.directus.front import DirectusFront
from tests.services.redis_server import RedisServer
from tests.services.vault.fixtures import StartVault
from tests.vault.test_sidecar import cipher_of
from tests.vault.test_sidecar import section as keys_in


async def _lost(server: Server, device: Device) -> None:
    """The cache has nothing of this person, and no tombstone either."""
    await server.context.parts.cache.chats.drop(UserHash(device.user), None)


async def _parked(server: Server) -> list[str]:
    return [letter.id for letter in await server.context.parts.cache.outbox.parked("persistence")]


@pytest.mark.caches("memory", "redis")
async def test_s68_neither_a_late_entry_nor_a_replayed_dead_letter_brings_a_deleted_chat_back(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront
) -> None:
    """S68: one chat has a message that waits, one a dead letter; both are deleted, the cache is emptied, an old device comes back."""
    person = somebody()

    def messages(method: str, path: str) -> bool:
        return method == "POST" and path.endswith(directus.names.messages)

    async with serve_on(directus, front.url, LOOK) as server, Device(server.url, person) as device:
        await say(device, "late", 0)
        await say(device, "dead", 0)
        await say(device, "kept", 0)
        await settled(server)
        keys = key_count(server)
        front.refuse(403, "FORBIDDEN", 10**6, of=messages)
        [refused] = await say(device, "dead", 1)
        await device.event("message_update", partial(tells, refused, "error"))
        letters = await _parked(server)
        assert len(letters) == 1
        front.clear()
        front.refuse(503, "SERVICE_UNAVAILABLE", 10**6)
        await say(device, "late", 1)
        for chat in ("late", "dead"):
            assert (await device.ask("chat_delete", {"chatId": chat}))["type"] == "chat_deleted"
        assert key_count(server) == keys - 2
        await _lost(server, device)
        front.clear()
        await server.context.parts.cache.outbox.parked("persistence", replay=letters)
        async with Device(server.url, person) as old:
            for chat in ("late", "dead"):
                held = {"content": doc("held"), "state": "edited", "version": 9, "op": f"operation-{chat}"}
                answer = await old.ask("chat_restore", {"chatId": chat, "draft": held, "messagesVersion": 4})
                assert answer["payload"]["reason"] == "chat_deleted"
                sent = {"tempChatId": chat, "clientMessageId": f"{chat}-9", "content": doc("again")}
                assert (await old.ask("message_send", sent))["type"] == "chat_deleted"
        await settled(server, 60)
        assert await _parked(server) == []
        assert [row["id"] for row in await directus.rows("chats", person)] == [key_of(person, "kept")]
        assert [row["client_message_id"] for row in await directus.rows("messages", person)] == ["kept-0"]
        assert key_count(server) == keys - 2, "and no key was made again"


@pytest.mark.caches("memory", "redis")
async def test_s32_nothing_that_a_person_wrote_stands_in_redis_directus_or_any_log(
    directus: Prepared,
    serve_on: ServeOn,
    front: DirectusFront,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    cache_section: Mapping[str, Any],
    redis_server: RedisServer,
) -> None:
    """S32, T38, T49: draft, title and message; after success, conflict, a refused row, a lost answer, a change by hand and a restore."""
    caplog.set_level(logging.DEBUG)
    person, text = somebody(), doc(CANARY)
    async with serve_on(directus, front.url, LOOK) as server, Device(server.url, person) as device:
        for chat in ("one", "two"):
            await device.ask("draft_update", {"tempChatId": chat, "content": text, "basedOnVersion": 0})
            await device.ask("title_update", {"chatId": chat, "title": CANARY, "basedOnVersion": 0})
        front.swallow(1, of=lambda method, path: method == "POST" and directus.names.messages in path)
        await device.ask("message_send", {"chatId": "one", "clientMessageId": "m1", "content": text})
        await device.ask("draft_update", {"chatId": "one", "content": doc(f"{CANARY} more"), "basedOnVersion": 0})
        await device.event("message_update")
        refusal = {"message": f"Value {CANARY} for field content is invalid", "extensions": {"code": "INVALID_PAYLOAD"}}
        front.answer(400, {"errors": [refusal]}, 20, of=lambda method, path: method == "POST" and "messages" in path)
        sent = await device.ask("message_send", {"chatId": "one", "clientMessageId": "m2", "content": text})
        parked = sent["payload"]["message"]["id"]
        await device.event("message_update", partial(tells, parked, "error"))
        front.clear()
        await settled(server, 60)
        await directus.edit("chats", key_of(person, "one"), title="bm8gZW52ZWxvcGU=", draft=None)
        await asyncio.sleep(1.5)
        await device.sync()
        held = {"content": text, "state": "edited", "version": 30, "op": "an-operation-held"}
        await device.ask("chat_restore", {"chatId": "one", "draft": held, "messagesVersion": 4})
        await settled(server, 60)
        forms = canary_forms()
        if cache_section["use"] == "redis":
            dump = await redis_server.dumped()
            assert device.user.encode() in dump
            assert not [form for form in forms if form in dump]
        assert len(await directus.rows("messages", person)) == 1
    assert found_in(directus.server.folder, forms) == []
    assert found_in(tmp_path, forms) == []
    written = capfd.readouterr()
    for where in (caplog.text, written.out, written.err):
        assert not [form for form in forms if form in where.encode()]


@pytest.mark.caches("redis")
@pytest.mark.timeout(180)
async def test_t47_of_an_erased_person_no_byte_opens_not_even_from_a_backup(
    directus: Prepared, serve_on: ServeOn, start_vault: StartVault, redis_server: RedisServer, tmp_path: Path
) -> None:
    """T47: Redis, Vault and Directus are searched afterwards; rows that are put back from a backup stay closed to the person itself."""
    vault = await start_vault()
    person, other = somebody(), somebody()
    sections = {"encryption": keys_in(vault), "drafts": AT_ONCE}
    async with serve_on(directus, options=LOOK, **sections) as server, Device(server.url, other) as bystander:
        await say(bystander, "one", 0)
        async with Device(server.url, person) as device:
            for chat in ("one", "two"):
                await say(device, chat, 0, text=CANARY)
                await device.ask("draft_update", {"chatId": chat, "content": doc(CANARY), "basedOnVersion": 0})
                await device.ask("title_update", {"chatId": chat, "title": CANARY, "basedOnVersion": 0})
            await settled(server)
            backup = {kind: await directus.rows(kind, person) for kind in ("chats", "messages")}
            sealed = [sealed_of(row, name) for row in backup["chats"] for name in ("title", "draft")]
            sealed += [sealed_of(row, "content") for row in backup["messages"]]
            before, keys = await redis_server.dumped(), len(await vault.entries("sidecar/"))
            assert [each for each in sealed if each in before], "it would be found"
            hear_ended(server.context, Ended(person, erased=True))
            assert await device.closed() == 4401
        user = UserHash(device.user)

        async def erased() -> bool:
            rows = [await directus.rows(kind, person) for kind in ("chats", "messages", "devices")]
            # Not even marks are left of the keys.
            return not any(rows) and len(await vault.entries("sidecar/")) == keys - 2

        await until(erased, 60)
        await settled(server)
        assert [each async for each in cipher_of(server).keys_of(user)] == []
        after = await redis_server.dumped()
        assert not [each for each in sealed if each in after]
        with closing(sqlite3.connect(directus.server.database, timeout=10)) as database:
            dump = "\n".join(database.iterdump())
        assert user not in dump
        # An administrator puts the rows back from a backup.
        ask = directus.server.ask
        for kind in ("chats", "messages"):
            await ask(
                "POST", f"/items/{getattr(directus.names, kind)}", [_without_aliases(row) for row in backup[kind]]
            )
        async with Device(server.url, person) as again:
            frames = await again.sync()
            shown = str(frames)
            page = await again.ask("messages_request", {"chatId": "one", "limit": 50})
            for form in (CANARY, CANARY.encode("unicode_escape").decode()):
                assert form not in shown + str(page)
            assert len(await vault.entries("sidecar/")) == keys - 2, "and no key is made for them"
        assert (await bystander.ask("ping", {}))["type"] == "pong"
        assert len(await directus.rows("messages", other)) == 1


def _without_aliases(row: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if name != "messages"}
