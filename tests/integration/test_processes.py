"""Sidecars that share cache, store and keys: what is done by one reaches the connections and keys of the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from plugins.encryption.local import LocalCipher
from sidecar.envelope import key_version_of
from sidecar.ids import ChatId, hash_user
from sidecar.server.running import Server
from tests.device import Device, doc
from tests.fleet.fleet import Fleet
from tests.integration.test_operators import result
from tests.integration.world import begin, say, until

ALICE = hash_user("alice")
Pair = tuple[Server, Server]


@pytest.fixture(params=["memory", "redis"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """A cache that several sidecars share."""
    if request.param == "redis":
        return {"use": "redis", "options": {"url": request.getfixturevalue("redis_server").url}}
    return {"use": "tests.plugins.shared_cache:Shared", "options": {"name": str(tmp_path)}}


@pytest.fixture
async def pair(tmp_path: Path, cache: dict[str, Any]) -> AsyncIterator[Pair]:
    async with Fleet(tmp_path, cache).serving(2) as [one, other]:
        yield one, other


async def test_s55_devices_on_two_sidecars_see_each_other(pair: Pair) -> None:
    async with Device(pair[0].url) as one, Device(pair[1].url) as two:
        await one.sync()
        await two.sync()
        await begin(one, "c1", doc("first"))
        chat = one.full("c1")
        assert (await two.event("chat_added"))["chat"]["draft"] == doc("first")
        edit = await two.ask("draft_update", {"chatId": chat, "content": doc("second"), "basedOnVersion": 1})
        assert edit["type"] == "draft_updated", edit
        assert (await one.event("draft_updated"))["content"] == doc("second")
        await say(one, "c1", "m1", doc("said"))
        assert (await two.event("message_new"))["message"]["content"] == doc("said")


async def test_disconnecting_closes_the_sockets_on_every_sidecar(pair: Pair) -> None:
    async with (
        Device(pair[0].url) as here,
        Device(pair[1].url) as there,
        Device(pair[1].url) as second,
        Device(pair[1].url, "bob") as bob,
    ):
        assert await result(pair[0], "users-disconnect", user=ALICE) == {"count": 3, "left": 0}
        assert [await each.closed() for each in (here, there, second)] == [4401] * 3
        assert (await bob.ask("ping", {}))["type"] == "pong"
    async with Device(pair[1].url) as again:
        assert (await again.ask("ping", {}))["type"] == "pong", "whoever comes back stays"
        await asyncio.sleep(0.3)
        assert again.close_code is None


async def test_disconnecting_names_places_that_nobody_gives_back(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """T23: a process that was killed holds its places until their leases end."""
    monkeypatch.setattr("sidecar.operations.persons._CLOSE_SECONDS", 0.2)
    async with Device(pair[0].url) as device:
        leases = pair[0].context.parts.cache.leases
        assert await leases.take(f"connections:{ALICE}", "of a dead process", 90.0, 20) is not None
        assert await result(pair[0], "users-disconnect", user=ALICE) == {"count": 1, "left": 1}
        assert await device.closed() == 4401


async def test_nobody_is_disconnected_where_nobody_is(pair: Pair) -> None:
    before = (await pair[0].context.parts.cache.chats.events(ALICE, None, 0)).head
    assert await result(pair[0], "users-disconnect", user=ALICE) == {"count": 0, "left": 0}
    assert (await pair[0].context.parts.cache.chats.events(ALICE, None, 0)).head == before


async def test_t47_erasing_closes_the_sockets_and_takes_the_keys_on_every_sidecar(pair: Pair) -> None:
    async with Device(pair[0].url) as here, Device(pair[1].url) as there:
        await here.sync()
        await there.sync()
        await say(there, "c1", "m1", doc("said"))
        await there.event("message_update")
        ciphers = [cast("LocalCipher", server.context.parts.cipher) for server in pair]
        await until(lambda: all(cipher._held for cipher in ciphers))
        said = await result(pair[0], "users-erase", user=ALICE)
        assert (said["done"], said["sockets"], said["sockets_left"]) == (True, 1, 0)
        assert [await here.closed(), await there.closed()] == [4401, 4401]
        await until(lambda: not any(cipher._held for cipher in ciphers), 3)


async def test_f22_s68_a_chat_that_is_deleted_on_one_sidecar_leaves_no_key_on_the_other(pair: Pair) -> None:
    """F22: the other process lets go of the key within a second, and the chat's texts are sealed by nobody any more."""
    async with Device(pair[0].url) as one, Device(pair[1].url) as two:
        await one.sync()
        await two.sync()
        await begin(one, "c1", doc("first"))
        chat = one.full("c1")
        await two.event("chat_added")
        other = cast("LocalCipher", pair[1].context.parts.cipher)
        assert other._held
        assert (await result(pair[0], "keys-destroy", chat=chat))["count"] == 1
        await two.event("chat_deleted")
        await until(lambda: not other._held, 3)
        assert pair[1].context.parts.references.get(ALICE, ChatId(chat)) is None
        late = await two.ask("draft_update", {"chatId": chat, "content": doc("late"), "basedOnVersion": 1})
        assert (late["type"], late["payload"]["reason"]) == ("draft_conflict", "chat_deleted")


async def test_s63_a_rotation_by_one_sidecar_is_used_by_the_other_at_once(pair: Pair) -> None:
    async with Device(pair[1].url) as device:
        await begin(device, "c1", doc("first"))
        chat = device.full("c1")
        assert (await result(pair[0], "keys-rotate"))["count"] == 1
        edit = await device.ask("draft_update", {"chatId": chat, "content": doc("second"), "basedOnVersion": 1})
        assert edit["type"] == "draft_updated"
        found = (await pair[0].context.parts.cache.chats.read(ALICE, [ChatId(chat)]))[ChatId(chat)]
        assert key_version_of(found.draft) == 2  # type: ignore[union-attr, arg-type]
