"""What one client has, storage that outlives its connections, and how it sends: who may send what, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sidecar.ids import UserHash, client_part
from sidecar.testing.frames import check, check_client
from tests.model.documents import doc
from tests.model.held import Base, Held, Op
from tests.model.link import Link, frame
from tests.model.reference import Broken, FieldName, Reference
from tests.model.world import World

_IN_FLIGHT = 2
"""Operations of one chat that may wait for their answers: the next names the revision that the one before it will make."""
_PAGE = 3
_RETRY = 0.7
_CHECKED = 8
"""One frame in so many is held to the schema, in both directions."""


class Tab:
    """The state of one client, and its way to the server."""

    def __init__(self, world: World, reference: Reference, user: UserHash, device: str, name: str) -> None:
        self.world = world
        self.reference = reference
        self.user = user
        self.device = device
        self.name = name
        self.chats: dict[str, Held] = {}
        self.dead: set[str] = set()
        """Chats that this client was told, or has asked, to delete."""
        self.deletions: dict[str, Op] = {}
        self.outbox: dict[str, tuple[str, Op]] = {}
        """Messages of this client until they are delivered, by message id, with their chat."""
        self.history: list[Op] = []
        self.cursor: str | None = None
        self.behind = False
        """An answer that it had no use for was further on: what it tells comes again with the next sync."""
        self.epoch = ""
        self.link: Link | None = None
        self.synced = False
        self.last_open: str | None = None
        self.asked: dict[str, str] = {}
        """Questions under way, by frame id, with their chat; empty for the list of chats."""
        self._frames = 0

    # -- operations ----------------------------------------------------------------------------------------------------

    def op(
        self,
        type_: str,
        chat: Held,
        payload: dict[str, Any],
        name: FieldName | None = None,
        base: Base = (0, None),
        token: str | None = None,
        over: str | None = None,
    ) -> Op:
        """An operation that the person does now; whoever asks for it puts it where it belongs and pushes."""
        client_id = client_part(chat.id)  # type: ignore[arg-type]
        if not chat.told and type_ in ("draft_update", "message_send") and base[0] == 0:
            payload["tempChatId"] = client_id
        else:
            payload["chatId"] = client_id if self.world.chance.random() < 0.3 else chat.id
        return Op(self.new_id(), type_, payload, token, over, name, base, born=self.world.number())

    def new_id(self) -> str:
        return f"op-{self.name}-{self.world.number()}"

    def push(self, chat: Held) -> None:
        """Sends what may be sent now of this chat."""
        if not self.synced or chat.resting:
            return
        restore = next((op for op in chat.ops if op.type == "chat_restore"), None)
        if restore is not None:
            if not restore.waiting:
                self._transmit(restore)
            return
        waiting = sum(op.waiting for op in chat.ops)
        for op in list(chat.ops):
            if waiting >= _IN_FLIGHT:
                return
            if op.waiting:
                continue
            if op.again:
                if waiting:
                    return  # those before it must have their answers first
                self._renew(chat, op)
            self._transmit(op)
            waiting += 1

    def push_deletions(self) -> None:
        if self.synced:
            for op in self.deletions.values():
                if not op.waiting:
                    self._transmit(op)

    def restore(self, chat: Held) -> None:
        """The server has less of this chat: what is held here goes to it before anything else does."""
        payload: dict[str, Any] = {"messagesVersion": chat.known}
        draft, title = chat.draft, chat.title
        if draft.version:
            content = doc(draft.text) if draft.text is not None else None
            payload["draft"] = {"content": content, "state": draft.state, "version": draft.version, "op": draft.op}
        if title.version:
            payload["title"] = {"title": title.text, "version": title.version, "op": title.op}
        for op in chat.ops:
            if op.type == "chat_restore" and {**op.payload, "chatId": ""} == {**payload, "chatId": ""}:
                return  # it is on its way already
        op = self.op("chat_restore", chat, payload)
        places = [place for place, each in enumerate(chat.ops) if each.type == "chat_restore"]
        chat.ops.insert(places[-1] + 1 if places else 0, op)

    def _renew(self, chat: Held, op: Op) -> None:
        old = op.id
        op.id = self.new_id()
        op.sent = op.again = False
        for later in chat.ops:
            if not later.sent and later.base[1] == old:
                later.base = (later.base[0], op.id)

    def _transmit(self, op: Op) -> None:
        if not op.sent:
            self.history.append(op)
            del self.history[:-30]
        op.sent = op.waiting = True
        self.send(op.type, op.id, op.whole)

    # -- questions -----------------------------------------------------------------------------------------------------

    def fetch(self, chat: Held, before: str | None = None) -> None:
        """Asks for messages of this chat."""
        if (self.synced and chat.page is None) or before is not None:
            chat.page = f"p{self.world.number()}"
            self.asked[chat.page] = chat.id
            payload: dict[str, Any] = {"chatId": chat.id, "limit": _PAGE}
            if before is not None:
                payload["before"] = before
            self.send("messages_request", chat.page, payload)

    def ask_for(self, chat: Held) -> None:
        """Asks for the chat itself."""
        id_ = f"l{self.world.number()}"
        self.asked[id_] = chat.id
        self.send("chats_request", id_, {"ids": [chat.id]})

    def ask_for_list(self) -> None:
        id_ = f"l{self.world.number()}"
        self.asked[id_] = ""
        self.send("chats_request", id_, {"limit": 2})

    # -- frames --------------------------------------------------------------------------------------------------------

    def send(self, type_: str, id_: str, payload: dict[str, Any]) -> None:
        """One frame, if there is a connection."""
        if self.link is None:
            return
        if self._is_checked():
            check_client({"type": type_, "id": id_, "payload": payload})
        self.link.send(frame(type_, id_, payload))

    def look_at(self, told: dict[str, Any]) -> None:
        """One frame came."""
        if self._is_checked():
            check(told)

    def _is_checked(self) -> bool:
        self._frames += 1
        return self._frames % _CHECKED == 0

    def rest(self, chat: Held | None, call: Callable[[], None]) -> None:
        """A part of the server was away: tries again in a moment, if the connection is still the same."""
        link = self.link
        if chat is not None:
            chat.resting = True

        def again() -> None:
            if chat is not None:
                chat.resting = False
            if self.link is link:
                call()

        self.world.loop.call_later(_RETRY, again)

    def forget_waiting(self) -> None:
        """Nothing that was asked before is answered any more."""
        for chat in self.chats.values():
            chat.offline()
        for op in self.deletions.values():
            op.waiting = False

    def advance(self, cursor: str) -> None:
        """Stores a cursor; on one socket none leaves before what stands before it."""
        if self.is_ahead(cursor):
            self.cursor = cursor

    def is_ahead(self, cursor: str) -> bool:
        """Whether it is further on in the same log."""
        epoch, offset, _ = cursor.split(".")
        return epoch == self.epoch and self.cursor is not None and int(offset) > int(self.cursor.split(".")[1])

    def expect_unavailable(self, payload: dict[str, Any], what: str) -> None:
        """The one error that a careful client ever gets."""
        if payload["code"] != "unavailable":
            raise Broken(f"{what} of {self.name}: {payload}")
