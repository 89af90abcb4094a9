"""Restarts, orderly and by kill -9: what was accepted is there, exactly once: S29–S31, F35, F43 (semantics §5, §7)."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import Serve
from tests.device import Device, SocketClosed, doc, new_id
from tests.integration.test_outbox import STORE, store_of
from tests.integration.world import (
    AT_ONCE,
    FAST,
    NEVER,
    begin,
    chats_of,
    devices,
    held,
    of_message,
    record,
    rows,
    say,
    settled,
    until,
)
from tests.process import SidecarProcess

pytestmark = pytest.mark.caches("memory", "redis")


def text_of(content: Any) -> str:
    return str(content["content"][0]["content"][0]["text"])


async def test_s29_s31_killed_between_acceptance_and_store_everything_is_there_exactly_once(
    tmp_path: Path, cache_section: Mapping[str, Any]
) -> None:
    """S29, S31, F35: the store is away, messages, drafts, a title and a deletion are accepted; kill -9; then all of it is stored."""
    away = tmp_path / "away"
    away.touch()
    sections: dict[str, Any] = {
        "persistence": {**STORE, "options": {"away": str(away)}},
        "drafts": AT_ONCE,
        "cache": dict(cache_section),
    }
    async with SidecarProcess(tmp_path, **sections) as process:
        one = await Device(process.url).open()
        await one.sync()
        first = await say(one, "c1", "m1", doc("one"))
        await begin(one, "c2", doc("two"))
        second = await say(one, "c2", "m1", doc("two"), draftVersion=1)
        await say(one, "c1", "m2", doc("three"))
        await one.ask("draft_update", {"chatId": "c1", "content": doc("draft"), "basedOnVersion": 0}, "operation-draft")
        await one.ask("title_update", {"chatId": "c1", "title": "title", "basedOnVersion": 0})
        await begin(one, "only", doc("only a draft"))
        await say(one, "gone", "m1", doc("gone"))
        await one.ask("chat_delete", {"chatId": "gone"})
        cursor = (await one.sync())[-1]["cursor"]
        process.signal(signal.SIGKILL)
        assert await process.exit() == -signal.SIGKILL
        await one.close()
    assert rows(tmp_path, "SELECT 1 FROM chats") == []
    async with SidecarProcess(tmp_path, **sections) as process:
        one.url = process.url
        async with one:
            assert one.ready["device"]["isNew"] is False
            [delta] = await one.sync(cursor=cursor)
            assert (delta["·type"], delta["chats"]) == ("sync_delta", [])  # the log has survived
            chats = chats_of(await one.sync())
            assert set(chats) == {one.full(chat) for chat in ("c1", "c2", "only")}
            c1 = chats[one.full("c1")]
            assert (c1["draft"], c1["draft_op"], c1["title"], c1["durability"]) == (
                doc("draft"),
                "operation-draft",
                "title",
                "cached",
            )
            assert [m["status"] for m in c1["messages"]] == ["sent", "sent"]
            # The same again, by operation and by message: first outcomes.
            again = await one.ask(
                "draft_update", {"chatId": "c1", "content": doc("draft"), "basedOnVersion": 0}, "operation-draft"
            )
            assert (again["type"], again["payload"]["version"]) == ("draft_updated", 1)
            repeated = await say(one, "c1", "m1", doc("one"))
            assert (repeated["message"]["id"], repeated["message"]["sequence"]) == (first["message"]["id"], 1)
            away.unlink()
            for message in (first, second):
                await one.event("message_update", of_message(message["message"]["id"]))
            await until(lambda: len(rows(tmp_path, "SELECT 1 FROM messages")) == 3)
            await until(
                lambda: rows(tmp_path, "SELECT max(version) FROM chats WHERE id = ?", one.full("c1"))[0][0] == 1
            )
            process.signal(signal.SIGTERM)
            assert await process.exit() == 0
    stored = rows(tmp_path, "SELECT chat_id, client_message_id, sequence FROM messages ORDER BY 1, 2")
    assert [tuple(row) for row in stored] == [
        (one.full("c1"), "m1", 1),
        (one.full("c1"), "m2", 2),
        (one.full("c2"), "m1", 1),
    ]
    assert {row["id"] for row in rows(tmp_path, "SELECT id FROM chats")} == {one.full("c1"), one.full("c2")}
    log = (tmp_path / "process.log").read_text()
    assert "Traceback" not in log
    assert "only a draft" not in log


class Writer:
    """Edits one draft and sends messages as fast as it is answered, and remembers what was accepted."""

    def __init__(self, device: Device, chat: str) -> None:
        self.device = device
        self.chat = chat
        self.accepted = 0
        self.messages: list[str] = []
        self.open: list[tuple[str, str, dict[str, Any]]] = []
        """Operations without an answer, in their order."""

    async def work(self) -> None:
        with contextlib.suppress(SocketClosed, aiohttp.ClientError, ConnectionError, TimeoutError):
            while True:
                for type_, payload in (
                    (
                        "draft_update",
                        {
                            "tempChatId": self.chat,
                            "content": doc(str(self.accepted + 1)),
                            "basedOnVersion": self.accepted,
                        },
                    ),
                    (
                        "message_send",
                        {"tempChatId": self.chat, "clientMessageId": new_id(), "content": doc("m")},
                    ),
                ):
                    self.open = [(new_id(), type_, payload)]
                    await self.play()

    async def play(self) -> None:
        """Sends what is open and takes the answer in."""
        for op, type_, payload in list(self.open):
            answer = await self.device.ask(type_, payload, op)
            if type_ == "draft_update":
                assert answer["type"] in ("draft_updated", "chat_initiated"), answer
                assert answer["payload"]["version"] == self.accepted + 1
                self.accepted += 1
            else:
                assert answer["type"] == "message_accepted", answer
                self.messages.append(payload["clientMessageId"])
            self.open.remove((op, type_, payload))


async def test_s30_f35_killed_at_any_moment_every_acceptance_stands_and_nothing_is_half_done(
    tmp_path: Path, cache_section: Mapping[str, Any]
) -> None:
    """S30, F35, F43: after each kill -9 number and text belong together; what was open is played again without double effect."""
    sections: dict[str, Any] = {
        "drafts": {"debounce": "50ms", "max_debounce": "100ms"},
        "limits": FAST,
        "cache": dict(cache_section),
    }
    writers: list[Writer] = []
    for round_, seconds in enumerate((0.5, 0.23, 0.37)):
        async with SidecarProcess(tmp_path, **sections) as process:
            if not writers:
                writers = [Writer(Device(process.url), f"c{number}") for number in range(6)]
            for writer in writers:
                writer.device.url = process.url
                await writer.device.open()
                frames = await writer.device.sync()
                chat = chats_of(frames).get(writer.device.full(writer.chat))
                if chat is not None:
                    # The operation under way at the kill has taken place or not.
                    assert writer.accepted <= chat["version"] <= writer.accepted + 1
                    assert text_of(chat["draft"]) == str(chat["version"])
                assert (chat is not None) or round_ == 0
                await writer.play()
            tasks = [asyncio.create_task(writer.work()) for writer in writers]
            await asyncio.sleep(seconds)
            process.signal(signal.SIGKILL)
            assert await process.exit() == -signal.SIGKILL
            await asyncio.gather(*tasks)
            for writer in writers:
                await writer.device.close()
    async with SidecarProcess(tmp_path, **sections) as process:
        for writer in writers:
            writer.device.url = process.url
            async with writer.device as device:
                await device.sync()
                await writer.play()
                chat = await record(device, writer.chat)
                assert (chat["version"], text_of(chat["draft"])) == (writer.accepted, str(writer.accepted))
                before: dict[str, Any] = {}
                found: list[str] = []
                sequences: list[int] = []
                while True:
                    answer = await device.ask("messages_request", {"chatId": writer.chat, "limit": 200, **before})
                    page = answer["payload"]
                    found = [m["client_message_id"] for m in page["messages"]] + found
                    sequences = [m["sequence"] for m in page["messages"]] + sequences
                    if not page["hasMore"]:
                        break
                    before = {"before": page["messages"][0]["id"]}
                assert found == writer.messages
                assert sequences == list(range(1, len(found) + 1))
        # A killed process' leases on its shards of a shared outbox end by themselves, and only then another goes on.
        sent = sum(len(writer.messages) for writer in writers)
        await until(lambda: len(rows(tmp_path, "SELECT 1 FROM messages")) == sent, 30)
        process.signal(signal.SIGTERM)
        assert await process.exit() == 0
    stored = {row["id"]: row["version"] for row in rows(tmp_path, "SELECT id, version FROM chats")}
    assert stored == {writer.device.full(writer.chat): writer.accepted for writer in writers}
    assert len(rows(tmp_path, "SELECT 1 FROM messages")) == sum(len(writer.messages) for writer in writers)
    assert sum(writer.accepted for writer in writers) > 30


async def test_an_orderly_stop_writes_what_is_due_later(tmp_path: Path, cache_section: Mapping[str, Any]) -> None:
    """Semantics §10: SIGTERM: sockets are told 1012, drafts go to the store however long the debounce, exit 0."""
    async with SidecarProcess(tmp_path, drafts=NEVER, cache=dict(cache_section)) as process:
        one = await Device(process.url).open()
        await one.sync()
        await say(one, "c1", "m1", doc("m"))
        await one.event("message_update")
        await one.ask("draft_update", {"chatId": "c1", "content": doc("late"), "basedOnVersion": 0})
        assert rows(tmp_path, "SELECT version FROM chats")[0]["version"] == 0
        process.signal(signal.SIGTERM)
        assert await process.exit() == 0
        assert await one.closed() == 1012
        await one.close()
    assert rows(tmp_path, "SELECT version FROM chats")[0]["version"] == 1


async def test_s29_a_restart_with_entries_pending_delivers_them(serve: Serve, tmp_path: Path) -> None:
    """S29: without a kill: what waits for the store goes on waiting in the next process, and is delivered by it."""
    from sidecar import Unavailable

    async with serve(persistence=STORE) as server, devices(server, 1) as (one,):
        store_of(server).trouble = lambda *_: Unavailable("persistence", "away")
        for number in range(3):
            await say(one, "c1", f"m{number}", doc("m"))
    assert rows(tmp_path, "SELECT 1 FROM messages") == []
    async with serve(persistence=STORE) as server, devices(server, 1) as (one,):
        await settled(server)
        assert [what[2] for what in store_of(server).stored] == ["m0", "m1", "m2"]
        page = await one.ask("messages_request", {"chatId": "c1", "limit": 5})
        assert {m["status"] for m in page["payload"]["messages"]} == {"delivered"}


@pytest.mark.caches("memory")
@pytest.mark.parametrize("journal", [True, False])
async def test_a_restart_keeps_drafts_outcomes_and_cursors_where_there_is_a_journal(
    serve: Serve, journal: bool
) -> None:
    """Semantics §7: with it nothing is lost; without it the devices bring their drafts back, and nothing is `deleted`."""
    cache = {"use": "memory", "options": {"journal": journal}}
    edit = {"tempChatId": "c1", "content": doc("x"), "basedOnVersion": 0}
    async with serve(cache=cache) as server, devices(server, 1) as (one,):
        await one.ask("draft_update", edit, "operation-x")
        await begin(one, "gone", doc("g"))
        await one.ask("chat_delete", {"chatId": "gone"})
        chat = await record(one, "c1")
        cursor = (await one.sync())[-1]["cursor"]
    async with serve(cache=cache) as server:
        one.url = server.url
        async with one:
            gone = {"id": "gone", "version": 1, "titleVersion": 0, "messagesVersion": 0}
            frames = await one.sync(cursor=cursor, chats=[held(chat), gone])
            assert [each["id"] for each in frames[-1]["deleted"]] == [one.full("gone")]
            again = await one.ask("draft_update", edit, "operation-x")
            assert (again["type"], again["payload"]["version"]) == ("chat_initiated", 1)
            if journal:
                assert frames[0]["·type"] == "sync_delta"
                assert frames[-1]["missing"] == []
            else:
                assert frames[0]["reason"] == "epoch_changed"
                assert frames[-1]["missing"] == [one.full("c1")]
