"""S62, T27, T37: what was moved to another place opens nowhere, with keys in a real Vault; and the process leaves no core."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sidecar import Field, Undecryptable
from sidecar.ids import ChatId, UserHash, chat_id_of, hash_user
from sidecar.records import Sealed
from tests.conftest import Serve
from tests.device import Device, doc
from tests.integration.world import AT_ONCE, begin, chats_of, rows, say
from tests.process import SidecarProcess
from tests.services.vault.vault import Vault
from tests.vault.test_sidecar import section
from tests.vault.world import opened

PEOPLE = hash_user("alice"), hash_user("bob")
CHATS = ("c1", "c2", "c3")


def _fields(user: UserHash, chat: ChatId) -> list[Field]:
    """Six values of a chat: both kinds of text in two versions, two messages."""
    return [
        *(Field(user, chat, "title", chat, version) for version in (1, 2)),
        *(Field(user, chat, "draft", chat, version) for version in (1, 2)),
        *(Field(user, chat, "message", record, 0) for record in ("m1", "m2")),
    ]


async def test_t27_s62_no_pair_of_values_can_be_exchanged(vault_server: Vault) -> None:
    """T27, S62: 6 fields of 3 chats of 2 people: each value opens in its own place, and in none of the 35 others."""
    async with opened(vault_server) as cipher:
        places = {}
        for user, name in itertools.product(PEOPLE, CHATS):
            chat = chat_id_of(user, name)
            key = await cipher.begin(user, chat)
            for field in _fields(user, chat):
                places[field] = key, await cipher.seal(key, field, repr(field).encode())
        assert len(places) == 36
        for own, other in itertools.product(places, places):
            key, _ = places[own]
            sealed: Sealed = places[other][1]
            if own == other:
                assert await cipher.open(key, own, sealed) == repr(own).encode()
                continue
            for tried in {key, places[other][0]}:  # under its own key, too
                with pytest.raises(Undecryptable):
                    await cipher.open(tried, own, sealed)


async def test_t27_s62_rows_that_were_exchanged_are_closed_counted_and_left_as_they_are(
    vault_server: Vault, serve: Serve, tmp_path: Path
) -> None:
    """T27, S62: every draft, title and message has another chat's value, keys too: nobody reads anything; put back, all is well."""
    encryption = section(vault_server)
    async with serve(encryption=encryption, drafts=AT_ONCE) as server:
        for name in ("alice", "bob"):
            async with Device(server.url, name) as device:
                await device.sync()
                for chat in CHATS:
                    await begin(device, chat, doc(f"draft of {name} {chat}"))
                    await device.ask("title_update", {"chatId": chat, "title": f"title {chat}", "basedOnVersion": 0})
                    await say(device, chat, f"m-{name}-{chat}", doc(f"message of {name} {chat}"))
                    await device.event("message_update", lambda event: event["status"] == "delivered")
                    await device.event("chat_stored", lambda event: event.get("titleVersion", 1) == 1)
    shutil.rmtree(tmp_path / "data" / "cache")
    right = _values(tmp_path)
    assert all(title and draft for title, draft in right[0].values())
    for move in (1, 3):  # to another chat, to another person
        _exchange(tmp_path, right, move)
        async with serve(encryption=encryption) as server:
            for name in ("alice", "bob"):
                async with Device(server.url, name) as device:
                    frames = await device.sync()
                    found = chats_of(frames)
                    assert len(found) == 3
                    closed = {
                        (chat["id"], each)
                        for frame in frames
                        for chat in frame["chats"]
                        for each in chat["undecryptable"]
                    }
                    assert len(closed) == 9, "a title, a draft and a message of each chat"
                    assert not [chat for chat in found.values() if chat.get("draft") or chat.get("title")]
                    assert not [m for chat in found.values() for m in chat["messages"] if m["content"]]
            async with aiohttp.ClientSession() as session, session.get(f"{server.url}/metrics") as response:
                told = await response.text()
            counted = [line for line in told.splitlines() if line.startswith("sidecar_undecryptable_total{")]
            assert sum(float(line.rpartition(" ")[2]) for line in counted) >= 18
        shutil.rmtree(tmp_path / "data" / "cache")
    _exchange(tmp_path, right, 0)
    assert _values(tmp_path) == right, "nothing was overwritten meanwhile"
    async with serve(encryption=encryption) as server, Device(server.url) as device:
        assert sorted(str(chat["title"]) for chat in chats_of(await device.sync()).values()) == [
            f"title {chat}" for chat in CHATS
        ]


Values = tuple[dict[str, tuple[bytes, bytes]], dict[str, bytes]]


def _values(folder: Path) -> Values:
    """Title and draft by chat, content by message."""
    return (
        {
            row["id"]: (row["title"], row["draft"])
            for row in rows(folder, "SELECT * FROM chats ORDER BY hashed_user_id, id")
        },
        {row["id"]: row["content"] for row in rows(folder, "SELECT * FROM messages ORDER BY hashed_user_id, chat_id")},
    )


def _exchange(folder: Path, right: Values, by: int) -> None:
    """Each place has the value of the place so many further on."""
    chats, messages = right
    for place, (title, draft) in zip(chats, _moved(list(chats.values()), by), strict=True):
        rows(folder, "UPDATE chats SET title = ?, draft = ? WHERE id = ?", title, draft, place)
    for message, content in zip(messages, _moved(list(messages.values()), by), strict=True):
        rows(folder, "UPDATE messages SET content = ? WHERE id = ?", content, message)


def _moved(values: list[Any], by: int) -> list[Any]:
    return values[by:] + values[:by]


@pytest.mark.skipif(sys.platform != "linux", reason="not promised elsewhere than on Linux")
async def test_t37_a_process_with_keys_in_memory_leaves_no_core(vault_server: Vault, tmp_path: Path) -> None:
    """T37: ended by SIGABRT, as by an assertion in a library, with a host that would keep cores."""
    before = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)"
    encryption = dict(section(vault_server))
    async with SidecarProcess(tmp_path / "one", before=before, encryption=encryption) as process:
        async with Device(process.url) as device:
            await begin(device, "c1", doc("a text"))
        limits = await asyncio.to_thread(Path(f"/proc/{process.pid}/limits").read_text)
        [core] = [line for line in limits.splitlines() if line.startswith("Max core file size")]
        assert core.split()[4:6] == ["0", "0"]
        process.signal(signal.SIGABRT)
        assert await process.exit() == -signal.SIGABRT
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith("core")]
