"""Two devices of one person that speak the sidecar's protocol."""

from __future__ import annotations

import asyncio
import json

from bench.drafts import Drafts
from bench.editing import BenchFailed, Chat, Editing, Lane
from bench.link import Link

_ANSWER = b'{"type":"draft_updated","re":"'
_BEGUN = b'{"type":"chat_initiated","re":"'
_EVENT = b'{"type":"draft_updated","payload"'
_OP = b'"op":"'
_PASSED_OVER = (b'{"type":"chat_stored"', b'{"type":"chat_added"', b'{"type":"message_update"', b'{"type":"hello"')


class Pair(Editing):
    """Both devices, on one server process or on one each."""

    def __init__(self, one: Link, two: Link, name: str, drafts: Drafts) -> None:
        super().__init__(name)
        self._one = one
        self._two = two
        self._drafts = drafts
        self._last_event = b""
        one.on_frame, two.on_frame = self._answer, self._event
        one.on_closed = two.on_closed = self._fail

    @classmethod
    async def open(cls, url: str, name: str, drafts: Drafts, second: str | None = None) -> Pair:
        """Both connected and signed in as `name`; the second device at the URL `second`, if that is another one."""
        one, two = await signed_in(url, name), await signed_in(second or url, name)
        return cls(one, two, name, drafts)

    async def close(self) -> None:
        self._one.on_closed = self._two.on_closed = lambda _: None
        await asyncio.gather(self._one.close(), self._two.close())

    async def begin(self, chat: Chat) -> None:
        op = self._next_op()
        self._one.send(self._drafts.update(op, chat.id, 0, 0, b"", new=True))
        answer = await self._one.next_frame(_BEGUN, b'{"type":"error"', b'{"type":"draft_conflict"')
        if not answer.startswith(_BEGUN):
            raise BenchFailed(f"no chat began: {type_and_code(answer)}")
        chat.version, chat.op = 1, op

    def _send(self, lane: Lane) -> None:
        chat = lane.chat
        self._one.send(self._drafts.update(lane.op, chat.id, chat.number, chat.version, chat.op))

    def _answer(self, frame: bytes) -> None:
        if frame.startswith(_ANSWER):
            lane = self._under_way.get(frame[30 : frame.index(b'"', 30)])
            if lane is not None:
                self._answered(lane)
                return
        elif frame.startswith(_PASSED_OVER):
            return
        self._fail(f"the first device got {type_and_code(frame)}")

    def _event(self, frame: bytes) -> None:
        if frame.startswith(_EVENT):
            at = frame.index(_OP) + 6
            lane = self._under_way.get(frame[at : frame.index(b'"', at)])
            if lane is not None:
                self._last_event = frame
                self._seen(lane)
                return
        elif frame.startswith(_PASSED_OVER):
            return
        self._fail(f"the second device got {type_and_code(frame)}")

    def _check_last(self) -> None:
        payload = json.loads(self._last_event)["payload"]
        number = int(payload["op"].rpartition("-")[2])
        if payload["content"] != json.loads(self._drafts.content(number)):
            raise BenchFailed(f"{self._name}: the second device got another draft than was sent")


async def signed_in(url: str, name: str) -> Link:
    """A link that has said `auth` and heard `ready`."""
    link = await Link.open(url)
    try:
        link.send(b'{"type":"auth","id":"auth","payload":{"token":"dev:%b","protocol":1}}' % name.encode())
        answer = await link.next_frame(b'{"type":"ready"', b'{"type":"error"')
        if not answer.startswith(b'{"type":"ready"'):
            raise BenchFailed(f"{name} could not sign in: {type_and_code(answer)}")
    except BaseException:
        link.abort()
        raise
    return link


def type_and_code(frame: bytes) -> str:
    """What a frame is, in a few words."""
    read = json.loads(frame)
    payload = read.get("payload", {})
    details = [str(payload[key]) for key in ("code", "reason", "message") if key in payload]
    return f"{read.get('type')} {' '.join(details)}".rstrip()
