"""SIGTERM: nobody new, 1012 for everybody spread over the drain time, what is due goes to the store, exit 0 (F36; semantics §10)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sidecar.server.running import Server
from tests.conftest import Serve, WipeCache
from tests.device import Device, SocketClosed, doc
from tests.process import SidecarProcess
from tests.raw_socket import RawSocket

SLOW_DRAFTS = {"debounce": "10m", "max_debounce": "10m"}
"""Nothing but the end of the sidecar makes a draft due."""


async def _synced(device: Device) -> dict[str, dict[str, Any]]:
    """What a full sync tells, all its phases together."""
    found: dict[str, dict[str, Any]] = {}
    for part in await device.sync():
        for chat in part["chats"]:
            found.setdefault(chat["id"], {}).update(chat)
    return found


async def _write(device: Device, chat: str, accepted: dict[str, tuple[int, str]]) -> None:
    """Edits a draft until the socket is closed, and remembers the last edit that was accepted."""
    version = 0
    try:
        while True:
            text = f"{chat} {version + 1}"
            sent = {"content": doc(text), "basedOnVersion": version}
            where = {"chatId": chat} if version else {"tempChatId": chat}
            answer = await device.ask("draft_update", {**where, **sent})
            if answer["type"] == "error":
                await asyncio.sleep(0.01)
                continue
            version = answer["payload"]["version"]
            accepted[chat] = (version, text)
            await asyncio.sleep(0.025)
    except (SocketClosed, ConnectionError):
        pass


@pytest.mark.caches("memory", "redis")
async def test_f36_sigterm_loses_nothing_that_was_accepted(
    tmp_path: Path, cache_section: Mapping[str, Any], wipe_cache: WipeCache
) -> None:
    """F36: writers on eight sockets; every one is closed with 1012, one after the other; then exit 0."""
    accepted: dict[str, tuple[int, str]] = {}
    async with SidecarProcess(tmp_path, drafts=SLOW_DRAFTS, cache=dict(cache_section)) as process:
        keeper = await Device(process.url).open()
        message = {"tempChatId": "sent", "clientMessageId": "m", "content": doc("hello")}
        assert (await keeper.ask("message_send", message))["type"] == "message_accepted"
        draft = {"chatId": "sent", "content": doc("a draft of a stored chat"), "basedOnVersion": 0}
        answer = await keeper.ask("draft_update", draft)
        assert (answer["type"], answer["payload"]["durability"]) == ("draft_updated", "cached")
        half_open = await RawSocket(process.url).dial()
        await half_open.upgrade()
        devices = [await Device(process.url).open() for _ in range(8)]
        writers = [asyncio.create_task(_write(device, f"c{n}", accepted)) for n, device in enumerate(devices)]
        await asyncio.sleep(0.3)
        loop = asyncio.get_running_loop()
        process.signal(signal.SIGTERM)
        ends: list[float] = []

        async def end(device: Device) -> None:
            assert await device.closed() == 1012
            ends.append(loop.time())

        await asyncio.gather(*map(end, [keeper, *devices]))
        assert max(ends) - min(ends) > 0.4, "they come back one after the other"
        assert await half_open.closed() == 1012
        with pytest.raises(ConnectionError):
            await RawSocket(process.url).dial()
        await asyncio.gather(*writers)
        assert await process.exit() == 0
        half_open.writer.close()
        for device in (keeper, *devices):
            await device.close()
    assert len(accepted) == 8
    log = process.log.read_text()
    assert "Traceback" not in log
    assert "connections_left" not in log
    async with (
        SidecarProcess(tmp_path, drafts=SLOW_DRAFTS, cache=dict(cache_section)) as process,
        Device(process.url) as device,
    ):
        found = await _synced(device)
        for chat, (version, text) in accepted.items():
            kept = found[device.full(chat)]
            assert kept["version"] >= version, "an accepted edit is gone"
            assert kept["version"] > version or kept["draft"] == doc(text)
    # The store alone, as another cache would find it: what was due is there.
    await wipe_cache()
    async with (
        SidecarProcess(tmp_path, drafts=SLOW_DRAFTS, cache=dict(cache_section)) as process,
        Device(process.url) as device,
    ):
        found = await _synced(device)
        assert list(found) == [device.full("sent")], "the cache is really empty"
        assert found[device.full("sent")]["draft"] == doc("a draft of a stored chat")
        assert found[device.full("sent")]["version"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_f36_an_idle_sidecar_ends_at_once_with_0(tmp_path: Path, number: signal.Signals) -> None:
    async with SidecarProcess(tmp_path) as process:
        process.signal(number)
        assert await asyncio.wait_for(process.exit(), 10) == 0


@pytest.mark.caches("memory", "redis")
async def test_f36_kill_9_loses_nothing_that_was_accepted(tmp_path: Path, cache_section: Mapping[str, Any]) -> None:
    accepted: dict[str, tuple[int, str]] = {}
    async with SidecarProcess(tmp_path, drafts=SLOW_DRAFTS, cache=dict(cache_section)) as process:
        devices = [await Device(process.url).open() for _ in range(4)]
        writers = [asyncio.create_task(_write(device, f"c{n}", accepted)) for n, device in enumerate(devices)]
        await asyncio.sleep(0.3)
        process.signal(signal.SIGKILL)
        await process.exit()
        await asyncio.gather(*writers)
        for device in devices:
            await device.close()
    assert len(accepted) == 4
    async with (
        SidecarProcess(tmp_path, drafts=SLOW_DRAFTS, cache=dict(cache_section)) as process,
        Device(process.url) as device,
    ):
        found = await _synced(device)
        for chat, (version, _) in accepted.items():
            assert found[device.full(chat)]["version"] >= version


@pytest.mark.caches("memory", "redis")
async def test_f36_what_is_in_flight_is_finished(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, asked, go_on = server.context.parts.cache.chats.commit, asyncio.Event(), asyncio.Event()

    async def slowly(change: object) -> object:
        asked.set()
        await go_on.wait()
        return await commit(change)  # type: ignore[arg-type]

    device = await Device(server.url).open()
    monkeypatch.setattr(server.context.parts.cache.chats, "commit", slowly)
    await device.send("draft_update", {"tempChatId": "c1", "content": doc("x"), "basedOnVersion": 0}, "op-in-flight")
    await asked.wait()
    draining = asyncio.create_task(server.drain())
    assert await device.closed() == 1012
    go_on.set()
    await draining
    await device.close()
    monkeypatch.undo()
    user = device.user
    chats = await server.context.parts.cache.chats.events(user, None, 0)  # type: ignore[arg-type]
    assert chats.head.offset >= 1, "the change that was under way was carried out"


async def test_f36_who_signs_in_while_the_server_stops_is_sent_away(serve: Serve) -> None:
    async with serve(auth={"use": "tests.plugins.sessions:Sessions"}) as server:
        device = await Device(server.url, token="alice").connect()
        await device.ask("ping", {})
        server.context.stopping = True
        answer = await device.ask("auth", {"token": "alice", "protocol": 1})
        assert answer["payload"]["code"] == "unavailable"
        assert answer["payload"]["retryable"]
        assert await device.closed() == 1012
        await device.close()
        assert len(server.context.registry) == 0
