"""S32, T49: what people wrote is searched for wherever anything is kept, after success, conflict, restore and failure of every part."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.device import Device, doc, new_id
from tests.faults.hosts import Host, Hosts, hosts
from tests.faults.test_poison import IMPATIENT
from tests.faults.vault_world import keys_in, role
from tests.integration.world import AT_ONCE, until
from tests.services.fixtures import StartRedis
from tests.services.redis_server import RedisServer
from tests.services.vault.fixtures import StartVault
from tests.services.vault.vault_server import VaultServer

__all__ = ["hosts"]

CANARY = f"Kanarie-{secrets.token_hex(8)}-ünïcode"
_LARGEST = 64 * 1024 * 1024


def _written(text: str = CANARY) -> dict[str, Any]:
    """The canary as text, node type, attribute, mark and key."""
    return {
        "type": "doc",
        "content": [
            {"type": text, "attrs": {text: text}},
            {"type": "paragraph", "content": [{"type": "text", "text": text, "marks": [{"type": text}]}]},
        ],
    }


def _forms(secret: bytes) -> Iterator[bytes]:
    """How it could stand somewhere: as it is, in hex, in base64 wherever that began, escaped."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for start in range(3):
        # The characters at both ends depend on what stands beside it.
        middle = base64.b64encode(b"\0" * start + secret)[4 if start else 0 :].rstrip(b"=")[:-2]
        yield middle
        yield middle.translate(bytes.maketrans(b"+/", b"-_"))


def canary_forms() -> list[bytes]:
    found = [*_forms(CANARY.encode()), json.dumps(CANARY)[1:-1].encode(), CANARY.encode("utf-16-le")]
    # Its part that no encoding of text changes.
    return [*found, re.sub(r"-ünïcode", "", CANARY).encode()]


def found_in(folder: Path, wanted: list[bytes]) -> list[str]:
    """The files below the folder that hold any of these, and how many bytes were looked at must not be none."""
    hits, looked = [], 0
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        assert path.stat().st_size < _LARGEST, path
        content = path.read_bytes()
        looked += len(content)
        hits += [f"{path}: {form!r}" for form in wanted if form in content]
    assert looked > 0, folder
    return hits


