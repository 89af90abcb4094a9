"""An author tells its event itself where that is the next one; otherwise the log is read (semantics §6)."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.cursors import Cursor
from sidecar.feed import Feeds
from sidecar.parts import Caller
from sidecar.server.running import Server
from tests.device import Device, doc
from tests.integration.world import begin, devices, say

_OF_ITS_REVISION = {"version", "op", "titleVersion", "updatedAt", "cursor"}


class Telling:
    """Watches `Feeds.tell`, and forbids it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[bool] = []
        self.allowed = True
        tell = Feeds.tell

        def watched(feeds: Feeds, cursor: Cursor, author: Caller, type_: str, event: dict[str, Any]) -> bool:
            self.told.append(self.allowed and tell(feeds, cursor, author, type_, event))
            return self.told[-1]

        monkeypatch.setattr(Feeds, "tell", watched)


async def _changes(one: Device, two: Device, base: int, title: int) -> list[dict[str, Any]]:
    """A draft, a title and the clearing of the draft, as the second device hears of them."""
    edit = {"chatId": "c1", "content": doc("žluťoučký 🐎"), "basedOnVersion": base}
    await one.ask("draft_update", edit)
    await one.ask("title_update", {"chatId": "c1", "title": "Name", "basedOnVersion": title})
    await one.ask("draft_delete", {"chatId": "c1", "basedOnVersion": base + 1, "hasMessages": True})
    return [
        await two.event("draft_updated", lambda event: event["version"] == base + 1),
        await two.event("title_updated", lambda event: event["titleVersion"] == title + 1),
        await two.event("draft_updated", lambda event: event["version"] == base + 2),
    ]


async def test_an_event_is_the_same_whether_its_author_tells_it_or_the_log_is_read(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    telling = Telling(monkeypatch)
    async with devices(server, 2) as (one, two):
        await say(one, "c1", "m1", doc("m"))
        await begin(one, "c2", doc("a"))
        told = await _changes(one, two, 0, 0)
        assert telling.told == [True] * 3
        telling.allowed = False
        read = await _changes(one, two, 2, 1)
        assert telling.told == [True] * 3 + [False] * 3
    for one_way, other in zip(told, read, strict=True):
        assert one_way.keys() == other.keys()
        assert one_way["deviceId"] == one.ready["device"]["id"]
        for key in one_way.keys() - _OF_ITS_REVISION:
            assert one_way[key] == other[key], key
    offsets = [int(event["cursor"].split(".")[1]) for event in (*told, *read)]
    assert offsets == sorted(offsets)


async def test_what_is_not_the_next_entry_is_read_from_the_log(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that another process did stands before it: both are told, in their order."""
    async with devices(server, 2) as (one, two):
        await begin(one, "c1", doc("a"))
        await two.event("chat_added")
        with monkeypatch.context() as unheard:
            unheard.setattr(Feeds, "tell", lambda *_: False)
            unheard.setattr(Feeds, "pump", _nothing)
            unheard.setattr(Feeds, "poke", lambda *_: None)
            await one.send("draft_update", {"chatId": "c1", "content": doc("b"), "basedOnVersion": 1})
            assert await two.quiet() == []
        telling = Telling(monkeypatch)
        await one.ask("draft_update", {"chatId": "c1", "content": doc("c"), "basedOnVersion": 2})
        assert telling.told == [False]
        event = await two.event("draft_updated")
        assert (event["content"], event["version"]) == (doc("c"), 3), "the older entry has nothing to tell any more"


async def _nothing(*_: object) -> None: ...
