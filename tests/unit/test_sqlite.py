"""`persistence.sqlite` beyond the contract: the file, damaged rows, full disks, kills and other processes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from plugins.persistence import sqlite_connections, sqlite_schema, sqlite_store
from plugins.persistence.sqlite import Sqlite
from sidecar.errors import StartRefused, Unavailable, Unstorable
from sidecar.ids import ChatId, message_id_of
from sidecar.plugin_entry import Surroundings
from sidecar.records import ChatInDB, MessageInDB, Sealed
from sidecar.testing.rows import ALICE, NOON, a_chat, a_device, a_message

ROOT = Path(__file__).parents[2]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def opened(folder: Path, path: Path | None = None) -> Sqlite:
    return Sqlite(Sqlite.Options(path=path), Surroundings(folder, "127.0.0.1"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
async def plugin(tmp_path: Path) -> AsyncIterator[Sqlite]:
    async with opened(tmp_path) as plugin:
        yield plugin


@contextmanager
def by_hand(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as an operator with the sqlite3 shell has it."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that the plugin's connections run."""
    seen: list[str] = []

    def traced(path: Path, *, reading: bool = False) -> sqlite3.Connection:
        connection = sqlite_schema.connect(path, reading=reading)
        connection.set_trace_callback(seen.append)
        return connection

    monkeypatch.setattr(sqlite_connections, "connect", traced)
    return seen


def run(script: str, *arguments: object) -> Any:
    """A script in a process of its own; what it prints last is JSON. It forks there, where no thread runs yet."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# -- the file ----------------------------------------------------------------------------------------------------------


async def test_the_file_and_its_log_are_for_their_owner_alone(plugin: Sqlite, path: Path) -> None:
    await plugin.on_draft(a_chat())
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["store.sqlite", "store.sqlite-shm", "store.sqlite-wal"]
    assert [oct(file.stat().st_mode & 0o777) for file in files] == ["0o600"] * 3
    with by_hand(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with_sync = sqlite_schema.connect(path)
    try:
        assert with_sync.execute("PRAGMA synchronous").fetchone()[0] == 2, "FULL: a commit is on the disk"
    finally:
        with_sync.close()


async def test_what_was_stored_is_there_after_a_restart(tmp_path: Path, path: Path) -> None:
    chat = a_chat()
    async with opened(tmp_path) as plugin:
        await plugin.on_first_message(chat, a_message(chat))
    assert [file.name for file in tmp_path.iterdir()] == ["store.sqlite"], "the log was emptied into the file"
    async with opened(tmp_path) as plugin:
        store = await plugin.provide_persistence()
        assert await store.known(ALICE, [chat.id]) == {chat.id: chat}
        assert list((await store.messages(ALICE, chat.id, None, 5)).items) == [a_message(chat)]


async def test_options_name_another_file(tmp_path: Path) -> None:
    other = tmp_path / "sub dir" / "a?b#c%41.db"
    other.parent.mkdir()
    async with opened(tmp_path, other) as plugin:
        await plugin.on_draft(a_chat())
    assert [file.name for file in other.parent.iterdir()] == [other.name]


@pytest.mark.parametrize("options", [{"path": ":memory:"}, {"path": ""}, {"path": "file:x?mode=memory"}, {"file": "x"}])
def test_options_that_cannot_be_meant_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Sqlite.Options.model_validate(options)


def _other_program(path: Path) -> None:
    with by_hand(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")


def _make(path: Path) -> None:
    async def stored() -> None:
        async with opened(path.parent) as plugin:
            for number in range(200):
                chat = a_chat(f"c{number}", draft=Sealed(os.urandom(3000)))
                await plugin.on_first_message(chat, a_message(chat))

    asyncio.run(stored())


def _newer_version(path: Path) -> None:
    _make(path)
    with by_hand(path) as connection:
        connection.execute("PRAGMA user_version = 99")


def _damaged_page(path: Path) -> None:
    _make(path)
    with path.open("r+b") as file:
        for page in range(3, 120, 7):
            file.seek(page * 4096)
            file.write(b"\xa5" * 512)


def _truncated(path: Path) -> None:
    _make(path)
    os.truncate(path, path.stat().st_size // 2)


def _orphaned_log(path: Path) -> None:
    path.with_name(path.name + "-wal").write_bytes(b"\x37\x7f\x06\x82" + os.urandom(5000))


def _open_to_all(path: Path) -> None:
    _make(path)
    path.chmod(0o644)


REFUSALS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no database": (lambda path: path.write_bytes(b"Dear diary,\n" * 500), "no database; move it away"),
    "a short text": (lambda path: path.write_bytes(b"hello"), "no database; move it away"),
    "another program's": (_other_program, "another program; write another options.path"),
    "a newer version": (_newer_version, "version 99, this sidecar knows 1; run the newer sidecar"),
    "a damaged page": (_damaged_page, "damaged; restore a backup"),
    "half of a file": (_truncated, "damaged; restore a backup"),
    "a log without its file": (_orphaned_log, "store.sqlite-wal still holds writes; put it back"),
    "a folder": (lambda path: path.mkdir(), "not a file; write the path of a file"),
    "open to all": (_open_to_all, "chmod 600"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_f42_a_file_that_cannot_be_served_refuses_the_start_and_is_left_as_it_is(path: Path, case: str) -> None:
    """F42: no file is mended, emptied or made anew behind anybody's back."""
    spoil, words = REFUSALS[case]
    path.touch(0o600)
    path.unlink()
    old_mask = os.umask(0o077)
    try:
        spoil(path)
    finally:
        os.umask(old_mask)
    before = {file: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}

    async def start() -> None:
        async with opened(path.parent):
            pass

    with pytest.raises(StartRefused) as raised:
        asyncio.run(start())
    assert str(path) in str(raised.value)
    assert words in str(raised.value)
    assert {file: file.read_bytes() for file in path.parent.iterdir() if file.is_file()} == before


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match=r"folder .*nowhere does not exist; make it"):
        async with opened(tmp_path, tmp_path / "nowhere" / "store.sqlite"):
            pass
    assert list(tmp_path.iterdir()) == []


