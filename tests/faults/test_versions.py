"""F37: a newer sidecar beside this one, on one Redis: unknown fields are passed over and kept, another layout refuses to start."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from typing import Any

import msgpack
import pytest

from tests.device import Device, Frame, doc, new_id
from tests.faults.hosts import Hosts, hosts
from tests.integration.world import AT_ONCE, chats_of, until
from tests.plugins.next_version import ADDED
from tests.process import SidecarProcess
from tests.services.fixtures import StartRedis

__all__ = ["hosts"]

NEWER = "import tests.plugins.next_version as version; version.install()"
STEPS = 150


async def _written(hosts: Hosts, user: str) -> dict[str, set[bool]]:
    """By the kind of record in Redis, whether those of this person have the newer version's field."""
    found: dict[str, set[bool]] = {}

    def note(kind: str, packed: bytes) -> None:
        found.setdefault(kind, set()).add(msgpack.unpackb(packed, raw=True)[-1] == ADDED.encode())

    async with hosts.redis.client() as client:
        redis: Any = client
        for key in [key async for key in redis.scan_iter()]:
            name = key.rpartition(b":")[0].rpartition(b":")[2]
            if key.endswith(user.encode()) and name == b"person":
                for field, value in (await redis.hgetall(key)).items():
                    kind = field.partition(b":")[0].decode()
                    if kind == "m":
                        for message in msgpack.unpackb(value, raw=True):
                            note("m", msgpack.packb(message))
                    elif kind in ("p", "c", "b", "o"):
                        note(kind, value)
            elif key.endswith(user.encode()) and name == b"log":
                for item in await redis.lrange(key, 0, -1):
                    note("log", item)
            elif key.endswith(b":outbox") and await redis.type(key) == b"hash":
                for field, value in (await redis.hgetall(key)).items():
                    if field.startswith(b"e:"):
                        note("entry", value)
    return found


@pytest.mark.xfail(reason="open: fails now and then beside other work", strict=False)
async def test_f37_fields_of_a_newer_version_are_passed_over_and_kept(hosts: Hosts) -> None:
    """F37: either writes, either reads, either delivers; both devices and the store agree in the end."""
    chance = random.Random(37)
    away = hosts.folder / "away"
    away.touch()
    store = {"use": "tests.integration.faulty_store:FaultyStore", "options": {"away": str(away)}}
    async with hosts(2, lambda number: {"before": NEWER if number else ""}, persistence=store, drafts=AT_ONCE) as both:
        newer, older = [await Device(host.url).open() for host in reversed(both)]
        devices = [older, newer]
        for device in devices:
            await device.sync()
        # What the newer one writes has the field, and what the older one makes of it keeps it.
        for device, version in ((newer, 0), (older, 1), (newer, 2), (older, 3)):
            await _ask(device, "draft_update", {"tempChatId": "first", "content": doc("x"), "basedOnVersion": version})
        said = {"tempChatId": "first", "clientMessageId": "m1", "content": doc("said"), "draftVersion": 4}
        await _ask(newer, "message_send", said)
        await _ask(older, "title_update", {"chatId": "first", "title": "title", "basedOnVersion": 0})
        written = await _written(hosts, older.user)
        assert written.pop("p") == written.pop("c") == written.pop("m") == written.pop("b") == {True}
        assert written["o"] == written["log"] == {True, False}, "each wrote some"
        assert True in written["entry"]
        for _ in range(STEPS):
            await _step(chance, devices)
        for device in devices:
            await _unknown_keys(device)
        away.unlink()

        async def delivered() -> bool:
            return not any(await asyncio.gather(*(host.metric("sidecar_outbox_pending") for host in both)))

        await until(delivered, 30)
        synced = [chats_of(await device.sync()) for device in devices]
        assert synced[0] == synced[1]
        assert len(synced[0]) > 3
        texts = {chat["id"]: [m["client_message_id"] for m in chat.get("messages", [])] for chat in synced[0].values()}
        stored = hosts.rows("SELECT chat_id, client_message_id FROM messages ORDER BY sequence")
        for chat_id, messages in texts.items():
            assert [row["client_message_id"] for row in stored if row["chat_id"] == chat_id] == messages
        assert await asyncio.gather(*(host.metric("sidecar_outbox_parked") for host in both)) == [0, 0]
        for host in both:
            host.spotless()
        for device in devices:
            await device.close()


async def _ask(device: Device, type_: str, payload: dict[str, Any]) -> Frame:
    answer = await device.ask(type_, payload)
    assert answer["type"] != "error", answer
    assert "conflict" not in answer["type"], answer
    return answer


