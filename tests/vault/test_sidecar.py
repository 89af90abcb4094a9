"""A whole sidecar whose keys are in a real Vault."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from plugins.encryption.vault_cipher import VaultCipher
from plugins.encryption.vault_entry import Entry, Mark, slot_of
from sidecar import ChatId, ChatInCache, UserHash
from sidecar.server.running import Server
from tests.conftest import Serve, WipeCache
from tests.device import Device, doc
from tests.integration.test_operators import operate, result
from tests.integration.workers import get
from tests.integration.world import AT_ONCE, begin, devices, lose_cache, record, rows, say, settled, until
from tests.process import SidecarProcess
from tests.services.redis_server import RedisServer
from tests.services.vault.fixtures import StartVault
from tests.services.vault.vault import Vault

FILE = Path(__file__).parents[2] / "config" / "vault.yaml"
CANARY = "a canary that sings in no vault"
FAST = {"frames_per_second": 10_000, "burst": 10_000, "draft_chats_per_user": 5000}


def section(vault: Vault, **options: Any) -> Mapping[str, Any]:
    given = {"url": vault.url, "mount": vault.mount, "auth": {"token": {"value": vault.root_token}}}
    return {"use": "vault", "options": given | options}


def cipher_of(server: Server) -> VaultCipher:
    cipher = server.context.parts.cipher
    assert isinstance(cipher, VaultCipher)
    return cipher


async def test_vault_yaml_as_it_is(start_vault: StartVault, tmp_path: Path) -> None:
    """`config/vault.yaml`, but for where Vault is and its token, which a `vault server -dev` has of its own."""
    vault = await start_vault(kept=False)
    environment = {
        "SIDECAR_ENCRYPTION__OPTIONS__URL": vault.url,
        "SIDECAR_ENCRYPTION__OPTIONS__AUTH__TOKEN__VALUE": vault.root_token,
        "SIDECAR_DATA_DIR": str(tmp_path / "data"),
        "SIDECAR_SERVER__PORT": "0",
    }
    process = SidecarProcess(tmp_path, environment=environment)
    process.config = FILE
    async with process, Device(process.url) as one:
        await begin(one, "c1", doc("first"))
        assert (await record(one, "c1"))["draft"] == doc("first")
        status, body = await get(process, "/readyz")
        assert (status, json.loads(body)["parts"]["encryption"]["state"]) == (200, "ok")

        async def measured() -> bool:
            text = (await get(process, "/metrics"))[1]
            return 'sidecar_key_cache{result="hits"}' in text and "sidecar_key_cache_keys 1.0" in text

        await until(measured)
        assert len(await vault.entries("sidecar/")) == 1
    assert "Traceback" not in process.log.read_text()
    assert vault.root_token not in process.log.read_text()


async def test_s32_t49_vault_holds_nothing_that_a_person_wrote(
    start_vault: StartVault, serve: Serve, tmp_path: Path
) -> None:
    """S32, T49: after draft, title, message, rotation and deletion: not in Vault's storage, its audit file or its log, nor the store."""
    vault = await start_vault()
    await vault.audit()
    async with serve(encryption=section(vault), drafts=AT_ONCE) as server, devices(server, 1) as (one,):
        for chat in ("a", "b"):
            await say(one, chat, "m1", doc(CANARY))
            await one.ask("draft_update", {"chatId": chat, "content": doc(CANARY), "basedOnVersion": 0})
            await one.ask("title_update", {"chatId": chat, "title": CANARY, "basedOnVersion": 0})
        await result(server, "keys-rotate")
        await one.ask("chat_delete", {"chatId": "b"})
        await settled(server)
    await vault.stop()
    words = CANARY.encode(), json.dumps(doc(CANARY)).encode()
    for path in (*vault.folder.rglob("*"), *(tmp_path / "data").rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            assert not any(word in content for word in words), path


async def test_s60_while_vault_is_sealed_writes_fail_closed_and_nothing_is_lost(
    start_vault: StartVault, serve: Serve
) -> None:
    """S60, F18: a chat whose key is in memory goes on; every other is `unavailable`, and goes on after the unseal."""
    vault = await start_vault()
    async with serve(encryption=section(vault)) as server, devices(server, 1) as (one,):
        await begin(one, "warm", doc("a"))
        await begin(one, "cold", doc("b"))
        cipher_of(server).drop_cached(await _key(server, one, "cold"))
        await vault.seal()
        edit = {"chatId": "warm", "content": doc("c"), "basedOnVersion": 1}
        assert (await one.ask("draft_update", edit))["type"] == "draft_updated"
        frames = {
            "op-cold": {"chatId": "cold", "content": doc("d"), "basedOnVersion": 1},
            "op-new": {"tempChatId": "new", "content": doc("e"), "basedOnVersion": 0},
        }
        for id_, frame in frames.items():
            answer = await one.ask("draft_update", frame, id_)
            assert (answer["type"], answer["payload"]["code"]) == ("error", "unavailable")
            assert answer["payload"]["details"]["part"] == "encryption"
            assert answer["payload"]["retryable"] is True
        status = server.context.plugins
        encryption = (await status.state())["encryption"]
        assert isinstance(encryption, Mapping)
        assert (encryption["ok"], encryption["reason"]) == (False, "Vault is sealed: unseal it")
        await vault.unseal()
        for id_, frame in frames.items():

            async def accepted(id_: str = id_, frame: dict[str, Any] = frame) -> bool:
                return bool((await one.ask("draft_update", frame, id_))["type"] != "error")

            await until(accepted)
        assert (await record(one, "cold"))["draft"] == doc("d")
        assert (await record(one, "new"))["draft"] == doc("e")
        assert len(await vault.entries("sidecar/")) == 3


async def test_f19_a_vault_that_hangs_holds_up_no_chat_whose_key_is_in_memory(
    start_vault: StartVault, serve: Serve
) -> None:
    """F19: SIGSTOP. Many ask for keys that do not come, and meanwhile somebody types on."""
    vault = await start_vault()
    async with serve(encryption=section(vault), limits=FAST) as server, devices(server, 2) as (one, two):
        await begin(one, "warm", doc("a"))
        vault.pause()
        waiting = [
            await two.send("draft_update", {"tempChatId": f"n{n}", "content": doc("n"), "basedOnVersion": 0})
            for n in range(60)
        ]
        for version in range(1, 200):
            edit = {"chatId": "warm", "content": doc(f"edit {version}"), "basedOnVersion": version}
            assert (await one.ask("draft_update", edit))["payload"]["version"] == version + 1
        for each in waiting:
            answer = await two.answer(each)
            assert (answer["type"], answer["payload"]["code"]) == ("error", "unavailable")
        vault.resume()

        async def begun() -> bool:
            frame = {"tempChatId": "n0", "content": doc("n"), "basedOnVersion": 0}
            return bool((await two.ask("draft_update", frame))["type"] == "chat_initiated")

        await until(begun)


async def _key(server: Server, device: Device, chat: str) -> Any:
    key = server.context.parts.references.get(UserHash(device.user), ChatId(device.full(chat)))
    assert key is not None
    return key


async def test_s60_keys_that_are_missing_are_not_made_anew(
    vault_server: Vault, serve: Serve, wipe_cache: WipeCache
) -> None:
    """S60, F24: Vault came back without the key of a chat that exists: unreadable, not empty, and not written over."""
    async with serve(encryption=section(vault_server), drafts=AT_ONCE) as server, devices(server, 1) as (one,):
        await say(one, "c1", "m1", doc("hello"))
        await one.ask("draft_update", {"chatId": "c1", "content": doc("kept"), "basedOnVersion": 0})
        await settled(server)
        slot = f"sidecar/{slot_of(UserHash(one.user), ChatId(one.full('c1')))}"
        saved = await vault_server.read(f"{vault_server.mount}/data/{slot}")
        await vault_server.remove(f"{vault_server.mount}/metadata/{slot}")
    await wipe_cache()
    assert saved is not None
    async with serve(encryption=section(vault_server), drafts=AT_ONCE) as server, devices(server, 1) as (one,):
        found = await record(one, "c1")
        assert (found["draft"], found["undecryptable"], found["draft_state"]) == (None, ["draft"], "edited")
        answer = await one.ask("draft_update", {"chatId": "c1", "content": doc("over"), "basedOnVersion": 1})
        assert (answer["type"], answer["payload"]["code"]) == ("error", "unavailable")
        assert await vault_server.entries("sidecar/") == []
        await vault_server.write(f"{vault_server.mount}/data/{slot}", data=saved["data"]["data"])
        assert (await record(one, "c1"))["draft"] == doc("kept")


async def test_s68_a_deleted_chat_stays_deleted_whatever_was_lost(
    vault_server: Vault, serve: Serve, wipe_cache: WipeCache
) -> None:
    """S68: tombstone and cache are gone, and the row stands again: the mark in Vault says `deleted`, and no key is made."""
    async with serve(encryption=section(vault_server), drafts=AT_ONCE) as server, devices(server, 1) as (one,):
        await say(one, "c1", "m1", doc("hello"))
        await settled(server)
        chat = one.full("c1")
        [row] = rows(server.context.config.data_dir.parent, "SELECT * FROM chats")
        await one.ask("chat_delete", {"chatId": chat})
        await settled(server)
        folder = server.context.config.data_dir.parent
    kept = {name: row[name] for name in row.keys() if name != "sorted_at"}  # noqa: SIM118  # which is computed
    names = ", ".join(kept)
    rows(folder, f"INSERT INTO chats ({names}) VALUES ({', '.join('?' * len(kept))})", *kept.values())
    await wipe_cache()
    async with serve(encryption=section(vault_server), drafts=AT_ONCE) as server, devices(server, 1) as (one,):
        frames = await one.sync(chats=[{"id": chat, "version": 0, "titleVersion": 0, "messagesVersion": 1}])
        assert [each["id"] for frame in frames for each in frame["chats"]] == []
        assert chat in [each["id"] for frame in frames for each in frame["deleted"]]
        await settled(server)
        assert rows(folder, "SELECT id FROM chats") == []
        assert [each async for each in cipher_of(server).keys_of(UserHash(one.user))] == []


async def test_t31_a_key_reference_that_was_exchanged_in_the_cache_seals_and_opens_nothing(
    vault_server: Vault, serve: Serve
) -> None:
    """T31, for keys: whoever may write into the cache makes no chat's text open, or end, with another chat's key."""
    async with serve(encryption=section(vault_server)) as server, devices(server, 1) as (one,):
        await begin(one, "mine", doc("mine"))
        await begin(one, "other", doc("other"))
        person, mine = UserHash(one.user), ChatId(one.full("mine"))
        key, other = await _key(server, one, "mine"), await _key(server, one, "other")
        cache = server.context.parts.cache.chats
        record = (await cache.read(person, [mine]))[mine]
        assert isinstance(record, ChatInCache)
        poisoned = record.having(key=other)
        reading = cache.read

        async def read(user: UserHash, ids: Any, **options: Any) -> Any:
            found = await reading(user, ids, **options)
            return {chat: poisoned if chat == mine else each for chat, each in found.items()}

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cache, "read", read)
            server.context.parts.references.keep(person, mine, other)
            answer = await one.ask("draft_update", {"chatId": "mine", "content": doc("x"), "basedOnVersion": 1})
            assert (answer["type"], answer["payload"]["code"]) == ("error", "unavailable")
            [chat] = (await one.ask("chats_request", {"ids": ["mine"]}))["payload"]["chats"]
            assert (chat["draft"], chat["undecryptable"]) == (None, ["draft"])
        server.context.parts.references.keep(person, mine, key)
        answer = await one.ask("draft_update", {"chatId": "mine", "content": doc("y"), "basedOnVersion": 1})
        assert answer["payload"]["version"] == 2