async def test_a_file_locked_at_start_is_unavailable_and_not_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_schema, "BUSY_SECONDS", 0.02)
    monkeypatch.setattr(sqlite_schema, "_START_SECONDS", 0.05)
    async with opened(path.parent):
        pass
    with by_hand(path) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable, match="locked"):
            async with opened(path.parent):
                pass


# -- reads and writes -------------------------------------------------------------------------------------------------


async def test_writes_of_one_moment_are_one_transaction(statements: list[str], tmp_path: Path) -> None:
    async with opened(tmp_path) as plugin:
        await asyncio.gather(*(plugin.on_draft(a_chat(f"c{n}")) for n in range(100)))
        assert statements.count("BEGIN IMMEDIATE") == statements.count("COMMIT") == 1


async def test_one_bad_row_harms_no_other_of_its_batch(plugin: Sqlite) -> None:
    chats = [a_chat(f"c{n}") for n in range(10)]
    messages = [a_message(chat) for chat in chats]
    messages[2] = messages[2].model_copy(update={"sender_name": "lone \ud800"})
    messages[4] = messages[4].model_copy(update={"content": Sealed(b"x" * (sqlite_schema.ROW_BYTES + 1))})
    messages[6] = messages[6].model_copy(update={"sequence": 2**70})
    messages[8] = messages[8].model_copy(update={"created_at": datetime(2026, 1, 1)})  # noqa: DTZ001
    answers = await asyncio.gather(
        *(plugin.on_first_message(chat, message) for chat, message in zip(chats, messages, strict=True)),
        return_exceptions=True,
    )
    assert [type(each) for each in answers] == [type(None), type(None), *[Unstorable, type(None)] * 4]
    store = await plugin.provide_persistence()
    assert set(await store.known(ALICE, [chat.id for chat in chats])) == {
        chat.id for number, chat in enumerate(chats) if number not in (2, 4, 6, 8)
    }, "neither half of a refused pair is there"


