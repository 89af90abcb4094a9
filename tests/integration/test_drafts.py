"""Drafts between devices: S9–S19 (semantics §2, §3)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.server.running import Server
from tests.device import doc, new_id
from tests.integration.world import begin, devices, key_count, record, rows, say, settled

pytestmark = pytest.mark.caches("memory", "redis")


async def test_s9_a_first_draft_makes_version_1_tells_the_others_and_writes_no_row(
    server: Server, tmp_path: Path
) -> None:
    """S9: version 1, no row in the store, all other devices get the chat."""
    async with devices(server, 3) as (one, two, three):
        made = await begin(one, "c1", doc("first"))
        assert (made["finalChatId"], made["tempChatId"], made["version"]) == (one.full("c1"), "c1", 1)
        assert made["durability"] == "cached"
        assert made["chat"]["draft"] == doc("first")
        assert made["chat"]["draft_state"] == "edited"
        for other in (two, three):
            added = await other.event("chat_added")
            assert added["tempChatId"] == "c1"
            assert added["chat"]["draft"] == doc("first")
            assert (added["chat"]["version"], added["chat"]["draft_op"]) == (1, made["op"])
            assert added["chat"]["persisted"] is False
            assert added["deviceId"] == one.ready["device"]["id"]
        await settled(server)
        assert rows(tmp_path, "SELECT * FROM chats") == []
        assert not [event for event in await one.quiet(0.05) if event["type"] != "device_added"]


async def test_s10_the_same_create_twice_is_one_chat_one_key_and_version_1(server: Server) -> None:
    """S10: a retry on the same socket, and on another one."""
    async with devices(server, 2) as (one, two):
        frame: dict[str, Any] = {"tempChatId": "c1", "content": doc("x"), "basedOnVersion": 0}
        op = new_id()
        first = await one.ask("draft_update", frame, op)
        again = await one.ask("draft_update", frame, op)
        elsewhere = await two.ask("draft_update", frame, op)
        assert [first["type"], again["type"], elsewhere["type"]] == ["chat_initiated"] * 3
        assert [each["payload"]["version"] for each in (first, again, elsewhere)] == [1, 1, 1]
        assert {each["payload"]["op"] for each in (first, again, elsewhere)} == {op}
        assert key_count(server) == 1
        await two.event("chat_added")
        assert [event for event in await two.quiet(0.1) if event["type"] == "chat_added"] == []


async def test_s11_an_update_with_the_current_base_is_acknowledged_and_told_once_to_each_other(server: Server) -> None:
    """S11: +1, the sender's answer with the version, one event to each other device."""
    async with devices(server, 3) as (one, two, three):
        made = await begin(one, "c1", doc("a"))
        answer = await one.ask(
            "draft_update",
            {"chatId": "c1", "content": doc("b"), "basedOnVersion": 1, "basedOnOp": made["op"]},
        )
        assert answer["type"] == "draft_updated"
        assert answer["payload"]["version"] == 2
        assert "content" not in answer["payload"]
        for other in (two, three):
            event = await other.event("draft_updated")
            assert (event["version"], event["op"], event["content"]) == (2, answer["payload"]["op"], doc("b"))
            assert event["reason"] == "edited"
            assert [each for each in await other.quiet(0.05) if each["type"] == "draft_updated"] == []
        assert [each for each in one.events if each["type"] == "draft_updated"] == []


async def test_s12_a_stale_base_changes_nothing_and_shows_the_winner(server: Server) -> None:
    """S12: the reply holds the server's text, revision, time and device."""
    async with devices(server, 2) as (one, two):
        await begin(one, "c1", doc("a"))
        accepted = await one.ask("draft_update", {"chatId": "c1", "content": doc("b"), "basedOnVersion": 1})
        refused = await two.ask("draft_update", {"chatId": "c1", "content": doc("mine"), "basedOnVersion": 1})
        assert refused["type"] == "draft_conflict"
        payload = refused["payload"]
        assert (payload["version"], payload["op"]) == (2, accepted["payload"]["op"])
        assert payload["content"] == doc("b")
        assert payload["reason"] == "stale"
        assert payload["deviceId"] == one.ready["device"]["id"]
        assert payload["updatedAt"] == accepted["payload"]["updatedAt"]
        assert (await record(one, "c1"))["draft"] == doc("b")
        assert [each for each in await one.quiet(0.05) if each["type"] == "draft_updated"] == []