# -- operators ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["kv", "transit"])
async def test_s63_f23_rotating_and_resealing_while_people_edit(vault_server: Vault, serve: Serve, mode: str) -> None:
    """S63, F23: two devices write all the while; no edit is refused, and everything opens."""
    options: dict[str, Any] = {}
    if mode == "transit":
        mount = await vault_server.mount_transit()
        await vault_server.write(f"{mount}/keys/sidecar", derived=True)
        options = {"mode": "transit", "transit": {"mount": mount}}
    async with (
        serve(encryption=section(vault_server, **options), drafts=AT_ONCE) as server,
        devices(server, 2) as (one, two),
    ):
        for number in range(5):
            await say(one, f"c{number}", "m1", doc(f"old {number}"))
        version = rotations = 0
        while version < 40 or rotations < 20:
            frame = {"chatId": "c1", "content": doc(f"edit {version}"), "basedOnVersion": version}
            writing = asyncio.create_task(one.ask("draft_update", frame))
            if version % 10 == 0:
                rotations += (await result(server, "keys-rotate"))["count"]
                resealed = await result(server, "keys-reseal")
                assert resealed["undecryptable"] == 0
            said = await writing
            assert said["type"] == "draft_updated", said
            version = said["payload"]["version"]
        assert (await record(two, "c1"))["draft"] == doc(f"edit {version - 1}")
        for number in range(5):
            page = await two.ask("messages_request", {"chatId": f"c{number}", "limit": 5})
            assert [message["content"] for message in page["payload"]["messages"]] == [doc(f"old {number}")]