def test_the_search_finds_each_form(tmp_path: Path) -> None:
    """It would see what it looks for."""
    for number, text in enumerate(
        [
            CANARY.encode(),
            json.dumps({"a": CANARY}).encode(),
            CANARY.encode().hex().encode(),
            *(base64.b64encode(b"x" * start + CANARY.encode() + b"yy") for start in range(3)),
            base64.urlsafe_b64encode(b"??>" + CANARY.encode()),
            repr(CANARY.encode()).encode(),
            CANARY.encode("utf-16-le"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "file").write_bytes(b"before " + text + b" after")
        assert found_in(folder, canary_forms()), text


async def _life(host: Host, other: Host, name: str) -> None:
    """A person who does everything, on two devices: accepted, refused, in conflict, too large, not understood."""
    async with Device(host.url, name) as one, Device(other.url, name) as two:
        for device in (one, two):
            await device.sync()
        for chat in ("c1", "c2", "c3"):
            await one.ask("draft_update", {"tempChatId": chat, "content": _written(), "basedOnVersion": 0})
            await one.ask("title_update", {"chatId": chat, "title": CANARY, "basedOnVersion": 0})
        await one.ask("message_send", {"tempChatId": "c1", "clientMessageId": new_id(), "content": _written()})
        await two.ask("message_send", {"tempChatId": "c2", "clientMessageId": "bad-1", "content": _written()})
        for content in (_written(), _written(CANARY * 2)):  # the second is a conflict
            await two.ask("draft_update", {"chatId": "c1", "content": content, "basedOnVersion": 1})
        await two.ask("title_update", {"chatId": "c1", "title": CANARY + "!", "basedOnVersion": 0})
        await one.ask("draft_update", {"chatId": "nobody-knows", "content": _written(), "basedOnVersion": 7})
        await one.ask("draft_update", {"chatId": "c1", "content": doc(CANARY + "x" * 135_000), "basedOnVersion": 2})
        await two.ask("chat_delete", {"chatId": "c3"})


async def _restored(host: Host, name: str) -> None:
    """A device that comes back with what it held."""
    async with Device(host.url, name) as device:
        await device.sync()
        draft = {"content": _written(CANARY + " held"), "version": 9, "op": new_id(), "state": "edited"}
        title = {"title": CANARY + " held", "version": 4, "op": new_id()}
        restore = {"chatId": "c4", "draft": draft, "title": title, "messagesVersion": 0}
        answer = await device.ask("chat_restore", restore)
        assert answer["type"] != "error", answer


async def _dumped(redis: RedisServer) -> None:
    """A dump on the disk, beside the append-only file."""
    await redis.cli("SAVE")
    assert (redis.folder / "dump.rdb").stat().st_size > 1000


@pytest.mark.parametrize("mode", ["kv", "transit"])
async def test_s32_t49_no_copy_of_anything_holds_what_people_wrote(
    start_redis: StartRedis, start_vault: StartVault, tmp_path: Path, mode: str
) -> None:
    """S32, T49, T38: Vault's storage, audit file and log, Redis' dump, append-only file and log, SQLite and every log at DEBUG.

    Nor do the keys stand anywhere: they are asked of Vault afterwards, and searched for as well.
    """
    redis = await start_redis(appendonly=True)
    vault = await start_vault()
    await vault.mount_transit("transit")
    await vault.write("transit/keys/sidecar", derived=True)
    await vault.audit()
    made = Hosts(tmp_path / "hosts", redis)
    (tmp_path / "hosts").mkdir()
    poison = tmp_path / "poison"
    poison.write_text("bad-.*")
    store = {"use": "tests.plugins.poisoned_store:PoisonedStore", "options": {"poison": str(poison)}}
    sections: dict[str, Any] = {
        "encryption": keys_in(vault, await role(vault), mode=mode),
        "persistence": store,
        "drafts": AT_ONCE,
        "logging": {"level": "DEBUG", "format": "json"},
    }
    async with made(2, lambda _: {"before": IMPATIENT}, **sections) as (one, other):
        await _life(one, other, "alice")
        await vault.seal()
        await _life(other, one, "bob")  # nothing of it is accepted
        await vault.unseal()
        await asyncio.sleep(1)
        await _life(other, one, "carol")
        redis.kill()
        await redis.start()
        await until(lambda: _ready(one, other), 30)
        await _restored(one, "alice")
        await until(lambda: _parked(one), 60)
        await one.command("keys", "rotate")
        await other.command("keys", "reseal")
        await other.command("dead-letters", "list")
        with pytest.raises(AssertionError):  # its exit status: an entry is parked
            await other.command("doctor")
        assert made.rows("SELECT count(*) FROM messages")[0][0] >= 2, "it was stored"
        await _dumped(redis)
        keys = await _keys(vault)
        assert len(keys) >= 5
        logs = "".join(host.log.read_text() for host in (one, other))
        assert '"event": "refused"' in logs
        assert len(redis.log) > 0
    await vault.stop()
    places = {"hosts": tmp_path / "hosts", "Vault": vault.folder, "Redis": redis.folder}
    for name, folder in places.items():
        assert found_in(folder, canary_forms()) == [], name
        assert found_in(folder, [form for key in keys for form in _forms(key)]) == [], name


async def _ready(*both: Host) -> bool:
    return all([(await host.ask("/readyz"))[0] == 200 for host in both])


async def _parked(host: Host) -> bool:
    return await host.metric("sidecar_outbox_parked") >= 1


async def _keys(vault: VaultServer) -> list[bytes]:
    """All versions of all chats' keys, as Vault's root can have them."""
    found = []
    for path in await vault.entries("sidecar/"):
        told = await vault.read(f"{vault.mount}/data/{path}")
        for value in (told or {}).get("data", {}).get("data", {}).get("keys", {}).values():
            if value.startswith("vault:"):
                slot = base64.b64encode(path.removeprefix("sidecar/").encode()).decode()
                opened = await vault.write("transit/decrypt/sidecar", ciphertext=value, context=slot)
                value = opened["data"]["plaintext"]
            found.append(base64.b64decode(value))
    assert all(len(key) == 32 for key in found)
    return found