async def test_s12_the_number_with_another_operation_is_stale_too(server: Server) -> None:
    """S12: a revision is number and operation; the number alone is compared only where no operation is named."""
    async with devices(server, 1) as (one,):
        await begin(one, "c1", doc("a"))
        answer = await one.ask(
            "draft_update", {"chatId": "c1", "content": doc("b"), "basedOnVersion": 1, "basedOnOp": "another-operation"}
        )
        assert (answer["type"], answer["payload"]["reason"]) == ("draft_conflict", "stale")
        answer = await one.ask("draft_update", {"chatId": "c1", "content": doc("b"), "basedOnVersion": 1})
        assert (answer["type"], answer["payload"]["version"]) == ("draft_updated", 2)


async def test_s12_a_conflict_with_the_same_text_is_a_success(server: Server) -> None:
    """Semantics §2: two devices that wrote the same have nothing to decide; the order of keys is no difference."""
    async with devices(server, 2) as (one, two):
        made = await begin(one, "c1", doc("same"))
        turned = {"content": doc("same")["content"], "type": "doc"}
        answer = await two.ask("draft_update", {"tempChatId": "c1", "content": turned, "basedOnVersion": 0})
        assert answer["type"] == "draft_updated", answer
        assert (answer["payload"]["version"], answer["payload"]["op"]) == (1, made["op"])
        assert (await record(one, "c1"))["version"] == 1


async def test_s13_of_100_updates_with_the_same_base_exactly_one_wins(server: Server) -> None:
    """S13: ten sockets, ten updates each, all at once."""
    async with devices(server, 10) as many:
        await begin(many[0], "c1", doc("base"))
        sent = [
            (
                device,
                await device.send("draft_update", {"chatId": "c1", "content": doc(text), "basedOnVersion": 1}),
                text,
            )
            for device in many
            for text in (f"{number}-{many.index(device)}" for number in range(10))
        ]
        answers = [(await device.answer(id_), id_, text) for device, id_, text in sent]
        winners = [(answer, id_, text) for answer, id_, text in answers if answer["type"] == "draft_updated"]
        assert len(answers) == 100
        assert len(winners) == 1
        [(answer, op, text)] = winners
        assert (answer["payload"]["version"], answer["payload"]["op"]) == (2, op)
        for loser, _, _ in answers:
            if loser is not answer:
                assert (loser["type"], loser["payload"]["version"], loser["payload"]["op"]) == ("draft_conflict", 2, op)
                assert loser["payload"]["content"] == doc(text)
        chat = await record(many[0], "c1")
        assert (chat["version"], chat["draft"]) == (2, doc(text))


async def test_s14_an_accepted_update_again_returns_the_first_result(server: Server) -> None:
    """S14: same operation id, even after newer edits: no bump, no event, the text of today stays."""
    async with devices(server, 2) as (one, two):
        await begin(one, "c1", doc("a"))
        frame = {"chatId": "c1", "content": doc("b"), "basedOnVersion": 1}
        first = await one.ask("draft_update", frame, "operation-b-of-this-test")
        later = await one.ask("draft_update", {"chatId": "c1", "content": doc("c"), "basedOnVersion": 2})
        again = await two.ask("draft_update", frame, "operation-b-of-this-test")
        assert again["type"] == "draft_updated"
        assert (again["payload"]["version"], again["payload"]["op"]) == (2, first["payload"]["op"])
        chat = await record(two, "c1")
        assert (chat["version"], chat["draft"], chat["draft_op"]) == (3, doc("c"), later["payload"]["op"])


async def test_s15_whatever_order_versions_arrive_in_the_last_one_stays(server: Server) -> None:
    """S15: applied by revision, five quick edits end at the fifth, and what is told never goes back."""
    async with devices(server, 2) as (one, two):
        await begin(one, "c1", doc("1"))
        ids = [
            await one.send("draft_update", {"chatId": "c1", "content": doc(str(base + 1)), "basedOnVersion": base})
            for base in range(1, 5)
        ]
        assert [(await one.answer(id_))["payload"]["version"] for id_ in ids] == [2, 3, 4, 5]
        last = await two.event("draft_updated", lambda event: event["version"] == 5)
        assert last["content"] == doc("5")
        seen = [event["payload"] for event in two.events if event["type"] == "draft_updated"]
        for event in seen:
            assert event["content"] == doc(str(event["version"]))  # no number ever stands at another's text
        assert [event["version"] for event in seen] == sorted({event["version"] for event in seen})
        assert all(event["version"] < 5 for event in seen)
        assert await two.quiet(0.05) is not None
        assert not [event for event in two.events if event["payload"].get("version", 0) > 5]


