"""Operators' commands on open parts, without a server."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog

from sidecar.changes import Accepted, ChatInCache, PutDraft
from sidecar.chats import own_change, peek
from sidecar.config import Config
from sidecar.connections import Registry
from sidecar.envelope import key_version_of
from sidecar.errors import KeyGone, StartRefused, Unavailable
from sidecar.frames.reading import read as read_frame
from sidecar.ids import ChatId, ConnectionId, DeviceId, KeyReference, UserHash, chat_id_of, hash_user
from sidecar.metrics import Metrics
from sidecar.opening_parts import open_parts
from sidecar.operations import Live, perform, run
from sidecar.operations.commands import _COMMANDS
from sidecar.outbox import OutboxWorker
from sidecar.parts import Caller, Parts
from sidecar.plugins import Plugins
from sidecar.records import Deleted, DeviceInDB, Field, Sealed
from sidecar.server.dispatch import answer
from tests.conftest import configure
from tests.device import doc, new_id

ALICE, BOB = hash_user("alice"), hash_user("bob")
Line = dict[str, Any]


@dataclass
class Desk:
    """Open parts with a working outbox, and persons who use them."""

    config: Config
    plugins: Plugins
    parts: Parts
    live: Live

    async def command(self, command: str, **arguments: Any) -> list[Line]:
        return [line async for line in perform(self.config, self.plugins, self.parts, command, arguments, self.live)]

    async def result(self, command: str, **arguments: Any) -> Line:
        last = (await self.command(command, **arguments))[-1]
        assert "result" in last, last
        found: Line = last["result"]
        return found

    async def refusal(self, command: str, **arguments: Any) -> Line:
        last = (await self.command(command, **arguments))[-1]
        assert "error" in last, last
        assert last["error"]["message"]
        assert last["error"]["remedy"]
        found: Line = last["error"]
        return found

    async def rows(self, command: str, **arguments: Any) -> list[Line]:
        return [line["row"] for line in await self.command(command, **arguments) if "row" in line]

    async def ask(self, user: UserHash, type_: str, **payload: Any) -> tuple[str, Line]:
        frame = read_frame(json.dumps({"type": type_, "id": new_id(), "payload": payload}).encode(), 64, b"k" * 32)
        caller = Caller(user, DeviceId("laptop"), ConnectionId("one"), "Ann")
        said = await answer(self.parts, _Connection(caller), frame)  # type: ignore[arg-type]
        return said.type, orjson.loads(orjson.dumps(said.payload))

    async def draft(self, user: UserHash, chat: str, text: str, base: int = 0) -> ChatId:
        kind, said = await self.ask(user, "draft_update", tempChatId=chat, content=doc(text), basedOnVersion=base)
        assert kind in ("chat_initiated", "draft_updated"), (kind, said)
        return chat_id_of(user, chat)

    async def message(self, user: UserHash, chat: str, text: str, *, delivered: bool = True) -> ChatId:
        kind, _ = await self.ask(user, "message_send", tempChatId=chat, clientMessageId=new_id(), content=doc(text))
        assert kind == "message_accepted"
        if delivered:
            await self.settled()
        return chat_id_of(user, chat)

    async def settled(self) -> None:
        await self.live.worker.flush(5.0)

    async def cached(self, user: UserHash, chat_id: ChatId) -> ChatInCache | Deleted | None:
        return (await self.parts.cache.chats.read(user, [chat_id])).get(chat_id)

    async def with_keys(self) -> set[ChatId]:
        """The chats that have a key."""
        listed = self.parts.cipher.keys()
        return {chat_id async for _, _, chat_id in listed}

    async def versions(self, user: UserHash, chat_id: ChatId) -> list[int]:
        """Key versions of what the store has of the chat."""
        row = (await self.parts.store.known(user, [chat_id]))[chat_id]
        page = await self.parts.store.messages(user, chat_id, None, 1000)
        values = [row.title, row.draft, *(message.content for message in page.items)]
        return [key_version_of(value) for value in values if value is not None]


@dataclass
class _Connection:
    caller: Caller

    @property
    def user(self) -> UserHash:
        return self.caller.user


Open = Callable[..., AbstractAsyncContextManager[Desk]]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Opens the parts on `tmp_path`; again is a restart."""

    @asynccontextmanager
    async def open_(**sections: Any) -> AsyncIterator[Desk]:
        config = configure(tmp_path, **sections)
        async with (
            open_parts(config, Metrics()) as (plugins, parts),
            OutboxWorker(parts, plugins.listeners, "test") as worker,
        ):
            yield Desk(config, plugins, parts, Live(Registry(), worker, 5.0))

    return open_


