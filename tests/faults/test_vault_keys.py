"""F22-F24: keys that are destroyed, rotated while people edit, or missing after a Vault was brought back from a backup."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from typing import Any

import pytest

from tests.conftest import Serve
from tests.device import Device, Frame, doc
from tests.faults.hosts import Hosts, hosts
from tests.faults.people import Writer, alive
from tests.faults.test_killed import stored
from tests.faults.vault_world import drafts, edited, goes_on, keys_in, opens_everywhere, refused_for_now, role
from tests.integration.world import AT_ONCE, begin, chats_of, record, say, until
from tests.services.vault.fixtures import StartVault
from tests.services.vault.vault import Vault
from tests.services.vault.vault_server import VaultServer

__all__ = ["hosts"]


async def _stored(device: Device, chat: str, text: str) -> None:
    """A chat with a message that is stored, and this draft."""
    await begin(device, chat, doc(text))
    await say(device, chat, f"m-{chat}", doc(f"message of {chat}"))
    await device.event("message_update", lambda event: event["status"] == "delivered")


def _closed(frames: Sequence[Frame], chat_id: str) -> set[str]:
    """What of a chat does not open: `draft`, `title`, ids of messages."""
    return {
        name for frame in frames for chat in frame["chats"] if chat["id"] == chat_id for name in chat["undecryptable"]
    }


async def _secrets(vault: Vault) -> dict[str, Any]:
    """What Vault holds, by path; None: only the mark."""
    found = {}
    for path in await vault.entries("sidecar/"):
        told = await vault.read(f"{vault.mount}/metadata/{path}")
        assert told is not None
        living = [number for number, each in told["data"]["versions"].items() if not each["destroyed"]]
        found[path] = living or None
    return found


async def test_f22_a_destroyed_key_is_gone_for_every_process_at_once(hosts: Hosts, start_vault: StartVault) -> None:
    """F22, S61: `keys destroy` through one process; the other, which had the key in memory, says `deleted` within a second."""
    vault = await start_vault()
    sections: dict[str, Any] = {"encryption": keys_in(vault, await role(vault)), "drafts": AT_ONCE}
    async with hosts(2, **sections) as (one, other), Device(other.url) as device:
        await device.sync()
        await _stored(device, "c1", "to be gone")
        await _stored(device, "c2", "to stay")
        assert (await edited(device, "c1", "again", 1))["type"] == "draft_updated"
        await until(hosts.delivered)
        backup = hosts.rows("SELECT draft FROM chats WHERE id = ?", device.full("c1"))[0][0]
        await one.command("keys", "destroy", "--chat", device.full("c1"), "--yes")
        async with asyncio.timeout(1):
            await device.event("chat_deleted")
        answer = await edited(device, "c1", "and again", 2)
        assert (answer["type"], answer["payload"]["reason"]) == ("draft_conflict", "chat_deleted")
        assert sorted(map(bool, (await _secrets(vault)).values())) == [False, True], "no version is left, the mark is"
        # Everything that the cache knew is lost, and somebody puts the row back: it is deleted again, not opened, not sealed anew.
        await hosts.redis.cli("FLUSHALL", "SYNC")
        await until(lambda: not hosts.rows("SELECT 1 FROM chats WHERE id = ?", device.full("c1")))
        assert backup
    async with hosts(2, **sections) as both:
        for host in both:
            async with Device(host.url) as device:
                assert await drafts(device) == {device.full("c2"): doc("to stay")}
                new = {"tempChatId": "c1", "content": doc("once more"), "basedOnVersion": 0}
                answer = await device.ask("draft_update", new)
                assert (answer["type"], answer["payload"]["reason"]) == ("draft_conflict", "chat_deleted")
            host.spotless()
    assert sorted(map(bool, (await _secrets(vault)).values())) == [False, True]


async def test_f22_a_key_that_a_hand_removed_is_never_made_again(serve: Serve, start_vault: StartVault) -> None:
    """F22: metadata deleted in Vault: what is there is undecryptable and stays as it is; nothing is sealed under a new key."""
    vault = await start_vault()
    encryption = keys_in(vault, await role(vault))
    async with serve(encryption=encryption, drafts=AT_ONCE) as sidecar, Device(sidecar.url) as device:
        await device.sync()
        await _stored(device, "c1", "kept")
        chat_id = device.full("c1")
        await device.event("chat_stored")
    [path] = await vault.entries("sidecar/")
    await vault.remove(f"{vault.mount}/metadata/{path}")
    async with serve(encryption=encryption, drafts=AT_ONCE) as sidecar, Device(sidecar.url) as device:
        frames = await device.sync()
        chat = chats_of(frames)[chat_id]
        assert "draft" in _closed(frames, chat_id)
        assert chat["version"] == 1
        assert refused_for_now(await edited(device, "c1", "another", 1))
        answer = await device.ask("message_send", {"chatId": "c1", "clientMessageId": "m2", "content": doc("more")})
        assert refused_for_now(answer)
    assert await vault.entries("sidecar/") == []


async def test_f23_rotated_again_and_again_while_people_edit(hosts: Hosts, start_vault: StartVault) -> None:
    """F23 (row: each 50 ms, 10,000 edits): two processes, one rotates all the time and reseals; nothing fails to open."""
    vault = await start_vault()
    sections: dict[str, Any] = {"encryption": keys_in(vault, await role(vault)), "drafts": AT_ONCE}
    async with hosts(2, **sections) as both:
        writers = [Writer([host.url for host in both], f"w{n}", per_chat=200, rest=0.02) for n in range(4)]
        rotations = 0
        async with alive(writers):
            await goes_on(writers)
            for number in range(5):
                rotated = await both[number % 2].command("keys", "rotate")
                rotations += rotated["count"]
                if number % 2:
                    await both[(number + 1) % 2].command("keys", "reseal")
                await goes_on(writers, 20)
        assert rotations >= 5 * 4
        assert sum(writer.repeated for writer in writers) == 0
        await until(hosts.delivered, 30)
        await stored(hosts, writers)
        resealed = await both[0].command("keys", "reseal")
        assert resealed["undecryptable"] == 0
        for host in both:
            assert await host.metric("sidecar_undecryptable_total") == 0
            host.spotless()
    await opens_everywhere(hosts, writers, **sections)


async def _restore(vault: VaultServer, backup: Any) -> None:
    vault.kill()
    shutil.move(vault.storage, vault.folder / f"away-{backup.name}")
    shutil.copytree(backup, vault.storage)
    await vault.start()


@pytest.mark.parametrize("cached", [True, False])
async def test_f24_keys_that_a_restored_vault_does_not_have(
    serve: Serve, start_vault: StartVault, cached: bool
) -> None:
    """F24: chats begun after the backup are undecryptable and refuse writes; their values stay; with the right Vault all is well.

    With the key still in memory (`cached`) people go on until its life ends, and nobody makes another.
    """
    vault = await start_vault()
    encryption = keys_in(vault, await role(vault))
    sections: dict[str, Any] = {"encryption": encryption, "drafts": AT_ONCE, "chats": {"key_ttl": "2s"}}

    async def with_old_vault(device: Device) -> None:
        frames = await device.sync()
        chats = chats_of(frames)
        assert chats[device.full("c1")]["draft"] == doc("before the backup")
        young = chats[device.full("c2")]
        assert "draft" in _closed(frames, young["id"])
        assert refused_for_now(await edited(device, "c2", "over it", young["version"]))
        assert len(await vault.entries("sidecar/")) == 1, "no key was made for a chat that exists"
        assert (await edited(device, "c1", "goes on", 1))["type"] == "draft_updated"

    async with serve(**sections) as sidecar, Device(sidecar.url) as device:
        await device.sync()
        await _stored(device, "c1", "before the backup")
        await vault.stop()
        shutil.copytree(vault.storage, vault.folder / "old")
        await vault.start()
        await until(lambda: _begins(device, "c2", "after the backup"))
        await say(device, "c2", "m-c2", doc("message of c2"))
        await device.event("message_update", lambda event: event["status"] == "delivered")
        await vault.stop()
        shutil.copytree(vault.storage, vault.folder / "right")
        if cached:
            await _restore(vault, vault.folder / "old")
            version = 1
            while (answer := await edited(device, "c2", f"text {version}", version))["type"] == "draft_updated":
                version = answer["payload"]["version"]
                await asyncio.sleep(0.05)
            assert version > 2
            assert refused_for_now(answer)
            async with Device(sidecar.url) as other:
                await with_old_vault(other)
    if not cached:
        await _restore(vault, vault.folder / "old")
        async with serve(**sections) as sidecar, Device(sidecar.url) as device:
            await with_old_vault(device)
    await _restore(vault, vault.folder / "right")
    async with serve(**sections) as sidecar, Device(sidecar.url) as device:
        await device.sync()
        young = await record(device, device.full("c2"))
        assert young["undecryptable"] == []
        assert young["draft"] == doc(f"text {version - 1}" if cached else "after the backup")


async def _begins(device: Device, chat: str, text: str) -> bool:
    answer = await device.ask("draft_update", {"tempChatId": chat, "content": doc(text), "basedOnVersion": 0})
    return bool(answer["type"] == "chat_initiated")


async def test_f24_a_chat_that_exists_and_whose_key_is_unknown_is_known_by_its_row(
    serve: Serve, start_vault: StartVault
) -> None:
    """F24: though a device names the chat as a new one, as one that lost its data does: no key is made beside the old one."""
    vault = await start_vault()
    encryption = keys_in(vault, await role(vault))
    async with serve(encryption=encryption, drafts=AT_ONCE) as sidecar, Device(sidecar.url) as device:
        await device.sync()
        await _stored(device, "c1", "kept")
    for path in await vault.entries("sidecar/"):
        await vault.remove(f"{vault.mount}/metadata/{path}")
    async with serve(encryption=encryption, drafts=AT_ONCE) as sidecar, Device(sidecar.url) as device:
        new = {"tempChatId": "c1", "content": doc("as if new"), "basedOnVersion": 0}
        answer = await device.ask("draft_update", new)
        assert answer["type"] != "chat_initiated", answer
        answer = await device.ask("message_send", {"tempChatId": "c1", "clientMessageId": "m9", "content": doc("x")})
        assert answer["type"] != "message_accepted", answer
    assert await vault.entries("sidecar/") == []