async def test_rotating_and_resealing_can_be_broken_off_and_given_again(vault_server: Vault, serve: Serve) -> None:
    """Each chat is rotated whole or not at all; the next run goes over all of them, and nothing is left half done."""
    async with (
        serve(encryption=section(vault_server), drafts=AT_ONCE, limits=FAST) as server,
        devices(server, 1) as (one,),
    ):
        for number in range(80):
            await say(one, f"c{number}", "m1", doc(f"text {number}"))
        await settled(server)
        cipher = cipher_of(server)
        replace, seen = cipher._entries.replace, asyncio.Event()
        count = 0

        async def counted(entry: Entry, number: int) -> bool:
            nonlocal count
            count += 1
            if count >= 20:
                seen.set()
            return await replace(entry, number)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cipher._entries, "replace", counted)
            rotating = asyncio.create_task(operate(server, "keys-rotate"))
            await seen.wait()
            rotating.cancel()
            await asyncio.gather(rotating, return_exceptions=True)

        async def free() -> bool:
            return "result" in (await operate(server, "keys-rotate"))[-1]

        await until(free)
        for command in ("keys-reseal", "keys-reseal"):
            told = await result(server, command)
            assert (told["undecryptable"], told["left"]) == (0, 0)
        cipher.drop_cached()
        await lose_cache(server, one)
        for number in range(80):
            page = await one.ask("messages_request", {"chatId": f"c{number}", "limit": 5})
            assert [message["content"] for message in page["payload"]["messages"]] == [doc(f"text {number}")]