@pytest.fixture
async def desk(opened: Open) -> AsyncIterator[Desk]:
    async with opened() as found:
        yield found


# -- the table ---------------------------------------------------------------------------------------------------------


async def test_an_unknown_command_is_named_and_the_known_ones_too(desk: Desk) -> None:
    refusal = await desk.refusal("keys-melt")
    assert "keys-melt" in refusal["message"]
    for command in _COMMANDS:
        assert command in refusal["remedy"]


@pytest.mark.parametrize(
    ("command", "arguments", "word"),
    [
        ("users-devices", {}, "--user"),
        ("users-disconnect", {"user": None}, "--user"),
        ("users-erase", {"user": "alice"}, "hash"),
        ("users-erase", {"user": ALICE.upper()}, "hash"),
        ("users-erase", {"user": 3}, "user"),
        ("keys-rotate", {"chat": ""}, "chat"),
        ("keys-rotate", {"chat": "c" * 201}, "chat"),
        ("keys-rotate", {"chat": "one"}, "full id"),
        ("keys-rotate", {"chat": "00000000_one", "user": ALICE}, "belong together"),
        ("keys-rotate", {"chat": "00000000_one"}, "nobody"),
        ("keys-destroy", {}, "--chat"),
        ("keys-destroy", {"chat": "00000000_one"}, "--user"),
        ("keys-prune", {"grace": -1}, "grace"),
        ("keys-prune", {"grace": True}, "grace"),
        ("dead-letters-replay", {}, "--all"),
        ("dead-letters-drop", {"all": False}, "--all"),
        ("dead-letters-drop", {"all": "yes"}, "all"),
        ("dead-letters-drop", {"all": True, "plugin": "persistence"}, "contradict"),
        ("dead-letters-list", {"plugin": "nobody"}, "persistence"),
        ("plugins-forget", {}, "name"),
        ("plugins-forget", {"name": "nobody"}, "persistence"),
    ],
)
async def test_bad_arguments_are_refused_in_words_that_say_what_to_mend(
    desk: Desk, command: str, arguments: Line, word: str
) -> None:
    refusal = await desk.refusal(command, **arguments)
    assert word in refusal["message"] + refusal["remedy"]


