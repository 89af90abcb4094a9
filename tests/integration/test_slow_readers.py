"""Readers that take nothing or little: their share of memory is bounded, they are cut off, and nobody waits for them (S37, T18)."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from sidecar.connections import SLOW_READER
from sidecar.server.running import Server
from tests.conftest import Serve
from tests.device import Device, doc, new_id
from tests.memory import resident
from tests.raw_socket import RawSocket

KIB, MIB = 1024, 1024 * 1024
QUEUE = 64 * KIB


class Stalled(RawSocket):
    """A reader that signs in and takes nothing any more; its own buffers are as small as the system lets them be."""

    async def dial(self) -> Any:
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.setblocking(False)
        await asyncio.get_running_loop().sock_connect(line, (self.host, self.port))
        self.reader, self.writer = await asyncio.open_connection(sock=line, limit=2048)
        return self

    async def stall(self, name: str) -> Any:
        await self.dial()
        await self.sign_in(name)
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]
        return self


class _Stuck:
    """A wire whose reader takes nothing from now on."""

    def __init__(self, wire: Any) -> None:
        self.close = wire.close
        self.ping = wire.ping

    def backlog(self) -> int:
        return 1 << 30

    async def write_waiting(self, frame: bytes) -> None:
        await asyncio.Event().wait()


async def _busy(device: Device, edits: int, size: int) -> None:
    """Makes a chat and edits it until every one of `edits` was accepted."""
    await device.ask("draft_update", {"tempChatId": "busy", "content": doc("x"), "basedOnVersion": 0})
    for version in range(1, edits + 1):
        content = doc(f"{version}" + "x" * size)
        answer = await device.ask("draft_update", {"chatId": "busy", "content": content, "basedOnVersion": version})
        assert answer["type"] == "draft_updated", answer


async def test_t18_s37_stalled_readers_are_cut_off_and_the_others_see_everything(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T18: 25 stalled readers and a busy chat."""
    monkeypatch.setattr("sidecar.server.wire._CLOSE_SECONDS", 0.5)
    limits = {"send_queue": "384KiB", "frames_per_second": 10_000, "connections_per_user": 100}
    drafts = {"debounce": "10m", "max_debounce": "10m"}
    async with serve(limits=limits, sync={"max_frame": "384KiB"}, drafts=drafts) as server:
        author, other = await Device(server.url).open(), await Device(server.url).open()
        await author.sync()
        await other.sync()
        readers = [await Stalled(server.url).stall("alice") for _ in range(25)]
        before = resident()
        await _busy(author, 200, 20_000)  # 4 MB of events for each connection
        last = await other.event("draft_updated", lambda event: event["version"] == 201)
        assert last["content"] == doc("200" + "x" * 20_000)
        seen = [event["payload"]["version"] for event in other.events if event["type"] == "draft_updated"]
        assert seen == sorted(set(seen))
        grown = resident() - before
        assert grown < len(readers) * 2 * MIB + 60 * MIB
        for _ in range(200):
            if len(server.context.registry) == 2:
                break
            await asyncio.sleep(0.05)
        assert len(server.context.registry) == 2, "all that stalled are gone"
        metrics = server.context.parts.metrics.registry
        assert metrics.get_sample_value("sidecar_connections_closed_total", {"code": str(SLOW_READER)}) == 25
        assert (await author.ask("ping", {}))["type"] == "pong"
        for reader in readers:
            reader.writer.close()
        await author.close()
        await other.close()


@pytest.mark.caches("memory", "redis")
async def test_t18_who_was_cut_off_comes_back_by_its_cursor(serve: Serve) -> None:
    limits = {"send_queue": "384KiB", "frames_per_second": 10_000}
    async with serve(limits=limits, sync={"max_frame": "384KiB"}) as server, Device(server.url) as author:
        await author.sync()
        slow = await Device(server.url).open()
        cursor = (await slow.sync())[-1]["cursor"]
        [connection] = [each for each in server.context.registry if each.id == slow.ready["connectionId"]]
        connection._wire = _Stuck(connection._wire)  # type: ignore[assignment]
        await _busy(author, 25, 20_000)
        assert await slow.closed() == SLOW_READER
        await slow.close()
        await slow.open()
        [delta] = await slow.sync(cursor=cursor)
        assert delta["·type"] == "sync_delta"
        assert [chat["version"] for chat in delta["chats"]] == [26]
        await slow.close()