async def test_s16_a_draft_that_is_deleted_and_written_anew_goes_on_rising(server: Server) -> None:
    """S16: a device that holds the old draft does not bring it back."""
    async with devices(server, 2) as (one, two):
        await say(one, "c1", "m1", doc("hello"))
        await one.ask("draft_update", {"chatId": "c1", "content": doc("old"), "basedOnVersion": 0})
        await two.event("draft_updated", lambda event: event["version"] == 1)
        gone = await one.ask("draft_delete", {"chatId": "c1", "basedOnVersion": 1, "hasMessages": True})
        assert (gone["type"], gone["payload"]["version"], gone["payload"]["reason"]) == ("draft_updated", 2, "deleted")
        cleared = await two.event("draft_updated", lambda event: event["version"] == 2)
        assert (cleared["content"], cleared["reason"]) == (None, "deleted")
        stale = await two.ask("draft_update", {"chatId": "c1", "content": doc("old!"), "basedOnVersion": 1})
        assert (stale["type"], stale["payload"]["reason"]) == ("draft_conflict", "deleted")
        assert (stale["payload"]["version"], stale["payload"]["content"]) == (2, None)
        anew = await one.ask("draft_update", {"chatId": "c1", "content": doc("new"), "basedOnVersion": 2})
        assert anew["payload"]["version"] == 3
        stale = await two.ask("draft_update", {"chatId": "c1", "content": doc("old!!"), "basedOnVersion": 1})
        assert (stale["payload"]["reason"], stale["payload"]["content"]) == ("stale", doc("new"))
        chat = await record(two, "c1")
        assert (chat["version"], chat["draft"]) == (3, doc("new"))


async def test_s16_deleting_the_draft_of_a_chat_without_messages_deletes_the_chat(server: Server) -> None:
    """S16: and its id is not used again."""
    async with devices(server, 2) as (one, two):
        await begin(one, "c1", doc("only a draft"))
        answer = await one.ask("draft_delete", {"chatId": "c1", "basedOnVersion": 1, "hasMessages": False})
        assert (answer["type"], answer["payload"]["chatId"]) == ("chat_deleted", one.full("c1"))
        assert (await two.event("chat_deleted"))["chatId"] == one.full("c1")
        for frame in ({"tempChatId": "c1", "basedOnVersion": 0}, {"chatId": "c1", "basedOnVersion": 1}):
            refused = await two.ask("draft_update", {**frame, "content": doc("again")})
            assert (refused["type"], refused["payload"]["reason"]) == ("draft_conflict", "chat_deleted")
        assert key_count(server) == 0


async def test_s16_a_draft_deletion_of_a_client_that_sends_a_message_keeps_the_chat(server: Server) -> None:
    """Semantics §3: `hasMessages` says that the client is sending a message: only the draft is cleared."""
    async with devices(server, 1) as (one,):
        await begin(one, "c1", doc("text"))
        answer = await one.ask("draft_delete", {"chatId": "c1", "basedOnVersion": 1, "hasMessages": True})
        assert (answer["type"], answer["payload"]["version"]) == ("draft_updated", 2)
        await say(one, "c1", "m1", doc("text"))
        chat = await record(one, "c1")
        assert (chat["draft"], chat["draft_state"], chat["messages_version"] > 0) == (None, "deleted", True)


async def test_s17_a_deletion_that_meets_an_edit_is_a_conflict(server: Server) -> None:
    """S17: whichever comes second is refused, and nothing is merged in silence."""
    async with devices(server, 2) as (one, two):
        await say(one, "c1", "m1", doc("hello"))
        await one.ask("draft_update", {"chatId": "c1", "content": doc("a"), "basedOnVersion": 0})
        await two.ask("draft_update", {"chatId": "c1", "content": doc("edited"), "basedOnVersion": 1})
        refused = await one.ask("draft_delete", {"chatId": "c1", "basedOnVersion": 1, "hasMessages": True})
        assert (refused["type"], refused["payload"]["reason"]) == ("draft_conflict", "stale")
        assert refused["payload"]["content"] == doc("edited")
        await one.ask("draft_delete", {"chatId": "c1", "basedOnVersion": 2, "hasMessages": True})
        refused = await two.ask("draft_update", {"chatId": "c1", "content": doc("edited on"), "basedOnVersion": 2})
        assert (refused["type"], refused["payload"]["reason"]) == ("draft_conflict", "deleted")
        assert (await record(one, "c1"))["draft"] is None