async def test_destroying_and_pruning_through_the_sidecar(vault_server: Vault, serve: Serve) -> None:
    async with serve(encryption=section(vault_server), drafts=AT_ONCE) as server, devices(server, 1) as (one,):
        for number in range(3):
            await say(one, f"c{number}", "m1", doc("hello"))
        await begin(one, "draft", doc("never sent"))
        await settled(server)
        said = await result(server, "keys-destroy", chat=one.full("c0"))
        assert said["count"] == 1
        assert (await one.event("chat_deleted"))["chatId"] == one.full("c0")
        await lose_cache(server, one)
        assert (await result(server, "keys-prune", grace=0.1))["count"] == 1
        left = [each async for each in cipher_of(server).keys_of(UserHash(one.user))]
        assert {chat for _, _, chat in left} == {one.full("c1"), one.full("c2")}


async def test_t47_erasing_a_person_leaves_nothing_of_them_in_vault(vault_server: Vault, serve: Serve) -> None:
    """T47: keys and marks; the other person's stay."""
    async with (
        serve(encryption=section(vault_server), drafts=AT_ONCE) as server,
        Device(server.url) as alice,
        Device(server.url, "bob") as bob,
    ):
        for number in range(3):
            await say(alice, f"c{number}", "m1", doc("hello"))
        await alice.ask("chat_delete", {"chatId": "c0"})
        await say(bob, "b1", "m1", doc("hello"))
        await settled(server)
        person = UserHash(alice.user)
        ids = [ChatId(alice.full(f"c{number}")) for number in range(3)]
        assert (await result(server, "users-erase", user=person))["done"]
        cipher = cipher_of(server)
        assert [each async for each in cipher.keys_of(person)] == []
        entries = await vault_server.entries("sidecar/")
        assert f"sidecar/{slot_of(UserHash(bob.user), ChatId(bob.full('b1')))}" in entries
        for chat_id in ids[1:]:
            assert f"sidecar/{slot_of(person, chat_id)}" not in entries


