"""`persistence.sqlite` shared by several processes of one host: races, busy locks, and one that is killed among the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.unit.test_sqlite import ROOT

COMMON = """
import asyncio, json, os, random, signal, sys, time
from pathlib import Path
from plugins.persistence.sqlite import Sqlite
from sidecar import Deleted, Sealed, Surroundings
from sidecar.ids import message_id_of
from sidecar.records import milliseconds
from sidecar.testing.rows import ALICE, a_chat, a_message
from datetime import UTC, datetime

folder = Path(sys.argv[1])

def opened():
    return Sqlite(Sqlite.Options(), Surroundings(folder, "127.0.0.1"))

def forked(count, work):
    begin, go = os.pipe()
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            os.close(go)
            code = 1
            try:
                asyncio.run(work(number, begin))
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    os.close(begin)
    time.sleep(0.5)
    os.close(go)
    return children

def codes_of(children):
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
"""

RACES = (
    COMMON
    + """
async def work(number, begin):
    async with opened() as plugin:
        await asyncio.to_thread(os.read, begin, 1)
        for start in range(0, 300, 30):
            async def send(name):
                chat = a_chat(f"c{name}", messages_version=1, draft=Sealed(b"sealed by %d" % number))
                await plugin.on_first_message(chat, a_message(chat, "same", 1))
                await plugin.on_message(chat, a_message(chat, f"own-{number}", 2 + number))
            await asyncio.gather(*map(send, range(start, start + 30)))

codes = codes_of(forked(4, work))

async def end():
    async with opened() as plugin:
        store = await plugin.provide_persistence()
        chats = [chat async for chat in store.everything()]
        totals = {(await store.messages(ALICE, chat.id, None, 1)).total for chat in chats}
        return len(chats), sorted(totals), all(chat.draft.startswith(b"sealed by") for chat in chats)

print(json.dumps([codes, *asyncio.run(end())]))
"""
)

DELETIONS = (
    COMMON
    + """
async def work(number, begin):
    chance = random.Random(number)
    async with opened() as plugin:
        await asyncio.to_thread(os.read, begin, 1)
        names = list(range(200))
        chance.shuffle(names)
        async def step(name):
            chat = a_chat(f"c{name}", version=number + 1, messages_version=number + 1)
            if number == 3:
                await plugin.on_chat_deleted(Deleted(ALICE, chat.id, milliseconds(datetime.now(UTC))))
            else:
                await plugin.on_message(chat, a_message(chat, f"m{number}", number + 1))
        for start in range(0, 200, 20):
            await asyncio.gather(*map(step, names[start:start + 20]))

codes = codes_of(forked(4, work))

async def end():
    async with opened() as plugin:
        store = await plugin.provide_persistence()
        left = [chat.id async for chat in store.everything()]
        chat = a_chat("c7")
        return left, (await store.messages(ALICE, chat.id, None, 1)).total

print(json.dumps([codes, *asyncio.run(end())]))
"""
)

KILLED = (
    COMMON
    + """
async def work(number, begin):
    async with opened() as plugin:
        await asyncio.to_thread(os.read, begin, 1)
        for version in range(1, 100_000):
            async def write(name):
                chat = a_chat(f"c{number}-{name}", version=version, messages_version=version, draft=Sealed(b"%d" % version * 900))
                await plugin.on_message(chat, a_message(chat, f"m{version}", version))
            await asyncio.gather(*map(write, range(4)))
            (folder / f"acknowledged-{number}.new").write_text(str(version))
            (folder / f"acknowledged-{number}.new").rename(folder / f"acknowledged-{number}")
            if (folder / "end").exists():
                return

children = forked(4, work)
versions = lambda: [int(path.read_text()) for path in sorted(folder.glob("acknowledged-[0-9]"))]
until = time.monotonic() + 60
while len(versions()) < 4 or min(versions()) < 10:
    assert time.monotonic() < until
    time.sleep(0.02)
for child in children[:2]:
    os.kill(child, signal.SIGKILL)
killed = codes_of(children[:2])
before = versions()
while min(versions()[2:]) < max(before[2:]) + 10:
    assert time.monotonic() < until
    time.sleep(0.02)
(folder / "end").touch()
ended = codes_of(children[2:])

async def end():
    wrong = []
    async with opened() as plugin:
        store = await plugin.provide_persistence()
        for number, version in enumerate(versions()):
            for name in range(4):
                chat = a_chat(f"c{number}-{name}")
                found = (await store.known(ALICE, [chat.id]))[chat.id]
                page = await store.messages(ALICE, chat.id, None, 1)
                if found.version < version or page.total != found.version or found.draft != b"%d" % found.version * 900:
                    wrong.append([chat.id, found.version, version, page.total])
    return wrong

print(json.dumps([killed, ended, asyncio.run(end())]))
"""
)


def run(script: str, folder: Path) -> Any:
    """A script in a process of its own, which forks before any thread runs; what it prints last is JSON."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_s27_s28_s31_first_messages_that_four_processes_write_at_once_are_one_row_each(tmp_path: Path) -> None:
    """S27, S28, S31: 300 chats begun by all four at the same time, on a file that they made at the same time."""
    codes, chats, totals, whole = run(RACES, tmp_path)
    assert codes == [0, 0, 0, 0], "none was told that the file is locked"
    assert chats == 300
    assert totals == [5], "the message of all is one row, and each has its own"
    assert whole


def test_s68_what_one_process_deletes_comes_back_by_no_write_of_another(tmp_path: Path) -> None:
    codes, left, messages = run(DELETIONS, tmp_path)
    assert codes == [0, 0, 0, 0]
    assert left == []
    assert messages == 0


def test_f43_processes_killed_among_others_leave_nothing_half_and_hold_up_nobody(tmp_path: Path) -> None:
    """F43: two of four are killed in the middle of writing; the others go on, and what was acknowledged is there."""
    killed, ended, wrong = run(KILLED, tmp_path)
    assert killed == [-9, -9]
    assert ended == [0, 0]
    assert wrong == []
