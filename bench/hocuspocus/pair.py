"""Two devices of one person that edit one Yjs document through Hocuspocus."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from bench.drafts import Drafts
from bench.editing import BenchFailed, Chat, Editing, Lane
from bench.hocuspocus import yjs
from bench.link import Link


class YjsPair(Editing):
    """Both devices on one document; one edit is under way at once. The answer to an edit is its `SyncStatus`."""

    def __init__(self, one: Link, two: Link, name: str, drafts: Drafts) -> None:
        super().__init__(name)
        self._one = one
        self._two = two
        self._drafts = drafts
        self._client = random.Random(name).getrandbits(32)
        self._clock = 0
        self._text = b""
        self._document = b""
        self._status = self._update = b""
        self._lane: Lane | None = None
        one.on_closed = two.on_closed = self._fail

    @classmethod
    async def open(cls, url: str, name: str, drafts: Drafts) -> YjsPair:
        """Both connected; Hocuspocus signs in document by document."""
        one, two = await asyncio.gather(Link.open(url), Link.open(url))
        return cls(one, two, name, drafts)

    async def close(self) -> None:
        self._one.on_closed = self._two.on_closed = lambda _: None
        await asyncio.gather(self._one.close(), self._two.close())

    async def begin(self, chat: Chat) -> None:
        self._document = chat.id
        named = yjs.sized(chat.id)
        self._status = named + bytes((yjs.SYNC_STATUS,))
        self._update = named + bytes((yjs.SYNC, yjs.UPDATE))
        for link in (self._one, self._two):
            link.send_binary(yjs.sign_in(chat.id, b"bench"))
            answer = await link.next_frame(named)
            if not yjs.is_signed_in(chat.id, answer):
                raise BenchFailed(f"{self._name} could not sign in: {answer!r}")
            link.send_binary(yjs.ask_for_all(chat.id))
            await link.next_frame(named + bytes((yjs.SYNC, yjs.STEP_2)))
        self._send_text()
        frame = await self._two.next_frame(self._update)
        if self._text not in frame:
            raise BenchFailed(f"{self._name}: the second device got another draft than was sent")
        self._one.on_frame, self._two.on_frame = self._answer, self._event
        chat.version = 1

    def _send_text(self) -> None:
        self._text = self._drafts.content(self._clock)
        change = yjs.set_text(self._client, self._clock, self._text)
        self._clock += 1
        self._one.send_binary(yjs.update(self._document, change))

    def _send(self, lane: Lane) -> None:
        self._lane = lane
        self._send_text()

    def _answer(self, frame: bytes) -> None:
        # Its own update comes back to the first device too: Hocuspocus tells everybody.
        if frame.startswith(self._status):
            if not frame.endswith(b"\1"):
                self._fail("the first device's update was refused")
            self._pass_on(self._answered)
        elif not frame.startswith(self._update):
            self._fail(f"the first device got {frame[:60]!r}")

    def _event(self, frame: bytes) -> None:
        if not frame.startswith(self._update) or self._text not in frame:
            self._fail(f"the second device got {frame[:60]!r}")
        self._pass_on(self._seen)

    def _pass_on(self, tell: Callable[[Lane], None]) -> None:
        # The last of `begin` may still come when no edit is under way.
        if self._lane is not None:
            tell(self._lane)

    def _check_last(self) -> None:
        """Each draft was compared when it came."""

    @property
    def last_text(self) -> tuple[bytes, bytes]:
        """The document's name, and the text that it must hold when no edit is under way."""
        return self._document, self._text