# -- many chats --------------------------------------------------------------------------------------------------------


async def test_a_cold_sync_of_a_thousand_chats_asks_for_each_key_once_and_for_few_at_a_time(
    vault_server: Vault, serve: Serve, wipe_cache: WipeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chat on the screen leaves before all the others' keys are asked for; the rest page by page."""
    sections: dict[str, Any] = {"encryption": section(vault_server), "limits": FAST, "drafts": AT_ONCE}
    async with serve(**sections) as server, devices(server, 1) as (one,):
        sent = [
            await one.send(
                "message_send", {"tempChatId": f"c{n}", "clientMessageId": "m1", "content": doc(f"text {n}")}
            )
            for n in range(1000)
        ]
        for each in sent:
            assert (await one.answer(each))["type"] == "message_accepted"
        await settled(server)
    await wipe_cache()
    async with serve(**sections) as server:
        cipher = cipher_of(server)
        whole, now, most, asked = cipher._entries.look, 0, 0, 0

        async def counted(slot: str) -> Entry | Mark | None:
            nonlocal now, most, asked
            now, asked = now + 1, asked + 1
            most = max(most, now)
            try:
                return await whole(slot)
            finally:
                now -= 1

        monkeypatch.setattr(cipher._entries, "look", counted)
        async with Device(server.url) as one:
            seen: list[tuple[str, int]] = []
            chats: set[str] = set()
            id_ = await one.send("sync_request", {"lastOpenChatId": one.full("c7"), "chats": []})
            while True:
                frame = await one.answer(id_)
                payload = frame["payload"]
                seen.append((payload["phase"], asked))
                chats |= {chat["id"] for chat in payload["chats"]}
                assert not any(chat["undecryptable"] for chat in payload["chats"])
                if payload["complete"]:
                    break
            assert len(chats) == 1000
            assert seen[0] == ("active", 1)
            assert next(count for phase, count in seen if phase == "recent") <= 21
            assert asked <= 1001
            # Who names all of them is judged by what was seen on the way: no key is asked for twice.
            before = asked
            held = [{"id": chat, "version": 0, "titleVersion": 0, "messagesVersion": 0} for chat in sorted(chats)]
            last = (await one.sync(chats=held))[-1]
            assert (last["complete"], last["missing"], last["deleted"]) == (True, [], [])
            assert asked - before <= 1000
            assert 1 < most <= 12


# -- several processes -------------------------------------------------------------------------------------------------


async def test_t35_s61_processes_that_share_vault_and_redis_make_one_key(
    vault_server: Vault, redis_server: RedisServer, tmp_path: Path
) -> None:
    """T35, S61: two processes, no key file: first drafts of one chat on both at once; one key, and all of it opens."""
    shared: dict[str, Any] = {
        "cache": {"use": "redis", "options": {"url": redis_server.url, "shards": 4}},
        "encryption": section(vault_server),
        "persistence": {"use": "sqlite", "options": {"path": str(tmp_path / "store.sqlite")}},
    }
    async with (
        SidecarProcess(tmp_path / "first", **shared) as first,
        SidecarProcess(tmp_path / "second", **shared) as second,
        Device(first.url) as one,
        Device(second.url) as two,
    ):
        for number in range(30):
            ids = [
                await device.send(
                    "draft_update", {"tempChatId": f"c{number}", "content": doc(text), "basedOnVersion": 0}
                )
                for device, text in ((one, "one"), (two, "two"))
            ]
            answers = [await one.answer(ids[0]), await two.answer(ids[1])]
            assert sorted(each["type"] for each in answers) == ["chat_initiated", "draft_conflict"], answers
        for device in (one, two):
            for number in range(30):
                assert (await record(device, f"c{number}"))["undecryptable"] == []
    assert len(await vault_server.entries("sidecar/")) == 30
