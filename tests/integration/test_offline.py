"""Work done without a connection, and connections lost in the middle of it: S49–S52."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.server.running import Server
from tests.conftest import Serve
from tests.device import Device, Frame, doc, new_id
from tests.integration.world import AT_ONCE, begin, chats_of, devices, key_count, record, say, settled

pytestmark = pytest.mark.caches("memory", "redis")


async def test_s49_fifty_offline_edits_are_one_accepted_write(server: Server) -> None:
    """S49: what a client kept of them is the last text on the base that its editor showed: one revision, one event."""
    async with devices(server, 2) as (one, two):
        made = await begin(one, "c1", doc("0"))
        await two.event("chat_added")
        cursor = (await one.sync())[-1]["cursor"]
        await one.close()
        text = "0"
        for number in range(50):
            text += f" {number}"
        await one.open()
        [delta] = await one.sync(cursor=cursor)
        assert delta["chats"] == []
        edit = {"chatId": "c1", "content": doc(text), "basedOnVersion": 1, "basedOnOp": made["op"]}
        answer = await one.ask("draft_update", edit)
        assert (answer["type"], answer["payload"]["version"]) == ("draft_updated", 2)
        event = await two.event("draft_updated")
        assert (event["version"], event["content"]) == (2, doc(text))
        assert [each for each in await two.quiet(0.1) if each["type"] == "draft_updated"] == []


async def test_s49_edits_on_a_clients_own_unanswered_operations_are_accepted_in_a_row(server: Server) -> None:
    """S49, semantics §2: each names the revision that the operation before it makes, before that one was answered."""
    async with devices(server, 2) as (one, two):
        ops = [new_id() for _ in range(50)]
        for number, op in enumerate(ops):
            payload: dict[str, Any] = {"tempChatId": "c1", "content": doc(str(number)), "basedOnVersion": number}
            if number:
                payload["basedOnOp"] = ops[number - 1]
            await one.send("draft_update", payload, op)
        answers = [await one.answer(op) for op in ops]
        assert [answer["payload"]["version"] for answer in answers] == list(range(1, 51))
        assert [answer["payload"]["op"] for answer in answers] == ops
        chat = await record(two, "c1")
        assert (chat["version"], chat["draft_op"], chat["draft"]) == (50, ops[-1], doc("49"))


async def test_s50_a_mixed_batch_has_a_result_for_each_item(server: Server) -> None:
    """S50: accepted, conflicting, refused and deleted ones side by side; one that fails takes none with it."""
    async with devices(server, 2) as (one, two):
        await begin(one, "conflict", doc("a"))
        await two.ask("draft_update", {"chatId": "conflict", "content": doc("two's"), "basedOnVersion": 1})
        await begin(one, "gone", doc("g"))
        await begin(one, "edited", doc("e"))
        await say(one, "message", "m1", doc("m"))
        batch: list[tuple[str, dict[str, Any], tuple[str, str | None]]] = [
            ("title_update", {"chatId": "edited", "title": "T", "basedOnVersion": 0}, ("title_updated", None)),
            ("draft_update", {"chatId": "conflict", "content": doc("b"), "basedOnVersion": 1}, ("draft_conflict", "stale")),
            ("title_update", {"chatId": "conflict", "title": "T", "basedOnVersion": 0}, ("title_updated", None)),
            ("draft_update", {"chatId": "edited", "content": "no document", "basedOnVersion": 1}, ("error", "bad_payload")),
            ("draft_update", {"chatId": "edited", "content": doc("f"), "basedOnVersion": 1}, ("draft_updated", None)),
            ("draft_delete", {"chatId": "gone", "basedOnVersion": 1, "hasMessages": False}, ("chat_deleted", None)),
            ("title_update", {"chatId": "gone", "title": "late", "basedOnVersion": 0}, ("title_conflict", "chat_deleted")),
            ("draft_update", {"chatId": "lost", "content": doc("x"), "basedOnVersion": 4}, ("draft_conflict", "missing")),
            ("draft_update", {"tempChatId": "new", "content": doc("n"), "basedOnVersion": 0}, ("chat_initiated", None)),
            ("message_send", {"chatId": "new", "clientMessageId": "m1", "content": doc("n"), "draftVersion": 1}, ("message_accepted", None)),
            ("chat_delete", {"chatId": "message"}, ("chat_deleted", None)),
        ]  # fmt: skip
        ids = [await one.send(type_, payload) for type_, payload, _ in batch]
        answers = [await one.answer(id_) for id_ in ids]
        results = [
            (
                answer["type"],
                answer["payload"].get("code") if answer["type"] == "error" else answer["payload"].get("reason"),
            )
            for answer in answers
        ]
        assert results == [expected for _, _, expected in batch]
        # What conflicted stays in the client's queue and goes through once it is based on the winner.
        winner = answers[1]["payload"]
        again = {
            "chatId": "conflict",
            "content": doc("b"),
            "basedOnVersion": winner["version"],
            "basedOnOp": winner["op"],
        }
        assert (await one.ask("draft_update", again))["payload"]["version"] == 3


async def _batch(device: Device, frames: list[tuple[str, str, dict[str, Any]]]) -> list[str]:
    return [await device.send(type_, payload, op) for op, type_, payload in frames]


async def test_s51_a_batch_that_is_played_again_has_no_double_effect(serve: Serve) -> None:
    """S51: cut at every place of the batch, sent again whole with the same ids: as if it had been sent once."""
    async with (
        serve(drafts=AT_ONCE, limits={"frames_per_second": 5000, "burst": 5000}) as server,
        devices(server, 2) as (one, two),
    ):
        for answered in range(9):
            chat = f"c{answered}"
            frames: list[tuple[str, str, dict[str, Any]]] = [
                (new_id(), "draft_update", {"tempChatId": chat, "content": doc("1"), "basedOnVersion": 0}),
                (new_id(), "draft_update", {"tempChatId": chat, "content": doc("2"), "basedOnVersion": 1}),
                (new_id(), "title_update", {"chatId": chat, "title": "T", "basedOnVersion": 0}),
                (new_id(), "message_send", {"tempChatId": chat, "clientMessageId": "m1", "content": doc("2"), "draftVersion": 2}),
                (new_id(), "draft_update", {"chatId": chat, "content": doc("3"), "basedOnVersion": 3}),
                (new_id(), "draft_delete", {"chatId": chat, "basedOnVersion": 4, "hasMessages": True}),
                (new_id(), "draft_update", {"chatId": chat, "content": doc("4"), "basedOnVersion": 5}),
                (new_id(), "message_send", {"chatId": chat, "clientMessageId": "m2", "content": doc("m2")}),
            ]  # fmt: skip
            sent = await _batch(one, frames)
            first = [await one.answer(id_) for id_ in sent[:answered]]
            await one.cut()
            await one.open()
            await one.sync()
            again = [await one.answer(id_) for id_ in await _batch(one, frames)]
            for before, after in zip(first, again, strict=False):
                assert before["type"] == after["type"]
                for key in ("version", "titleVersion", "op"):
                    assert before["payload"].get(key) == after["payload"].get(key), (answered, before, after)
            chat_now = await record(two, chat)
            assert (chat_now["version"], chat_now["draft"]) == (6, doc("4"))
            assert (chat_now["title"], chat_now["title_version"]) == ("T", 1)
            page = (await two.ask("messages_request", {"chatId": chat, "limit": 50}))["payload"]
            assert [(m["client_message_id"], m["sequence"]) for m in page["messages"]] == [("m1", 1), ("m2", 2)]
        assert key_count(server) == 9


async def test_s52_a_chat_deleted_offline_is_deleted_after_the_reconnect(server: Server) -> None:
    """S52: edits that others made meanwhile do not save it, and it does not come back."""
    async with devices(server, 2) as (one, two):
        await say(one, "c1", "m1", doc("m"))
        await begin(one, "never-synced", doc("x"))
        cursor = (await one.sync())[-1]["cursor"]
        await one.close()
        await two.ask("draft_update", {"chatId": "c1", "content": doc("two's"), "basedOnVersion": 0})
        await two.ask("title_update", {"chatId": "c1", "title": "two's", "basedOnVersion": 0})
        await one.open()
        deletion = await one.send("chat_delete", {"chatId": "c1"})
        await one.sync(cursor=cursor)
        assert (await one.answer(deletion))["type"] == "chat_deleted"
        assert (await two.event("chat_deleted"))["chatId"] == two.full("c1")
        late = await two.ask("draft_update", {"chatId": "c1", "content": doc("more"), "basedOnVersion": 1})
        assert late["payload"]["reason"] == "chat_deleted"
        # Again, and for a chat that nobody knows, the answer is the same.
        for chat in ("c1", "nobody-knows"):
            answers: list[Frame] = [await one.ask("chat_delete", {"chatId": chat}) for _ in range(2)]
            assert [answer["type"] for answer in answers] == ["chat_deleted"] * 2
            assert answers[0]["payload"]["deletedAt"] == answers[1]["payload"]["deletedAt"]
        refused = await two.ask(
            "draft_update", {"tempChatId": "nobody-knows", "content": doc("x"), "basedOnVersion": 0}
        )
        assert refused["payload"]["reason"] == "chat_deleted"
        await settled(server)
        assert set(chats_of(await two.sync())) == {two.full("never-synced")}
        assert key_count(server) == 1


async def test_s52_whoever_holds_a_deleted_chat_hears_of_it_whichever_way(server: Server) -> None:
    """S52: live, by cursor, by a full sync."""
    async with devices(server, 3) as (one, live, away):
        await say(one, "c1", "m1", doc("m"))
        cursor = (await away.sync())[-1]["cursor"]
        await away.close()
        deleted = await one.ask("chat_delete", {"chatId": "c1"})
        event = await live.event("chat_deleted")
        assert event["deletedAt"] == deleted["payload"]["deletedAt"]
        await away.open()
        named = [{"id": "c1", "version": 0, "titleVersion": 0, "messagesVersion": 2}]
        for more in ({"cursor": cursor}, {"cursor": cursor, "chats": named}, {"chats": named}):
            frames = await away.sync(**more)
            assert [gone["id"] for gone in frames[-1]["deleted"]] == [away.full("c1")]