async def _step(chance: random.Random, devices: Sequence[Device]) -> None:
    """One change by one of them, on top of what the chat is, and what the other is told of it."""
    one, other = chance.sample(devices, 2)
    other.events.clear()
    name = f"c{chance.randrange(8)}"
    page = (await one.ask("chats_request", {"ids": [name]}))["payload"]["chats"]
    chat = page[0] if page else None
    version = chat["version"] if chat else 0
    text = doc(new_id())
    kind = chance.choice(["edit", "edit", "title", "say", "say", "clear", "delete"])
    has_messages = bool(chat and chat["messages_version"])
    if kind == "edit" or chat is None:
        answer = await one.ask("draft_update", {"tempChatId": name, "content": text, "basedOnVersion": version})
        if answer["type"] == "draft_conflict":
            assert answer["payload"]["reason"] == "chat_deleted"
            return
        event, where = "chat_added" if chat is None else "draft_updated", "content"
    elif kind == "title":
        title = {"chatId": name, "title": new_id(), "basedOnVersion": chat["title_version"]}
        answer = await _ask(one, "title_update", title)
        event, where = "title_updated", "title"
    elif kind == "say":
        answer = await _ask(one, "message_send", {"tempChatId": name, "clientMessageId": new_id(), "content": text})
        event, where = "message_new", "message"
    elif kind == "clear" and has_messages and chat["draft_state"] == "edited":
        clear = {"chatId": name, "basedOnVersion": version, "hasMessages": True}
        answer = await _ask(one, "draft_delete", clear)
        event, where = "draft_updated", "content"
    elif kind == "delete" and chance.random() < 0.3:
        answer = await _ask(one, "chat_delete", {"chatId": name})
        event, where = "chat_deleted", "deletedAt"
    else:
        return
    told = await other.event(event)
    if event == "chat_added":
        assert told["chat"]["draft"] == text
    elif where in answer["payload"] and event != "message_new":
        assert told[where] == answer["payload"][where]


async def _unknown_keys(device: Device) -> None:
    """A newer client says more than this version knows: it is passed over, and asked again it is the same frame."""
    payload: dict[str, Any] = {"tempChatId": "new", "content": doc("x"), "basedOnVersion": 0, "mood": "calm"}
    page = (await device.ask("chats_request", {"ids": ["new"]}))["payload"]["chats"]
    payload["basedOnVersion"] = page[0]["version"] if page else 0
    frame = {"type": "draft_update", "id": new_id(), "payload": payload, "trace": {"span": 1}}
    answers = []
    for _ in range(2):
        await device.send_raw(json.dumps(frame))
        answers.append(await device.answer(str(frame["id"])))
    assert answers[0]["payload"]["version"] == answers[1]["payload"]["version"] == payload["basedOnVersion"] + 1


@pytest.mark.parametrize("other", [0, 2])
async def test_f37_another_layout_refuses_to_start(hosts: Hosts, other: int) -> None:
    """F37: exit 3, and it says which one the cache has; it changes nothing, and those that run go on."""
    layout = (
        f"import plugins.cache.redis_layout as layout, plugins.cache.redis_server as server; server.LAYOUT = {other}"
    )
    async with hosts(1) as [one], Device(one.url) as device:
        assert await hosts.redis.cli("GET", "sidecar:layout") == "1"
        refused = SidecarProcess(hosts.folder / "other", **hosts.sections(), before=layout)
        await refused.start()
        assert await refused.exit() == 3
        await refused.output()
        assert f"this cache has layout 1 and this sidecar writes layout {other}" in refused.log.read_text()
        assert await hosts.redis.cli("GET", "sidecar:layout") == "1"
        assert (await device.ask("ping", {}))["type"] == "pong"


@pytest.mark.xfail(reason="open: fails now and then beside other work", strict=False)
async def test_f37_a_cache_that_turns_out_to_be_another_is_not_used(hosts: Hosts) -> None:
    """F37: what all processes agreed on is looked at again and again; after FLUSHALL it is written down anew."""
    edit = {"tempChatId": "c1", "content": doc("x"), "basedOnVersion": 0}
    async with hosts(1) as [one], Device(one.url) as device:
        await hosts.redis.cli("FLUSHALL")
        await until(lambda: _agreed(hosts), 20)
        await hosts.redis.cli("SET", "sidecar:layout", "2")

        async def refuses() -> bool:
            return (await one.ask("/readyz"))[0] == 503

        await until(refuses, 20)
        assert (await device.ask("draft_update", edit, "operation"))["payload"]["code"] == "unavailable"
        assert any("layout 2" in line["reason"] for line in one.events("redis_finding"))
        await hosts.redis.cli("SET", "sidecar:layout", "1")

        async def serves() -> bool:
            return (await one.ask("/readyz"))[0] == 200

        await until(serves, 20)
        assert one.events("redis_finding")


async def _agreed(hosts: Hosts) -> bool:
    return [await hosts.redis.cli("GET", f"sidecar:{name}") for name in ("layout", "shards")] == ["1", "64"]


async def test_f1_a_server_that_comes_later_is_used_only_if_it_can_be(hosts: Hosts, start_redis: StartRedis) -> None:
    """F1: started before Redis, which then comes with a policy that drops drafts: `unavailable` until that is mended."""
    redis = await start_redis(maxmemory="100mb", maxmemory_policy="allkeys-lru")
    redis.kill()
    hosts.redis = redis
    async with hosts(1) as [one]:
        await redis.start()
        await until(lambda: any("allkeys-lru" in line["reason"] for line in one.events("redis_finding")), 20)
        turned_away = Device(one.url)
        await turned_away.connect()
        assert (await turned_away.sign_in())["payload"]["code"] == "unavailable"
        assert await turned_away.closed() == 1013
        await turned_away.close()
        assert (await one.ask("/readyz"))[0] == 503
        await redis.cli("CONFIG", "SET", "maxmemory-policy", "noeviction")

        async def serves() -> bool:
            return (await one.ask("/readyz"))[0] == 200

        await until(serves, 20)
        async with Device(one.url) as device:
            assert (await device.ask("ping", {}))["type"] == "pong"
