"""Workers that share a real Redis: one service to the devices, whichever worker they meet and whatever becomes of it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
import pytest

from sidecar.ids import hash_user
from tests.device import Device, SocketClosed, doc, new_id
from tests.integration.workers import Supervised, close, holder, spread, supervised, together
from tests.integration.world import AT_ONCE, NEVER, begin, edit_by_turns, rows, until

__all__ = ["supervised", "together"]


class Writer:
    """A person's device that says one message after the other, comes back after each end of its socket, and sends again
    what was not answered, under the ids that it had."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.name = name
        self.accepted: list[str] = []
        self.ends: list[int | None] = []
        self.over = asyncio.Event()
        self._waiting: tuple[str, str] | None = None

    async def write(self) -> None:
        device = Device(self.url, self.name)
        while not self.over.is_set():
            try:
                await device.open()
                while not self.over.is_set():
                    await self._say(device)
            except (SocketClosed, aiohttp.ClientError, ConnectionError):
                self.ends.append(device.close_code)
                await asyncio.sleep(0.02)
            finally:
                await device.close()

    async def _say(self, device: Device) -> None:
        operation, message = self._waiting = self._waiting or (new_id(), f"m{len(self.accepted)}")
        sent = {"tempChatId": "c1", "clientMessageId": message, "content": doc(message)}
        answer = await device.ask("message_send", sent, operation)
        if answer["type"] == "message_accepted":
            self.accepted.append(message)
            self._waiting = None
        else:
            assert answer["payload"]["retryable"], answer
        await asyncio.sleep(0.01)


async def _ended(writers: list[Writer], tasks: list[asyncio.Task[None]]) -> None:
    for writer in writers:
        writer.over.set()
    await asyncio.gather(*tasks)


def _stored(folder: Path) -> list[tuple[str, str]]:
    found = rows(folder, "SELECT hashed_user_id, client_message_id FROM messages")
    return sorted((row["hashed_user_id"], row["client_message_id"]) for row in found)


async def test_s55_devices_on_different_workers_see_each_other(together: Supervised) -> None:
    """S55: and each sees what another worker's connection did, in the order of the versions."""
    async with together() as process:
        found = await spread(process, name="alice")
        devices = [device for [device] in found.values()]
        for device in devices:
            await device.sync()
        await begin(devices[0], "c1", doc("0"))
        await edit_by_turns(devices, "c1", 12)
        await close(found)


async def test_f47_s13_of_edits_on_different_workers_with_one_base_exactly_one_wins(together: Supervised) -> None:
    async with together(limits={"frames_per_second": 5000, "burst": 5000}) as process:
        found = await spread(process, name="alice")
        devices = [device for [device] in found.values()]
        await begin(devices[0], "c1", doc("0"))
        for version in range(1, 60):
            edits = [
                device.ask("draft_update", {"chatId": "c1", "content": doc(f"{n}"), "basedOnVersion": version})
                for n, device in enumerate(devices)
            ]
            answers = await asyncio.gather(*edits)
            assert sorted(each["type"] for each in answers) == ["draft_conflict", "draft_conflict", "draft_updated"]
            [winner] = [n for n, each in enumerate(answers) if each["type"] == "draft_updated"]
            for each in answers:
                if each["type"] == "draft_conflict":
                    assert (each["payload"]["version"], each["payload"]["content"]) == (version + 1, doc(f"{winner}"))
        await close(found)


async def test_s61_t35_first_drafts_of_one_chat_on_different_workers_have_one_key(together: Supervised) -> None:
    """S61, T35: whoever loses the race for the key seals with the winner's; every text opens, on every worker."""
    async with together(limits={"draft_chats_per_user": 1000}) as process:
        found = await spread(process, name="alice")
        devices = [device for [device] in found.values()]
        for number in range(40):
            chat = f"c{number}"
            answers = await asyncio.gather(
                *(
                    device.ask("draft_update", {"tempChatId": chat, "content": doc(f"{n}"), "basedOnVersion": 0})
                    for n, device in enumerate(devices)
                )
            )
            assert sorted(each["type"] for each in answers) == ["chat_initiated", "draft_conflict", "draft_conflict"]
        for device in devices:
            chats = [chat for frame in await device.sync() for chat in frame["chats"]]
            assert len({chat["id"] for chat in chats}) == 40
            assert not any(chat.get("undecryptable") for chat in chats)
        await close(found)


async def test_f35_kill_9_of_workers_loses_no_accepted_message_and_doubles_none(
    together: Supervised, tmp_path: Path
) -> None:
    """F35, S28, S31: writers on every worker; one worker after the other is killed; each message is one row."""
    async with together(server={"workers": 3}) as process:
        writers = [Writer(process.url, f"w{number}") for number in range(9)]
        tasks = [asyncio.create_task(writer.write()) for writer in writers]
        await until(lambda: min(len(writer.accepted) for writer in writers) > 10)
        for _ in range(3):
            os.kill(process.workers()[0].pid, signal.SIGKILL)
            marks = [len(writer.accepted) for writer in writers]
            await until(lambda: all(len(w.accepted) > mark + 10 for w, mark in zip(writers, marks, strict=True)), 30)  # noqa: B023
        await _ended(writers, tasks)
        assert 1006 in {end for writer in writers for end in writer.ends}, "the fault happened"
        expected = sum(len(writer.accepted) for writer in writers)
        await until(lambda: len(_stored(tmp_path)) >= expected, 30)
        stored = _stored(tmp_path)
        assert len(stored) == len(set(stored))
        for writer in writers:
            of_writer = {message for user, message in stored if user == hash_user(writer.name)}
            assert of_writer >= set(writer.accepted)
        [sequences] = {
            tuple(
                sorted(
                    row["sequence"]
                    for row in rows(tmp_path, "SELECT sequence FROM messages WHERE chat_id = ?", chat["id"])
                )
            )
            == tuple(range(1, chat["messages"] + 1))
            for chat in rows(tmp_path, "SELECT chat_id AS id, count(*) AS messages FROM messages GROUP BY chat_id")
        }
        assert sequences, "no number of the order is free or given twice"