@pytest.mark.parametrize("name", ["KNOWN", "FIND", "NEWEST_CHATS", "OLDER_CHATS", "NEWEST_MESSAGES", "OLDER_MESSAGES"])
async def test_every_read_goes_by_an_index_and_sorts_nothing(plugin: Sqlite, path: Path, name: str) -> None:
    names = ("ids", "user", "chat", "limit", "at", "id", "sequence")
    with by_hand(path) as connection:
        plan = connection.execute(
            f"EXPLAIN QUERY PLAN {getattr(sqlite_store, name)}", dict.fromkeys(names, "[]") | {"limit": 1}
        ).fetchall()
    steps = [row[3] for row in plan]
    assert any(step.startswith(("SEARCH chats USING", "SEARCH messages USING")) for step in steps), steps
    assert not any("TEMP B-TREE" in step or step.startswith(("SCAN chats", "SCAN messages")) for step in steps), steps


async def test_reads_take_a_bounded_number_of_statements(statements: list[str], tmp_path: Path) -> None:
    async with opened(tmp_path) as plugin:
        store = await plugin.provide_persistence()
        chats = [a_chat(f"c{n}") for n in range(1000)]
        await asyncio.gather(*(plugin.on_draft(chat) for chat in chats))
        message_ids = [message_id_of(chats[0].id, f"m{n}") for n in range(1000)]
        for call in (
            lambda: store.known(ALICE, [chat.id for chat in chats]),
            lambda: plugin.on_sync(ALICE, None, 1000),
            lambda: store.find(ALICE, chats[0].id, message_ids),
        ):
            statements.clear()
            await call()
            assert len(statements) <= 4, statements