async def test_t38_what_nobody_expected_is_an_incident_without_its_text(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T38: the message of a foreign exception may hold content; neither the answer nor the log's fields repeat it."""

    async def broken(_: UserHash) -> list[DeviceInDB]:
        raise ValueError("what a person wrote")

    monkeypatch.setattr(desk.parts.store, "devices", broken)
    with structlog.testing.capture_logs() as logs:
        refusal = await desk.refusal("users-devices", user=ALICE)
    [line] = [each for each in logs if "incident" in each]
    assert line["incident"] in refusal["message"]
    assert "wrote" not in json.dumps(refusal)


async def test_a_part_that_is_away_is_named(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(_: UserHash) -> list[DeviceInDB]:
        raise Unavailable("persistence", "gone fishing")

    monkeypatch.setattr(desk.parts.store, "devices", away)
    assert "persistence is unavailable" in (await desk.refusal("users-devices", user=ALICE))["message"]


# -- plugins -----------------------------------------------------------------------------------------------------------


async def test_positions_are_listed_and_only_one_that_is_gone_is_forgotten(desk: Desk) -> None:
    await desk.parts.cache.outbox.join(["audit"])
    await desk.message(ALICE, "one", "hello", delivered=False)
    rows = {row["name"]: row for row in await desk.rows("plugins-positions")}
    assert rows.keys() == {"audit", "persistence"}
    assert rows["audit"]["pending"] == 1
    assert rows["audit"]["parked"] == 0
    assert rows["audit"]["oldest"].endswith("Z")
    assert (rows["persistence"]["loaded"], rows["audit"]["loaded"]) == (True, False)

    assert "loaded now" in (await desk.refusal("plugins-forget", name="persistence"))["message"]
    assert await desk.result("plugins-forget", name="audit") == {"name": "audit", "pending": 1, "parked": 0}
    assert [row["name"] for row in await desk.rows("plugins-positions")] == ["persistence"]


# -- dead letters ------------------------------------------------------------------------------------------------------

STUBBORN = {"use": "tests.plugins.stubborn_store:Stubborn"}


async def test_dead_letters_are_listed_without_content_replayed_in_order_and_delivered(
    opened: Open, tmp_path: Path
) -> None:
    sign = tmp_path / "data" / "refuse"
    async with opened(persistence=STUBBORN) as desk:
        sign.touch()
        chat = await desk.message(ALICE, "one", "the first word")
        await desk.message(ALICE, "one", "the second word")
        other = await desk.message(BOB, "two", "another word")
        found = await desk.cached(ALICE, chat)
        assert isinstance(found, ChatInCache)
        assert [message.status for message in found.messages] == ["error", "sent"]

        rows = await desk.rows("dead-letters-list")
        assert [row.keys() for row in rows] == [
            {"entry", "plugin", "kind", "chat", "message", "user", "since", "tries"}
        ] * 3
        assert [(row["kind"], row["chat"], row["user"]) for row in rows] == [
            ("first_message", chat, ALICE),
            ("message", chat, ALICE),
            ("first_message", other, BOB),
        ]
        assert "word" not in json.dumps(rows)
        assert [row["chat"] for row in await desk.rows("dead-letters-list", chat="two")] == [other]
        assert len(await desk.rows("dead-letters-list", plugin="persistence", chat=chat)) == 2

        again = await desk.result("dead-letters-replay", chat=other)
        assert again == {"count": 1, "waiting": 0, "parked": 1}  # it is as stubborn as before
        assert len(await desk.rows("dead-letters-list")) == 3

        sign.unlink()
        assert await desk.result("dead-letters-replay", all=True) == {"count": 3, "waiting": 0, "parked": 0}
        page = await desk.parts.store.messages(ALICE, chat, None, 10)
        assert [message.sequence for message in page.items] == [2, 1]
        assert (await desk.parts.store.known(BOB, [other])).keys() == {other}
        found = await desk.cached(ALICE, chat)
        assert isinstance(found, ChatInCache)
        assert [message.status for message in found.messages] == ["delivered", "delivered"]
        assert await desk.rows("dead-letters-list") == []


async def test_dropped_dead_letters_are_never_written_and_only_those(opened: Open, tmp_path: Path) -> None:
    sign = tmp_path / "data" / "refuse"
    async with opened(persistence=STUBBORN) as desk:
        sign.touch()
        dropped, kept = await desk.message(ALICE, "one", "a"), await desk.message(BOB, "two", "b")
        assert await desk.result("dead-letters-drop", chat=dropped) == {"count": 1}
        assert [row["chat"] for row in await desk.rows("dead-letters-list")] == [kept]
        sign.unlink()
        assert (await desk.result("dead-letters-replay", plugin="persistence"))["count"] == 1
        assert await desk.parts.store.known(ALICE, [dropped]) == {}
        assert kept in await desk.parts.store.known(BOB, [kept])


async def test_run_alone_replays_delivers_and_closes_the_parts_before_its_result(opened: Open, tmp_path: Path) -> None:
    sign = tmp_path / "data" / "refuse"
    async with opened(persistence=STUBBORN) as desk:
        sign.touch()
        chat = await desk.message(ALICE, "one", "a")
    config = configure(tmp_path, persistence=STUBBORN)
    rows = [line async for line in run(config, "dead-letters-list", {})]
    assert [line["row"]["chat"] for line in rows if "row" in line] == [chat]
    sign.unlink()
    async for line in run(config, "dead-letters-replay", {"all": True}):
        if "result" in line:
            assert line["result"] == {"count": 1, "waiting": 0, "parked": 0}
            async with opened(persistence=STUBBORN) as desk:  # the journal's lock is free again
                assert chat in await desk.parts.store.known(ALICE, [chat])
            break
    else:
        pytest.fail("no result")


async def test_run_alone_is_refused_while_another_process_has_the_journal(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match="another sidecar"):
        async for _ in run(configure(tmp_path), "plugins-positions", {}):
            pass


# -- rotation and resealing --------------------------------------------------------------------------------------------


async def test_s63_after_a_rotation_old_rows_read_and_new_ones_have_the_new_key(desk: Desk) -> None:
    chat = await desk.message(ALICE, "one", "old")
    await desk.message(BOB, "two", "old")
    await desk.draft(BOB, "three", "a draft alone")
    assert await desk.result("keys-rotate", user=ALICE) == {"count": 1, "destroyed": 0, "without_key": 0}
    assert (await desk.result("keys-rotate"))["count"] == 3
    assert (await desk.result("keys-rotate", chat=chat))["count"] == 1
    await desk.message(ALICE, "one", "new")
    assert await desk.versions(ALICE, chat) == [4, 1]
    kind, page = await desk.ask(ALICE, "messages_request", chatId=chat, limit=10)
    assert kind == "messages_page"
    assert [message["content"] for message in page["messages"]] == [doc("old"), doc("new")]


async def test_s63_resealing_makes_old_envelopes_new_changes_no_revision_and_again_finds_nothing(desk: Desk) -> None:
    chats = [await desk.message(ALICE, f"c{number}", f"text {number}") for number in range(3)]
    for number in range(3):
        await desk.message(ALICE, "c0", f"more {number}")
    await desk.draft(ALICE, "c0", "a draft")
    kind, _ = await desk.ask(ALICE, "title_update", chatId=chats[0], title="a title", basedOnVersion=0)
    assert kind == "title_updated"
    await desk.settled()
    before = (await desk.parts.store.known(ALICE, [chats[0]]))[chats[0]]
    await desk.result("keys-rotate", chat=chats[0])
    await desk.result("keys-rotate", chat=chats[1])

    result = await desk.result("keys-reseal")
    assert (result["count"], result["values"], result["unchanged"]) == (2, 7, 1)
    assert (result["undecryptable"], result["left"], result["deleted"]) == (0, 0, 0)
    assert await desk.versions(ALICE, chats[0]) == [2] * 6
    assert await desk.versions(ALICE, chats[1]) == [2]
    assert await desk.versions(ALICE, chats[2]) == [1]
    after = (await desk.parts.store.known(ALICE, [chats[0]]))[chats[0]]
    sealed = {"title", "draft"}
    assert after.model_dump(exclude=sealed) == before.model_dump(exclude=sealed)
    assert await desk.cached(ALICE, chats[0]) is None  # the clean copy with old envelopes is gone

    kind, page = await desk.ask(ALICE, "chats_request", ids=[chats[0]], limit=1)
    assert kind == "chats_page"
    [body] = page["chats"]
    assert (body["title"], body["draft"], body["undecryptable"]) == ("a title", doc("a draft"), [])
    again = await desk.result("keys-reseal")
    assert (again["count"], again["values"], again["unchanged"]) == (0, 0, 3)


async def test_resealing_that_is_broken_off_goes_on_with_what_is_left(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        await desk.message(ALICE, f"c{number}", "text")
    await desk.result("keys-rotate")
    whole, calls = desk.parts.store.reseal, 0

    async def falters(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Unavailable("persistence", "disk full")
        await whole(*arguments)

    monkeypatch.setattr(desk.parts.store, "reseal", falters)
    refusal = await desk.refusal("keys-reseal", user=ALICE)
    assert "2 chats were resealed" in refusal["message"]
    result = await desk.result("keys-reseal", user=ALICE)
    assert (result["count"], result["unchanged"]) == (3, 2)


async def test_what_does_not_open_is_named_and_left_as_it_is(desk: Desk) -> None:
    chat, other = await desk.message(ALICE, "one", "text"), await desk.message(ALICE, "two", "text")
    row = (await desk.parts.store.known(ALICE, [chat]))[chat]
    [message] = (await desk.parts.store.messages(ALICE, chat, None, 10)).items
    broken = message.model_copy(update={"content": Sealed(message.content[:-1] + bytes([message.content[-1] ^ 1]))})
    await desk.parts.store.reseal(row, [broken])
    await desk.result("keys-rotate")
    for _ in range(2):
        result = await desk.result("keys-reseal")
        assert result["undecryptable"] == 1
        assert result["undecryptable_values"] == [
            {"user": ALICE, "chat": chat, "field": "message", "record": message.id}
        ]
        [kept] = (await desk.parts.store.messages(ALICE, chat, None, 10)).items
        assert kept.content == broken.content
    assert await desk.versions(ALICE, other) == [2]


async def test_old_envelopes_that_are_only_in_the_cache_are_counted_as_left(opened: Open) -> None:
    async with opened(drafts={"debounce": "1m", "max_debounce": "1m"}) as desk:
        await desk.message(ALICE, "one", "text")
        await desk.draft(ALICE, "one", "not stored yet")
        await desk.draft(BOB, "two", "a draft alone")
        await desk.result("keys-rotate")
        result = await desk.result("keys-reseal")
        assert (result["count"], result["left"]) == (1, 2)
        await desk.draft(BOB, "two", "a newer one", base=1)
        await desk.draft(ALICE, "one", "a newer one", base=1)
        assert (await desk.result("keys-reseal"))["left"] == 0


async def test_a_row_whose_key_was_destroyed_is_deleted_and_no_error(desk: Desk) -> None:
    chat = await desk.message(ALICE, "one", "text")
    row = (await desk.parts.store.known(ALICE, [chat]))[chat]
    await desk.parts.cipher.destroy(row.vault_key_reference)
    assert (await desk.result("keys-reseal"))["deleted"] == 1
    await desk.settled()
    assert await desk.parts.store.known(ALICE, [chat]) == {}
    assert isinstance(await desk.cached(ALICE, chat), Deleted)


async def test_f23_rotating_while_a_draft_is_edited_breaks_nothing(desk: Desk) -> None:
    """F23, S63: 200 edits while the key is rotated and resealed all the time; every one is accepted and every text opens."""
    chat = await desk.message(ALICE, "one", "text")
    stop = asyncio.Event()
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while not stop.is_set():
            await desk.result("keys-rotate", chat=chat)
            result = await desk.result("keys-reseal", user=ALICE)
            assert result["undecryptable"] == 0
            turns += 1

    turning = asyncio.create_task(turn())
    version = 0
    while version < 200 or turns < 5:
        await desk.draft(ALICE, "one", f"edit {version}", base=version)
        version += 1
        if version % 10 == 0:
            kind, page = await desk.ask(ALICE, "messages_request", chatId=chat, limit=10)
            assert [message["content"] for message in page["messages"]] == [doc("text")], kind
        await asyncio.sleep(0.001)
    stop.set()
    await turning
    await desk.settled()
    row = (await desk.parts.store.known(ALICE, [chat]))[chat]
    assert row.draft is not None
    raw = await desk.parts.cipher.open(
        row.vault_key_reference, Field(ALICE, chat, "draft", chat, row.version), row.draft
    )
    assert json.loads(raw) == doc(f"edit {version - 1}")


@pytest.mark.parametrize("command", ["keys-rotate", "keys-reseal", "keys-prune"])
async def test_where_the_clients_encrypt_there_are_no_keys_to_work_on(opened: Open, command: str) -> None:
    async with opened(encryption={"use": "passthrough"}) as desk:
        assert "clients encrypt" in (await desk.refusal(command))["message"]


# -- destroying --------------------------------------------------------------------------------------------------------


async def test_s68_a_destroyed_chat_is_deleted_everywhere_and_stays_so(opened: Open) -> None:
    """S68: key gone, row gone, tombstone; a device that restores it after the cache was lost hears `chat_deleted`."""
    async with opened() as desk:
        chat = await desk.message(ALICE, "one", "text")
        row = (await desk.parts.store.known(ALICE, [chat]))[chat]
        result = await desk.result("keys-destroy", chat=chat)
        assert (result["count"], result["user"], result["known"], result["waiting"]) == (1, ALICE, True, 0)
        assert await desk.parts.store.known(ALICE, [chat]) == {}
        with pytest.raises(KeyGone):
            await desk.parts.cipher.begin(ALICE, chat)
        with pytest.raises(KeyGone):
            await desk.parts.cipher.open(
                row.vault_key_reference, Field(ALICE, chat, "draft", chat, 1), Sealed(b"\1\1" + bytes(60))
            )
        again = await desk.result("keys-destroy", chat="one", user=ALICE)
        assert (again["count"], again["deleted_at"]) == (0, result["deleted_at"])

        await desk.parts.cache.chats.drop(ALICE, None)
        draft = {"content": doc("old"), "state": "edited", "version": 3, "op": "x"}
        kind, said = await desk.ask(ALICE, "chat_restore", chatId=chat, draft=draft, messagesVersion=1)
        assert (kind, said["reason"]) == ("draft_conflict", "chat_deleted")


async def test_a_draft_that_only_its_device_holds_can_be_destroyed_too(desk: Desk) -> None:
    chat = await desk.draft(ALICE, "one", "text")
    await desk.parts.cache.chats.drop(ALICE, None)
    desk.parts.references.drop(ALICE, chat)
    result = await desk.result("keys-destroy", chat=chat, user=ALICE)
    assert (result["count"], result["known"]) == (1, False)
    with pytest.raises(KeyGone):
        await desk.parts.cipher.begin(ALICE, chat)


async def test_nothing_is_destroyed_while_the_store_cannot_be_asked(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = await desk.message(ALICE, "one", "text")
    await desk.parts.cache.chats.drop(ALICE, [chat])

    async def away(*_: Any) -> Any:
        raise Unavailable("persistence")

    with monkeypatch.context() as patch:
        patch.setattr(desk.parts.store, "known", away)
        assert "persistence" in (await desk.refusal("keys-destroy", chat=chat, user=ALICE))["message"]
    assert (await peek(desk.parts, ALICE, [chat])).keys() == {chat}
    assert await desk.parts.cipher.destroyed(ALICE, [chat]) == {}


# -- pruning -----------------------------------------------------------------------------------------------------------


async def test_prune_drops_the_key_of_a_draft_that_nobody_holds_and_keeps_every_other(desk: Desk) -> None:
    gone = await desk.draft(BOB, "gone", "text")
    live = await desk.draft(ALICE, "live", "text")
    stored = await desk.message(ALICE, "stored", "text")
    await desk.parts.cache.chats.drop(BOB, None)
    await desk.parts.cache.chats.drop(ALICE, [stored])
    keys = await desk.with_keys()
    assert keys == {gone, live, stored}

    assert await desk.result("keys-prune", grace=0) == {"count": 1, "kept": 0}
    assert await desk.with_keys() == {live, stored}
    assert await desk.result("keys-prune", grace=0) == {"count": 0, "kept": 0}

    # No mark: the device that was offline brings its draft back, under a new key.
    draft = {"content": doc("text"), "state": "edited", "version": 1, "op": "x"}
    kind, _ = await desk.ask(BOB, "chat_restore", chatId=gone, draft=draft, messagesVersion=0)
    assert kind == "chat_restored"
    await desk.draft(ALICE, "live", "still written", base=1)


async def test_prune_keeps_a_key_that_comes_into_use_during_the_grace_time(desk: Desk) -> None:
    chat = await desk.draft(ALICE, "one", "text")
    await desk.parts.cache.chats.drop(ALICE, None)
    pruning = asyncio.create_task(desk.result("keys-prune", grace=0.3))
    await asyncio.sleep(0.1)
    draft = {"content": doc("text"), "state": "edited", "version": 1, "op": "x"}
    assert (await desk.ask(ALICE, "chat_restore", chatId=chat, draft=draft, messagesVersion=0))[0] == "chat_restored"
    assert await pruning == {"count": 0, "kept": 1}
    await desk.draft(ALICE, "one", "goes on", base=1)


async def test_prune_makes_a_key_again_for_a_draft_that_another_process_commits_in_this_very_moment(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was sealed before the key was forgotten and is committed after the last look: it can be written again."""
    chat = await desk.draft(ALICE, "one", "text")
    cipher, chats = desk.parts.cipher, desk.parts.cache.chats
    found = await desk.cached(ALICE, chat)
    assert isinstance(found, ChatInCache)
    await chats.drop(ALICE, None)
    forget = cipher.forget

    async def forget_and_commit_soon(key: KeyReference) -> None:
        await forget(key)
        asyncio.get_running_loop().call_later(0.1, lambda: committing.append(asyncio.create_task(commit())))

    async def commit() -> None:
        token = await chats.prepare(ALICE, [chat])
        change = own_change(desk.parts, ALICE, chat, PutDraft(found.draft, 0))
        outcome = await chats.commit(dataclasses.replace(change, key=found.key, token=token))
        assert isinstance(outcome, Accepted), outcome

    committing: list[asyncio.Task[None]] = []
    monkeypatch.setattr(cipher, "forget", forget_and_commit_soon)
    assert await desk.result("keys-prune", grace=0.5) == {"count": 0, "kept": 1}
    await asyncio.gather(*committing)
    await desk.draft(ALICE, "one", "goes on", base=1)


async def test_prune_forgets_nothing_while_the_store_cannot_be_asked(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = await desk.draft(ALICE, "one", "text")
    await desk.parts.cache.chats.drop(ALICE, None)

    async def away(*_: Any) -> Any:
        raise Unavailable("persistence")

    monkeypatch.setattr(desk.parts.store, "known", away)
    await desk.refusal("keys-prune", grace=0)
    assert await desk.with_keys() == {chat}


# -- persons -----------------------------------------------------------------------------------------------------------


async def test_devices_are_listed_without_their_secrets(desk: Desk) -> None:
    now = desk.parts.now()
    for user in (ALICE, BOB):
        device = DeviceInDB(
            id=DeviceId("d1"), hashed_user_id=user, secret_hash="5ec7e7", name="App", first_seen=now, last_seen=now
        )
        await desk.parts.store.put_device(device)
    [row] = await desk.rows("users-devices", user=ALICE)
    assert row.keys() == {"id", "name", "first_seen", "last_seen", "verified_at"}
    assert (row["id"], row["name"], row["verified_at"]) == ("d1", "App", None)
    assert "5ec7e7" not in json.dumps(row)


async def test_t47_erasing_leaves_no_byte_of_the_person_and_everything_of_the_others(
    opened: Open, tmp_path: Path
) -> None:
    """T47: after a restart no file holds a sealed value, the hash, a chat id or a device of the person."""
    async with opened() as desk:
        chats = {user: await desk.message(user, "0a1b2c3d-one", f"text of {user}") for user in (ALICE, BOB)}
        drafts = {user: await desk.draft(user, "0a1b2c3d-two", "a draft") for user in (ALICE, BOB)}
        deleted = await desk.message(ALICE, "0a1b2c3d-three", "deleted before")
        await desk.ask(ALICE, "chat_delete", chatId=deleted)
        for user in (ALICE, BOB):
            await desk.draft(user, "0a1b2c3d-one", "another draft")
            now = desk.parts.now()
            device = DeviceInDB(
                id=DeviceId(f"device-of-{user[:8]}"),
                hashed_user_id=user,
                secret_hash="00",
                name="App",
                first_seen=now,
                last_seen=now,
            )
            await desk.parts.store.put_device(device)
        await desk.settled()
        sealed: dict[UserHash, list[bytes]] = {}
        for user in (ALICE, BOB):
            page = await desk.parts.store.messages(user, chats[user], None, 10)
            row = (await desk.parts.store.known(user, [chats[user]]))[chats[user]]
            draft = await desk.cached(user, drafts[user])
            assert isinstance(draft, ChatInCache)
            assert row.draft is not None
            assert draft.draft is not None
            sealed[user] = [page.items[0].content, row.draft, draft.draft]

        result = await desk.result("users-erase", user=ALICE)
        assert (result["done"], result["chats"], result["devices"]) == (True, 2, 1)
        assert (result["sockets_left"], result["waiting"]) == (0, {})
        assert await desk.parts.store.known(ALICE, [chats[ALICE]]) == {}
        assert await desk.parts.store.devices(ALICE) == []
        # Even the marks are gone: nothing tells that there was a person.
        assert await desk.parts.cipher.destroyed(ALICE, [chats[ALICE], drafts[ALICE]]) == {}
        again = await desk.result("users-erase", user=ALICE)
        assert (again["done"], again["chats"], again["devices"]) == (True, 0, 0)

    async with opened() as desk:  # what the journal still held is written anew at the start
        files = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}
        assert len(files) > 3
        for user, expected in ((ALICE, False), (BOB, True)):
            needles = [*sealed[user], user.encode(), chats[user].encode(), f"device-of-{user[:8]}".encode()]
            for needle in needles:
                holders = [path.name for path, content in files.items() if needle in content]
                assert bool(holders) is expected, (holders, needle[:40])
        assert not [path for path, content in files.items() if deleted.encode() in content]
        kind, page_ = await desk.ask(BOB, "messages_request", chatId=chats[BOB], limit=10)
        assert (kind, page_["messages"][0]["content"]) == ("messages_page", doc(f"text of {BOB}"))
        found = (await peek(desk.parts, BOB, [drafts[BOB]]))[drafts[BOB]]
        assert isinstance(found, ChatInCache)
        assert found.draft is not None
        raw = await desk.parts.cipher.open(found.key, Field(BOB, found.id, "draft", found.id, 1), found.draft)
        assert json.loads(raw) == doc("a draft")


async def test_nothing_is_erased_while_the_store_cannot_be_asked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = await desk.message(ALICE, "one", "text")

    async def away(*_: Any) -> Any:
        raise Unavailable("persistence")

    monkeypatch.setattr(desk.parts.store, "devices", away)
    assert "persistence" in (await desk.refusal("users-erase", user=ALICE))["message"]
    assert await desk.parts.cipher.destroyed(ALICE, [chat]) == {}
    assert (await peek(desk.parts, ALICE, [chat])).keys() == {chat}


async def test_an_erasure_that_the_store_does_not_carry_out_says_so(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.message(ALICE, "one", "text")
    monkeypatch.setattr("sidecar.operations.erasing._STORE_SECONDS", 0.2)
    monkeypatch.setattr("sidecar.operations.erasing._QUIET_SECONDS", 0.1)
    persistence = next(each for each in desk.plugins._plugins if each.name == "persistence")

    async def away(*_: Any) -> Any:
        raise Unavailable("persistence", "down", 0.1)

    with monkeypatch.context() as patch:
        patch.setattr("sidecar.listeners.Listener.deliver_erased", away)
        result = await desk.result("users-erase", user=ALICE)
    assert result["done"] is False
    assert result["waiting"] == {persistence.name: 2}
    await desk.settled()  # the outbox goes on with it
    assert not (await desk.parts.plugins.sync(ALICE, None, 1)).pages["persistence"].items