async def test_t18_a_reader_that_stalls_during_its_sync_is_cut_off(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.connections._DRAIN_SECONDS", 0.3)
    async with serve(limits={"frames_per_second": 10_000, "draft_chats_per_user": 1000}) as server:
        author = await Device(server.url).open()
        for number in range(40):
            sent = {"tempChatId": f"c{number}", "content": doc("x" * 100_000), "basedOnVersion": 0}
            assert (await author.ask("draft_update", sent))["type"] == "chat_initiated"
        reader = await Stalled(server.url).stall("alice")
        before = resident()
        for _ in range(3):
            reader.send(b'{"type":"sync_request","id":"s","payload":{}}')
        await asyncio.sleep(0.2)
        assert resident() - before < 30 * MIB
        for _ in range(200):
            if len(server.context.registry) == 1:
                break
            await asyncio.sleep(0.05)
        assert len(server.context.registry) == 1
        reader.writer.close()
        await author.close()


async def test_t18_pages_that_nobody_reads_are_bounded(serve: Serve) -> None:
    """T18: a client that asks for page after page and reads none of them."""
    async with serve(limits={"frames_per_second": 10_000, "burst": 10_000}, sync={"max_frame": "384KiB"}) as server:
        author = await Device(server.url).open()
        for number in range(10):
            sent = {
                "tempChatId": "c",
                "clientMessageId": f"m{number}",
                "content": doc("x" * 100_000),
            }
            assert (await author.ask("message_send", sent))["type"] == "message_accepted"
        reader = await Stalled(server.url).stall("alice")
        before = resident()
        request = b'{"type":"messages_request","id":"%d","payload":{"chatId":"c","limit":200}}'
        for number in range(300):
            reader.send(request % number)
        for _ in range(200):
            if len(server.context.registry) == 1:
                break
            await asyncio.sleep(0.05)
        assert len(server.context.registry) == 1
        assert resident() - before < 60 * MIB
        reader.writer.close()
        await author.close()


@pytest.mark.caches("memory", "redis")
async def test_s37_a_slow_reader_that_goes_on_gets_everything_in_order(server: Server) -> None:
    async with Device(server.url) as author, Device(server.url) as slow:
        await author.sync()
        await slow.sync()
        assert slow._ws is not None
        connection = slow._ws._response.connection
        assert connection is not None
        transport: Any = connection.transport
        transport.pause_reading()
        for number in range(40):
            sent = {"tempChatId": f"c{number}", "content": doc("x" * 10_000), "basedOnVersion": 0}
            await author.ask("draft_update", sent, new_id())
        transport.resume_reading()
        await slow.event("chat_added", lambda event: event["tempChatId"] == "c39")
        names = [event["payload"]["tempChatId"] for event in slow.events if event["type"] == "chat_added"]
        assert names == [f"c{number}" for number in range(39)]


@pytest.mark.caches("memory", "redis")
async def test_s37_a_sync_that_is_given_up_for_a_newer_one_does_not_harm_it(serve: Serve) -> None:
    """S37: the older sync waits for the reader when it is cancelled; the newer one goes on waiting, and is complete."""
    limits = {"frames_per_second": 10_000, "draft_chats_per_user": 1000}
    async with (
        serve(limits=limits) as server,
        Device(server.url) as author,
        Device(server.url) as reader,
    ):
        for number in range(40):
            sent = {"tempChatId": f"c{number}", "content": doc("x" * 100_000), "basedOnVersion": 0}
            assert (await author.ask("draft_update", sent))["type"] == "chat_initiated"
        assert reader._ws is not None
        connection = reader._ws._response.connection
        assert connection is not None
        transport: Any = connection.transport
        # Else the kernel may take all of it for a reader that has stopped reading.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        transport.pause_reading()
        older = await reader.send("sync_request", {})
        await asyncio.sleep(0.2)
        newer = await reader.send("sync_request", {})
        await asyncio.sleep(0.2)
        transport.resume_reading()
        frames = [await reader.answer(newer)]
        while not frames[-1]["payload"].get("complete"):
            frames.append(await reader.answer(newer))
        assert {frame["type"] for frame in frames} == {"initial_sync_data"}
        assert len({chat["id"] for frame in frames for chat in frame["payload"]["chats"]}) == 40
        first = await reader.answer(older)
        while first["type"] != "error":
            first = await reader.answer(older)
        assert first["payload"]["code"] == "unavailable"