async def test_two_messages_of_one_sequence_both_stay_and_paging_passes_neither(plugin: Sqlite) -> None:
    """After a loss of the cache a sequence may be given twice before the store is asked: no accepted message is refused for it."""
    chat = a_chat()
    messages = [a_message(chat, f"m{n}", n // 3 + 1) for n in range(9)]
    await asyncio.gather(*(plugin.on_message(chat, message) for message in messages))
    store = await plugin.provide_persistence()
    found: list[MessageInDB] = []
    while True:
        page = await store.messages(ALICE, chat.id, found[-1].id if found else None, 2)
        found.extend(page.items)
        if not page.more:
            break
    assert found == sorted(messages, key=lambda each: (each.sequence, each.id), reverse=True)


async def test_a_chat_under_another_key_is_unstorable(plugin: Sqlite) -> None:
    chat = a_chat()
    await plugin.on_draft(chat)
    with pytest.raises(Unstorable, match="another key reference"):
        await plugin.on_draft(chat.model_copy(update={"vault_key_reference": "other", "version": 9}))
    assert (await (await plugin.provide_persistence()).known(ALICE, [chat.id]))[chat.id] == chat


async def test_a_cancelled_write_harms_nobody(plugin: Sqlite) -> None:
    chats = [a_chat(f"c{n}") for n in range(20)]
    calls = [asyncio.create_task(plugin.on_draft(chat)) for chat in chats]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert answers[1::2] == [None] * 10
    known = await (await plugin.provide_persistence()).known(ALICE, [chat.id for chat in chats])
    assert {chat.id for chat in chats[1::2]} <= set(known)


# -- damaged rows -----------------------------------------------------------------------------------------------------

NONSENSE = [
    ("version", None, {"version": 0}),
    ("version", "'abc'", {"version": 0}),
    ("version", "-3", {"version": 0}),
    ("version", "2.5", {"version": 0}),
    ("title_version", "x'00ff'", {"title_version": 0}),
    ("messages_version", None, {"messages_version": 0}),
    ("draft", "'typed by hand'", {"draft": b"typed by hand"}),
    ("draft", "17", {"draft": b"17"}),
    ("title", "cast(x'ff00fe' AS TEXT)", {"title": "\ufffd\x00\ufffd".encode()}),
    ("draft_op", "x'00'", {"draft_op": None}),
    ("draft_state", "'sleeping'", {"draft_state": "edited"}),
    ("draft_state", None, {"draft_state": "edited"}),
    ("vault_key_reference", None, {"vault_key_reference": ""}),
    ("created_at", "'yesterday'", {"created_at": EPOCH}),
    ("updated_at", None, {"updated_at": EPOCH}),
    ("updated_at", "'zzz'", {"updated_at": EPOCH}),
    ("updated_at", str(2**62), {"updated_at": EPOCH}),
    ("last_message_timestamp", "'zzz'", {"last_message_timestamp": None}),
]


@pytest.mark.parametrize(("column", "value", "read"), NONSENSE, ids=[f"{c}={v}" for c, v, _ in NONSENSE])
async def test_s46_a_damaged_row_comes_as_far_as_it_can_and_the_next_write_mends_it(
    plugin: Sqlite, path: Path, caplog: pytest.LogCaptureFixture, column: str, value: str | None, read: dict[str, Any]
) -> None:
    """S46: the others come whole, the bad one is counted and logged by its id, and paging passes nobody over."""
    chats = [a_chat(f"c{n}", updated_at=NOON + timedelta(seconds=n)) for n in range(5)]
    for chat in chats:
        await plugin.on_first_message(chat, a_message(chat))
    bad = chats[2]
    with by_hand(path) as connection:
        connection.execute(f"UPDATE chats SET {column} = {value or 'NULL'} WHERE id = '{bad.id}'")
    expected = {chat.id: chat for chat in chats} | {bad.id: bad.model_copy(update=read)}
    store = await plugin.provide_persistence()
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            assert await store.known(ALICE, [chat.id for chat in chats]) == expected
            assert {chat.id: chat async for chat in store.everything()} == expected
    found: list[ChatInDB] = []
    before: tuple[datetime, ChatId] | None = None
    while True:
        page = await plugin.on_sync(ALICE, before, 1)
        found.extend(page.items)
        if not page.more:
            break
        before = (page.items[-1].updated_at, page.items[-1].id)
    assert sorted(chat.id for chat in found) == sorted(expected)
    assert page.total == 5
    assert plugin.state() == {"state": "ok", "damaged_rows": 1}
    (record,) = caplog.records
    assert bad.id in record.getMessage()
    assert column in record.getMessage()
    assert "typed by hand" not in caplog.text
    newer = bad.model_copy(
        update={"version": 6, "draft": Sealed(b"6"), "draft_op": "op-6", "title_version": 3, "title": Sealed(b"3")}
    )
    await plugin.on_draft(newer)
    assert (await store.known(ALICE, [bad.id]))[bad.id] == newer


async def test_s46_a_damaged_message_and_a_damaged_device_harm_no_other(plugin: Sqlite, path: Path) -> None:
    chat = a_chat()
    messages = [a_message(chat, f"m{n}", n) for n in (1, 2, 3)]
    for message in messages:
        await plugin.on_message(chat, message)
    store = await plugin.provide_persistence()
    for device in (a_device(), a_device("phone")):
        await store.put_device(device)
    with by_hand(path) as connection:
        connection.execute(
            "UPDATE messages SET content = NULL, role = 'god', sequence = 'x', created_at = NULL WHERE id = ?",
            (messages[1].id,),
        )
        connection.execute("UPDATE devices SET secret_hash = NULL, last_seen = 'x' WHERE name = 'phone'")
    bad = messages[1].model_copy(update={"content": b"", "role": "system", "sequence": 0, "created_at": EPOCH})
    assert list((await store.messages(ALICE, chat.id, None, 9)).items) == [messages[2], messages[0], bad]
    assert list((await store.messages(ALICE, chat.id, messages[0].id, 9)).items) == [bad]
    by_name = {device.name: device for device in await store.devices(ALICE)}
    assert by_name["laptop"] == a_device()
    assert by_name["phone"].secret_hash == "", "which no secret has"
    assert plugin.state()["damaged_rows"] == 2


async def test_s46_a_row_that_was_typed_by_hand_does_not_refuse_the_next_start(tmp_path: Path, path: Path) -> None:
    async with opened(tmp_path) as plugin:
        await plugin.on_draft(a_chat())
    with by_hand(path) as connection:
        connection.execute("UPDATE chats SET version = 'abc', draft = 17, updated_at = NULL, draft_op = x'ff'")
    # A number stored as text, which SQLite's own check of the file complains of, although every page is sound.
    for old, new in (("INTEGER", "BLOB"), ("BLOB", "INTEGER")):
        with by_hand(path) as connection:
            connection.execute("UPDATE chats SET title_version = '5'")
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute(
                "UPDATE sqlite_master SET sql = replace(sql, ?, ?)", (f"title_version {old}", f"title_version {new}")
            )
    with by_hand(path) as connection:
        assert connection.execute("PRAGMA quick_check").fetchall() != [("ok",)]
    async with opened(tmp_path) as plugin:
        assert (await plugin.on_sync(ALICE, None, 5)).items[0].version == 0


# -- what is at rest ---------------------------------------------------------------------------------------------------


async def test_s32_t49_no_plaintext_is_in_the_files_or_the_log(
    tmp_path: Path, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """S32, T49 (the store's part): what was sealed is stored sealed; reversed bytes stand for a cipher here."""
    canary = b"CANARY-of-a-person-who-wrote-this"
    reversed_canary = canary[::-1]
    sealed = Sealed(reversed_canary)
    chat = a_chat(title=sealed, draft=sealed)
    with caplog.at_level(logging.DEBUG):
        async with opened(tmp_path) as plugin:
            await plugin.on_first_message(chat, a_message(chat, content=sealed))
            with pytest.raises(Unstorable) as raised:
                await plugin.on_message(chat, a_message(a_chat("two"), content=Sealed(canary)))
            with pytest.raises(Unstorable) as unwritable:
                await plugin.on_message(chat, a_message(chat, "m2", sender_name=canary.decode() + "\ud800"))
            files = b"".join(file.read_bytes() for file in tmp_path.iterdir())
            assert reversed_canary in files, "the search finds what is there"
            assert canary not in files
    assert canary not in path.read_bytes()
    for error in (raised.value, unwritable.value):
        assert canary.decode() not in f"{error!r} {error.__cause__!r} {error.__context__!r}"
    assert canary.decode() not in caplog.text


async def test_an_erased_person_leaves_no_bytes_in_file_or_log(plugin: Sqlite, tmp_path: Path) -> None:
    trace = b"SEALED-BYTES-OF-ALICE"
    for number in range(30):
        chat = a_chat(f"c{number}", draft=Sealed(trace * 900))
        await plugin.on_first_message(chat, a_message(chat, content=Sealed(trace)))
    assert trace in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    await plugin.on_user_erased(ALICE)
    rest = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert trace not in rest
    assert ALICE.encode() not in rest


# -- trouble -----------------------------------------------------------------------------------------------------------


async def test_reads_and_the_loop_go_on_while_a_write_waits_for_a_lock(plugin: Sqlite, path: Path) -> None:
    chat = a_chat()
    await plugin.on_draft(chat)
    store = await plugin.provide_persistence()
    with by_hand(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        write = asyncio.create_task(plugin.on_draft(chat.model_copy(update={"version": 6})))
        for _ in range(20):
            assert (await store.known(ALICE, [chat.id]))[chat.id].version == 5
        assert not write.done()
        connection.execute("ROLLBACK")
    await write
    assert (await store.known(ALICE, [chat.id]))[chat.id].version == 6


async def test_a_lock_that_stays_is_unavailable_and_the_write_goes_through_afterwards(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_schema, "BUSY_SECONDS", 0.05)
    async with opened(tmp_path) as plugin:
        with by_hand(path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable, match="another process holds the database locked"):
                await plugin.on_draft(a_chat())
            assert plugin.state()["state"] == "unavailable"
        await plugin.on_draft(a_chat())
        assert plugin.state() == {"state": "ok", "damaged_rows": 0}


async def test_s29_a_store_that_comes_back_takes_what_it_could_not(plugin: Sqlite, path: Path) -> None:
    """S29 (the store's part): nothing half written while it was away, and the same call goes through afterwards."""
    chat = a_chat()
    away = path.with_suffix(".away")
    path.rename(away)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await plugin.on_first_message(chat, a_message(chat))
    assert not path.exists(), "no second file is begun"
    away.rename(path)
    store = await plugin.provide_persistence()
    assert await store.known(ALICE, [chat.id]) == {}
    await plugin.on_first_message(chat, a_message(chat))
    assert await store.known(ALICE, [chat.id]) == {chat.id: chat}


async def test_a_file_that_was_replaced_is_not_written_into_the_void(plugin: Sqlite, path: Path) -> None:
    path.rename(path.with_suffix(".away"))
    path.touch(0o600)
    with pytest.raises(Unavailable, match="restart the sidecar"):
        await plugin.on_draft(a_chat())
    assert path.stat().st_size == 0
    path.unlink()
    path.with_suffix(".away").rename(path)


async def test_before_it_is_entered_and_after_it_was_left_it_is_unavailable(tmp_path: Path) -> None:
    plugin = opened(tmp_path)
    with pytest.raises(Unavailable, match="not open"):
        await plugin.on_draft(a_chat())
    async with plugin:
        await plugin.on_draft(a_chat())
    with pytest.raises(Unavailable, match="not open"):
        await plugin.on_sync(ALICE, None, 1)
    assert plugin.state()["state"] == "unavailable"


async def test_f42_a_full_disk_is_unavailable_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F42: SQLite's own SQLITE_FULL, by a limit on the pages of the file."""
    limited: list[sqlite3.Connection] = []

    def small(path: Path, *, reading: bool = False) -> sqlite3.Connection:
        connection = sqlite_schema.connect(path, reading=reading)
        if not reading:
            connection.execute("PRAGMA max_page_count = 40")
            limited.append(connection)
        return connection

    monkeypatch.setattr(sqlite_connections, "connect", small)
    async with opened(tmp_path) as plugin:
        stored = []
        for number in range(1000):
            chat = a_chat(f"c{number}", draft=Sealed(os.urandom(5000)))
            try:
                await plugin.on_first_message(chat, a_message(chat))
            except Unavailable:
                break
            stored.append(chat)
        assert len(stored) < 1000, "the disk became full"
        assert "the disk is full" in str(plugin.state()["reason"])
        store = await plugin.provide_persistence()
        assert [each async for each in store.everything()] == stored
        assert plugin.state()["state"] == "ok", "reads go on"
        await asyncio.to_thread(limited[0].execute, "PRAGMA max_page_count = 100000")
        await plugin.on_first_message(chat, a_message(chat))
        assert [each async for each in store.everything()] == [*stored, chat]


DISK_FAILS = """
import asyncio, json, os, resource, sys
from pathlib import Path
from plugins.persistence.sqlite import Sqlite
from sidecar import Sealed, Surroundings, Unavailable
from sidecar.testing.rows import a_chat, a_message

async def main(folder):
    async with Sqlite(Sqlite.Options(), Surroundings(folder, "127.0.0.1")) as plugin:
        store = await plugin.provide_persistence()
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
        stored, failed = [], []
        for number in range(60):
            chat = a_chat(f"c{number}", draft=Sealed(os.urandom(20_000)))
            try:
                await plugin.on_first_message(chat, a_message(chat))
                stored.append(chat)
            except Unavailable:
                failed.append(chat)
        during = [each async for each in store.everything()] == stored
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        for chat in failed:
            await plugin.on_first_message(chat, a_message(chat))
        after = {each.id: each async for each in store.everything()} == {each.id: each for each in stored + failed}
        print(json.dumps([len(stored), len(failed), during, after]))

asyncio.run(main(Path(sys.argv[1])))
"""


def test_f42_a_disk_that_fails_in_mid_write_is_unavailable_and_loses_nothing(tmp_path: Path) -> None:
    """F42: the kernel refuses to write on (EFBIG), which reaches SQLite as an I/O error."""
    stored, failed, during, after = run(DISK_FAILS, tmp_path)
    assert stored > 0
    assert failed > 0
    assert during, "what was acknowledged is there, and nothing half"
    assert after, "once the disk writes again, everything goes in"


KILLS = """
import asyncio, json, os, random, signal, sys
from pathlib import Path
from plugins.persistence.sqlite import Sqlite
from sidecar import Sealed, Surroundings
from sidecar.ids import ChatId, message_id_of
from sidecar.testing.rows import ALICE, a_chat, a_message

folder, chance = Path(sys.argv[1]), random.Random(43)

def opened():
    return Sqlite(Sqlite.Options(), Surroundings(folder, "127.0.0.1"))

def chat_at(name, version):
    return a_chat(name, version=version, messages_version=version, draft=Sealed(b"%d" % version * 900))

async def write(acknowledge, first):
    async with opened() as plugin:
        async def writer(name):
            for version in range(first, first + 100_000):
                chat = chat_at(name, version)
                await plugin.on_message(chat, a_message(chat, f"m{version}", version))
                os.write(acknowledge, b"%s %d;" % (name.encode(), version))
        await asyncio.gather(*(writer(f"c{number}") for number in range(8)))

async def check(acknowledged):
    async with opened() as plugin:
        store = await plugin.provide_persistence()
        wrong = []
        for name, version in acknowledged.items():
            wanted = chat_at(name, version)
            found = (await store.known(ALICE, [wanted.id])).get(wanted.id)
            if found is None or found.version < version or found.draft != b"%d" % found.version * 900:
                wrong.append(name)
                continue
            ids = [message_id_of(wanted.id, f"m{each}") for each in range(1, version + 1)]
            if len(await store.find(ALICE, wanted.id, ids)) != version:
                wrong.append(name)
            # Chat and message are one transaction: neither is ahead of the other.
            page = await store.messages(ALICE, wanted.id, None, 1)
            if page.items[0].sequence != found.version or page.total != found.version:
                wrong.append(name)
        top = [each.version async for each in store.everything()]
        return wrong, max(top, default=0)

acknowledged, wrong, killed, top = {}, [], 0, 0
for _ in range(10):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        asyncio.run(write(writing, 1))
        os._exit(9)
    os.close(writing)
    wanted, data = chance.randrange(200, 3000), b""
    while len(data) < wanted and (more := os.read(reading, 256)):
        data += more
    os.kill(child, signal.SIGKILL)
    while more := os.read(reading, 65536):
        data += more
    killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    os.close(reading)
    for name, version in (each.split() for each in data.decode().split(";")[:-1]):
        acknowledged[name] = max(acknowledged.get(name, 0), int(version))
    bad, top = asyncio.run(check(acknowledged))
    wrong += bad
print(json.dumps([killed, len(acknowledged), top, wrong]))
"""


def test_f43_what_was_acknowledged_before_a_kill_is_there(tmp_path: Path) -> None:
    """F43: kill -9 in the middle of writing, ten times over; every acknowledged chat and message is there, none by half."""
    killed, chats, top, wrong = run(KILLS, tmp_path)
    assert killed == 10, "the fault happened"
    assert chats == 8
    assert top > 10
    assert wrong == []


PROCESSES = """
import asyncio, json, os, random, sys
from pathlib import Path
from plugins.persistence.sqlite import Sqlite
from sidecar import Sealed, Surroundings
from sidecar.testing.rows import ALICE, a_chat, a_message

folder = Path(sys.argv[1])

def opened():
    return Sqlite(Sqlite.Options(), Surroundings(folder, "127.0.0.1"))

def at(version):
    return a_chat(version=version, draft=Sealed(b"draft %d" % version), draft_op=f"op-{version}",
                  title_version=version, title=Sealed(b"title %d" % version), messages_version=version)

async def write(number):
    versions = list(range(number, 301, 3))
    random.Random(number).shuffle(versions)
    async with opened() as plugin:
        store = await plugin.provide_persistence()
        highest = 0
        for version in versions:
            await plugin.on_draft(at(version))
            highest = max(highest, version)
            found = (await store.known(ALICE, [at(1).id]))[at(1).id]
            assert found.version >= highest and found.draft == b"draft %d" % found.version, (found.version, highest)
            await plugin.on_message(at(version), a_message(at(version), f"m{version % 10}", 1))

children = []
for number in (1, 2, 3):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            asyncio.run(write(number))
            code = 0
        finally:
            os._exit(code)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

async def end():
    async with opened() as plugin:
        store = await plugin.provide_persistence()
        chat = (await store.known(ALICE, [at(1).id]))[at(1).id]
        return [chat == at(300), (await store.messages(ALICE, chat.id, None, 1)).total]

print(json.dumps([codes, *asyncio.run(end())]))
"""


def test_l26_processes_that_share_the_file_never_lower_a_version(tmp_path: Path) -> None:
    """L26: three processes begin the same new file at once and write the versions of one chat in three wild orders."""
    codes, highest_won, messages = run(PROCESSES, tmp_path)
    assert codes == [0, 0, 0]
    assert highest_won
    assert messages == 10, "the same message from three processes is one row"