async def test_f36_replacing_the_workers_loses_nothing_that_was_accepted(together: Supervised, tmp_path: Path) -> None:
    """F36: a rolling restart under writers: each socket ends with 1012, each message is one row."""
    async with together(server={"drain": "1s"}) as process:
        writers = [Writer(process.url, f"w{number}") for number in range(9)]
        tasks = [asyncio.create_task(writer.write()) for writer in writers]
        await until(lambda: min(len(writer.accepted) for writer in writers) > 10)
        before = {each.pid for each in process.workers()}
        process.signal(signal.SIGHUP)
        await until(lambda: any(line["event"] == "workers_replaced" for line in process.lines()), 40)
        assert before.isdisjoint({each.pid for each in process.workers()})
        marks = [len(writer.accepted) for writer in writers]
        await until(lambda: all(len(w.accepted) > mark + 5 for w, mark in zip(writers, marks, strict=True)), 30)
        await _ended(writers, tasks)
        ends = [end for writer in writers for end in writer.ends]
        assert 1012 in ends
        expected = sum(len(writer.accepted) for writer in writers)
        process.signal(signal.SIGTERM)
        assert await process.exit() == 0
        stored = _stored(tmp_path)
        assert len(stored) == len(set(stored))
        assert len(stored) >= expected


async def test_f36_the_last_worker_writes_down_what_is_due(together: Supervised, tmp_path: Path) -> None:
    """Semantics §3: drafts of stored chats go to the store at the end of the service, whichever worker their device was on."""
    async with together(drafts=NEVER) as process:
        found = await spread(process)
        for number, [device] in enumerate(found.values()):
            sent = {"tempChatId": "c1", "clientMessageId": "m1", "content": doc("said")}
            assert (await device.ask("message_send", sent))["type"] == "message_accepted"
            await device.event("message_update")
            edit = {"chatId": "c1", "content": doc(f"draft {number}"), "basedOnVersion": 0}
            assert (await device.ask("draft_update", edit))["type"] == "draft_updated"
        assert {row["version"] for row in rows(tmp_path, "SELECT version FROM chats")} == {0}
        process.signal(signal.SIGTERM)
        assert await process.exit() == 0
        assert [row["version"] for row in rows(tmp_path, "SELECT version FROM chats")] == [1, 1, 1]
        await close(found)
    assert "outbox_not_empty" not in process.log.read_text()


async def test_operators_reach_every_worker_by_the_command_line(together: Supervised, tmp_path: Path) -> None:
    """`users disconnect`, `keys rotate` and `users erase`: one worker takes the command, and all of them see to it."""
    async with together(drafts=AT_ONCE) as process:
        found = await spread(process, name="alice")
        assert await process.command("users", "disconnect", "--user", "alice") == {"count": 3, "left": 0}
        assert [await device.closed() for [device] in found.values()] == [4401] * 3
        await close(found)

        found = await spread(process, name="alice")
        devices = [device for [device] in found.values()]
        await begin(devices[0], "c1", doc("0"))
        assert (await process.command("keys", "rotate"))["count"] == 1
        for version, device in enumerate(devices, 1):
            sent = {"chatId": "c1", "content": doc(f"{version}"), "basedOnVersion": version}
            assert (await device.ask("draft_update", sent))["type"] == "draft_updated"
        assert (await process.command("keys", "reseal"))["left"] == 0, "each sealed with the new version at once"

        said = await process.command("users", "erase", "--user", "alice", "--yes")
        assert (said["done"], said["chats"], said["sockets_left"]) == (True, 1, 0)
        assert [await device.closed() for device in devices] == [4401] * 3
        await close(found)
        async with Device(process.url, "alice") as again:
            assert [chat for frame in await again.sync() for chat in frame["chats"]] == []


@pytest.mark.parametrize("number", range(2))
async def test_a_device_that_comes_back_to_another_worker_goes_on_by_its_cursor(
    together: Supervised, number: int
) -> None:
    """S40: what it missed, and nothing else, though the worker that it knew is gone."""
    async with together() as process:
        found = await spread(process, name="alice")
        devices = [device for [device] in found.values()]
        one, other = devices[number], devices[2]
        frames = await one.sync()
        cursor = frames[-1]["cursor"]
        os.kill(holder(process, one), signal.SIGKILL)
        assert await one.closed() == 1006
        await begin(other, "c1", doc("missed"))
        await one.close()
        await one.open()
        [frame] = await one.sync(cursor=cursor)
        assert [chat["draft"] for chat in frame["chats"]] == [doc("missed")]
        await close(found)