async def test_s18_missing_null_and_empty_are_three_cases(server: Server) -> None:
    """S18: an unknown chat is not there, a cleared draft is null with its state, an empty document is itself."""
    async with devices(server, 1) as (one,):
        empty = {"type": "doc"}
        await begin(one, "empty", empty)
        await say(one, "cleared", "m1", doc("x"))
        await one.ask("draft_update", {"chatId": "cleared", "content": doc("t"), "basedOnVersion": 0})
        await one.ask("draft_delete", {"chatId": "cleared", "basedOnVersion": 1, "hasMessages": True})
        page = await one.ask("chats_request", {"ids": ["empty", "cleared", "nobody-knows"]})
        chats = {chat["id"]: chat for chat in page["payload"]["chats"]}
        assert set(chats) == {one.full("empty"), one.full("cleared")}
        assert (chats[one.full("empty")]["draft"], chats[one.full("empty")]["draft_state"]) == (empty, "edited")
        assert (chats[one.full("cleared")]["draft"], chats[one.full("cleared")]["draft_state"]) == (None, "deleted")
        for answer in (
            await one.ask("draft_delete", {"chatId": "nobody-knows", "basedOnVersion": 1, "hasMessages": False}),
            await one.ask("draft_update", {"chatId": "nobody-knows", "content": doc("x"), "basedOnVersion": 1}),
            # What follows is above the version here: lost, not stale.
            await one.ask("draft_update", {"chatId": "empty", "content": doc("x"), "basedOnVersion": 7}),
        ):
            assert (answer["type"], answer["payload"]["reason"]) == ("draft_conflict", "missing")
        assert key_count(server) == 2


def nested(depth: int) -> dict[str, Any]:
    tree: dict[str, Any] = {"type": "text"}
    for _ in range((depth - 1) // 2):
        tree = {"content": [tree]}
    return tree


@pytest.mark.parametrize(
    ("content", "code", "unit"),
    [
        (doc("x" * 200_000), "too_large", "bytes"),
        (nested(67), "too_large", "depth"),
        ({"type": "doc", "content": [{}] * 21_000}, "too_large", "nodes"),
        ("a string", "bad_payload", None),
        (["a list"], "bad_payload", None),
        (None, "bad_payload", None),
    ],
    ids=["bytes", "depth", "nodes", "string", "list", "null"],
)
async def test_s19_a_draft_that_cannot_be_taken_is_a_typed_error(
    server: Server, content: Any, code: str, unit: str | None
) -> None:
    """S19: the socket stays open and the state is unchanged."""
    async with devices(server, 2) as (one, two):
        await begin(one, "c1", doc("good"))
        await two.event("chat_added")
        answer = await one.ask("draft_update", {"chatId": "c1", "content": content, "basedOnVersion": 1})
        assert (answer["type"], answer["payload"]["code"]) == ("error", code), answer
        assert answer["payload"]["retryable"] is False
        if unit is not None:
            assert answer["payload"]["details"]["unit"] == unit
            assert answer["payload"]["details"]["limit"] > 0
        chat = await record(one, "c1")
        assert (chat["version"], chat["draft"]) == (1, doc("good"))
        assert [event for event in await two.quiet(0.05) if event["type"] == "draft_updated"] == []
        assert (await one.ask("draft_update", {"chatId": "c1", "content": doc("better"), "basedOnVersion": 1}))[
            "payload"
        ]["version"] == 2


@pytest.mark.parametrize(
    "content", ['{"type": "doc", "n": NaN}', '{"type": "doc", "n": 1e999}', '{"a": 1, "a": 2}', '{"t": "\\ud800"}']
)
async def test_s19_what_is_not_json_is_a_bad_frame_and_changes_nothing(server: Server, content: str) -> None:
    async with devices(server, 1) as (one,):
        await begin(one, "c1", doc("good"))
        await one.send_raw(
            f'{{"type": "draft_update", "id": "op", "payload": {{"chatId": "c1", "content": {content}, "basedOnVersion": 1}}}}'
        )
        # Where the frame could be read far enough the error names its id.
        answer, event = asyncio.create_task(one.answer("op")), asyncio.create_task(one.event("error"))
        done, rest = await asyncio.wait([answer, event], return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        payload = event.result() if event in done else answer.result()["payload"]
        assert payload["code"] == "bad_frame"
        assert (await record(one, "c1"))["draft"] == doc("good")


async def test_a_document_comes_back_as_it_was_sent(server: Server) -> None:
    """Semantics §3: the same JSON value, keys in order, unknown nodes, marks and attributes, large and small numbers."""
    document = {
        "type": "doc",
        "attrs": {"z": 1, "a": 1.5, "big": 12345678901234567890, "nothing": None, "yes": True},
        "content": [
            {"type": "unknown-node", "attrs": {"x": {"deep": [[], {}, [[1]]]}}},
            {
                "marks": [{"type": "unknown"}],
                "text": 'ends "quoted" \\ {[ \u202eright to left\u202c 👩\u200d👩\u200d👧',
                "type": "text",
            },
        ],
    }
    async with devices(server, 2) as (one, two):
        await begin(one, "c1", document)
        added = await two.event("chat_added")
        assert json.dumps(added["chat"]["draft"]) == json.dumps(document)
