"""All of it: a real Directus, Redis and Vault, two sidecar processes, four devices, an admin, and restarts of each part."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.device import Device, doc
from tests.directus.people import Human, human
from tests.directus_store.conftest import StartPrepared
from tests.directus_store.world import Prepared, key_of
from tests.faults.hosts import FAST, Host
from tests.faults.people import Watcher, Writer, alive
from tests.faults.vault_world import goes_on, keys_in, role
from tests.integration.world import AT_ONCE, until
from tests.services.fixtures import StartRedis
from tests.services.ports import ReservedPort
from tests.services.vault.fixtures import StartVault

Shown = dict[str, tuple[Any, Any, list[Any]]]
"""By chat its title, its draft and the contents of its messages."""


async def _shown(url: str, token: str) -> Shown:
    """What a device that comes anew is shown of everything."""
    shown: Shown = {}
    async with Device(url, token=token, wait=60) as device:
        chats: dict[str, dict[str, Any]] = {}
        frames = await device.sync()
        assert frames[-1].get("complete"), frames[-1]
        for frame in frames:
            for chat in frame["chats"]:
                chats.setdefault(chat["id"], {}).update(chat)
        for chat_id, chat in chats.items():
            assert chat["undecryptable"] == []
            page = (await device.ask("messages_request", {"chatId": chat_id, "limit": 200}))["payload"]
            assert {message["status"] for message in page["messages"]} <= {"delivered"}
            shown[chat_id] = chat["title"], chat["draft"], [message["content"] for message in page["messages"]]
    return shown


def _as_written(writer: Writer, user: str) -> Shown:
    """What was accepted of this one."""
    found: Shown = {}
    for chat in dict.fromkeys(chat for chat, _ in writer.accepted):
        numbers = [message for name, message in writer.accepted if name == chat]
        _, text = writer.drafts[chat]
        contents = [doc(f"{writer.name} {number}") for number in numbers]
        found[f"{user[:8]}_{chat}"] = None, doc(text) if text else None, contents
    return found


async def _settled(hosts: Sequence[Host]) -> None:
    async def nothing_waits() -> bool:
        return not any([await host.metric("sidecar_outbox_pending") for host in hosts])

    await until(nothing_waits, 60)


async def _delivered(device: Device, message_id: str) -> None:
    await device.event("message_update", lambda each: (each["messageId"], each["status"]) == (message_id, "delivered"))


async def _admin(own: Prepared, hosts: Sequence[Host], person: Human, token: str) -> None:
    """An admin clears a title, deletes a message and a chat; devices on both processes hear of it."""
    one = Device(hosts[0].url, token=token, wait=60)
    other = Device(hosts[1].url, token=token, wait=60)
    async with one, other:
        await other.sync()
        for chat in ("edited", "gone"):
            for number in (1, 2, 3):
                sent = {"tempChatId": chat, "clientMessageId": f"{chat}-{number}", "content": doc(f"{chat} {number}")}
                answer = await one.ask("message_send", sent)
                assert answer["type"] == "message_accepted"
                last = answer["payload"]["message"]["id"]
            # One that is still on its way would make the chat's row anew after an admin has deleted it.
            await _delivered(one, last)
            await one.ask("title_update", {"chatId": chat, "title": f"Title of {chat}", "basedOnVersion": 0})
        await one.event("chat_stored", lambda each: each["chatId"] == one.full("gone") and each["titleVersion"] == 1)
        await _settled(hosts)
        condition = {"chat_id": {"_eq": key_of(person.id, "edited")}, "sequence": {"_eq": 2}}
        [victim] = await own.rows("messages", filter=condition)
        await own.edit("chats", key_of(person.id, "edited"), title=None)
        await own.delete("messages", victim["id"])
        await own.delete("chats", key_of(person.id, "gone"))
        for device in (one, other):
            assert (await device.event("chat_restored"))["chat"]["title"] is None
            assert (await device.event("message_deleted"))["messageId"] == victim["message_id"]
            assert (await device.event("chat_deleted"))["chatId"] == device.full("gone")


@pytest.mark.timeout(420)
async def test_everything_together_while_each_part_is_restarted(
    start_prepared: StartPrepared, start_redis: StartRedis, start_vault: StartVault, tmp_path: Path
) -> None:
    """S26–S29, S31, S55, F2, F18, F25, F35: and at the end Directus' rows open to exactly what the devices show."""
    own, redis, vault = (
        await start_prepared(),
        await start_redis(appendonly=True, appendfsync="always"),
        await start_vault(),
    )
    people = [await human(own.server, name) for name in ("anna", "bert")]
    tokens = [await person.static_token() for person in people]
    sections = {
        "auth": {"use": "directus", "options": {"url": own.server.url, "token": own.token}},
        "persistence": own.section(),
        "cache": {"use": "redis", "options": {"url": redis.url, "shards": 4}},
        "encryption": keys_in(vault, await role(vault)),
        "drafts": AT_ONCE,
        "limits": FAST,
    }
    ports = [ReservedPort(), ReservedPort()]
    hosts = [Host(tmp_path / f"host-{number}", port, **sections) for number, port in enumerate(ports)]
    try:
        await asyncio.gather(*(host.__aenter__() for host in hosts))
        urls = [host.url for host in hosts]
        writers = [Writer(urls, name, per_chat=4, rest=0.15) for name in ("anna", "bert")]
        watchers = [Watcher(urls, name) for name in ("anna", "bert")]
        for devices in (writers, watchers):
            for each, token in zip(devices, tokens, strict=True):
                each.device.token = token
                each.device.wait = 60
        async with alive([*writers, *watchers], patience=90):
            await goes_on(writers, 60)
            own.server.kill()
            await asyncio.sleep(2)
            await own.server.start()
            await goes_on(writers, 90)
            redis.kill()
            await asyncio.sleep(1)
            await redis.start()
            await goes_on(writers, 90)
            await vault.restart()
            await goes_on(writers, 90)
            await hosts[0].kill()
            await hosts[0].restart()
            await goes_on(writers, 90)
            hosts[1].signal(signal.SIGTERM)
            assert await hosts[1].exit() == 0
            await hosts[1].stop()
            await hosts[1].restart()
            await goes_on(writers, 90)
        await _settled(hosts)
        for person, token in zip(people, tokens, strict=True):
            await _admin(own, hosts, person, token)
        await _settled(hosts)
        for host, writer, person, token in zip(hosts, writers, people, tokens, strict=True):
            shown = await _shown(host.url, token)
            written = _as_written(writer, key_of(person.id, ""))
            edited = f"{key_of(person.id, '')[:8]}_edited"
            assert shown == written | {edited: (None, None, [doc("edited 1"), doc("edited 3")])}
            assert len(written) > 4
        before = [await _shown(hosts[0].url, token) for token in tokens]
        await redis.cli("FLUSHALL", "SYNC")
        after = [await _shown(hosts[1].url, token) for token in tokens]
        assert after == before, "the rows alone open to exactly what was shown"
        chats, messages = await own.rows("chats"), await own.rows("messages")
        assert len(chats) == sum(map(len, after))
        assert len(messages) == sum(len(contents) for shown in after for _, _, contents in shown.values())
        for host in hosts:
            assert "Traceback" not in host.log.read_text()
    finally:
        for host in hosts:
            if hasattr(host, "_process"):
                await host.stop()
        for port in ports:
            port.close()
